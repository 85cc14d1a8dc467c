"""Write a folder from which trtexec builds and times engines, on machines without Python.

Depending on the release, the precision is in the graph or in flags, so there is a script for each
major release of TensorRT: 8 takes weakly typed graphs and precision flags, 10 strongly typed graphs
and --stronglyTyped, 11 strongly typed graphs only, without a flag.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from lpx.calibration.cache import write_cache
from lpx.calibration.methods import LEVELS
from lpx.card import ModelCard
from lpx.engines.build import cache_scales, make_graph
from lpx.engines.manifest import Precision
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt import check_dla
from lpx.engines.tensorrt_options import BatchRange
from lpx.workspace import atomic_path, write_bytes, write_sealed

FORMAT = "lpx-trtexec/2"
Major = Literal[8, 10, 11]
MAJORS: tuple[Major, ...] = (8, 10, 11)
CACHE = "int8.cache"
_SCRIPT = """\
#!/bin/sh
# Builds engines with TensorRT {major} and times them; written by lpx, see README.txt. Run it on the
# machine that will run the engines. TRTEXEC names another trtexec, OUT another folder for results,
# ONLY the one engine to build.
set -eu
cd "$(dirname "$0")"
out=${{OUT:-tensorrt{major}}}
trtexec=${{TRTEXEC:-trtexec}}
if ! command -v "$trtexec" >/dev/null 2>&1; then
    # JetPack and NVIDIA's packages install it here.
    trtexec=/usr/src/tensorrt/bin/trtexec
fi
if ! command -v "$trtexec" >/dev/null 2>&1; then
    echo "error: no trtexec on PATH, nor $trtexec: install TensorRT, or set TRTEXEC" >&2
    exit 2
fi
version=${{LPX_TENSORRT:-}}
# trtexec prints its version when it starts to work, which some releases do not do for --help. An
# unknown option makes it print the version and stop before it looks for a GPU.
for question in --help --version-please; do
    if [ -z "$version" ]; then
        version=$("$trtexec" $question 2>&1 |
            sed -n 's/.*\\[TensorRT v\\([0-9][0-9]*\\)\\].*/\\1/p' | head -n 1)
    fi
done
case $version in
"" | *[!0-9]*)
    echo "error: cannot find out the TensorRT release of $trtexec. The graph for another release" \\
        "may give the wrong precision: set LPX_TENSORRT to the release, such as 8601 for 8.6.1" \\
        "or 101303 for 10.13.3" >&2
    exit 2
    ;;
esac
if [ "$version" -ge 10000 ]; then major=$((version / 10000)); else major=$((version / 1000)); fi
if [ "$major" -ne {major} ]; then
    echo "error: $trtexec is of TensorRT $major, and this script is for {major}: run the script" \\
        "for $major" >&2
    exit 2
fi
# Kernel times are valid for one GPU and, on a Jetson, for one power mode, since power modes switch
# off parts of the GPU. trtexec 10 and 11 tell TensorRT to ignore that a cache is of another GPU, so
# each machine gets a file of its own.
machine=$({{
    nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1
    nvpmodel -q | sed -n 's/.*Power Mode: *//p'
}} 2>/dev/null | tr '\\n' ' ' | tr -cs 'A-Za-z0-9.' '-' | cut -c 1-60 | sed 's/-*$//')
{checks}mkdir -p "$out"
{cache}
found=no
build() {{
    name=$1
    shift
    if [ "${{ONLY:-$name}}" != "$name" ]; then
        return
    fi
    found=yes
    echo "$name: building and timing, see $out/$name.log"
    if ! "$trtexec" "$@" --saveEngine="$out/$name.plan" --exportTimes="$out/$name.times.json" \\
        --exportLayerInfo="$out/$name.layers.json" --profilingVerbosity=detailed \\
        --timingCacheFile="$out/timing${{machine:+-$machine}}.cache" \\
        --useCudaGraph --useSpinWait --duration=10 \\
        >"$out/$name.log" 2>&1; then
        echo "error: trtexec failed on $name; the end of $out/$name.log:" >&2
        tail -n 5 "$out/$name.log" >&2
        exit 1
    fi
{verify}}}

{builds}
# Not by the plan, which may be there from an earlier folder.
if [ "$found" = no ]; then
    echo "error: this script builds no engine named $ONLY" >&2
    exit 2
