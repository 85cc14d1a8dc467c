#!/bin/sh
# Builds the engines of nvinfer_score.txt and nvinfer_tensors.txt with trtexec, on the machine that
# will run them, and checks each with the face that is shipped. `sh build.sh score` or `sh build.sh
# tensors` builds that one alone.
#
# TRTEXEC names another trtexec. LPX_TENSORRT is its release, such as 101303 for 10.13.3, if it
# does not print it. The scripts in trtexec/ have the commands.
set -eu
cd "$(dirname "$0")"
if [ $# -eq 0 ]; then
    set -- score tensors
fi
for form in "$@"; do
    if [ "$form" != score ] && [ "$form" != tensors ]; then
        echo "error: $form is neither score nor tensors" >&2
        exit 2
    fi
done
errors=$(mktemp)
trap 'rm -f "$errors"' EXIT

build() {
    for major in 8 10 11; do
        # A script for another release ends with 2 before it builds anything.
        if OUT=plans ONLY="$1" sh "trtexec/build-tensorrt$major.sh" 2>"$errors"; then
            return 0
        else
            code=$?
        fi
        if [ "$code" -ne 2 ]; then
            break
        fi
    done
    cat "$errors" >&2
    exit "$code"
}

for form in "$@"; do
    engine=$form@ENGINE@
    build "$form-@NAME@"
    cp "trtexec/plans/$form-@NAME@.plan" "$engine.part"
    if command -v python3 >/dev/null 2>&1; then
        # An engine with a wrong score is worse than none.
        if ! python3 selftest.py "$engine.part"; then
            rm -f "$engine.part"
            echo "error: $engine is not kept: its self-test did not pass" >&2
            exit 1
        fi
    else
        echo "warning: $engine was not checked, as there is no python3" >&2
    fi
    mv "$engine.part" "$engine"
    echo "written: $engine"
done
