"""One bench: reference and candidates over a face set, then the clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.breakdown import SubsetParity, breakdown, members_of
from lpx.bench.parity.detection import Detection, detection
from lpx.bench.parity.parity import MARGIN, Discrimination, ParityResult, discrimination
from lpx.bench.parity.pixels import (
    PixelPlan,
    PixelStage,
    StageResults,
    pixel_stages,
    read_facts,
)
from lpx.bench.parity.recording import Origin, RecordedScores
from lpx.bench.parity.score import Failure, Scored, score
from lpx.bench.parity.score_store import ScoreStore
from lpx.bench.parity.stages import ComparisonTerms, Graphs, Stage, graph_of, stages_of
from lpx.bench.performance.cost_plan import CostPlan
from lpx.bench.performance.costs import Costs, measure_costs
from lpx.bench.performance.loaded_engine import REFERENCE, LoadedEngine
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.pipelines.table import Pipeline
from lpx.engines.base import DeviceMemory, Engine, Faces, Prediction
from lpx.engines.manifest import EngineManifest
from lpx.machine.energy_sources import EnergySource, Unavailable
from lpx.reporter import Progress

# Faces shown in the report: those on which maps agree least.
EXAMPLES = 6


@dataclass(frozen=True)
class Example:
    """A face shown in the report.

    Attributes:
        name: Name in the set.
        label: 1 = fake.
        pixels: uint8 RGB [S, S, 3].
        maps: Patch map float32 [h, w] and score by engine name, the reference first.
    """

    name: str
    label: int
    pixels: NDArray[np.uint8]
    maps: dict[str, tuple[NDArray[np.float32], float]]


@dataclass(frozen=True)
class BenchResult:
    """Results of a bench, keyed by engine name.

    Attributes:
        scored: Labels and predictions of the reference and of the candidates, in that order.
        truth: Discrimination by the reference.
        detection: Detection metrics, of the reference too.
        parity: Comparison of each candidate with the reference.
        parts: Parity of each candidate per method and over videos.
        stages: Parity of each candidate's stages, and on the pixels of pipelines.
        costs: Latency, energy and other costs.
        examples: Faces to show in the report.
        candidates: Manifests of the engines that scored every face.
        device_memory: Memory held on the device, of the reference too.
        failed: Engines that failed while they were loaded, scored, timed, or while energy was
            measured.
        recorded: Where and when the reference's scores were recorded; None if it ran here.
    """

    scored: Scored
    truth: Discrimination
    detection: dict[str, Detection]
    parity: dict[str, ParityResult]
    parts: dict[str, tuple[SubsetParity, ...]]
    stages: StageResults
    costs: Costs
    examples: tuple[Example, ...]
    candidates: tuple[EngineManifest, ...]
    device_memory: dict[str, DeviceMemory]
    failed: tuple[Failure, ...] = ()
    recorded: Origin | None = None


@dataclass(frozen=True)
class Watch:
    """Progress of each part of a bench."""

    scoring: Progress | None = None
    timing: Progress | None = None
    energy: Progress | None = None


@dataclass(frozen=True)
class StagePlan:
    """What is scored besides the engines.

    Attributes:
        graphs: Graphs between checkpoint and engine; None leaves these stages out.
        pipelines: Pipelines whose pixels each candidate scores too.
    """

    graphs: Graphs | None = None
    pipelines: tuple[Pipeline, ...] = ()


def bench(
    reference: Engine | RecordedScores,
    candidates: Mapping[str, LoadedEngine],
    faces: FaceSet,
    card: ModelCard,
    *,
    margin: float = MARGIN,
    plan: CostPlan = CostPlan(),  # noqa: B008 (frozen)
    sources: Mapping[str, EnergySource | Unavailable] | None = None,
    stages: StagePlan = StagePlan(),
    store: ScoreStore | None = None,
    watch: Watch = Watch(),
) -> BenchResult:
    """Measure candidates against the reference.

    Args:
        reference: The PyTorch checkpoint, or its recorded scores of these faces.
        candidates: Engines by name.
        faces: Labelled faces.
        card: Model card, for size, grid and threshold.
        margin: AUC that a candidate may lose.
        plan: Costs to measure.
        sources: Energy source of each engine; None if the plan leaves energy out.
        stages: What is scored before the engines and after them.
        store: Store of the scores computed so far.
        watch: Receives progress.

    Raises:
        LpxError: See `lpx.bench.parity.score.score`.
    """
    engines = {name: candidate.engine for name, candidate in candidates.items()}
    ready: dict[str, Prediction] = {}
    recorded = None
    if isinstance(reference, RecordedScores):
        ready[REFERENCE], recorded = reference.prediction, reference.origin
    else:
        # First: reports list engines in this order.
        engines = {REFERENCE: reference, **engines}
    graphs, pixels = stages.graphs, PixelPlan(stages.pipelines, tuple(candidates))
    with scorers(engines, candidates, graphs) as scoring:
        everything = score(
            scoring,
            faces,
            card.input_size,
            watch.scoring,
            needed=() if ready else (REFERENCE,),
            store=store,
            known=ready,
            pixels=pixels,
        )
    # A graph between checkpoint and engine that failed is a stage without a result, not a failure.
    failed = [failure for failure in everything.failed if failure.name in engines]
    # Without graphs between checkpoint and engine, which are stages and not engines of the report.
    predictions = {}
    for name, prediction in everything.predictions.items():
        if name in ready or name in engines:
            predictions[name] = prediction
    scored = replace(everything, predictions=predictions, failed=tuple(failed))
    running = {name: engine for name, engine in engines.items() if name in scored.predictions}
    # After scoring, so that only engines that run take part in the timing.
    costs = measure_costs(
        running,
        candidates,
        partial(_some_pixels, faces, card.input_size),
        card,
        plan,
        sources or {},
        timing=watch.timing,
        energy=watch.energy,
    )
    truth, labels = scored.predictions[REFERENCE], scored.labels
    members = members_of(faces, scored.indices)
    groups = members.groups
    # Once for all candidates, as its bootstrap takes most of the time.
    known = discrimination(labels, truth.score, groups)
    terms = ComparisonTerms(labels, card.threshold, margin, groups, known)
    names = [name for name in candidates if name in running]
    parity = {name: terms.compare(truth, scored.predictions[name]) for name in names}
    of_graphs: dict[str, tuple[Stage, ...]] = dict.fromkeys(names, ())
    if graphs:
        of_graphs = _stages(parity, everything, graphs, terms)
    return BenchResult(
        scored=scored,
        truth=known,
        detection=detection(scored, faces, card.threshold),
        parity=parity,
        parts=breakdown(
            labels,
            truth.score,
            {n: scored.predictions[n].score for n in names},
            members,
            margin,
        ),
        stages=_on_pixels(of_graphs, pixels, everything, terms, card.input_size),
        costs=costs,
        examples=_examples(scored, faces, card.input_size),
        candidates=tuple(candidates[name].manifest for name in names),
        device_memory={name: engine.device_memory for name, engine in running.items()},
        failed=(*failed, *costs.failed),
        recorded=recorded,
    )


@contextmanager
def scorers(
    engines: Mapping[str, Engine], candidates: Mapping[str, LoadedEngine], graphs: Graphs | None
) -> Iterator[dict[str, Engine]]:
    """Open everything that scores faces in one pass, which decodes each face once, by name.

    Args:
        engines: The reference, unless its scores were recorded, and the engines.
        candidates: The engines as they are loaded.
        graphs: Graphs between checkpoint and engine, if they are scored.
    """
    # What scores faces shares the cores with decoding; what is timed does not.
    with ExitStack() as stack:
        scoring = dict(engines)
        for name, candidate in candidates.items():
            if candidate.scoring is not None:
                scoring[name] = stack.enter_context(candidate.scoring())
        if graphs:
            scoring |= graphs.engines()
        yield scoring


def _stages(
    parity: Mapping[str, ParityResult], everything: Scored, graphs: Graphs, terms: ComparisonTerms
) -> dict[str, tuple[Stage, ...]]:
    """Compare the stages of each candidate, from the predictions of engines and graphs."""
    reasons = {failure.name: failure.reason for failure in everything.failed}
    reasons |= {graph_of(name): reason for name, reason in graphs.missing.items()}
    truth = everything.predictions[REFERENCE]
    stages = {}
    for name, whole in parity.items():
        stages[name] = stages_of(name, whole, truth, everything.predictions, reasons, terms)
    return stages


def _on_pixels(
    graphs: dict[str, tuple[Stage, ...]],
    plan: PixelPlan,
    everything: Scored,
    terms: ComparisonTerms,
    size: int,
) -> StageResults:
    """Compare candidates on the pixels of pipelines, and add their stages before these."""
    reasons = {failure.name: failure.reason for failure in everything.failed}
    truth = everything.predictions[REFERENCE]
    stages: dict[str, tuple[PixelStage, ...]] = {}
    for name in graphs:
        stages[name] = pixel_stages(name, plan, truth, everything.predictions, reasons, terms)
    facts = []
    for pipeline in plan.pipelines:
        facts.append(read_facts(pipeline, everything.pixel_notes[pipeline.name], size))
    return StageResults(graphs, stages, tuple(facts))


def _some_pixels(faces: FaceSet, size: int, batch: int) -> Faces:
    """Return the first `batch` readable faces, repeated if the set is smaller."""
    # A set smaller than the batch is repeated, as the time does not depend on the pixels.
    first = next(iter(faces.stream(batch, size, [])))
    repeats = -(-batch // len(first.pixels))
    return np.ascontiguousarray(np.concatenate([first.pixels] * repeats)[:batch])


def _examples(scored: Scored, faces: FaceSet, size: int) -> tuple[Example, ...]:
    """Return the faces on which some candidate's map is farthest from the reference's."""
    truth = scored.predictions[REFERENCE].patch_map
    # Any candidate counts: a face on which one of them is wrong is worth a look.
    worst = np.zeros(len(truth))
    for prediction in scored.predictions.values():
        worst = np.maximum(worst, np.abs(prediction.patch_map - truth).mean(axis=(1, 2)))
    # Stable: with equal maps the same faces are shown in every run.
    chosen = np.argsort(-worst, kind="stable")[:EXAMPLES]
    picked = tuple(faces.faces[scored.indices[i]] for i in chosen)
    shown = FaceSet(faces.name, faces.split, faces.crop, picked)
    (batch,) = shown.stream(len(picked), size, [])
    examples = []
    for face, pixels, i in zip(picked, batch.pixels, chosen, strict=True):
        maps = {}
        for name, prediction in scored.predictions.items():
            maps[name] = (prediction.patch_map[i], float(prediction.score[i]))
        examples.append(Example(face.name, int(scored.labels[i]), pixels, maps))
    return tuple(examples)
