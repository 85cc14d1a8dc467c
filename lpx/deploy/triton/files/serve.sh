#!/bin/sh
# Start a Triton Inference Server with the models in this folder.
#
#     sh serve.sh nvcr.io/nvidia/tritonserver:YY.MM-py3
#
# Ports: 8000 HTTP, 8001 gRPC, 8002 metrics, on this machine only; Triton asks nobody for a password.
# ADDRESS=0.0.0.0 opens them to the network.
set -eu

image=${1:?name the image of the server, such as nvcr.io/nvidia/tritonserver:YY.MM-py3}
address=${ADDRESS:-127.0.0.1}
here=$(cd "$(dirname "$0")" && pwd)
cpuinfo=${CPUINFO:-/proc/cpuinfo}

# INT8 weights that ONNX Runtime multiplies in 16 bits: without VNNI the sums saturate, silently.
if [ @NEEDS_VNNI@ = yes ] && grep -q '^flags' "$cpuinfo" && ! grep -q vnni "$cpuinfo"; then
    echo "serve.sh: this processor has no VNNI: an INT8 model in models/ would give wrong scores" >&2
    echo "  fix: package the engine without --vnni" >&2
    exit 1
fi

# A plan that was replaced would be served without a word.
if ! (cd "$here" && sha256sum --quiet -c SHA256SUMS) >&2; then
    echo "serve.sh: models/ is not as lpx wrote it: copy the folder again, or package it again" >&2
    exit 1
fi

exec "${DOCKER:-docker}" run --rm @GPUS@\
    -p "$address:8000:8000" -p "$address:8001:8001" -p "$address:8002:8002" \
    -v "$here/models:/models:ro" \
    "$image" tritonserver --model-repository=/models @FLAGS@
