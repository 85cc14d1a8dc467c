"""Latency on an NVIDIA GPU: every way to run a detector, in one run, beside what the GPU allows.

For each backbone and batch: PyTorch eager in FP32 and in FP16 channels-last, torch.compile, a CUDA
graph of PyTorch's, ONNX Runtime's CUDA provider, and TensorRT or TensorRT for RTX in FP16 and in
INT8, with CUDA graphs and without. They take turns, so that a GPU that warms up hits all alike.
Time is the host's, from uint8 faces in memory to scores in memory. What cannot run is listed with
its error, and what a contender warns of with the warning.

Two floors stand beside each row, from a copy and matrix products timed on this GPU in this run:
the larger of (weights and faces) / bandwidth and operations / rate; and the same for each layer by
itself, summed, where every layer reads its input and writes its output. Neither counts the copies
between host and GPU, which the measured time includes.

    python benchmarks/gpu.py --json gpu.json --markdown gpu.md
    python benchmarks/gpu.py --contenders "torch.compile fp16,onnxruntime-cuda fp16" --minutes 5
    python benchmarks/gpu.py --dry-run --only resnet18 --batches 1   # this script on a CPU

Weights are random: latency counts, scores do not.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import click
import numpy as np
import torch
from gpu_limits import BYTES, Limits, costs, floors_ms, limits, words
from torch import Tensor, nn

from lpx.bench.performance.latency import LatencyResult, sample, summarise
from lpx.calibration.methods import DEFAULT_METHOD
from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import demo_set
from lpx.engines.base import ON_THE_CPU, Prediction
from lpx.engines.build import make_graph
from lpx.engines.onnxruntime.gpu import OnnxRuntimeGpuEngine, provider_options
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt import PlanRequest, TensorRTEngine, build_plan, open_library
from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, BatchRange, TensorRTOptions
from lpx.engines.torch import TorchEngine
from lpx.errors import LpxError
from lpx.export.deployed import Deployed
from lpx.export.to_onnx import to_onnx
from lpx.machine.machine import read_machine
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

BACKBONES = {
    "xception": "block3",
    "resnet18": "layer2",
    "resnet50": "layer2",
    "mobilenet_v2": "features.8",
    "tf_efficientnet_lite0": "stage4",
}
NVIDIA_SMI = (
    "nvidia-smi",
    "--query-gpu=name,driver_version,clocks.sm,power.limit",
    "--format=csv,noheader",
)
# Name of a contender -> what makes its engine.
Makers = dict[str, Callable[[], Any]]
LEFT_OUT = "left out: the time that --minutes allows was over"
LIBRARIES = (
    "lpx",
    "torch",
    "triton",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "tensorrt-rtx-cu13-bindings",
    "cuda-bindings",
    "pycuda",
)


class Half(nn.Module):
    """A deployed detector whose network runs in FP16, channels last."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.deployed = Deployed(detector.module, detector.card)
        self.deployed.detector.half().to(memory_format=torch.channels_last)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Score faces, uint8 RGB [N, H, W, 3]; results float32."""
        x = self.deployed.normalised(faces).half().contiguous(memory_format=torch.channels_last)
        score, patch_map = self.deployed.detector(x)
        return score.float(), patch_map.float()


class TorchVariant:
    """An engine that runs a module on a device.

    Args:
        run: uint8 [N, S, S, 3] on the device -> (score, patch map).
        device: Where.
    """

    device_memory = ON_THE_CPU

    def __init__(self, run: Callable[[Tensor], tuple[Tensor, Tensor]], device: str) -> None:
        self.run, self.device = run, device

    def infer(self, faces: np.ndarray) -> Prediction:
        """As `Engine.infer`."""
        with torch.inference_mode():
            score, patch_map = self.run(torch.from_numpy(faces).to(self.device))
            return Prediction(score.cpu().numpy(), patch_map.cpu().numpy())

    def close(self) -> None:
        """Let go of the module."""
        del self.run


def compiled(
    module: nn.Module, backend: str | Callable[..., Any] = "inductor"
) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A module compiled for the one batch size it will see, or an error: never eager instead.

    Without a reset, the batches measured before count as recompilations: the second one turns the
    batch into a dynamic dimension, and at the limit PyTorch runs the module eagerly with a warning.
    """
    torch._dynamo.reset()
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(
        module,
        mode="max-autotune-no-cudagraphs",
        dynamic=False,
        fullgraph=True,
        backend=backend,
    )


