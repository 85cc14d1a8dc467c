"""INT8 on a CPU: lpx beside ONNX Runtime's own static quantisation, in one run.

For each model: PyTorch, ONNX Runtime FP32, ONNX Runtime INT8 by lpx, and ONNX Runtime INT8 by
`onnxruntime.quantization.quantize_static` (the peer; its defaults and its advised pre-processing)
on the same calibration faces. Latency is measured in turns; the score error is against PyTorch.

    python benchmarks/cpu.py                      # the demo checkpoint, then random weights
    python benchmarks/cpu.py --only demo --json out.json

Backbones other than the demo's have random weights: their latency counts, their scores do not.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import numpy as np

from lpx.bench.performance.latency import percentile, sample
from lpx.calibration.methods import DEFAULT_METHOD
from lpx.calibration.observe import calibrate
from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
from lpx.engines.build import make_graph
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine, count_convolutions
from lpx.engines.request import BuildRequest
from lpx.engines.torch import TorchEngine
from lpx.export.to_onnx import to_onnx
from lpx.machine.machine import read_machine
from lpx.metrics import auc_difference
from lpx.models.checkpoint import Detector, load_checkpoint
from lpx.models.detector import new_detector

RANDOM = {
    "xception": "block3",
    "resnet18": "layer2",
    "resnet50": "layer2",
    "mobilenet_v2": "features.8",
    "tf_efficientnet_lite0": "stage4",
}
SIZE = 256


def models(only: str | None) -> Iterator[tuple[str, Detector]]:
    if only in (None, "demo"):
        yield "demo", load_checkpoint(folder() / CHECKPOINT)
    for backbone, cut in RANDOM.items():
        if only in (None, backbone):
            module, card = new_detector(backbone, cut, input_size=SIZE)
            yield f"{backbone}:{cut}", Detector(module.eval(), card)


def peer_int8(model: bytes, pixels: np.ndarray) -> bytes:
    """The model quantised by ONNX Runtime's own tool, with the options its guide advises."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(pixels)

        def get_next(self) -> dict[str, np.ndarray] | None:
            face = next(self.rest, None)
            return None if face is None else {"faces": face[None]}

    with tempfile.TemporaryDirectory() as scratch:
        plain, ready, done = (Path(scratch) / name for name in ("m.onnx", "p.onnx", "q.onnx"))
        plain.write_bytes(model)
        quant_pre_process(plain, ready)
        quantize_static(
            ready,
            done,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return done.read_bytes()


def row(name: str, detector: Detector, seconds: float) -> dict[str, object]:
    card = detector.card
    model = to_onnx(detector)
    train, test = demo_set("train"), demo_set("test")
    scales = calibrate(model, train, card.input_size)
    request = BuildRequest("onnxruntime", "int8", scales, DEFAULT_METHOD)
    ours, _ = make_graph(model, request, "onnxruntime")
    pixels = np.concatenate([b.pixels for b in train.stream(16, card.input_size, [])])
    theirs = peer_int8(model, pixels)
    graphs = {"ort-fp32": model, "ort-int8-lpx": ours, "ort-int8-peer": theirs}
    engines = {"torch": TorchEngine(detector)} | {
        key: OnnxRuntimeEngine(graph, card.input_size) for key, graph in graphs.items()
    }
    timed = sample(engines, pixels[:1], seconds)
    result: dict[str, object] = {
        "model": name,
        "input_size": card.input_size,
        "p50_ms": {key: percentile(np.sort(timed[key].times_ms), 50) for key in engines},
        "convolutions": {key: count_convolutions(graph) for key, graph in graphs.items()},
    }
    if name == "demo":
        result["scores"] = scores(engines, test, card.input_size)
    return result


def scores(engines: dict[str, object], faces: object, size: int) -> dict[str, dict[str, float]]:
    """AUC difference to PyTorch and score error of every engine on the demo's test faces."""
    found: dict[str, list[np.ndarray]] = {key: [] for key in engines}
    for batch in faces.stream(32, size, []):
        for key, engine in engines.items():
            found[key].append(engine.infer(batch.pixels).score)
    joined = {key: np.concatenate(parts) for key, parts in found.items()}
    labels, truth = faces.labels(), joined["torch"]
    rows = {}
    for key, score in joined.items():
        d = auc_difference(labels, truth, score)
        error = np.abs(score - truth)
        rows[key] = {
            "auc_difference": d.estimate,
            "low": d.low,
            "high": d.high,
            "max_error": float(error.max()),
            "mean_error": float(error.mean()),
        }
    return rows


def table(rows: list[dict[str, object]]) -> str:
    names = ("torch", "ort-fp32", "ort-int8-lpx", "ort-int8-peer")
    lines = [
        "| model | px | " + " | ".join(f"{n} ms" for n in names) + " | lpx INT8 over FP32 | "
        "lpx over peer |",
        "|---|---|" + "---|" * (len(names) + 2),
    ]
    for r in rows:
        p50 = r["p50_ms"]
        cells = " | ".join(f"{p50[n]:.2f}" for n in names)
        lines.append(
            f"| {r['model']} | {r['input_size']} | {cells} | "
            f"{p50['ort-fp32'] / p50['ort-int8-lpx']:.2f}x | "
            f"{p50['ort-int8-peer'] / p50['ort-int8-lpx']:.2f}x |"
        )
    for r in rows:
        for key, s in r.get("scores", {}).items():
            lines.append(
                f"{r['model']} {key}: AUC difference {s['auc_difference']:+.4f} "
                f"[{s['low']:+.4f}, {s['high']:+.4f}], |score error| mean {s['mean_error']:.4f} "
                f"max {s['max_error']:.4f}"
            )
    return "\n".join(lines)


@click.command()
@click.option("--only", help="demo, or one backbone.")
@click.option("--seconds", default=2.0, show_default=True, help="Per engine.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(only: str | None, seconds: float, json_path: Path | None) -> None:
    warnings.simplefilter("ignore")
    machine = read_machine()
    rows = [row(name, detector, seconds) for name, detector in models(only)]
    versions = ", ".join(f"{p} {metadata.version(p)}" for p in ("torch", "onnxruntime", "onnx"))
    print(f"{machine.cpu}, {machine.cores} cores, {platform.python_version()}, {versions}")
    print(table(rows))
    if json_path:
        json_path.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    sys.exit(main())
