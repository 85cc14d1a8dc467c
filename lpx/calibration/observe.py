"""The calibration pass: run a model over faces, and collect statistics of tensors to quantise."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpx.calibration.observed_model import LARGEST_BATCH, Activation, ObservedModel
from lpx.calibration.observer import Observer
from lpx.calibration.progress import (
    ObservedRows,
    PassProgress,
    load_progress,
    save_progress,
)
from lpx.calibration.scales import CalibrationFaces, Scales
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.errors import LpxError
from lpx.graph.model_io import parse
from lpx.graph.qdq.placement_dla import tensors_to_observe
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
    elsewhere: ObserveRows | None = None,
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
        elsewhere: Observes the faces instead of this process, such as on a cluster.

    Raises:
        LpxError: A face changed during the pass, or an activation is NaN or infinite (the tensor
            and the face are named).
    """
    started = time.perf_counter()
    digest = hashlib.sha256(model).hexdigest()
    key = {"model": digest, "faces": faces.digest(), "size": str(size)}
    total = len(faces.faces)
    names, done, observe_rows = _prepared(model, faces, size, largest_batch, elsewhere)
    earlier = load_progress(resume, key, say) if resume is not None else None
    # Another release of lpx may have observed other tensors.
    if earlier is not None and tuple(earlier.observers) == names:
        done = earlier
    seconds = 0.0
    rest = [range(at, min(at + shard, total)) for at in range(done.position, total, shard)]
    # Closed in any case: on a cluster it holds the connection and the workers.
    with closing(observe_rows(rest, progress)) as parts:
        for part in parts:
            done = done.followed_by(part)
            seconds += part.seconds
            if resume is not None:
                save_progress(resume, key, done)
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
        done.skipped,
        done.observers,
        seconds=round(time.perf_counter() - started, 3),
        pass_seconds=round(seconds, 3),
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


def _prepared(
    model: bytes, faces: FaceSet, size: int, largest_batch: int, elsewhere: ObserveRows | None
) -> tuple[tuple[str, ...], PassProgress, ObserveRows]:
    """Return the tensors, a pass that has just begun, and what observes faces."""
    if elsewhere is not None:
        # The model is not opened here, where nothing runs it: its first result brings observers.
        names = tensors_to_observe(parse(model, "the exported model"))
        return names, PassProgress(0, (), {}), elsewhere
    here = FaceObserver(model, faces, size, largest_batch=largest_batch)
    return here.model.names, PassProgress(0, (), here.nothing()), here.observe_all


# Observes ranges of faces, and yields the result of each, or of parts of it, in order. The second
# argument receives the number of faces done, and their total.
ObserveRows = Callable[[Sequence[range], Progress | None], Generator[ObservedRows, None, None]]


class FaceObserver:
    """Observes a model on ranges of faces: the unit of work of a calibration.

    Batches run in several threads, each with its own observers. They are merged after each range:
    statistics are exact, so that it does not matter which thread took which batch.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: All faces.
        size: S, pixels.
        largest_batch: Maximum batch size.
        cores: CPU cores to use; None for all.
    """

    def __init__(
        self,
        model: bytes,
        faces: FaceSet,
        size: int,
        *,
        largest_batch: int = LARGEST_BATCH,
        cores: int | None = None,
    ) -> None:
        self.model = ObservedModel(model, largest_batch=largest_batch, cores=cores)
        self.faces, self.size = faces, size

    def observe_all(
        self, ranges: Sequence[range], progress: Progress | None
    ) -> Generator[ObservedRows, None, None]:
        """Observe several ranges, see `ObserveRows`."""
        for rows in ranges:
            yield self.observe(rows, progress)

    def observe(self, rows: range, progress: Progress | None = None) -> ObservedRows:
        """Observe a range.

        Args:
            rows: The faces.
            progress: Called after each batch with the index of the next face, and the number of
                all faces.

        Raises:
            LpxError: An activation is NaN or infinite.
        """
        before = self.model.seconds
        shard = self.faces.take(np.arange(rows.start, rows.stop))
        skipped: list[Skipped] = []
        parts: list[dict[str, Observer]] = []
        own = threading.local()

        def take(batch: Batch, activations: list[Activation]) -> None:
            if not hasattr(own, "observers"):
                own.observers = self.nothing()
                parts.append(own.observers)
            self._observe(own.observers, activations, batch, rows.start)

        batches = shard.stream(self.model.batch_size, self.size, skipped)
        for batch, _ in self.model.run_all(batches, take):
            if progress is not None:
                progress(rows.start + int(batch.indices[-1]) + 1, len(self.faces.faces))
        whole = self.nothing()
        for observers in parts:
            for name, observer in observers.items():
                whole[name].merge(observer)
        return ObservedRows(rows, tuple(skipped), whole, self.model.seconds - before)

    def nothing(self) -> dict[str, Observer]:
        """Return observers that have seen no face."""
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
