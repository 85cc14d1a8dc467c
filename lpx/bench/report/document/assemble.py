"""Assemble a report from the results of a bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from lpx.bench.parity.breakdown import SubsetParity
from lpx.bench.parity.parity import PairedDifference, ParityResult, overall
from lpx.bench.parity.pixels import PixelFacts, PixelStage
from lpx.bench.parity.run import BenchResult
from lpx.bench.parity.stages import Stage, breaks_at
from lpx.bench.performance.costs import Costs
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.bench.performance.trtexec_metrics import TrtexecRow
from lpx.bench.report.document.entries import (
    Candidate,
    DatasetInfo,
    EngineCosts,
    EngineInfo,
    Environment,
    NotRun,
    Parity,
    PartialDifference,
    PixelParity,
    PixelSummary,
    Reference,
    StageParity,
    TimingConditions,
)
from lpx.bench.report.document.report import Report
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import FaceSet
from lpx.engines.base import DeviceMemory
from lpx.engines.manifest import EngineManifest
from lpx.machine.conditions import changes
from lpx.machine.energy_sources import Unavailable
from lpx.metrics import Interval, Verdict

_T = TypeVar("_T")
# Of a reference whose scores were recorded elsewhere.
_NOT_RUN_HERE = EngineCosts(
    device_memory=DeviceMemory(None, "its scores were recorded"), latency_by_batch=()
)


def assemble(
    result: BenchResult,
    faces: FaceSet,
    card: ModelCard,
    *,
    margin: float,
    environment: Environment,
    not_run: dict[str, str],
    warnings: Sequence[str],
    methods: Sequence[str] | None = None,
    trtexec: Sequence[TrtexecRow] = (),
) -> Report:
    """Assemble a report.

    Args:
        result: Results of the bench.
        faces: Faces that were scored.
        card: Model card.
        margin: AUC that a candidate may lose.
        environment: Machine, versions and memory; conditions are added here.
        not_run: Reasons why engines do not run here, by name.
        warnings: Warnings to the reader.
        methods: Manipulation methods that were asked for; None for all.
        trtexec: Times that trtexec measured, from files.
    """
    verdicts: list[Verdict] = []
    notes = []
    for name, parity in result.parity.items():
        verdicts.append(parity.verdict)
        if parity.difference.note:
            notes.append(f"{name}: {parity.difference.note}")
    if result.failed:
        # An engine that failed was not shown to keep its AUC: parity cannot hold for all.
        verdicts.append("undecided")
    conditions = _conditions(result.costs)
    if conditions:
        notes += [f"while latency was measured: {change}" for change in conditions.changes]
    for stages in result.stages.pixels.values():
        # Asked for, so that a loss on these pixels is a loss.
        verdicts += [stage.verdict for stage in stages]
    return Report(
        verdict=overall(verdicts),
        margin=margin,
        dataset=_dataset(result, faces, methods),
        model=card,
        reference=_reference(result),
        candidates=tuple(_candidate(result, manifest) for manifest in result.candidates),
        failed=result.failed,
        not_run=tuple(NotRun(name, reason) for name, reason in not_run.items()),
        trtexec=tuple(trtexec),
        warnings=(*warnings, *notes),
        environment=replace(environment, conditions=conditions),
        pixels=tuple(map(_summary, result.stages.facts)),
    )


def _dataset(result: BenchResult, faces: FaceSet, methods: Sequence[str] | None) -> DatasetInfo:
    labels = result.scored.labels
    return DatasetInfo(
        name=faces.name,
        split=faces.split,
        crop=faces.crop,
        note=faces.note,
        methods=None if methods is None else tuple(methods),
        digest=faces.digest(),
        skipped=result.scored.skipped,
        faces=len(labels),
        real=int((labels == 0).sum()),
        fake=int((labels == 1).sum()),
    )


def _conditions(costs: Costs) -> TimingConditions | None:
    if costs.conditions is None:
        return None
    before, after = costs.conditions
    return TimingConditions(before, after, tuple(changes(before, after)))


def _reference(result: BenchResult) -> Reference:
    return Reference(
        name=REFERENCE,
        target="torch",
        precision="fp32",
        auc=result.truth.auc.estimate,
        auc_interval=_unnamed(result.truth.auc),
        discrimination=result.truth,
        accuracy=result.detection[REFERENCE],
        costs=_costs(result, REFERENCE) if result.recorded is None else _NOT_RUN_HERE,
        recorded=result.recorded,
    )


def _candidate(result: BenchResult, manifest: EngineManifest) -> Candidate:
    name = manifest.name
    parity, stages = result.parity[name], result.stages.graphs[name]
    broken = breaks_at(stages)
    # If the faces decide nothing, no stage is to blame.
    if parity.verdict == "uninformative" or (
        parity.verdict == "undecided" and result.truth.few_groups
    ):
        broken = None
    return Candidate(
        name=name,
        target=manifest.target,
        precision=manifest.precision,
        parity=_parity(parity),
        faces_needed=parity.faces_needed,
        parts=tuple(_part(part) for part in result.parts[name]),
        stages=tuple(_stage(stage) for stage in stages),
        breaks_at=broken.kind if broken else None,
        accuracy=result.detection[name],
        engine=EngineInfo(
            dialect=manifest.dialect,
            convolutions=manifest.convolutions,
            multiply_accumulates=manifest.multiply_accumulates,
            int8_share=manifest.int8_share,
            calibration=manifest.calibration,
            warnings=manifest.warnings,
            engine_sha256=manifest.engine_sha256,
        ),
        costs=_costs(result, name),
        pixels=tuple(_on_pixels(stage) for stage in result.stages.pixels.get(name, ())),
    )


def _costs(result: BenchResult, name: str) -> EngineCosts:
    held: DeviceMemory = result.device_memory[name]
    costs = result.costs
    unavailable: dict[str, str] = {}

    def measured(field: str, value: _T | Unavailable | None) -> _T | None:
        if isinstance(value, Unavailable):
            unavailable[field] = value.reason
            return None
        return value

    return EngineCosts(
        device_memory=held,
        latency_by_batch=costs.latency[name],
        speed=costs.speed.get(name, ()),
        throughput=measured("throughput", costs.throughput.get(name)),
        like_trtexec=measured("like_trtexec", costs.like.get(name)),
        single_patch=measured("single_patch", costs.single_patch.get(name)),
        energy=measured("energy", costs.energy.get(name)),
        unavailable=unavailable,
    )


def _stage(stage: Stage) -> StageParity:
    return StageParity(
        kind=stage.kind,
        reason=stage.reason,
        against_torch=_optional_parity(stage.against_torch),
        against_previous=_optional_parity(stage.against_previous),
    )


def _on_pixels(stage: PixelStage) -> PixelParity:
    against_torch, against_engine = stage.against_torch, stage.against_engine
    return PixelParity(
        pipeline=stage.pipeline,
        reason=stage.reason,
        against_torch=_optional_parity(against_torch),
        against_engine=_optional_parity(against_engine),
        faces_needed=None if against_torch is None else against_torch.faces_needed,
    )


def _summary(facts: PixelFacts) -> PixelSummary:
    return PixelSummary(
        pipeline=facts.pipeline.name,
        version=facts.pipeline.version,
        text=facts.pipeline.text,
        faces_changed=facts.changed,
        faces_resized=facts.resized,
        faces_shrunk=facts.shrunk,
        median_side_px=facts.median_side,
        mean_difference=facts.difference,
    )


def _optional_parity(result: ParityResult | None) -> Parity | None:
    if result is None:
        return None
    return _parity(result)


def _parity(result: ParityResult) -> Parity:
    return Parity(
        verdict=result.verdict,
        auc=result.auc.estimate,
        auc_interval=_unnamed(result.auc),
        auc_difference=result.auc_difference,
        auc_difference_delong=_unnamed(result.difference.delong),
        auc_difference_bootstrap=_bootstrap(result.difference),
        concordance=_unnamed(result.concordance),
        score_range=result.score_range,
        dead=result.dead,
        score_difference=result.score_difference,
        flips=result.flips,
        patch_map=result.maps,
    )


def _part(part: SubsetParity) -> PartialDifference:
    row = PartialDifference(
        part.level, part.method, part.fakes, part.reals, part.verdict, part.reason, None, None, None
    )
    if part.difference is None:
        return row
    return replace(
        row,
        auc_difference=part.difference.deciding,
        auc_difference_delong=_unnamed(part.difference.delong),
        auc_difference_bootstrap=_bootstrap(part.difference),
    )


def _bootstrap(difference: PairedDifference) -> Interval | None:
    if difference.bootstrap is None:
        return None
    return _unnamed(difference.bootstrap)


def _unnamed(interval: Interval) -> Interval:
    """Return an interval without its method, which report.json names only if it decides."""
    return replace(interval, method="")
