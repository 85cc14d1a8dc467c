"""The calibration pass: run a model over faces, and collect statistics of tensors to quantise."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpx.calibration.observed_model import LARGEST_BATCH, Activation, ObservedModel
from lpx.calibration.observer import Observer
from lpx.calibration.progress import PassProgress, load_progress, save_progress
from lpx.calibration.scales import CalibrationFaces, Scales
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.errors import LpxError
from lpx.reporter import Progress

# Faces after which progress is saved.
SHARD = 256


@dataclass
class Observation:
    """What a pass over faces has observed; passes over other faces can be merged into it.

    Attributes:
        model_sha256: SHA-256 of the ONNX model.
        faces: Number of faces, with those that could not be read.
        skipped: Faces that could not be read.
        observers: Statistics of the others, per tensor.
        seconds: Wall time, including decoding, s; the sum of all passes.
        pass_seconds: Time of the forward pass and of its statistics, s; likewise.
    """

    model_sha256: str
    faces: int
    skipped: tuple[Skipped, ...]
    observers: dict[str, Observer]
    seconds: float = 0.0
    pass_seconds: float = 0.0

    def merge(self, other: Observation) -> None:
        """Add a pass over the faces that follow; the result is that of one pass, bit for bit."""
        for name, observer in other.observers.items():
            self.observers[name].merge(observer)
        self.faces += other.faces
        self.skipped += other.skipped
        self.seconds += other.seconds
        self.pass_seconds += other.pass_seconds


def calibrate(
    model: bytes,
    faces: FaceSet,
    size: int,
    *,
    progress: Progress | None = None,
    resume: Path | None = None,
    say: Callable[[str], None] | None = None,
    shard: int = SHARD,
    largest_batch: int = LARGEST_BATCH,
) -> Scales:
    """Collect the activation ranges of a float32 model on faces: `observe`, then `scales_of`."""
    observation = observe(
        model,
        faces,
        size,
        progress=progress,
        resume=resume,
        say=say,
        shard=shard,
        largest_batch=largest_batch,
    )
    try:
        return scales_of(observation, faces)
    except LpxError:
        # Resuming would only come to the same end.
        if resume is not None:
            resume.unlink(missing_ok=True)
        raise


def observe(
    model: bytes,
    faces: FaceSet,
    size: int,
    *,
    progress: Progress | None = None,
    resume: Path | None = None,
    say: Callable[[str], None] | None = None,
    shard: int = SHARD,
    largest_batch: int = LARGEST_BATCH,
) -> Observation:
    """Observe the activations of a float32 model on faces: all of a calibration's, or a part.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: The faces.
        size: S, pixels.
        progress: Called after each batch with the faces done and their total.
        resume: File to save progress to, and to resume an earlier pass over the same model and
            faces from. It is kept after the pass: the caller removes it once the result is saved.
            None saves nothing.
        say: Receives the reason if an earlier pass cannot be resumed.
        shard: Faces after which progress is saved; the result does not depend on it.
        largest_batch: Maximum batch size; the result does not depend on it.

    Raises:
        LpxError: A face changed during the pass, or an activation is NaN or infinite (the tensor
            and the face are named).
    """
    started = time.perf_counter()
    digest = hashlib.sha256(model).hexdigest()
    key = {"model": digest, "faces": faces.digest(), "size": str(size)}
    run = _Pass(ObservedModel(model, largest_batch=largest_batch), faces, size, shard)
    if resume is not None:
        run.resume(load_progress(resume, key, say))
    total = len(faces.faces)
    while run.position < total:
        for position in run.next_shard():
            if progress is not None:
                progress(position, total)
        if resume is not None:
            save_progress(resume, key, run.progress())
    try:
        faces.check_unchanged("calibration")
    except LpxError:
        # What was observed is of neither the old faces nor the new ones.
        if resume is not None:
            resume.unlink(missing_ok=True)
        raise
    if progress is not None:
        # Unreadable faces at the end are in no batch.
        progress(total, total)
    return Observation(
        digest,
        total,
        tuple(run.skipped),
        run.observers,
        seconds=round(time.perf_counter() - started, 3),
        pass_seconds=round(run.model.seconds, 3),
    )


def scales_of(observation: Observation, faces: FaceSet) -> Scales:
    """Return the ranges by every method.

    Args:
        observation: Observation of all of the faces.
        faces: The faces.

    Raises:
        LpxError: No face could be read.
    """
    skipped = observation.skipped
    if len(skipped) == len(faces.faces):
        reason = "the set is empty"
        if skipped:
            reason = f"{skipped[0].name}: {skipped[0].reason}"
        raise LpxError(f"no face of {faces.name} can be read", reason, "pass other `faces`")
    # The searches for peaks are NumPy, which releases the lock.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        statistics = pool.map(Observer.statistics, observation.observers.values())
        tensors = dict(zip(observation.observers, statistics, strict=True))
    return Scales(
        model_sha256=observation.model_sha256,
        faces=_record_of(faces, len(skipped)),
        warning=_warning(skipped, faces),
        tensors=tensors,
    )


def _record_of(faces: FaceSet, skipped: int) -> CalibrationFaces:
    return CalibrationFaces(
        name=faces.name,
        split=faces.split,
        count=len(faces.faces) - skipped,
        digest=faces.digest(),
        identities=faces.identities(),
        videos=tuple(sorted(faces.videos())),
        contents=faces.short_contents(),
    )


class _Pass:
    """A pass over the faces, shard by shard.

    Batches run in several threads, each with its own observers. They are merged after each shard:
    statistics are exact, so that it does not matter which thread took which batch.
    """

    def __init__(self, model: ObservedModel, faces: FaceSet, size: int, shard: int) -> None:
        self.model, self.faces, self.size, self.shard = model, faces, size, shard
        self.position = 0
        self.skipped: list[Skipped] = []
        self.observers = self._new()

    def resume(self, earlier: PassProgress | None) -> None:
        """Continue an earlier pass, unless another release of lpx observed other tensors in it."""
        if earlier is None or tuple(earlier.observers) != self.model.names:
            return
        self.position = earlier.position
        self.skipped = list(earlier.skipped)
        self.observers = earlier.observers

    def next_shard(self) -> Iterator[int]:
        """Observe the next faces; yields the number of faces done after each batch."""
        first = self.position
        end = min(first + self.shard, len(self.faces.faces))
        shard = self.faces.take(np.arange(first, end))
        skipped: list[Skipped] = []
        parts: list[dict[str, Observer]] = []
        own = threading.local()

        def take(batch: Batch, activations: list[Activation]) -> None:
            if not hasattr(own, "observers"):
                own.observers = self._new()
                parts.append(own.observers)
            self._observe(own.observers, activations, batch, first)

        batches = shard.stream(self.model.batch_size, self.size, skipped)
        for batch, _ in self.model.run_all(batches, take):
            yield first + int(batch.indices[-1]) + 1
        for observers in parts:
            for name, observer in observers.items():
                self.observers[name].merge(observer)
        self.position, self.skipped = end, self.skipped + skipped

    def progress(self) -> PassProgress:
        """Return the progress so far, to save."""
        return PassProgress(self.position, tuple(self.skipped), self.observers)

    def _new(self) -> dict[str, Observer]:
        pairs = zip(self.model.names, self.model.channels, strict=True)
        return {name: Observer(channels) for name, channels in pairs}

    def _observe(
        self,
        observers: dict[str, Observer],
        activations: list[Activation],
        batch: Batch,
        first: int,
    ) -> None:
        for name, activation in zip(self.model.names, activations, strict=True):
            if not observers[name].add(activation.values, activation.block):
                face = self.faces.faces[first + self._not_finite(name, batch)].name
                raise LpxError(
                    f"activation {name} is NaN or infinite on face {face}",
                    "no scale can represent such values",
                    "check the checkpoint on that face with `lpx predict --crops`",
                )

    def _not_finite(self, name: str, batch: Batch) -> int:
        """Return the index of the first face on which a tensor is not finite."""
        # Faces are run again one by one: rows of the tensor need not be faces.
        for index, pixels in zip(batch.indices, batch.pixels, strict=True):
            (values,) = self.model.session.run([name], {"faces": pixels[None]})
            if not np.isfinite(values).all():
                return int(index)
        return int(batch.indices[0])


def _warning(skipped: Sequence[Skipped], faces: FaceSet) -> str:
    if not skipped:
        return ""
    names = ", ".join(f"{s.name} ({s.reason})" for s in skipped[:3])
    if len(skipped) > 3:
        names += f" and {len(skipped) - 3} more"
    return (
        f"{len(skipped)} of {len(faces.faces)} calibration faces could not be read and were "
        f"left out: {names}"
    )