fi
echo "done: engines and times are in $out"
"""
_REWRITE = """\
# TensorRT refuses a calibration cache that another release wrote.
sed "1s/.*/TRT-$version-EntropyCalibration2/" {cache} >"$out/{cache}"
"""
_NOT_ON_JETSON = """\
if [ -e /etc/nv_tegra_release ] ||
    grep -qs Jetson /proc/device-tree/model /sys/devices/soc0/machine /tmp/nv_jetson_model; then
    echo "error: TensorRT does not support hardware-compatible engines with JetPack: run \\`lpx" \\
        "build --emit trtexec\\` again without --hardware-compatible" >&2
    exit 2
fi
"""
_ON_DLA = """\
    # Layers that a DLA core does not support run on the GPU, and trtexec does not say how many.
    if ! grep -q '"LayerType" *: *"DLA"' "$out/$name.layers.json"; then
        echo "error: $name runs on the GPU alone, with no layer on the DLA core:" \\
            "see $out/$name.layers.json and $out/$name.log" >&2
        exit 1
    fi
"""
_README = """\
This folder builds TensorRT engines of a deepfake detector, and times them. It needs trtexec, which
comes with TensorRT, and neither Python nor lpx.

How to build
------------
Copy the whole folder to the machine that will run the engines, since an engine fits the GPU and the
TensorRT release that it was built with. There, run the script for its TensorRT release, which
`dpkg -l "libnvinfer*"` shows on a Jetson or on Ubuntu:

  sh build-tensorrt8.sh    TensorRT 8.5 and 8.6 (JetPack 5 and 6.0)
  sh build-tensorrt10.sh   TensorRT 10.3 and later (JetPack 6.1 to 7.2)
  sh build-tensorrt11.sh   TensorRT 11

A script takes minutes. It stops at the first error, and shows the end of trtexec's log. Variables
that change what it does, as in `OUT=/data/engines sh build-tensorrt10.sh`:

  OUT=DIR              folder for the results (default: tensorrt8, tensorrt10 or tensorrt11, here)
  TRTEXEC=FILE         trtexec, if it is neither on PATH nor /usr/src/tensorrt/bin/trtexec
  LPX_TENSORRT=101303  TensorRT's release, here 10.13.3, if the script cannot find it out
  ONLY=NAME            the one engine to build, instead of all

Results
-------
For each engine NAME, such as {example}:

  NAME.plan         the engine
  NAME.log          trtexec's log, with latency and throughput at its end
  NAME.times.json   the time of each inference. To show it in a report, copy it to the machine with
                    lpx and run `lpx bench --import-trtexec NAME.times.json`
  NAME.layers.json  the layers of the engine. trtexec does not check their precision: check here
                    that the convolutions of an INT8 or FP16 engine compute in INT8 or FP16

timing-*.cache holds the times of single kernels, and makes the next build faster.

The engine
----------
{interface}

