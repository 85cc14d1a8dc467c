"""Run a model over faces once, and keep the statistics of every tensor to be quantised."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.histogram import Histogram
from lpx.calibration.scales import Scales, TensorScale
from lpx.data.face_set import FaceSet, Skipped
from lpx.errors import LpxError
from lpx.graph.model_io import parse, serialise
from lpx.graph.placement import place

BATCH = 8
"""Faces per forward pass: the activations of one batch are all the memory that grows with size."""

Progress = Callable[[int, int], None]
"""Called with faces done and faces in all."""


class Observer:
    """What is kept of one activation [N, C, ...]: a histogram, and the sum of each channel."""

    def __init__(self) -> None:
        self.histogram = Histogram()
        self.sums: NDArray[np.float64] | float = 0.0

    def add(self, values: NDArray[np.float32]) -> bool:
        """Take in a batch; False, and nothing taken, where a value is not finite."""
        if not self.histogram.add(values):
            return False
        others = (0, *range(2, values.ndim))
        self.sums = self.sums + values.sum(axis=others, dtype=np.float64)
        return True

    def statistics(self) -> TensorScale:
        """Range by every method, and channel means."""
        seen = self.histogram
        peaks = {"max": max(abs(seen.low), abs(seen.high))}
        for percent in (99.999, 99.99, 99.9):
            peaks[f"percentile-{percent:g}"] = seen.percentile(percent)
        sums = np.atleast_1d(self.sums)
        means = tuple(float(m) for m in sums / (seen.count / len(sums)))
        return TensorScale(seen.low, seen.high, seen.count, peaks, means)


def calibrate(
    model: bytes, faces: FaceSet, size: int, *, progress: Progress | None = None
) -> Scales:
    """Observe a float32 model on faces.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: The calibration set.
        size: S, pixels.
        progress: Told after each batch.

    Raises:
        LpxError: No face can be read, or an activation is NaN or infinite (tensor and face named).
    """
    started = time.perf_counter()
    run, names = _observed(model)
    observers = {name: Observer() for name in names}
    skipped: list[Skipped] = []
    done = 0
    for batch in faces.stream(BATCH, size, skipped):
        for name, values in zip(names, run(batch.pixels), strict=True):
            if not observers[name].add(values):
                raise _not_finite(name, values, faces, batch.indices)
        done += len(batch.indices)
        if progress is not None:
            progress(int(batch.indices[-1]) + 1, len(faces.faces))
    if progress is not None:
        # The last faces may have been unreadable.
        progress(len(faces.faces), len(faces.faces))
    if not done:
        reason = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty"
        raise LpxError(
            f"no face of {faces.name} can be read", reason, "name another set with --faces"
        )
    warning = ""
    if skipped:
        first = ", ".join(f"{s.name} ({s.reason})" for s in skipped[:3])
        more = f" and {len(skipped) - 3} more" * (len(skipped) > 3)
        warning = (
            f"{len(skipped)} of {len(faces.faces)} calibration faces could not be read and were "
            f"left out: {first}{more}"
        )
    return Scales(
        model_sha256=hashlib.sha256(model).hexdigest(),
        faces=faces.name,
        split=faces.split,
        face_count=done,
        faces_digest=faces.digest(),
        identities=faces.identities(),
        warning=warning,
        seconds=round(time.perf_counter() - started, 3),
        tensors={name: observers[name].statistics() for name in names},
    )


def _observed(
    model: bytes,
) -> tuple[Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]], list[str]]:
    """A forward pass that returns every tensor any dialect may quantise, and their names."""
    import onnxruntime

    graph = parse(model, "the exported model")
    # The placement for integer kernels quantises all that any other placement does, and more.
    names = list(place(graph, integer_outputs=True).tensors)
    values = {v.name: v for node in graph.graph for v in node.outputs}
    for name in names:
        graph.graph.outputs.append(values[name])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        serialise(graph), options, providers=["CPUExecutionProvider"]
    )

    def run(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = session.run(names, {"faces": pixels})
        return outputs

    return run, names


def _not_finite(
    name: str, values: NDArray[np.float32], faces: FaceSet, indices: NDArray[np.int64]
) -> LpxError:
    bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    face = faces.faces[int(indices[int(np.argmax(bad))])].name
    return LpxError(
        f"activation {name} is NaN or infinite on face {face}",
        "no scale can represent it",
        "check the checkpoint on that face with `lpx predict`",
    )
