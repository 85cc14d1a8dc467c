#!/bin/sh
# Tries lpx without PyTorch on 64-bit ARM, emulated: installs it from aarch64 wheels into a Debian
# root, compiles its C file, unpacks a bundle, calibrates and builds INT8, benches, and compares
# ranges and scores with those of this machine.
#
#   sudo sh tools/arm64_check.sh detector.lpx [WORK]
#
# BUNDLE was written by `lpx pack --faces SET` after `lpx bench` of these faces, so that it has the
# checkpoint's scores. WORK (default: a new folder in /tmp) receives the root, which later runs use
# again, and the results. Needs root, an lpx installed for PYTHON (default: python3), and Debian's
# debootstrap and qemu-user-static. SUITE is the Debian release: bookworm has Python 3.11.
# ONNXRUNTIME is the release to install there: 1.32.0 crashes when it is loaded under qemu 7.2, with
# every emulated processor that was tried; 1.20.1, 1.23.2 and 1.27.0 load. Whether 1.32.0 crashes on
# an ARM processor too is not known.
set -eu
bundle=$(realpath "${1:?usage: arm64_check.sh BUNDLE [WORK]}")
work=${2:-$(mktemp -d)}
python=${PYTHON:-python3}
suite=${SUITE:-bookworm}
mirror=${MIRROR:-http://deb.debian.org/debian}
onnxruntime=${ONNXRUNTIME:-1.27.0}
source=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$work"
work=$(realpath "$work")
root=$work/root

for program in debootstrap qemu-aarch64-static; do
    command -v "$program" >/dev/null || {
        echo "error: $program is missing: apt-get install debootstrap qemu-user-static" >&2
        exit 2
    }
done
# Programs of the root start others: the kernel has to hand them to the emulator.
if [ "$(uname -m)" != aarch64 ] && ! grep -qs '^enabled' /proc/sys/fs/binfmt_misc/qemu-aarch64; then
    mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    update-binfmts --enable qemu-aarch64
fi

if [ ! -e "$root/made" ]; then
    debootstrap --arch=arm64 --variant=minbase \
        --include=python3,python3-venv,python3-dev,gcc,libc6-dev,libgomp1 \
        "$suite" "$root" "$mirror" >"$work/debootstrap.log"
    touch "$root/made"
fi
# lpx and ONNX Runtime read the processor and the memory there.
trap 'umount "$root/proc" "$root/sys" 2>/dev/null || true' EXIT
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/sys" || mount -t sysfs -o ro sysfs "$root/sys"
inside() { chroot "$root" /usr/bin/env -i PATH=/v/bin:/usr/bin:/bin HOME=/root LANG=C.UTF-8 "$@"; }

# Downloaded here, as pip is slow when it is emulated.
release=$(inside python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
rm -rf "$root/wheels" "$root/src" "$root/board"
"$python" - "$source" >"$work/requirements.txt" <<'PY'
import sys
from pathlib import Path
try:
    import tomllib
except ImportError:
    import tomli as tomllib
project = tomllib.loads(Path(sys.argv[1], "pyproject.toml").read_text())
print("\n".join([*project["project"]["dependencies"], *project["build-system"]["requires"]]))
PY
echo "onnxruntime==$onnxruntime" >>"$work/requirements.txt"
"$python" -m pip download --quiet --only-binary=:all: --implementation cp \
    --python-version "$release" --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux_2_17_aarch64 --platform manylinux2014_aarch64 \
    -d "$root/wheels" -r "$work/requirements.txt"
mkdir "$root/src"
tar -cf - -C "$source" --exclude='*.so' --exclude='__pycache__' \
    lpx setup.py pyproject.toml README.md LICENSE | tar -xf - -C "$root/src"
[ -e "$root/v" ] || inside python3 -m venv /v
inside /v/bin/pip install --quiet --upgrade --no-index --find-links /wheels setuptools
inside /v/bin/pip install --quiet --no-index --find-links /wheels --no-build-isolation \
    --force-reinstall --no-deps /src
cp "$work/requirements.txt" "$root/requirements.txt"
inside /v/bin/pip install --quiet --no-index --find-links /wheels -r /requirements.txt
if inside /v/bin/python -c 'import torch' 2>/dev/null; then
    echo "error: PyTorch is installed" >&2
    exit 1
fi
inside /v/bin/python -c 'from lpx.calibration.tally import compiled; assert compiled(), "no C file"'

. "$source/tools/board_check/steps.sh"
cp "$bundle" "$root/bundle.lpx"
began=$(date +%s)
steps /bundle.lpx /board inside /v/bin/lpx >"$work/arm64.log" 2>&1 || {
    tail -n 20 "$work/arm64.log" >&2
    exit 1
}
echo "on emulated $(inside uname -m), Python $release: $(($(date +%s) - began)) s"
rm -rf "$work/here"
steps "$bundle" "$work/here" "$python" -m lpx >"$work/here.log" 2>&1 || {
    tail -n 20 "$work/here.log" >&2
    exit 1
}

"$python" "$source/tools/board_check/compare.py" "$work/here" "$root/board" arm64
echo "results: $work"