{tf32}
{dla}"""
_UINT8_PIXELS = """\
  faces      input, uint8 [N, {size}, {size}, 3]: face crops, RGB, not normalised
  score      output, float32 [N]: probability that a face is fake
  patch_map  output, float32 [N, h, w]: the same for each patch of a face"""
_TF32 = """\
TF32 is on, which is TensorRT's default: on GPUs from Ampere on, float32 convolutions round their
inputs and weights to 10 bits of mantissa."""
_SWITCH_TF32_OFF = """
To switch it off, write this folder again with `lpx build --emit trtexec --no-tf32`."""
_NO_TF32 = """\
TF32 is off: float32 is multiplied with all 23 bits of its mantissa."""
_DLA = """
These engines are for DLA core {core}. TensorRT supports DLA up to 10.7 and from 11.4.1 on; with the
releases in between, trtexec fails. Layers that a DLA core does not support run on the GPU.
"""


@dataclass(frozen=True)
class GraphForm:
    """Inputs and outputs of the graphs, for programs that take other ones than lpx.

    Attributes:
        prefix: Beginning of the names of its graphs and engines.
        face: Shape of a face, with "S" for its side, as trtexec takes it.
        convert: Makes a graph of this form from one of lpx's.
    """

    prefix: str
    face: str
    convert: Callable[[bytes], bytes]


def _unchanged(graph: bytes) -> bytes:
    return graph


UINT8_PIXELS = GraphForm("", "SxSx3", _unchanged)
"""The graphs of lpx: uint8 RGB [N, S, S, 3] in, score and patch map out."""


@dataclass(frozen=True)
class _Recipe:
    """Source of one engine of a release: graph and flags."""

    graph: str
    dialect: str
    flags: tuple[str, ...]


def emit_trtexec(
    model: bytes,
    card: ModelCard,
    requests: tuple[BuildRequest, ...],
    folder: Path,
    *,
    forms: tuple[GraphForm, ...] = (UINT8_PIXELS,),
    interface: str = _UINT8_PIXELS,
) -> tuple[Path, ...]:
    """Write graphs, a script per TensorRT major, a README and a manifest.

    Args:
        model: The exported ONNX model, float32.
        card: Its card.
        requests: One per precision, target "tensorrt", with the same options.
        folder: Receives all files.
        forms: Forms of the graphs; an engine is built for each.
        interface: Inputs and outputs of the engines, for the README; "{size}" is the side of a
            face.

    Returns:
        The scripts.

    Raises:
        LpxError: As `make_graph` and `check_emitted`; the folder cannot be written.
    """
    # Before anything is written, so that a refusal leaves no half-made folder.
    check_emitted(requests)
    graphs = _Graphs(model, forms)
    scripts = []
    for major in MAJORS:
        lines = []
        for request in requests:
            recipe = _recipe(request, major)
            graphs.add(request, recipe)
            for form in forms:
                lines += _builds(request, recipe, form, card.input_size)
        # Only scripts that read the cache rewrite its first line.
        cached = any(CACHE in line for line in lines)
        text = _SCRIPT.format(
            major=major,
            builds="\n".join(lines),
            cache=_REWRITE.format(cache=CACHE) * cached,
            checks=_NOT_ON_JETSON * requests[0].tensorrt.hardware_compatible,
            verify=_ON_DLA * (requests[0].tensorrt.dla_core is not None),
        )
        scripts.append(folder / f"build-tensorrt{major}.sh")
        # The scripts are written first but the manifest last, as it lists the digests of all.
        _write_script(scripts[-1], text)
    for name, graph in graphs.files.items():
        write_bytes(folder / name, graph)
    options = requests[0].tensorrt
    calibrated = next((r for r in requests if r.precision == "int8"), None)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in scripts}
    if calibrated and options.dla_core is not None:
        # A cache stores a scale per tensor; write_cache takes the largest value that it represents.
        peaks = {n: scale * LEVELS for n, scale in cache_scales(model, calibrated).items()}
        text = write_cache(peaks)
        write_bytes(folder / CACHE, text.encode())
        files[CACHE] = hashlib.sha256(text.encode()).hexdigest()
    readme = _readme(requests[0], forms[0], interface, card.input_size)
    write_bytes(folder / "README.txt", readme.encode())
    manifest = {
        "format": FORMAT,
        "model_sha256": hashlib.sha256(model).hexdigest(),
        "card": card.to_dict(),
        "precisions": [request.precision for request in requests],
        "tensorrt": options.to_dict(),
        "graphs": graphs.described,
        "calibration": calibrated and calibrated.calibration,
        "files": files,
    }
    write_sealed(folder / "manifest.json", manifest)
    return tuple(scripts)


class _Graphs:
    """Graphs of all releases and forms: many are shared, and each is made once.

    Attributes:
        files: Graphs by the name of their file.
        described: Their entries in the manifest.
    """

    def __init__(self, model: bytes, forms: tuple[GraphForm, ...]) -> None:
        self._model = model
        self._forms = forms
        self.files: dict[str, bytes] = {}
        self.described: list[dict[str, str]] = []

    def add(self, request: BuildRequest, recipe: _Recipe) -> None:
        """Make the graph of a release and precision in every form, unless it has been made."""
        if self._forms[0].prefix + recipe.graph in self.files:
            return
        made, _ = make_graph(self._model, request, recipe.dialect)
        for form in self._forms:
            name = form.prefix + recipe.graph
            graph = form.convert(made)
            self.files[name] = graph
            digest = hashlib.sha256(graph).hexdigest()
            entry = {"file": name, "sha256": digest, "dialect": recipe.dialect}
            self.described.append(entry)


def _readme(request: BuildRequest, form: GraphForm, interface: str, size: int) -> str:
    options = request.tensorrt
    dla = ""
    if options.dla_core is not None:
        dla = _DLA.format(core=options.dla_core)
    tf32 = _TF32
    if not options.tf32:
        tf32 = _NO_TF32
    elif form == UINT8_PIXELS:
        # Folders of other forms are not written by that command.
        tf32 += _SWITCH_TF32_OFF
    # A real name, so that readers recognise it in the folder.
    example = form.prefix + plan_name(request, options.profiles[0])
    interface = interface.format(size=size)
    return _README.format(interface=interface, example=example, dla=dla, tf32=tf32)


def check_emitted(requests: tuple[BuildRequest, ...]) -> None:
    """Refuse requests that trtexec would silently build in another way.

    Args:
        requests: One per precision.

    Raises:
        LpxError: A precision or range of batch sizes that a DLA core does not take.
    """
    for request in requests:
        options = request.tensorrt
        if options.dla_core is not None:
            check_dla(options.dla_core, request.precision, options.profiles)


def emitted_dialects(request: BuildRequest) -> tuple[str, ...]:
    """Return the dialects of a request's graphs, over all releases of TensorRT."""
    return tuple(dict.fromkeys(_recipe(request, major).dialect for major in MAJORS))