def captured(module: nn.Module, example: np.ndarray) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A module as a CUDA graph for the batch of an example."""
    given = torch.from_numpy(example).cuda()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(side):
        for _ in range(3):
            module(given)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        made = module(given)

    def run(faces: Tensor) -> tuple[Tensor, Tensor]:
        given.copy_(faces)
        graph.replay()
        return made

    return run


@dataclass
class Subject:
    """A detector, and what is made of it once for all batches."""

    name: str
    detector: Detector
    batches: tuple[int, ...]
    made: dict[tuple[str, str], bytes] = field(default_factory=dict)
    failed: dict[tuple[str, str], Exception] = field(default_factory=dict)
    export: Callable[[Detector], bytes] = to_onnx

    def plan(self, flavour: Any, precision: Any) -> bytes:
        """A plan, built when first asked for; what failed fails again with the same words."""
        key = (flavour, precision)
        if key in self.failed:
            raise self.failed[key]
        if key not in self.made:
            try:
                self.made[key] = self._build(flavour, precision)
            except Exception as error:
                self.failed[key] = error
                raise
        return self.made[key]

    def _build(self, flavour: Any, precision: Any) -> bytes:
        library = open_library(flavour)
        dialect = library.capabilities.dialect
        scales = None
        if precision == "int8":
            scales = calibrate(self.model, demo_set("train").first(64), self.size)
        method = DEFAULT_METHOD if scales else ""
        graph, _ = make_graph(self.model, BuildRequest(flavour, precision, scales, method), dialect)
        options = TensorRTOptions(batches=self.batches)
        return build_plan(PlanRequest(graph, precision, options), library).data

    @cached_property
    def model(self) -> bytes:
        """As ONNX; not needed by PyTorch's contenders, which run where no export is possible."""
        return self.export(self.detector)

    @property
    def size(self) -> int:
        """Side of a face, pixels."""
        return self.detector.card.input_size


def contenders(subject: Subject, faces: np.ndarray, device: str) -> Makers:
    """Name -> what makes the engine for this batch; making it may raise."""
    detector = subject.detector

    def needs_gpu(make: Callable[[], Any]) -> Any:
        if device == "cpu":
            raise LpxError("a dry run on the CPU: this contender needs an NVIDIA GPU")
        return make()

    def fresh() -> Detector:
        module, card = new_detector(
            detector.card.architecture, detector.card.cut, input_size=subject.size
        )
        module.load_state_dict(detector.module.state_dict())
        return Detector(module.eval(), card)

    def half() -> nn.Module:
        return Half(fresh()).eval().to(device)

    def ort(precision: Any) -> Any:
        largest = max(subject.batches)
        request = BuildRequest("onnxruntime-cuda", precision)
        graph, _ = make_graph(subject.model, request, "onnxruntime")
        span = BatchRange(1, largest, largest)
        options = provider_options(
            "onnxruntime-cuda", precision, span, subject.size, DEFAULT_TENSORRT
        )
        folder = Path(mkdtemp())
        return OnnxRuntimeGpuEngine(
            graph, subject.size, "onnxruntime-cuda", options, folder, largest
        )

    def tensorrt(flavour: Any, precision: Any, graph: bool) -> Any:
        return TensorRTEngine(
            subject.plan(flavour, precision), open_library(flavour), cuda_graph=graph
        )

    found: Makers = {
        "torch eager fp32": lambda: TorchEngine(fresh()),
        "torch fp16 channels-last": lambda: TorchVariant(half(), device),
        "torch.compile fp16": lambda: TorchVariant(compiled(half()), device),
        "torch cuda-graph fp16": lambda: TorchVariant(captured(half(), faces), device),
        "onnxruntime-cuda fp32": partial(ort, "fp32"),
        "onnxruntime-cuda fp16": partial(ort, "fp16"),
    }
    for flavour in ("tensorrt", "tensorrt-rtx"):
        for precision in ("fp16", "int8"):
            for graph in (False, True):
                name = f"{flavour} {precision}" + " cuda-graph" * graph
                found[name] = partial(tensorrt, flavour, precision, graph)
    anywhere = ("torch eager fp32", "torch fp16 channels-last")
    return {n: m if n in anywhere else partial(needs_gpu, m) for n, m in found.items()}


@dataclass(frozen=True)
class Started:
    """A contender that has run once, or the reason why it cannot.

    Attributes:
        engine: None where it cannot run.
        reason: Why not.
        warned: What it warned of, each text once: a fallback is not to go unseen.
    """

    engine: Any | None
    reason: str | None
    warned: tuple[str, ...]


def started(make: Callable[[], Any], faces: np.ndarray) -> Started:
    """Make an engine and run it once."""
    engine, reason = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            made = make()
            made.infer(faces)  # compilers and lazy libraries fail here, not in the measurement
            engine = made
        except Exception as error:  # each contender that cannot run is told with its reason
            reason = words(error)
    texts = (" ".join(str(warning.message).split())[:300] for warning in caught)
    return Started(engine, reason, tuple(dict.fromkeys(texts)))


