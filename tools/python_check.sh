#!/bin/sh
# Tries lpx without PyTorch with other Pythons: a virtual environment each, with the core only.
#
#   sh tools/python_check.sh detector.lpx python3.10 python3.12
#
# The bundle is as for tools/arm64_check.sh, and so are the steps and the comparison. PYTHON
# (default: python3) is the one with lpx to compare with. JetPack 6 has Python 3.10, JetPack 7 3.12.
set -eu
bundle=$(realpath "${1:?usage: python_check.sh BUNDLE PYTHON...}")
shift
python=${PYTHON:-python3}
source=$(cd "$(dirname "$0")/.." && pwd)
work=${WORK:-$(mktemp -d)}
. "$source/tools/board_check/steps.sh"

rm -rf "$work/here"
steps "$bundle" "$work/here" "$python" -m lpx >"$work/here.log" 2>&1 || {
    tail -n 20 "$work/here.log" >&2
    exit 1
}
for other in "$@"; do
    name=$("$other" -c 'import sys; print("python%d.%d.%d" % sys.version_info[:3])')
    rm -rf "$work/$name" "$work/$name.src" "$work/$name.board"
    "$other" -m venv "$work/$name"
    # A copy, as setuptools writes into the folder that it builds.
    mkdir "$work/$name.src"
    tar -cf - -C "$source" --exclude='*.so' --exclude='__pycache__' \
        lpx setup.py pyproject.toml README.md LICENSE | tar -xf - -C "$work/$name.src"
    "$work/$name/bin/pip" install --quiet "$work/$name.src"
    if "$work/$name/bin/python" -c 'import torch' 2>/dev/null; then
        echo "error: PyTorch is installed" >&2
        exit 1
    fi
    steps "$bundle" "$work/$name.board" "$work/$name/bin/lpx" >"$work/$name.log" 2>&1 || {
        tail -n 20 "$work/$name.log" >&2
        exit 1
    }
    "$work/$name/bin/lpx" doctor | tr '\n' ' ' | grep -o 'On the disk: .* MB for lpx and what it needs' |
        sed "s/^/$name: /"
    "$python" "$source/tools/board_check/compare.py" "$work/here" "$work/$name.board" "$name"
done
echo "results: $work"
