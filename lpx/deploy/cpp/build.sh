#!/bin/sh
# Builds engine.plan from the ONNX graph beside it, with trtexec, on the machine that will run it.
#
# TRTEXEC names another trtexec. LPX_TENSORRT is its release, such as 101303 for 10.13.3, if it
# does not print it. The scripts in trtexec/ have the commands.
set -eu
cd "$(dirname "$0")"
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
for major in 8 10 11; do
    # A script for another release ends with 2 before it builds anything.
    if OUT=plans sh "trtexec/build-tensorrt$major.sh" 2>"$errors"; then
        cp "trtexec/plans/@NAME@.plan" engine.plan.part
        mv engine.plan.part engine.plan
        echo "written: engine.plan"
        exit 0
    else
        code=$?
    fi
    if [ "$code" -ne 2 ]; then
        cat "$errors" >&2
        exit "$code"
    fi
done
cat "$errors" >&2
exit 2
