"""Calibration: lpx beside ONNX Runtime's calibrators and, where installed, NVIDIA ModelOpt's.

Each runs in a process of its own on the same faces and the same float32 model. Printed are its time
over that of the plain float32 forward pass in the same process (ONNX Runtime, all cores, batches of
8), by the clock and in processor time, and the largest memory that the process had. lpx reads off
all six methods at once.

    python benchmarks/calibration.py                        # both models
    python benchmarks/calibration.py --models xception:block3 --faces 64,256,4096
    python benchmarks/calibration.py --modelopt-python ~/modelopt/bin/python

Faces are those of the demo set, again and again where more are asked for; they are decoded before
the clock starts. ONNX Runtime's percentile and entropy calibrators keep every activation of every
face: they get at most `--peer-faces`.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

BATCH = 8


def write_model(name: str, path: Path) -> int:
    """Write the demo detector, or an untrained one named BACKBONE:CUT; returns its input size."""
    from lpx.data.face_sets.demo import CHECKPOINT, folder
    from lpx.export.to_onnx import to_onnx
    from lpx.models.checkpoint import Detector, load_checkpoint
    from lpx.models.detector import new_detector

    if name == "demo":
        detector = load_checkpoint(folder() / CHECKPOINT)
    else:
        backbone, _, cut = name.partition(":")
        module, card = new_detector(backbone, cut or "whole", input_size=256)
        detector = Detector(module.eval(), card)
    path.write_bytes(to_onnx(detector))
    return detector.card.input_size


def write_faces(size: int, path: Path) -> None:
    from lpx.data.face_sets.demo import demo_set

    np.save(path, np.concatenate([b.pixels for b in demo_set("train").stream(16, size, [])]))


class Repeated:
    """`count` faces out of fewer, without a copy of them all."""

    def __init__(self, pixels: np.ndarray, count: int) -> None:
        self.pixels, self.count = pixels, count

    def face(self, index: int) -> np.ndarray:
        """One face, uint8 [S, S, 3]."""
        return self.pixels[index % len(self.pixels)]

    def batch(self, start: int) -> np.ndarray:
        """The faces from `start` on, uint8 [N, S, S, 3]."""
        stop = min(start + BATCH, self.count)
        return np.stack([self.face(index) for index in range(start, stop)])


@dataclass(frozen=True)
class Spent:
    """What something took: by the clock, and on processors, which other work disturbs less."""

    seconds: float
    cpu_seconds: float


class Clock:
    """Measures from when it is made."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def spent(self, factor: float = 1.0) -> Spent:
        """Since then, times `factor`."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return Spent(wall * factor, cpu * factor)


def forward(model: Path, faces: Repeated) -> Spent:
    """The plain pass over at most 64 of the faces, for as many as there are."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    session.run(None, {"faces": faces.batch(0)})
    some = range(0, min(faces.count, 64), BATCH)
    clock = Clock()
    done = sum(len(session.run(None, {"faces": faces.batch(start)})[0]) for start in some)
    return clock.spent(faces.count / done)


def lpx_pass(model: Path, faces: Repeated) -> Spent:
    from lpx.calibration.observe import calibrate
    from lpx.data.face_sets.face_set import Face, FaceSet

    @dataclass(frozen=True)
    class Pixels:
        index: int

        def read(self) -> np.ndarray:
            return faces.face(self.index)

    listed = tuple(Face(str(i), None, "unknown", str(i), "", Pixels(i)) for i in range(faces.count))
    data = model.read_bytes()
    clock = Clock()
    calibrate(data, FaceSet("repeated", "all", "none", listed), faces.pixels.shape[1])
    return clock.spent()


def onnxruntime_pass(model: Path, faces: Repeated, method: str) -> Spent:
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.next = 0

        def get_next(self) -> dict[str, np.ndarray] | None:
            if self.next >= faces.count:
                return None
            start, self.next = self.next, self.next + BATCH
            return {"faces": faces.batch(start)}

    with tempfile.TemporaryDirectory() as scratch:
        clock = Clock()
        calibrator = create_calibrator(
            model,
            ["Conv", "Add", "Relu", "Clip", "MaxPool"],
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=CalibrationMethod[method],
        )
        calibrator.collect_data(Reader())
        calibrator.compute_data()
        return clock.spent()