class Guarded:
    """An engine that keeps what it raised.

    Args:
        engine: What is measured; its attributes are this one's.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.error: Exception | None = None

    def infer(self, faces: np.ndarray) -> Prediction:
        """As `Engine.infer`."""
        try:
            prediction: Prediction = self.engine.infer(faces)
        except Exception as error:
            self.error = error
            raise
        return prediction

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)


def measured(
    engines: dict[str, Any], faces: np.ndarray, units: int, seconds: float
) -> tuple[dict[str, LatencyResult], dict[str, str]]:
    """Measure engines in turns; one that fails is left out, and the others start again.

    Returns:
        (times by name, why there are none by name).
    """
    guarded = {name: Guarded(engine) for name, engine in engines.items()}
    try:
        timed = sample(guarded, faces, seconds) if guarded else {}
    except Exception:
        errors = {name: one.error for name, one in guarded.items() if one.error is not None}
        if not errors:  # it was not an engine
            raise
        others = {name: engine for name, engine in engines.items() if name not in errors}
        results, failed = measured(others, faces, units, seconds)
        return results, failed | {name: words(error) for name, error in errors.items()}
    return {name: summarise(calls, len(faces), units) for name, calls in timed.items()}, {}


def rows_of(
    subject: Subject,
    batch: int,
    device: str,
    seconds: float,
    found: Limits,
    chosen: tuple[str, ...] = (),
    in_time: Callable[[], bool] = lambda: True,
    makers: Makers | None = None,
) -> list[dict[str, Any]]:
    """One row a contender: its times, or why there are none.

    Args:
        subject: The detector.
        batch: Faces per call.
        device: "cuda" or "cpu".
        seconds: Time to measure each contender for.
        found: What the device allows.
        chosen: Names of the contenders to run; all where empty.
        in_time: Whether one more contender may start.
        makers: What makes each contender's engine, by its name; None for `contenders`.
    """
    card, layers = subject.detector.card, costs(subject.detector)
    shape = (batch, card.input_size, card.input_size, 3)
    faces = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    if makers is None:
        makers = contenders(subject, faces, device)
    names = [name for name in makers if not chosen or name in chosen]
    tried = {
        name: started(makers[name], faces) if in_time() else Started(None, LEFT_OUT, ())
        for name in names
    }
    engines = {name: one.engine for name, one in tried.items() if one.engine is not None}
    units = card.grid[0] * card.grid[1]
    timed, failed = measured(engines, faces, units, seconds)
    rows = []
    for name in names:
        precision = next(p for p in BYTES if p in name)
        whole, single = floors_ms(layers, batch, precision, found, card.input_size)
        row: dict[str, Any] = {
            "model": subject.name,
            "input_size": card.input_size,
            "batch": batch,
            "contender": name,
            "units": units,
            "cannot_run": failed.get(name, tried[name].reason),
            "floor_per_face_ms": _per(whole, batch),
            "layer_floor_per_face_ms": _per(single, batch),
        }
        if name in timed:
            result = timed[name]
            row |= {
                "per_face_p50_ms": result.per_face_ms.p50.estimate,
                "per_face_p99_ms": result.per_face_ms.p99.estimate,
                "cov": result.cov,
                "per_patch_p50_us": result.per_patch_p50_us,
                "faces_per_second": result.faces_per_second,
                "iterations": result.iterations,
                "device": result.device and asdict(result.device),
            }
            row["notes"] = [*tried[name].warned, *getattr(engines[name], "notes", ())]
        rows.append(row)
    for engine in engines.values():
        engine.close()
    return rows


def _per(value: float | None, batch: int) -> float | None:
    return None if value is None else value / batch


def describe(device: str) -> dict[str, Any]:
    """Device, driver, date and versions."""
    installed = {d.metadata["Name"]: d.version for d in metadata.distributions()}
    versions = {name: installed[name] for name in LIBRARIES if name in installed}
    try:
        listing = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        listing = f"unknown ({words(error)})"
    machine = read_machine()
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else machine.cpu,
        "gpu_driver_clock_power": listing.strip(),
        "cuda_of_torch": torch.version.cuda,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "dry_run": device == "cpu",
        "versions": versions,
        "machine": asdict(machine),
    }


def markdown(about: dict[str, Any], found: Limits, rows: list[dict[str, Any]]) -> str:
    """The figures as docs/benchmarks.md shows them."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    rates = ", ".join(f"{p.upper()} {r:.3g}" for p, r in found.tera_operations_per_second.items())
    lines = [
        f"{about['device']} ({about['gpu_driver_clock_power']}), {about['date']}, {versions}. "
        f"Measured here: copy {found.gigabytes_per_second:.0f} GB/s; matrix product, "
        f"10^12 operations/s: {rates}.",
    ]
    if about["dry_run"]:
        lines += ["", "**A dry run on a CPU: these are no figures of a GPU.**"]
    lines += [f"- {p} matrix product: {why}" for p, why in found.not_measured.items()]
    head = (
        "model",
        "batch",
        "contender",
        "ms per face, p50",
        "p99",
        "µs per patch",
        "floor, ms",
        "layer by layer, ms",
        "times the latter",
    )
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        if row["cannot_run"]:
            continue
        floor, layered = row["floor_per_face_ms"], row["layer_floor_per_face_ms"]
        ratio = f"{row['per_face_p50_ms'] / layered:.1f}" if layered else ""
        lines.append(
            f"| {row['model']} | {row['batch']} | {row['contender']} | "
            f"{row['per_face_p50_ms']:.4f} | {row['per_face_p99_ms']:.4f} | "
            f"{row['per_patch_p50_us']:.3f} | {_shown(floor)} | {_shown(layered)} | {ratio} |"
        )
    for title, what in (("What could not run", _reasons), ("What they warned of", _notes)):
        told: dict[tuple[str, str], list[str]] = {}
        for row in rows:
            for text in what(row):
                where = f"{row['model']} batch {row['batch']}"
                told.setdefault((row["contender"], text), []).append(where)
        lines += ["", f"{title}:", ""] if told else []
        lines += [f"- {name} ({', '.join(where)}): {text}" for (name, text), where in told.items()]
    return "\n".join(lines) + "\n"


