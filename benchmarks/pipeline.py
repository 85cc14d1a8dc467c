"""Rate of `lpx bench`'s scoring: decoding and inference overlapped, against each of them alone.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --seconds 20 --json out.json

Crops on disk are scored by `lpx.bench.parity.score.score`, and beside it, in turns of one run,
decoded only, and inferred only (from memory, the same batches). Perfect overlap runs at the rate of
the slower of the two. Two kinds of engine:

device: waits for so long as decoding takes, and leaves the CPU alone, as a GPU does. Overlap can be
perfect, and the target is 0.9 of the slower.
cpu: ONNX Runtime on the demo's model. Decoding and inference want the same cores, and each alone
fills them: then no order of work is faster than one after the other, but for what either leaves
idle. The target is 0.97 of that. Scoring takes the session that `lpx bench` scores with, inference
alone the one that it times.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np

from lpx.bench.parity.score import BATCH, score
from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.sets import open_set
from lpx.engines.base import Engine, Faces, Prediction
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.export.to_onnx import to_onnx
from lpx.machine.machine import read_machine
from lpx.models.checkpoint import load_checkpoint

SIDE = 317
"""Side of the crops on disk: DeepfakeBench's are of some 256 to 320 px."""
FILES = 480
TARGETS = {"device": ("of_slower", 0.9), "cpu": ("of_one_after_the_other", 0.97)}


class Device:
    """An engine whose work is done elsewhere, in a time that does not depend on the CPU."""

    def __init__(self, seconds_per_face: float) -> None:
        self.seconds_per_face = seconds_per_face

    def infer(self, faces: Faces) -> Prediction:
        """Wait, and call every face half fake."""
        time.sleep(self.seconds_per_face * len(faces))
        half = np.full(len(faces), 0.5, np.float32)
        return Prediction(half, np.repeat(half, 4).reshape(-1, 2, 2))

    def close(self) -> None:
        """Nothing is held."""


def write_crops(root: Path) -> None:
    """JPEG crops below real/ and fake/, made from the demo's faces."""
    sources = demo_set("test").faces
    for name in ("real", "fake"):
        (root / name).mkdir()
    for number in range(FILES):
        face = sources[number % len(sources)]
        image = cv2.resize(face.source.read(), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        path = root / ("real", "fake")[number % 2] / f"{number:04d}.jpg"
        cv2.imwrite(str(path), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def rate(work: Callable[[], object], faces: int) -> float:
    """Faces per second of `work`."""
    started = time.perf_counter()
    work()
    return faces / (time.perf_counter() - started)


def turns(
    alone: Engine, scoring: Engine, faces: FaceSet, size: int, seconds: float
) -> dict[str, Any]:
    """Rates of decoding, of inference and of both, in turns, and ratios of them."""
    batches = [batch.pixels for batch in faces.stream(BATCH, size, [])]

    def decode() -> None:
        for _ in faces.stream(BATCH, size, []):
            pass

    def infer() -> None:
        for pixels in batches:
            alone.infer(pixels)

    def both() -> None:
        score({"engine": scoring}, faces, size)

    works = {"decode": decode, "infer": infer, "both": both}
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in works}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(found["both"]) < 3:
        for name, work in works.items():
            found[name].append(rate(work, len(faces.faces)))
    rows = list(zip(*found.values(), strict=True))
    return {
        **{f"{name}_per_s": statistics.median(found[name]) for name in works},
        "of_slower": spread([b / min(d, i) for d, i, b in rows]),
        "of_one_after_the_other": spread([b * (1 / d + 1 / i) for d, i, b in rows]),
        "turns": len(rows),
    }


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Median and quartiles: a machine that others use has outliers."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": middle, "low": low, "high": high}


def shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


@click.command()
@click.option("--seconds", default=10.0, show_default=True, help="Per engine.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
def main(seconds: float, json_path: Path | None) -> None:
    detector = load_checkpoint(folder() / CHECKPOINT)
    size = detector.card.input_size
    with tempfile.TemporaryDirectory() as scratch:
        write_crops(Path(scratch))
        faces = open_set(f"folder:{scratch}", "test")
        decoded = rate(lambda: list(faces.stream(BATCH, size, [])), len(faces.faces))
        device, model = Device(1 / decoded), to_onnx(detector)
        engines: dict[str, tuple[Engine, Engine]] = {
            "device": (device, device),
            "cpu": (
                OnnxRuntimeEngine(model, size),
                OnnxRuntimeEngine(model, size, shares_cores=True),
            ),
        }
        rows = {name: turns(*pair, faces, size, seconds) for name, pair in engines.items()}
    machine = read_machine()
    print(
        f"{machine.cpu}, {machine.cores} cores, load {os.getloadavg()[0]:.1f}; {FILES} JPEGs of "
        f"{SIDE} px, scored at {size} px; faces/s"
    )
    print(
        "| engine | decode alone | infer alone | both | of the slower [quartiles] | "
        "of one after the other [quartiles] | target |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, r in rows.items():
        of, target = TARGETS[name]
        verdict = "held" if r[of]["median"] >= target else "missed"
        print(
            f"| {name} | {r['decode_per_s']:.0f} | {r['infer_per_s']:.0f} | {r['both_per_s']:.0f} "
            f"| {shown(r['of_slower'])} | {shown(r['of_one_after_the_other'])} | {target:g} "
            f"{of.replace('_', ' ')}: {verdict} |"
        )
    if json_path:
        result = {"cpu": machine.cpu, "cores": machine.cores, "size": size, "rows": rows}
        json_path.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(main())
