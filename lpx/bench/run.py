"""One bench: reference and candidates over a face set, then the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.bench.accuracy import accuracy
from lpx.bench.latency import LatencyResult, measure
from lpx.bench.parity import MARGIN, ParityResult, compare, overall
from lpx.bench.score import Scored, score
from lpx.card import ModelCard
from lpx.data.face_set import FaceSet
from lpx.engines.base import Engine, Faces
from lpx.engines.manifest import EngineManifest
from lpx.metrics import Interval, auc_interval

REFERENCE = "torch"
SCHEMA = "lpx-report/1"
BATCHES = (1, 8)
EXAMPLES = 6
"""Faces shown in the report: those on which maps agree least."""


@dataclass(frozen=True)
class Candidate:
    """An engine that runs here, with its manifest."""

    manifest: EngineManifest
    engine: Engine


@dataclass(frozen=True)
class Example:
    """A face shown in the report.

    Attributes:
        name: Its name in the set.
        label: 1 = fake.
        pixels: uint8 RGB [S, S, 3].
        maps: Patch map float32 [h, w] and score per engine, the reference first.
    """

    name: str
    label: int
    pixels: NDArray[np.uint8]
    maps: dict[str, tuple[NDArray[np.float32], float]]


@dataclass(frozen=True)
class BenchResult:
    """Everything a report is made from.

    Attributes:
        scored: Labels and predictions.
        reference_auc: With DeLong's 95 % interval.
        accuracy: Per engine, the reference too: see `lpx.bench.accuracy.accuracy`.
        parity: Per candidate.
        latency: Per engine, the reference too: one result per batch size.
        times_ms: Every call's time, per (engine, batch size).
        examples: Faces to show.
        candidates: Manifests of the engines measured.
    """

    scored: Scored
    reference_auc: Interval
    accuracy: dict[str, dict[str, Any]]
    parity: dict[str, ParityResult]
    latency: dict[str, tuple[LatencyResult, ...]]
    times_ms: dict[tuple[str, int], NDArray[np.float64]]
    examples: tuple[Example, ...]
    candidates: tuple[EngineManifest, ...]


@dataclass(frozen=True)
class Watch:
    """How a bench reports its progress; each is called with (done, total)."""

    scoring: Callable[[int, int], None] | None = None
    timing: Callable[[int, int], None] | None = None


def bench(
    reference: Engine,
    candidates: Mapping[str, Candidate],
    faces: FaceSet,
    card: ModelCard,
    *,
    margin: float = MARGIN,
    latency_seconds: float = 2.0,
    watch: Watch = Watch(),
) -> BenchResult:
    """Measure candidates against the reference.

    Args:
        reference: The PyTorch checkpoint.
        candidates: By name.
        faces: Labelled faces.
        card: Size, grid and threshold.
        margin: AUC that a candidate may lose.
        latency_seconds: Time to measure each engine for, per batch size; 0 leaves latency out.
        watch: Progress.

    Raises:
        LpxError: See `lpx.bench.score.score`.
    """
    engines: dict[str, Engine] = {REFERENCE: reference}
    engines |= {name: candidate.engine for name, candidate in candidates.items()}
    scored = score(engines, faces, card.input_size, watch.scoring)
    truth = scored.predictions[REFERENCE]
    parity = {
        name: compare(scored.labels, truth, scored.predictions[name], card.threshold, margin)
        for name in candidates
    }
    latency, times = _latency(engines, faces, card, latency_seconds, watch)
    return BenchResult(
        scored=scored,
        reference_auc=auc_interval(scored.labels, truth.score),
        accuracy=accuracy(scored, faces, card.threshold),
        parity=parity,
        latency=latency,
        times_ms=times,
        examples=_examples(scored, faces, card.input_size),
        candidates=tuple(c.manifest for c in candidates.values()),
    )


def _latency(
    engines: Mapping[str, Engine], faces: FaceSet, card: ModelCard, seconds: float, watch: Watch
) -> tuple[dict[str, tuple[LatencyResult, ...]], dict[tuple[str, int], NDArray[np.float64]]]:
    results: dict[str, tuple[LatencyResult, ...]] = {name: () for name in engines}
    times: dict[tuple[str, int], NDArray[np.float64]] = {}
    if seconds <= 0:
        return results, times
    units = card.grid[0] * card.grid[1]
    for index, batch in enumerate(BATCHES):
        pixels = _some_pixels(faces, card.input_size, batch)

        def tell(share: float, index: int = index) -> None:
            if watch.timing is not None:
                watch.timing(round(100 * (index + share)), 100 * len(BATCHES))

        for name, (result, samples) in measure(engines, pixels, units, seconds, tell).items():
            results[name] = (*results[name], result)
            times[name, batch] = samples
    return results, times


def _some_pixels(faces: FaceSet, size: int, batch: int) -> Faces:
    """The first `batch` readable faces, repeated where the set is smaller."""
    first = next(iter(faces.stream(batch, size, [])))
    repeats = -(-batch // len(first.pixels))
    return np.ascontiguousarray(np.concatenate([first.pixels] * repeats)[:batch])


def _examples(scored: Scored, faces: FaceSet, size: int) -> tuple[Example, ...]:
    """The faces on which some candidate's map is farthest from the reference's."""
    truth = scored.predictions[REFERENCE].patch_map
    worst = np.zeros(len(truth))
    for prediction in scored.predictions.values():
        worst = np.maximum(worst, np.abs(prediction.patch_map - truth).mean(axis=(1, 2)))
    chosen = np.argsort(-worst, kind="stable")[:EXAMPLES]
    picked = tuple(faces.faces[scored.indices[i]] for i in chosen)
    shown = FaceSet(faces.name, faces.split, faces.crop, picked)
    (batch,) = shown.stream(len(picked), size, [])
    return tuple(
        Example(
            name=face.name,
            label=int(scored.labels[i]),
            pixels=pixels,
            maps={
                name: (prediction.patch_map[i], float(prediction.score[i]))
                for name, prediction in scored.predictions.items()
            },
        )
        for face, pixels, i in zip(picked, batch.pixels, chosen, strict=True)
    )


def to_report(
    result: BenchResult,
    faces: FaceSet,
    card: ModelCard,
    *,
    margin: float,
    environment: dict[str, Any],
    not_run: dict[str, str],
    warnings: list[str],
) -> dict[str, Any]:
    """The report as plain values, units in the names.

    Args:
        result: What was measured.
        faces: On what.
        card: Of which model.
        margin: AUC that a candidate may lose.
        environment: Machine and versions.
        not_run: Engines of the workspace that do not run here, and why.
        warnings: What a reader must know.
    """
    labels = result.scored.labels
    return {
        "schema": SCHEMA,
        "verdict": overall([p.verdict for p in result.parity.values()]),
        "margin": margin,
        "faces": len(labels),
        "real": int((labels == 0).sum()),
        "fake": int((labels == 1).sum()),
        "dataset": {
            "name": faces.name,
            "split": faces.split,
            "crop": faces.crop,
            "note": faces.note,
            "skipped": [asdict(s) for s in result.scored.skipped],
        },
        "threshold": card.threshold,
        "threshold_source": card.threshold_source,
        "reference": {
            "name": REFERENCE,
            "target": "torch",
            "precision": "fp32",
            "auc": result.reference_auc.estimate,
            "auc_interval": _interval(result.reference_auc),
            "accuracy": result.accuracy[REFERENCE],
            **_latencies(result.latency[REFERENCE]),
        },
        "candidates": [_entry(result, manifest) for manifest in result.candidates],
        "not_run": [{"name": name, "reason": reason} for name, reason in not_run.items()],
        "model": card.to_dict(),
        "environment": environment,
        "warnings": warnings,
    }


def _entry(result: BenchResult, manifest: EngineManifest) -> dict[str, Any]:
    parity = result.parity[manifest.name]
    return {
        "name": manifest.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "dialect": manifest.dialect,
        "verdict": parity.verdict,
        "faces_needed": parity.faces_needed,
        "auc": parity.auc.estimate,
        "auc_interval": _interval(parity.auc),
        "auc_difference": {
            **_interval(parity.auc_difference),
            "method": parity.auc_difference.method,
        },
        "accuracy": result.accuracy[manifest.name],
        "score_difference": asdict(parity.score_difference),
        "flips": parity.flips.total,
        "flips_real_to_fake": parity.flips.real_to_fake,
        "flips_fake_to_real": parity.flips.fake_to_real,
        "patch_map": asdict(parity.maps),
        "convolutions": manifest.convolutions,
        "calibration": manifest.calibration,
        "warnings": list(manifest.warnings),
        **_latencies(result.latency[manifest.name]),
    }


def _interval(interval: Interval | Any) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _latencies(results: tuple[LatencyResult, ...]) -> dict[str, Any]:
    """`latency` is that of single faces; `latency_by_batch` holds every batch size."""
    rows = [asdict(result) for result in results]
    return {"latency": rows[0] if rows else None, "latency_by_batch": rows}
