"""Run a model over faces once, and keep the statistics of every tensor to be quantised."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.checkpoint import Progress, load_progress, save_progress
from lpx.calibration.forward import Activation, ObservedModel
from lpx.calibration.observer import Observer
from lpx.calibration.scales import Scales, TensorScale
from lpx.data.face_set import Batch, FaceSet, Skipped
from lpx.errors import LpxError

ROOM = 1 << 25
"""Values of one batch's activations, at most: 128 MiB, of which there are two."""
LARGEST_BATCH = 8
SHARD = 256
"""Faces between two writings of the progress."""

Tell = Callable[[int, int], None]
"""Called with faces done and faces in all."""


def calibrate(
    model: bytes,
    faces: FaceSet,
    size: int,
    *,
    progress: Tell | None = None,
    resume: Path | None = None,
) -> Scales:
    """Observe a float32 model on faces.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: The calibration set.
        size: S, pixels.
        progress: Told after each batch.
        resume: Where to write down how far the pass has come, and to look for an earlier one of
            the same model and faces to go on with; removed at the end. None keeps nothing.

    Raises:
        LpxError: No face can be read, or an activation is NaN or infinite (tensor and face named).
    """
    started = time.perf_counter()
    digest = hashlib.sha256(model).hexdigest()
    key = {"model": digest, "faces": faces.digest(), "size": str(size)}
    earlier = load_progress(resume, key) if resume is not None else None
    done = _Pass(model, faces, size, earlier)
    for position in done.run():
        if progress is not None:
            progress(position, len(faces.faces))
        if resume is not None and position < len(faces.faces) and done.due():
            save_progress(resume, key, done.progress())
    if not done.observers:
        skipped = done.skipped
        reason = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty"
        raise LpxError(
            f"no face of {faces.name} can be read", reason, "name another set with --faces"
        )
    if progress is not None:
        # The last faces may have been unreadable.
        progress(len(faces.faces), len(faces.faces))
    if resume is not None:
        resume.unlink(missing_ok=True)
    return Scales(
        model_sha256=digest,
        faces=faces.name,
        split=faces.split,
        face_count=len(faces.faces) - len(done.skipped),
        faces_digest=key["faces"],
        identities=faces.identities(),
        videos=tuple(sorted(faces.videos())),
        warning=_warning(done.skipped, faces),
        seconds=round(time.perf_counter() - started, 3),
        pass_seconds=round(done.seconds, 3),
        tensors=done.statistics(),
    )


class _Pass:
    """One pass over the faces: while a batch is observed, the next one goes through the model."""

    def __init__(self, model: bytes, faces: FaceSet, size: int, earlier: Progress | None) -> None:
        self.model = ObservedModel(model)
        self.faces, self.size = faces, size
        self.position = earlier.position if earlier else 0
        self.written = self.position
        self.skipped = list(earlier.skipped) if earlier else []
        self.observers = dict(earlier.observers) if earlier else {}
        self.rooms: list[list[Activation]] = []
        self.busy: list[Future[None]] = []
        self.seconds = 0.0

    def run(self) -> Iterator[int]:
        """Observe all faces that are left; yields how many have been dealt with."""
        rest = replace(self.faces, faces=self.faces.faces[self.position :])
        first, earlier = self.position, list(self.skipped)
        skipped: list[Skipped] = []
        observed = 0
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for batch in rest.stream(LARGEST_BATCH, self.size, skipped):
                started = time.perf_counter()
                self._take(batch, first, pool)
                self.seconds += time.perf_counter() - started
                observed += len(batch.indices)
                self.position = first + int(batch.indices[-1]) + 1
                # In the order of the set; decoding may be further on than this batch.
                self.skipped = earlier + skipped[: self.position - first - observed]
                yield self.position
            self._wait()
        self.position, self.skipped = len(self.faces.faces), earlier + skipped

    def due(self) -> bool:
        """Whether it is time to write down the progress."""
        return self.position - self.written >= SHARD

    def progress(self) -> Progress:
        """What has been seen so far."""
        self._wait()
        self.written = self.position
        return Progress(self.position, tuple(self.skipped), self.observers)

    def statistics(self) -> dict[str, TensorScale]:
        """What all faces have shown, per tensor."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = pool.map(Observer.statistics, self.observers.values())
            return dict(zip(self.observers, found, strict=True))

    def _take(self, batch: Batch, first: int, pool: ThreadPoolExecutor) -> None:
        if not self.rooms:
            self._prepare()
        step = len(self.rooms[0][0].values)
        for start in range(0, len(batch.pixels), step):
            activations = self.model.run(batch.pixels[start : start + step], self.rooms[0])
            # One observer takes one batch at a time.
            self._wait()
            indices = first + batch.indices[start : start + step]
            tensors = zip(self.model.names, activations, strict=True)
            # The largest first, so that no thread is left with one at the end.
            self.busy = [
                pool.submit(self._observe, name, activation, indices)
                for name, activation in sorted(tensors, key=lambda tensor: -tensor[1].values.size)
            ]
            self.rooms.reverse()

    def _prepare(self) -> None:
        faces = max(1, min(LARGEST_BATCH, ROOM // self.model.values_per_face))
        self.rooms = [self.model.room(faces) for _ in range(2)]
        for name, activation in zip(self.model.names, self.rooms[0], strict=True):
            self.observers.setdefault(name, Observer(activation.means.shape[1]))

    def _observe(self, name: str, activation: Activation, indices: NDArray[np.int64]) -> None:
        if self.observers[name].add(activation.values, activation.means):
            return
        bad = ~np.isfinite(activation.means).all(axis=1)
        face = self.faces.faces[int(indices[int(np.argmax(bad))])].name
        raise LpxError(
            f"activation {name} is NaN or infinite on face {face}",
            "no scale can represent it",
            "check the checkpoint on that face with `lpx predict --crops`",
        )

    def _wait(self) -> None:
        for future in self.busy:
            future.result()
        self.busy = []


def _warning(skipped: Sequence[Skipped], faces: FaceSet) -> str:
    if not skipped:
        return ""
    first = ", ".join(f"{s.name} ({s.reason})" for s in skipped[:3])
    more = f" and {len(skipped) - 3} more" * (len(skipped) > 3)
    return (
        f"{len(skipped)} of {len(faces.faces)} calibration faces could not be read and were "
        f"left out: {first}{more}"
    )
