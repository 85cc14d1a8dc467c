"""One bench: reference and candidates over a face set, then the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.bench.accuracy import accuracy
from lpx.bench.breakdown import Part, breakdown, members_of
from lpx.bench.latency import LatencyResult, measure
from lpx.bench.parity import MARGIN, ParityResult, compare
from lpx.bench.partial import ScoreStore
from lpx.bench.score import Failure, Scored, said, score
from lpx.bench.stages import Graphs, Stage, graph_of, stages_of
from lpx.card import ModelCard
from lpx.data.face_set import FaceSet
from lpx.engines.base import DeviceMemory, Engine, Faces
from lpx.engines.manifest import EngineManifest
from lpx.metrics import Interval, auc_interval

REFERENCE = "torch"
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
        scored: Labels and predictions of the reference and of the candidates, in that order.
        reference_auc: With DeLong's 95 % interval.
        accuracy: Per engine, the reference too: see `lpx.bench.accuracy.accuracy`.
        parity: Per candidate.
        parts: Per candidate: the difference per method and over videos.
        stages: Per candidate; empty where stages were left out.
        latency: Per engine, the reference too: one result per batch size.
        times_ms: Every call's time, per (engine, batch size).
        examples: Faces to show.
        candidates: Manifests of the engines that scored every face.
        device_memory: Per engine, the reference too.
        failed: Engines that failed, those that did so while timed among them.
    """

    scored: Scored
    reference_auc: Interval
    accuracy: dict[str, dict[str, Any]]
    parity: dict[str, ParityResult]
    parts: dict[str, tuple[Part, ...]]
    stages: dict[str, tuple[Stage, ...]]
    latency: dict[str, tuple[LatencyResult, ...]]
    times_ms: dict[tuple[str, int], NDArray[np.float64]]
    examples: tuple[Example, ...]
    candidates: tuple[EngineManifest, ...]
    device_memory: dict[str, DeviceMemory]
    failed: tuple[Failure, ...] = ()


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
    graphs: Graphs | None = None,
    store: ScoreStore | None = None,
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
        graphs: What to run between checkpoint and engine; None leaves the stages out.
        store: Where scores are kept as they come.
        watch: Progress.

    Raises:
        LpxError: See `lpx.bench.score.score`.
    """
    engines: dict[str, Engine] = {REFERENCE: reference}
    engines |= {name: candidate.engine for name, candidate in candidates.items()}
    between = graphs.engines() if graphs else {}
    everything = score(
        engines | between, faces, card.input_size, watch.scoring, needed=(REFERENCE,), store=store
    )
    failed = [failure for failure in everything.failed if failure.name in engines]
    scored = replace(
        everything,
        predictions={n: p for n, p in everything.predictions.items() if n in engines},
        failed=tuple(failed),
    )
    running = {name: engine for name, engine in engines.items() if name in scored.predictions}
    latency, times, broke = _latency(running, faces, card, latency_seconds, watch)
    truth, labels = scored.predictions[REFERENCE], scored.labels
    members = members_of(faces, scored.indices)
    videos = members.groups if members.shared else None
    names = [name for name in candidates if name in running]
    parity = {
        n: compare(labels, truth, scored.predictions[n], card.threshold, margin, videos)
        for n in names
    }
    reasons = {f.name: f.reason for f in everything.failed}
    reasons |= {graph_of(n): why for n, why in graphs.missing.items()} if graphs else {}
    return BenchResult(
        scored=scored,
        reference_auc=auc_interval(labels, truth.score),
        accuracy=accuracy(scored, faces, card.threshold),
        parity=parity,
        parts={
            n: breakdown(labels, truth.score, scored.predictions[n].score, members, margin)
            for n in names
        },
        stages={
            n: stages_of(n, parity[n], labels, truth, everything.predictions, reasons,
                         card.threshold, margin, videos) if graphs else ()
            for n in names
        },
        latency=latency,
        times_ms=times,
        examples=_examples(scored, faces, card.input_size),
        candidates=tuple(candidates[name].manifest for name in names),
        device_memory={name: engine.device_memory for name, engine in running.items()},
        failed=(*failed, *broke),
    )  # fmt: skip


def _latency(
    engines: Mapping[str, Engine], faces: FaceSet, card: ModelCard, seconds: float, watch: Watch
) -> tuple[
    dict[str, tuple[LatencyResult, ...]],
    dict[tuple[str, int], NDArray[np.float64]],
    list[Failure],
]:
    """Time all engines at each batch size; one that fails is timed no further."""
    results: dict[str, tuple[LatencyResult, ...]] = {name: () for name in engines}
    times: dict[tuple[str, int], NDArray[np.float64]] = {}
    failed: list[Failure] = []
    if seconds <= 0:
        return results, times, failed
    units = card.grid[0] * card.grid[1]
    for index, batch in enumerate(BATCHES):
        pixels = _some_pixels(faces, card.input_size, batch)

        def tell(share: float, index: int = index) -> None:
            if watch.timing is not None:
                watch.timing(round(100 * (index + share)), 100 * len(BATCHES))

        timed = None
        while timed is None:
            gone = {failure.name for failure in failed}
            left = {name: engine for name, engine in engines.items() if name not in gone}
            try:
                timed = measure(left, pixels, units, seconds, tell)
            except Exception:
                broken = _broken(left, pixels, batch)
                if not broken:
                    raise
                failed += broken
        for name, (result, samples) in timed.items():
            results[name] = (*results[name], result)
            times[name, batch] = samples
    return results, times, failed


def _broken(engines: Mapping[str, Engine], pixels: Faces, batch: int) -> list[Failure]:
    """The candidates that cannot score a batch; what the reference raises is raised."""
    errors = {name: _error(engine, pixels) for name, engine in engines.items()}
    if (error := errors.pop(REFERENCE, None)) is not None:
        raise error
    return [
        Failure(name, "timing", f"{said(error)} (batch {batch})")
        for name, error in errors.items()
        if error is not None
    ]


def _error(engine: Engine, pixels: Faces) -> Exception | None:
    try:
        engine.infer(pixels)
    except Exception as error:
        return error
    return None


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
