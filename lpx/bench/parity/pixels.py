"""The pixels of other pipelines: what an engine's scores lose when another program resizes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.parity import ParityResult
from lpx.bench.parity.stages import Stage, StageScores
from lpx.data.face_sets.face_set import Batch
from lpx.data.pipelines.table import Pipeline
from lpx.engines.base import Prediction
from lpx.metrics import Verdict


@dataclass(frozen=True)
class PixelPlan:
    """Pipelines whose pixels engines score too.

    Attributes:
        pipelines: The pipelines.
        engines: Names of the engines.
    """

    pipelines: tuple[Pipeline, ...]
    engines: tuple[str, ...]


@dataclass(frozen=True)
class PixelFacts:
    """How far a pipeline's pixels are from lpx's own.

    Attributes:
        pipeline: The pipeline.
        faces: Number of faces.
        changed: Number of faces with other pixels than lpx's.
        resized: Number of faces whose crops are not of the model's size already.
        shrunk: Number of faces whose crops are larger, in both directions.
        median_side: Median of the crops' shorter sides, pixels.
        difference: Mean absolute difference of the values, of 255.
    """

    pipeline: Pipeline
    faces: int
    changed: int
    resized: int
    shrunk: int
    median_side: float
    difference: float


@dataclass(frozen=True)
class PixelStage:
    """An engine on the pixels of a pipeline.

    Attributes:
        pipeline: Name of the pipeline.
        against_torch: Comparison with the checkpoint on lpx's pixels; None if it did not run.
        against_engine: Comparison with the engine on lpx's pixels: the cost of the pixels alone.
        reason: Reason why it did not run; otherwise "".
    """

    pipeline: str
    against_torch: ParityResult | None
    against_engine: ParityResult | None
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        """Verdict on parity with the checkpoint; "undecided" if it did not run."""
        return "undecided" if self.against_torch is None else self.against_torch.verdict


@dataclass(frozen=True)
class StageResults:
    """What was scored besides the engines; empty where it was not asked for.

    Attributes:
        graphs: The stages of each candidate, up to the engine itself.
        pixels: Each candidate on the pixels of each pipeline.
        facts: How far the pixels of each pipeline are from lpx's own.
    """

    graphs: dict[str, tuple[Stage, ...]] = field(default_factory=dict)
    pixels: dict[str, tuple[PixelStage, ...]] = field(default_factory=dict)
    facts: tuple[PixelFacts, ...] = ()


def pixels_of(engine: str, pipeline: str) -> str:
    """Return the key of an engine's predictions on the pixels of a pipeline."""
    return f"{engine}:pixels:{pipeline}"


def facts_of(pipeline: str) -> str:
    """Return the key of what is noted of a pipeline's pixels."""
    return f"pixels:{pipeline}"


def digests(plan: PixelPlan, engines: Mapping[str, str]) -> dict[str, str]:
    """Return what predictions and notes of a plan depend on, by their keys.

    Args:
        plan: The plan.
        engines: SHA-256 of each engine, by name.
    """
    found = {}
    for pipeline in plan.pipelines:
        # OpenCV resizes, and another release may round in another way.
        parts = [pipeline.name, str(pipeline.version), cv2.__version__]
        found[facts_of(pipeline.name)] = _digest(parts)
        for name in plan.engines:
            found[pixels_of(name, pipeline.name)] = _digest([*parts, engines[name]])
    return found


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def note_pixels(batch: Batch, pipeline: str) -> Prediction:
    """Note how the pixels of a pipeline differ, in the form in which a `ScoreStore` keeps scores.

    Returns:
        `score`: mean absolute difference of each face's values, of 255. `patch_map` [N, 1, 2]:
        height and width of each crop.
    """
    other, own = batch.others[pipeline], batch.pixels
    difference = np.abs(other.astype(np.int16) - own).mean(axis=(1, 2, 3), dtype=np.float64)
    return Prediction(difference.astype(np.float32), batch.crop_sizes[:, None].astype(np.float32))


def read_facts(pipeline: Pipeline, notes: Prediction, size: int) -> PixelFacts:
    """Sum up what was noted of the pixels of a pipeline.

    Args:
        pipeline: The pipeline.
        notes: What `note_pixels` returned for all faces.
        size: Side of the model's input, pixels.
    """
    sizes: NDArray[np.float32] = notes.patch_map[:, 0]
    shorter = sizes.min(axis=1)
    return PixelFacts(
        pipeline,
        faces=len(sizes),
        changed=int((notes.score > 0).sum()),
        resized=int((sizes != size).any(axis=1).sum()),
        shrunk=int((shorter > size).sum()),
        median_side=float(np.median(shorter)),
        difference=float(notes.score.mean(dtype=np.float64)),
    )


def pixel_stages(engine: str, plan: PixelPlan, scores: StageScores) -> tuple[PixelStage, ...]:
    """Compare an engine on the pixels of pipelines with the checkpoint and with itself.

    Args:
        engine: Name of the engine.
        plan: The pipelines.
        scores: Predictions by engine, and by `pixels_of`; those of the checkpoint are on lpx's
            pixels.
    """
    stages = []
    for pipeline in plan.pipelines:
        key = pixels_of(engine, pipeline.name)
        prediction = scores.predictions.get(key)
        if prediction is None:
            reason = scores.reasons.get(key, "it was not scored")
            stages.append(PixelStage(pipeline.name, None, None, reason))
            continue
        against_torch = scores.terms.compare(scores.torch, prediction)
        against_engine = scores.terms.compare(scores.predictions[engine], prediction)
        stages.append(PixelStage(pipeline.name, against_torch, against_engine))
    return tuple(stages)