def _write_script(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    # Added to the mode that it has, which keeps the user's umask.
    path.chmod(path.stat().st_mode | 0o111)


def _recipe(request: BuildRequest, major: Major) -> _Recipe:
    """Return the graph that a release takes for a precision, and its flags."""
    precision, dla = request.precision, request.tensorrt.dla_core is not None
    # INT8 also allows FP16: layers without an integer kernel would otherwise fall back to FP32.
    weak_flags = {"fp32": (), "fp16": ("--fp16",), "int8": ("--fp16", "--int8")}[precision]
    # From 11 on, types in the graph replace the builder's flags.
    if major == 11:
        dialect = "dla-explicit" if dla and precision == "int8" else "strongly-typed"
        return _Recipe(_name(precision, dialect), dialect, ())
    if dla and precision == "int8":
        # Q/DQ nodes do not run on a DLA core before 11: its scales come beside the graph.
        flags = (*weak_flags, f'--calib="$out/{CACHE}"')
        return _Recipe(_name(precision, "calibration-cache"), "calibration-cache", flags)
    # TensorRT 8 has no strongly typed networks, and a DLA takes its precision from flags before 11.
    if major == 8 or dla:
        return _Recipe(_name(precision, "weakly-typed"), "weakly-typed", weak_flags)
    return _Recipe(_name(precision, "strongly-typed"), "strongly-typed", ("--stronglyTyped",))


def _name(precision: Precision, dialect: str) -> str:
    if dialect == "weakly-typed" and precision != "int8":
        return "float-weakly-typed.onnx"  # one graph for both, which a flag distinguishes
    return f"{precision}-{dialect}.onnx"


def _builds(request: BuildRequest, recipe: _Recipe, form: GraphForm, size: int) -> list[str]:
    """Return a command for each profile, which gets an engine of its own."""
    options = request.tensorrt
    face = form.face.replace("S", str(size))
    common = [f"--onnx={form.prefix}{recipe.graph}", *recipe.flags]
    if options.workspace_mib is not None:
        common.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.optimisation_level is not None:
        common.append(f"--builderOptimizationLevel={options.optimisation_level}")
    # Left out if unset, so that each release keeps its own default.
    if options.version_compatible:
        common.append("--versionCompatible")
    if options.hardware_compatible:
        common.append("--hardwareCompatibilityLevel=ampere+")
    if not options.tf32:
        common.append("--noTF32")
    if options.dla_core is not None:
        # A DLA core lacks some operators, and without the fallback the build fails at the first of
        # them.
        common += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    lines = []
    for span in options.profiles:
        arguments = [
            f"build {form.prefix}{plan_name(request, span)}",
            *common,
            f"--minShapes=faces:{span.minimum}x{face}",
            f"--optShapes=faces:{span.optimum}x{face}",
            f"--maxShapes=faces:{span.maximum}x{face}",
            # Timed at the optimum, for which the kernels were chosen.
            f"--shapes=faces:{span.optimum}x{face}",
        ]
        lines.append(" \\\n    ".join(arguments))
    return lines


def plan_name(request: BuildRequest, span: BatchRange) -> str:
    """Return the name that a script gives to the plan of a batch range."""
    sizes = f"{span.minimum}to{span.maximum}"
    if span.minimum == span.maximum:
        sizes = f"{span.maximum}"
    return f"{replace(request, target='tensorrt').name}-batch{sizes}"