MODELOPT = """
import json, resource, sys, time
import numpy as np
from modelopt.onnx.quantization import quantize
model, pixels, count, method, output = sys.argv[1:]
faces = np.load(pixels)
data = {"faces": faces[np.arange(int(count)) % len(faces)]}
started, cpu = time.perf_counter(), time.process_time()
quantize(model, quantize_mode="int8", calibration_data=data, calibration_method=method,
         calibration_eps=["cpu"], output_path=output, log_level="ERROR")
print(json.dumps({"seconds": time.perf_counter() - started,
                  "cpu_seconds": time.process_time() - cpu,
                  "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def run_child(tool: str, model: Path, pixels: Path, count: int) -> None:
    """In a process of its own: one tool, on one number of faces."""
    faces = Repeated(np.load(pixels, mmap_mode="r"), count)
    # Before and after: another process may come or go in the meantime.
    before = forward(model, faces)
    if tool == "lpx":
        spent = lpx_pass(model, faces)
    else:
        spent = onnxruntime_pass(model, faces, tool.removeprefix("onnxruntime-"))
    after = forward(model, faces)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "seconds": spent.seconds,
                "cpu_seconds": spent.cpu_seconds,
                "forward": (before.seconds + after.seconds) / 2,
                "cpu_forward": (before.cpu_seconds + after.cpu_seconds) / 2,
                "peak_mib": peak,
            }
        )
    )


def in_process(command: list[str]) -> dict[str, Any] | None:
    """The JSON that a process prints last; None where it was killed or failed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(
            f"{' '.join(command[:4])} ...: exit {done.returncode}: {done.stderr[-300:]}",
            file=sys.stderr,
        )
        return None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(
    name: str, model: Path, pixels: Path, counts: list[int], peer_faces: int, modelopt: str | None
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []

    def add(tool: str, count: int, found: dict[str, Any] | None) -> None:
        rows.append({"model": name, "tool": tool, "faces": count, **(found or {"failed": True})})
        print(line(rows[-1]), flush=True)

    for count in counts:
        tools = ["lpx", "onnxruntime-MinMax"]
        if count <= peer_faces:
            tools += ["onnxruntime-Percentile", "onnxruntime-Entropy"]
        plain: dict[str, float] = {}
        for tool in tools:
            command = [sys.executable, __file__, "--child", tool, str(model), str(pixels)]
            found = in_process([*command, str(count)])
            if found and not plain:
                plain = {key: found[key] for key in ("forward", "cpu_forward")}
            add(tool, count, found)
        if modelopt:
            output = str(model.with_suffix(".modelopt.onnx"))
            for method in ("max", "entropy"):
                found = in_process(
                    [modelopt, "-c", MODELOPT, str(model), str(pixels), str(count), method, output]
                )
                # Another environment: the forward pass is the one lpx was measured beside.
                add(f"modelopt-{method}", count, found and {**found, **plain})
    return rows


def line(row: dict[str, Any]) -> str:
    start = f"{row['model']:24} {row['tool']:23} {row['faces']:5} faces  "
    if "failed" in row:
        return start + "failed or was killed"
    ratios = "      ?             "
    if row.get("forward"):
        wall, cpu = row["seconds"] / row["forward"], row["cpu_seconds"] / row["cpu_forward"]
        ratios = f"{wall:6.2f} x forward ({cpu:5.2f} x its processor time)"
    return start + f"{row['seconds']:8.2f} s  {ratios}  {row['peak_mib']:6.0f} MiB"


@click.command()
@click.option(
    "--models",
    default="demo,xception:block3",
    show_default=True,
    help="The demo detector and untrained ones, BACKBONE:CUT, at 256 px.",
)
@click.option("--faces", default="64,256", show_default=True)
@click.option(
    "--peer-faces",
    default=64,
    show_default=True,
    help="Most faces for calibrators that keep every activation.",
)
@click.option("--modelopt-python", help="Python of an environment that has nvidia-modelopt.")
@click.option("--json", "json_path", type=click.Path(path_type=Path))
@click.option("--child", nargs=4, hidden=True)
def main(
    models: str,
    faces: str,
    peer_faces: int,
    modelopt_python: str | None,
    json_path: Path | None,
    child: tuple[str, str, str, str] | None,
) -> None:
    if child is not None:
        tool, model, pixels, count = child
        run_child(tool, Path(model), Path(pixels), int(count))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in models.split(","):
            model, pixels = Path(scratch) / "model.onnx", Path(scratch) / "faces.npy"
            write_faces(write_model(name, model), pixels)
            counts = [int(n) for n in faces.split(",")]
            rows += measure(name, model, pixels, counts, peer_faces, modelopt_python)
    if json_path:
        json_path.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
