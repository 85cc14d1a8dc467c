"""The report as plain values: what `report.json` holds, and what the pages are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lpx.bench.parity.breakdown import Part
from lpx.bench.parity.parity import (
    MIN_GROUPS,
    Discrimination,
    PairedDifference,
    ParityResult,
    overall,
)
from lpx.bench.parity.run import BenchResult
from lpx.bench.parity.stages import Stage, breaks_at
from lpx.bench.performance.candidate import REFERENCE
from lpx.bench.performance.costs import PatchCost
from lpx.bench.performance.energy import EnergyResult
from lpx.bench.performance.latency import LatencyResult
from lpx.bench.performance.throughput import ThroughputResult
from lpx.bench.performance.trtexec_metrics import LikeTrtexec, TrtexecRow
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import FaceSet
from lpx.engines.manifest import EngineManifest
from lpx.machine.conditions import Conditions, changes
from lpx.machine.energy_sources import Unavailable
from lpx.metrics import Interval, Verdict

SCHEMA = "lpx-report/3"


def to_report(
    result: BenchResult,
    faces: FaceSet,
    card: ModelCard,
    *,
    margin: float,
    environment: dict[str, Any],
    not_run: dict[str, str],
    warnings: list[str],
    memory: dict[str, float | None] | None = None,
    methods: Sequence[str] | None = None,
    trtexec: Sequence[TrtexecRow] = (),
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
        memory: Of the process, as `lpx.machine.process_memory.read_memory` gives it.
        methods: The manipulations that were asked for; None for all.
        trtexec: What trtexec measured of engines.
    """
    labels = result.scored.labels
    notes = [f"{name}: {p.note}" for name, p in result.parity.items() if p.note]
    # Nothing was shown of an engine that failed: parity cannot hold for all.
    unseen: list[Verdict] = ["undecided"] if result.failed else []
    conditions = _conditions(result.costs.conditions)
    changed = conditions["changes"] if conditions else []
    return {
        "schema": SCHEMA,
        "verdict": overall([p.verdict for p in result.parity.values()] + unseen),
        "margin": margin,
        "faces": len(labels),
        "real": int((labels == 0).sum()),
        "fake": int((labels == 1).sum()),
        "dataset": {
            "name": faces.name,
            "split": faces.split,
            "crop": faces.crop,
            "note": faces.note,
            "methods": None if methods is None else list(methods),
            "digest": faces.digest(),
            "skipped": [asdict(s) for s in result.scored.skipped],
        },
        "threshold": card.threshold,
        "threshold_source": card.threshold_source,
        "reference": {
            "name": REFERENCE,
            "target": "torch",
            "precision": "fp32",
            "auc": result.truth.auc.estimate,
            "auc_interval": _interval(result.truth.auc),
            "discrimination": _discrimination(result.truth),
            "accuracy": result.accuracy[REFERENCE],
            **_cost(result, REFERENCE),
        },
        "candidates": [_entry(result, manifest) for manifest in result.candidates],
        "failed": [asdict(failure) for failure in result.failed],
        "not_run": [{"name": name, "reason": reason} for name, reason in not_run.items()],
        "model": card.to_dict(),
        "memory": memory,
        "environment": environment,
        "conditions": conditions,
        "trtexec": [asdict(row) for row in trtexec],
        "warnings": [*warnings, *notes, *(f"while latency was measured: {c}" for c in changed)],
    }


def _discrimination(truth: Discrimination) -> dict[str, Any]:
    return {
        "direction": truth.direction,
        "auc_interval": {**_interval(truth.auc), "method": truth.auc.method},
        "fake_groups": truth.fake_groups,
        "real_groups": truth.real_groups,
        "few_groups": truth.few_groups,
        "min_groups": MIN_GROUPS,
    }