def _reasons(row: dict[str, Any]) -> list[str]:
    return [row["cannot_run"]] if row["cannot_run"] else []


def _notes(row: dict[str, Any]) -> list[str]:
    return row.get("notes", [])


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _batches(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"{text!r} is not a list of batch sizes, as 1,8,32")
    return sizes


def contender_names() -> tuple[str, ...]:
    """The names of all contenders, without making any."""
    detector = Detector(*new_detector("resnet18", "layer1", input_size=64))
    return tuple(contenders(Subject("", detector, (1,)), np.empty(0), "cpu"))


def _contenders(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    known = contender_names() if names else ()
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{', '.join(unknown)}: unknown; choose from {', '.join(known)}")
    return names


@click.command(help=__doc__.split("\n", 1)[0] if __doc__ else "")
@click.option("--only", type=click.Choice(tuple(BACKBONES)), help="One backbone.")
@click.option("--batches", default="1,8,32", show_default=True, callback=_batches)
@click.option("--size", default=256, show_default=True, help="Side of a face, pixels.")
@click.option("--seconds", default=1.0, show_default=True, help="Per contender and batch.")
@click.option(
    "--contenders",
    "chosen",
    default="",
    callback=_contenders,
    metavar="NAMES",
    help="Comma-separated contenders to run; all by default.",
)
@click.option("--minutes", type=float, help="Start no further contender after so long.")
@click.option("--dry-run", is_flag=True, help="Run what a CPU can: shows that this script works.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--markdown", "markdown_path", type=click.Path(path_type=Path))
def main(
    only: str | None,
    batches: tuple[int, ...],
    size: int,
    seconds: float,
    chosen: tuple[str, ...],
    minutes: float | None,
    dry_run: bool,
    json_path: Path | None,
    markdown_path: Path | None,
) -> None:
    if not torch.cuda.is_available() and not dry_run:
        raise click.UsageError(
            f"PyTorch {torch.__version__} sees no NVIDIA GPU: run this where there is one, with a "
            "CUDA build of PyTorch, or add --dry-run"
        )
    end = None if minutes is None else time.monotonic() + 60 * minutes

    def in_time() -> bool:
        return end is None or time.monotonic() < end

    device = "cpu" if dry_run else "cuda"
    about, found = describe(device), limits(device)
    rows: list[dict[str, Any]] = []
    for backbone, cut in BACKBONES.items():
        if only not in (None, backbone):
            continue
        module, card = new_detector(backbone, cut, input_size=size)
        detector = Detector(module.eval(), card)
        subject = Subject(f"{backbone}:{cut}", detector, batches)
        for batch in batches:
            rows += rows_of(subject, batch, device, seconds, found, chosen, in_time)
            done = sum(
                r["batch"] == batch and r["model"] == subject.name and not r["cannot_run"]
                for r in rows
            )
            print(f"{subject.name} batch {batch}: {done} contenders ran", file=sys.stderr)
            if json_path:  # after each, so that a run that is cut off leaves what it has
                values = {"about": about, "limits": asdict(found), "rows": rows}
                json_path.write_text(json.dumps(values, indent=2))
    text = markdown(about, found, rows)
    print(text)
    if markdown_path:
        markdown_path.write_text(text)


if __name__ == "__main__":
    sys.exit(main())
