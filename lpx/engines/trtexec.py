"""Write a folder from which trtexec builds and times engines, on machines without Python.

The precision is in the graph or in flags, depending on the release, so there is a script per
TensorRT major: 8 takes weakly typed graphs and precision flags, 10 strongly typed graphs and
--stronglyTyped, 11 strongly typed graphs only, without a flag.
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
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.workspace import atomic_path, write_bytes, write_sealed

FORMAT = "lpx-trtexec/2"
Major = Literal[8, 10, 11]
MAJORS: tuple[Major, ...] = (8, 10, 11)
CACHE = "int8.cache"
_SCRIPT = """\
#!/bin/sh
# Builds engines with TensorRT {major} and times them; made by lpx. Run it on the machine that will
# run the engines. TRTEXEC names another trtexec, OUT another folder for what is made, ONLY the one
# engine to build.
set -eu
cd "$(dirname "$0")"
out=${{OUT:-tensorrt{major}}}
trtexec=${{TRTEXEC:-trtexec}}
if ! command -v "$trtexec" >/dev/null 2>&1; then
    # Where JetPack and NVIDIA's packages put it.
    trtexec=/usr/src/tensorrt/bin/trtexec
fi
if ! command -v "$trtexec" >/dev/null 2>&1; then
    echo "error: no trtexec on PATH, nor $trtexec: install TensorRT, or set TRTEXEC" >&2
    exit 2
fi
version=${{LPX_TENSORRT:-}}
# trtexec names its version when it begins to work, which some releases do not for --help: an option
# that it does not know ends it before it looks for a GPU.
for question in --help --version-please; do
    if [ -z "$version" ]; then
        version=$("$trtexec" $question 2>&1 |
            sed -n 's/.*\\[TensorRT v\\([0-9][0-9]*\\)\\].*/\\1/p' | head -n 1)
    fi
done
case $version in
"" | *[!0-9]*)
    echo "error: cannot tell which TensorRT $trtexec is of, and in a graph for another release" \\
        "the precision may be wrong: set LPX_TENSORRT to it, as 8601 for 8.6.1 or 101303 for" \\
        "10.13.3" >&2
    exit 2
    ;;
esac
if [ "$version" -ge 10000 ]; then major=$((version / 10000)); else major=$((version / 1000)); fi
if [ "$major" -ne {major} ]; then
    echo "error: $trtexec is of TensorRT $major, this script is for {major}: run the other" >&2
    exit 2
fi
# Kernel times hold for one GPU and, on a Jetson, for one power mode, which switches off parts of
# the GPU. trtexec 10 and 11 use those of another GPU as if they were its own (they ask TensorRT to
# ignore the mismatch), so each machine has a file.
machine=$({{
    nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1
    nvpmodel -q | sed -n 's/.*Power Mode: *//p'
}} 2>/dev/null | tr '\\n' ' ' | tr -cs 'A-Za-z0-9.' '-' | cut -c 1-60 | sed 's/-*$//')
{checks}mkdir -p "$out"
{cache}
build() {{
    name=$1
    shift
    if [ "${{ONLY:-$name}}" != "$name" ]; then
        return
    fi
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
if [ -n "${{ONLY:-}}" ] && [ ! -e "$out/$ONLY.plan" ]; then
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
    # What a DLA core cannot do, the GPU does, and trtexec does not say how much that is.
    if ! grep -q '"LayerType" *: *"DLA"' "$out/$name.layers.json"; then
        echo "error: $name runs on the GPU alone, no layer of it on the DLA core;" \\
            "see $out/$name.layers.json and $out/$name.log" >&2
        exit 1
    fi
"""
_README = """\
Engines of a deepfake detector, to be built with trtexec on machines without Python.

Run the script of your TensorRT on the machine that will run the engines:

  sh build-tensorrt8.sh    TensorRT 8.5 and 8.6 (JetPack 5 and 6.0)
  sh build-tensorrt10.sh   TensorRT 10.3 and later (JetPack 6.1 to 7.2)
  sh build-tensorrt11.sh   TensorRT 11

{interface}

What is made: NAME.plan, the engine; NAME.times.json, the time of each inference, which
`lpx bench --import-trtexec NAME.times.json` reads; NAME.layers.json, the layers. See in it that
convolutions got the precision asked for: trtexec does not check that.

{tf32}
{dla}"""
_UINT8_PIXELS = """\
Each engine takes faces, uint8 RGB [N, {size}, {size}, 3], and gives score, float32 [N], the
probability of fake, and patch_map, float32 [N, h, w]."""
_TF32 = """\
TF32 is on, as TensorRT has it by default: from Ampere on, float32 convolutions round what they
multiply to 10 bits of mantissa. `lpx build --emit trtexec --no-tf32` writes scripts without it."""
_NO_TF32 = """\
TF32 is off: float32 is multiplied with all 23 bits of its mantissa."""
_DLA = """
These engines are for DLA core {core}. DLA is in TensorRT up to 10.7 and from 11.4.1 on; with
releases between, trtexec fails.
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
    write_bytes(folder / "README.txt", _readme(options, interface, card.input_size).encode())
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


def _readme(options: TensorRTOptions, interface: str, size: int) -> str:
    dla = "" if options.dla_core is None else _DLA.format(core=options.dla_core)
    return _README.format(
        interface=interface.format(size=size), dla=dla, tf32=_TF32 if options.tf32 else _NO_TF32
    )


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
        shapes = [
            f"--{option}Shapes=faces:{batch}x{face}"
            for option, batch in (
                ("min", span.minimum),
                ("opt", span.optimum),
                ("max", span.maximum),
            )
        ]
        # Timed at the optimum, for which the kernels were chosen.
        run = f"--shapes=faces:{span.optimum}x{face}"
        build = f"build {form.prefix}{plan_name(request, span)}"
        lines.append(" \\\n    ".join([build, *common, *shapes, run]))
    return lines


def plan_name(request: BuildRequest, span: BatchRange) -> str:
    """Return the name that a script gives to the plan of a batch range."""
    sizes = f"{span.minimum}to{span.maximum}"
    if span.minimum == span.maximum:
        sizes = f"{span.maximum}"
    return f"{replace(request, target='tensorrt').name}-batch{sizes}"
