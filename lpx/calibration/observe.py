"""Run a model over faces once, and keep the statistics of every tensor to be quantised."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from lpx.calibration.observed_model import Activation, ObservedModel
from lpx.calibration.observer import Observer
from lpx.calibration.progress import Progress, load_progress, save_progress
from lpx.calibration.scales import Scales, TensorScale
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.errors import LpxError

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
    say: Callable[[str], None] | None = None,
) -> Scales:
    """Observe a float32 model on faces.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: The calibration set.
        size: S, pixels.
        progress: Told after each batch.
        resume: Where to write down how far the pass has come, and to look for an earlier one of
            the same model and faces to go on with. It stays: whoever has written the result may
            remove it. None keeps nothing.
        say: Receives why an earlier pass cannot be gone on with.

    Raises:
        LpxError: No face can be read, a face changed meanwhile, or an activation is NaN or
            infinite (tensor and face named).
    """
    started = time.perf_counter()
    digest = hashlib.sha256(model).hexdigest()
    key = {"model": digest, "faces": faces.digest(), "size": str(size)}
    earlier = load_progress(resume, key, say) if resume is not None else None
    done = _Pass(model, faces, size, earlier)
    while done.position < len(faces.faces):
        for position in done.shard():
            if progress is not None:
                progress(position, len(faces.faces))
        if resume is not None:
            save_progress(resume, key, done.progress())
    if len(done.skipped) == len(faces.faces):
        skipped = done.skipped
        reason = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty"
        if resume is not None:
            resume.unlink(missing_ok=True)
        raise LpxError(
            f"no face of {faces.name} can be read", reason, "name another set with --faces"
        )
    if progress is not None:
        # The last faces may have been unreadable.
        progress(len(faces.faces), len(faces.faces))
    if faces.has_changed():
        if resume is not None:
            resume.unlink(missing_ok=True)
        raise LpxError(
            f"faces of {faces.name} changed while they were calibrated on",
            "the ranges would be of neither the old faces nor the new",
            "run it again when nothing writes to them",
        )
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
        pass_seconds=round(done.model.seconds, 3),
        tensors=done.statistics(),
        contents=faces.short_contents(),
    )


class _Pass:
    """One pass over the faces, shard by shard; each thread has observers of its own meanwhile."""

    def __init__(self, model: bytes, faces: FaceSet, size: int, earlier: Progress | None) -> None:
        self.model = ObservedModel(model)
        self.faces, self.size = faces, size
        if earlier is not None and tuple(earlier.observers) != self.model.names:
            earlier = None  # of another release of lpx, which observed other tensors
        self.position = earlier.position if earlier else 0
        self.skipped = list(earlier.skipped) if earlier else []
        self.observers = earlier.observers if earlier else self._new()

    def shard(self) -> Iterator[int]:
        """Observe the next faces; yields how many have been dealt with."""
        first = self.position
        end = min(first + SHARD, len(self.faces.faces))
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

    def progress(self) -> Progress:
        """What has been seen so far."""
        return Progress(self.position, tuple(self.skipped), self.observers)

    def statistics(self) -> dict[str, TensorScale]:
        """What all faces have shown, per tensor."""
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            found = pool.map(Observer.statistics, self.observers.values())
            return dict(zip(self.observers, found, strict=True))

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
                    "no scale can represent it",
                    "check the checkpoint on that face with `lpx predict --crops`",
                )

    def _not_finite(self, name: str, batch: Batch) -> int:
        """Index of the first face on which a tensor is not finite; rows need not be faces."""
        for index, pixels in zip(batch.indices, batch.pixels, strict=True):
            (values,) = self.model.session.run([name], {"faces": pixels[None]})
            if not np.isfinite(values).all():
                return int(index)
        return int(batch.indices[0])


def _warning(skipped: Sequence[Skipped], faces: FaceSet) -> str:
    if not skipped:
        return ""
    first = ", ".join(f"{s.name} ({s.reason})" for s in skipped[:3])
    more = f" and {len(skipped) - 3} more" * (len(skipped) > 3)
    return (
        f"{len(skipped)} of {len(faces.faces)} calibration faces could not be read and were "
        f"left out: {first}{more}"
    )