def _entry(result: BenchResult, manifest: EngineManifest) -> dict[str, Any]:
    parity = result.parity[manifest.name]
    stages = result.stages[manifest.name]
    # Where the faces decide nothing, no stage is to blame.
    blind = parity.verdict == "uninformative" or (
        parity.verdict == "undecided" and result.truth.few_groups
    )
    broken = None if blind else breaks_at(stages)
    return {
        "name": manifest.name,
        "target": manifest.target,
        "precision": manifest.precision,
        "dialect": manifest.dialect,
        "verdict": parity.verdict,
        "faces_needed": parity.faces_needed,
        "auc": parity.auc.estimate,
        "auc_interval": _interval(parity.auc),
        **_differences(parity),
        "parts": [_part(part) for part in result.parts[manifest.name]],
        "stages": [_stage(stage) for stage in stages],
        "breaks_at": broken.kind if broken else None,
        "accuracy": result.accuracy[manifest.name],
        **_agreement(parity),
        "convolutions": manifest.convolutions,
        "multiply_accumulates": manifest.multiply_accumulates,
        "int8_share": manifest.int8_share,
        "calibration": manifest.calibration,
        "warnings": list(manifest.warnings),
        **_cost(result, manifest.name),
    }


def _cost(result: BenchResult, name: str) -> dict[str, Any]:
    """Memory, latency and energy of an engine; None where they were not measured."""
    held, costs = result.device_memory[name], result.costs
    return {
        "device_memory_bytes": held.bytes,
        "device_memory_reason": held.reason,
        **_latencies(costs.latency[name]),
        "speed": [
            {"batch": s.batch, "against": s.against, **asdict(s.found)}
            for s in costs.speed.get(name, ())
        ],
        "throughput": _measured(costs.throughput.get(name)),
        "like_trtexec": _measured(costs.like.get(name)),
        "single_patch": _measured(costs.single_patch.get(name)),
        "energy": _measured(costs.energy.get(name)),
    }


def _measured(
    found: ThroughputResult | LikeTrtexec | PatchCost | EnergyResult | Unavailable | None,
) -> dict[str, Any] | None:
    """A figure as plain values, or why there is none; None where it was not asked for."""
    if isinstance(found, Unavailable):
        return {"unavailable": found.reason}
    return None if found is None else asdict(found)


def _conditions(found: tuple[Conditions, Conditions] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    before, after = found
    return {
        "before": asdict(before),
        "after": asdict(after),
        "changes": list(changes(before, after)),
    }


def _stage(stage: Stage) -> dict[str, Any]:
    return {
        "kind": stage.kind,
        "reason": stage.reason,
        "against_torch": _compared(stage.against_torch),
        "against_previous": _compared(stage.against_previous),
    }


def _compared(parity: ParityResult | None) -> dict[str, Any] | None:
    if parity is None:
        return None
    return {
        "verdict": parity.verdict,
        "auc": parity.auc.estimate,
        "auc_interval": _interval(parity.auc),
        **_differences(parity),
        **_agreement(parity),
    }


def _agreement(parity: ParityResult) -> dict[str, Any]:
    return {
        "concordance": asdict(parity.concordance),
        "score_range": list(parity.score_range),
        "dead": parity.dead,
        "score_difference": asdict(parity.score_difference),
        "flips": parity.flips.total,
        "flips_real_to_fake": parity.flips.real_to_fake,
        "flips_fake_to_real": parity.flips.fake_to_real,
        "patch_map": asdict(parity.maps),
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "level": part.level,
        "method": part.method,
        "fakes": part.fakes,
        "reals": part.reals,
        "verdict": part.verdict,
        "reason": part.reason,
        **(_differences(part.difference) if part.difference else _NO_DIFFERENCES),
    }


_NO_DIFFERENCES = dict.fromkeys(
    ("auc_difference", "auc_difference_delong", "auc_difference_bootstrap")
)


def _differences(found: ParityResult | PairedDifference) -> dict[str, Any]:
    """The interval that decides, and the two it was chosen from."""
    deciding = found.auc_difference if isinstance(found, ParityResult) else found.deciding
    return {
        "auc_difference": {**_interval(deciding), "method": deciding.method},
        "auc_difference_delong": _interval(found.delong),
        "auc_difference_bootstrap": _interval(found.bootstrap) if found.bootstrap else None,
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"estimate": interval.estimate, "low": interval.low, "high": interval.high}


def _latencies(results: tuple[LatencyResult, ...]) -> dict[str, Any]:
    """`latency` is that of single faces; `latency_by_batch` holds every batch size."""
    rows = [asdict(result) for result in results]
    return {"latency": rows[0] if rows else None, "latency_by_batch": rows}
