"""Parts of a report as plain values: what report.json holds, units in the names."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from lpx.bench.parity.detection import Detection
from lpx.bench.parity.parity import MIN_GROUPS, Discrimination
from lpx.bench.performance.costs import PatchCost, Speed
from lpx.bench.performance.energy import EnergyResult
from lpx.bench.performance.latency import LatencyResult
from lpx.bench.report.document.entries import (
    Candidate,
    DatasetInfo,
    EngineCosts,
    Parity,
    PartialDifference,
    PixelParity,
    Reference,
    StageParity,
    TimingConditions,
)
from lpx.metrics import DetectionMetrics, Interval


def dataset_values(dataset: DatasetInfo) -> dict[str, Any]:
    """Return a data set without its counts, which are fields of the report."""
    values = asdict(dataset)
    for name in ("faces", "real", "fake"):
        del values[name]
    return values


def conditions_values(conditions: TimingConditions | None) -> dict[str, Any] | None:
    """Return the state of the machine before and after latency was measured."""
    return None if conditions is None else asdict(conditions)


def reference_values(reference: Reference) -> dict[str, Any]:
    """Return the entry of the reference."""
    return {
        "name": reference.name,
        "target": reference.target,
        "precision": reference.precision,
        "auc": reference.auc,
        "auc_interval": _interval(reference.auc_interval),
        "discrimination": _discrimination(reference.discrimination),
        "accuracy": _detection(reference.accuracy),
        "recorded": None if reference.recorded is None else asdict(reference.recorded),
        **_costs(reference.costs),
    }


def candidate_values(candidate: Candidate) -> dict[str, Any]:
    """Return the entry of a candidate."""
    parity, engine = candidate.parity, candidate.engine
    return {
        "name": candidate.name,
        "target": candidate.target,
        "precision": candidate.precision,
        "dialect": engine.dialect,
        "verdict": parity.verdict,
        "faces_needed": candidate.faces_needed,
        "auc": parity.auc,
        "auc_interval": _interval(parity.auc_interval),
        **_differences(parity),
        "parts": [{**vars(part), **_differences(part)} for part in candidate.parts],
        "stages": [_stage(stage) for stage in candidate.stages],
        "breaks_at": candidate.breaks_at,
        "pixels": [_on_pixels(row) for row in candidate.pixels],
        "accuracy": _detection(candidate.accuracy),
        **_agreement(parity),
        "convolutions": engine.convolutions,
        "multiply_accumulates": engine.multiply_accumulates,
        "int8_share": engine.int8_share,
        "calibration": engine.calibration,
        "warnings": engine.warnings,
        "engine_sha256": engine.engine_sha256,
        **_costs(candidate.costs),
    }


def _discrimination(truth: Discrimination) -> dict[str, Any]:
    return {
        "direction": truth.direction,
        "auc_interval": _interval(truth.auc),
        "fake_groups": truth.fake_groups,
        "real_groups": truth.real_groups,
        "few_groups": truth.few_groups,
        "min_groups": MIN_GROUPS,
    }


def _stage(stage: StageParity) -> dict[str, Any]:
    return {
        "kind": stage.kind,
        "reason": stage.reason,
        "against_torch": _compared(stage.against_torch),
        "against_previous": _compared(stage.against_previous),
    }


def _on_pixels(row: PixelParity) -> dict[str, Any]:
    return {
        "pipeline": row.pipeline,
        "reason": row.reason,
        "verdict": row.verdict,
        "faces_needed": row.faces_needed,
        "against_torch": _compared(row.against_torch),
        "against_engine": _compared(row.against_engine),
    }


def _compared(parity: Parity | None) -> dict[str, Any] | None:
    if parity is None:
        return None
    return {
        "verdict": parity.verdict,
        "auc": parity.auc,
        "auc_interval": _interval(parity.auc_interval),
        **_differences(parity),
        **_agreement(parity),
    }


def _differences(row: Parity | PartialDifference) -> dict[str, Any]:
    return {
        "auc_difference": _interval(row.auc_difference),
        "auc_difference_delong": _interval(row.auc_difference_delong),
        "auc_difference_bootstrap": _interval(row.auc_difference_bootstrap),
    }


def _agreement(parity: Parity) -> dict[str, Any]:
    return {
        "concordance": _interval(parity.concordance),
        "score_range": parity.score_range,
        "dead": parity.dead,
        "score_difference": asdict(parity.score_difference),
        "flips": parity.flips.total,
        "flips_real_to_fake": parity.flips.real_to_fake,
        "flips_fake_to_real": parity.flips.fake_to_real,
        "patch_map": asdict(parity.patch_map),
    }


def _detection(detection: Detection) -> dict[str, Any]:
    methods = []
    for row in detection.methods:
        faces, videos = _metrics(row.face), _metrics(row.video)
        methods.append({"method": row.method, "face": faces, "video": videos})
    return {
        "face": _metrics(detection.face),
        "video": _metrics(detection.video),
        "methods": methods,
    }


def _metrics(row: DetectionMetrics | None) -> dict[str, Any] | None:
    if row is None:
        return None
    values = asdict(row)
    # The row that holds these metrics names the method.
    values.pop("method")
    return values


def _costs(costs: EngineCosts) -> dict[str, Any]:
    rows = [_latency(row) for row in costs.latency_by_batch]
    values: dict[str, Any] = {
        "device_memory_bytes": costs.device_memory.bytes,
        "device_memory_reason": costs.device_memory.reason,
        "latency": rows[0] if rows else None,
        "latency_by_batch": rows,
        "speed": [_speed(speed) for speed in costs.speed],
        "throughput": costs.throughput and asdict(costs.throughput),
        "like_trtexec": costs.like_trtexec and asdict(costs.like_trtexec),
        "single_patch": costs.single_patch and _single_patch(costs.single_patch),
        "energy": costs.energy and _energy(costs.energy),
    }
    for name, reason in costs.unavailable.items():
        values[name] = {"unavailable": reason}
    return values


def _latency(row: LatencyResult) -> dict[str, Any]:
    times = row.per_face_ms
    return {
        "batch": row.batch,
        "iterations": row.iterations,
        "per_face_p50_ms": times.p50.estimate,
        "per_face_p90_ms": times.p90.estimate,
        "per_face_p99_ms": times.p99.estimate,
        "per_patch_p50_us": row.per_patch_p50_us,
        "faces_per_second": row.faces_per_second,
        "cov": row.cov,
        "per_face_p95_ms": times.p95.estimate,
        "intervals_ms": {
            "p50": _bounds(times.p50),
            "p90": _bounds(times.p90),
            "p95": _bounds(times.p95),
            "p99": _bounds(times.p99),
        },
        "device": row.device and asdict(row.device),
        "warm_up_seconds": row.warm_up_seconds,
        "warnings": row.warnings,
    }


def _speed(speed: Speed) -> dict[str, Any]:
    low, high = _bounds(speed.test.ratio)
    return {
        "batch": speed.batch,
        "against": speed.against,
        "ratio": speed.test.ratio.estimate,
        "low": low,
        "high": high,
        "p_value": speed.test.p_value,
        "rounds": speed.test.rounds,
        "verdict": speed.test.verdict,
    }


def _single_patch(cost: PatchCost) -> dict[str, Any]:
    return {
        "size_px": cost.size_px,
        "grid": cost.grid,
        "iterations": cost.iterations,
        "p50_us": cost.p50_us.estimate,
        "interval_us": _bounds(cost.p50_us),
    }


def _energy(result: EnergyResult) -> dict[str, Any]:
    values = dict(vars(result))
    for name, value in values.items():
        if isinstance(value, Interval):
            values[name] = _mean(value)
    return values


def _mean(interval: Interval) -> dict[str, Any]:
    low, high = _bounds(interval)
    return {"mean": interval.estimate, "low": low, "high": high}


def _interval(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    values = asdict(interval)
    if not interval.method:
        values.pop("method")
    return values


def _bounds(interval: Interval) -> list[float | None]:
    """Return the ends; None for an infinite one, since JSON has no infinity."""
    return [_finite(interval.low), _finite(interval.high)]


def _finite(value: float) -> float | None:
    # json.dumps would write Infinity and NaN, which other parsers refuse.
    if math.isfinite(value):
        return value
    return None
