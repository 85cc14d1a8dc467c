"""Parts of a report from JSON, strictly: what is read may have been edited or damaged.

The private dataclasses are report.json as it is written. `lpx.schema.read_record` reads into them,
and names what is missing or of another type; the functions below turn them into the report's parts.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from lpx.bench.parity.detection import Detection, MethodDetection
from lpx.bench.parity.parity import Direction, Discrimination
from lpx.bench.parity.recording import Origin
from lpx.bench.parity.score import Failure
from lpx.bench.parity.stages import Kind
from lpx.bench.performance.costs import PatchCost, Speed
from lpx.bench.performance.energy import EnergyResult
from lpx.bench.performance.latency import DeviceTime, LatencyResult, Percentiles
from lpx.bench.performance.speed_test import SpeedTest, SpeedVerdict
from lpx.bench.performance.throughput import ThroughputResult
from lpx.bench.performance.trtexec_metrics import TrtexecMetrics, TrtexecRow
from lpx.bench.report.document.entries import (
    Candidate,
    DatasetInfo,
    EngineCosts,
    EngineInfo,
    NotRun,
    Parity,
    PartialDifference,
    PixelParity,
    PixelSummary,
    ProcessMemory,
    Reference,
    StageParity,
    TimingConditions,
)
from lpx.engines.base import DeviceMemory
from lpx.engines.manifest import Precision
from lpx.engines.tensorrt_options import MAX_BATCH
from lpx.metrics import (
    DetectionMetrics,
    Flips,
    Interval,
    MapAgreement,
    ScoreDifference,
    Verdict,
)
from lpx.schema import MAX_INTEGER, SchemaError, in_range, read_record

_Bounds = tuple[float | None, float | None]
_T = TypeVar("_T")


@dataclass(frozen=True)
class _IntervalsMs:
    p50: _Bounds
    p90: _Bounds
    p95: _Bounds
    p99: _Bounds


@dataclass(frozen=True)
class _PerFace:
    per_face_p50_ms: float
    per_face_p90_ms: float
    per_face_p95_ms: float
    per_face_p99_ms: float
    intervals_ms: _IntervalsMs


@dataclass(frozen=True)
class _Latency(_PerFace):
    batch: int
    iterations: int
    per_patch_p50_us: float
    faces_per_second: float
    cov: float
    device: DeviceTime | None
    warm_up_seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Speed:
    batch: int
    against: str
    ratio: float
    low: float | None
    high: float | None
    p_value: float
    rounds: int
    verdict: SpeedVerdict | None


@dataclass(frozen=True)
class _SinglePatch:
    size_px: int
    grid: tuple[int, int]
    iterations: int
    p50_us: float
    interval_us: _Bounds


@dataclass(frozen=True)
class _Mean:
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class _Energy:
    source: str
    covers: str
    batch: int
    windows: int
    faces: int
    gross_j_per_face: _Mean
    net_j_per_face: _Mean
    gross_mj_per_patch: _Mean
    net_mj_per_patch: _Mean
    load_w: _Mean
    idle_w: _Mean


@dataclass(frozen=True)
class _Unavailable:
    unavailable: str


@dataclass(frozen=True)
class _Costs:
    device_memory_bytes: int | None
    device_memory_reason: str
    latency_by_batch: tuple[_Latency, ...]
    speed: tuple[_Speed, ...]
    # Each of these is read by `_costs`: it holds a measurement, or the reason why there is none.
    throughput: dict[str, Any] | None
    like_trtexec: dict[str, Any] | None
    single_patch: dict[str, Any] | None
    energy: dict[str, Any] | None


@dataclass(frozen=True)
class _MethodAccuracy:
    method: str
    # Read by `_metrics`, together with the method.
    face: dict[str, Any]
    video: dict[str, Any] | None


@dataclass(frozen=True)
class _Accuracy:
    face: dict[str, Any]
    video: dict[str, Any] | None
    methods: tuple[_MethodAccuracy, ...]


@dataclass(frozen=True)
class _Discrimination:
    direction: Direction
    auc_interval: Interval
    fake_groups: int
    real_groups: int


@dataclass(frozen=True)
class _Reference(_Costs):
    name: str
    target: str
    precision: Precision
    auc: float | None
    auc_interval: Interval
    discrimination: _Discrimination
    accuracy: _Accuracy
    # Reports of earlier versions do not have it.
    recorded: Origin | None = None


@dataclass(frozen=True)
class _Flips:
    flips: int
    flips_real_to_fake: int
    flips_fake_to_real: int


@dataclass(frozen=True)
class _Parity(_Flips):
    verdict: Verdict
    auc: float | None
    auc_interval: Interval
    auc_difference: Interval
    auc_difference_delong: Interval
    auc_difference_bootstrap: Interval | None
    concordance: Interval
    score_range: tuple[float, float]
    dead: bool
    score_difference: ScoreDifference
    patch_map: MapAgreement


@dataclass(frozen=True)
class _Stage:
    kind: Kind
    reason: str
    against_torch: _Parity | None
    against_previous: _Parity | None


@dataclass(frozen=True)
class _OnPixels:
    pipeline: str
    reason: str
    faces_needed: int | None
    against_torch: _Parity | None
    against_engine: _Parity | None


@dataclass(frozen=True)
class _Candidate(_Costs, _Parity, EngineInfo):
    name: str
    target: str
    precision: Precision
    faces_needed: int | None
    parts: tuple[PartialDifference, ...]
    stages: tuple[_Stage, ...]
    breaks_at: Kind | None
    accuracy: _Accuracy
    # Reports of earlier versions do not have it.
    pixels: tuple[_OnPixels, ...] = ()


@dataclass(frozen=True)
class _Environment:
    machine: dict[str, Any]
    versions: dict[str, str]


@dataclass(frozen=True)
class _Scored:
    """The faces that were scored, and the model: `dataset_of` joins the counts to the data set."""

    faces: int
    real: int
    fake: int
    dataset: dict[str, Any]
    model: dict[str, Any]


@dataclass(frozen=True)
class _Results:
    verdict: Verdict
    margin: float
    reference: _Reference
    candidates: tuple[_Candidate, ...]
    failed: tuple[Failure, ...]
    not_run: tuple[NotRun, ...]
    trtexec: tuple[TrtexecRow, ...]
    warnings: tuple[str, ...]
    # Reports of earlier versions do not have it.
    pixels: tuple[PixelSummary, ...] = ()


@dataclass(frozen=True)
class _Surroundings:
    memory: ProcessMemory | None
    environment: _Environment
    conditions: TimingConditions | None


@dataclass(frozen=True)
class ReportFields:
    """The fields of report.json in parts, some of them in their form there."""

    scored: _Scored
    results: _Results
    surroundings: _Surroundings


def read_fields(values: object) -> ReportFields:
    """Read report.json, whose schema was checked already.

    Raises:
        SchemaError: A field is missing or of another type, a number is impossible, or two engines
            share a name.
    """
    # Fields that a later lpx adds are passed over: the schema's name changes where they matter.
    scored = read_record(_Scored, values, others=True)
    results = read_record(_Results, values, others=True)
    surroundings = read_record(_Surroundings, values, others=True)
    every: tuple[_Reference | _Candidate, ...] = (results.reference, *results.candidates)
    for entry in every:
        in_range(entry.auc, 0, 1, f"the AUC of {entry.name}")
        for row in entry.latency_by_batch:
            in_range(row.batch, 1, MAX_BATCH, f"a batch of {entry.name}")
            for ms in (row.per_face_p50_ms, *row.intervals_ms.p50):
                in_range(ms, 0, math.inf, f"a latency of {entry.name}")
    if len({entry.name for entry in every}) < len(every):
        raise SchemaError("two engines have the same name")
    pipelines = [summary.pipeline for summary in results.pixels]
    for candidate in results.candidates:
        # Tables have a row for each pipeline that is described: a verdict must not go unseen.
        if [row.pipeline for row in candidate.pixels] != pipelines:
            raise SchemaError(f"{candidate.name} was scored on other pixels than are described")
    in_range(results.margin, 0, 1, "margin")
    in_range(scored.faces, 1, MAX_INTEGER, "faces")
    return ReportFields(scored, results, surroundings)


def dataset_of(fields: ReportFields) -> DatasetInfo:
    """Return the faces that were scored.

    Raises:
        SchemaError: A field of the data set is missing or of another type.
    """
    scored = fields.scored
    counts = {"faces": scored.faces, "real": scored.real, "fake": scored.fake}
    return read_record(DatasetInfo, scored.dataset | counts, "dataset", others=True)


def reference_of(fields: ReportFields) -> Reference:
    """Return the entry of the reference.

    Raises:
        SchemaError: A cost is neither a measurement nor a reason, or detection metrics are damaged.
    """
    row = fields.results.reference
    known = row.discrimination
    return _same_fields(
        Reference,
        row,
        discrimination=Discrimination(
            known.auc_interval, known.direction, known.fake_groups, known.real_groups
        ),
        accuracy=_detection(row.accuracy, "reference.accuracy"),
        costs=_costs(row, "reference"),
    )


def candidates_of(fields: ReportFields) -> tuple[Candidate, ...]:
    """Return the entries of the candidates.

    Raises:
        SchemaError: A cost is neither a measurement nor a reason, or detection metrics are damaged.
    """
    candidates = []
    for place, row in enumerate(fields.results.candidates):
        candidate = _same_fields(
            Candidate,
            row,
            parity=_parity(row),
            stages=tuple(map(_stage, row.stages)),
            accuracy=_detection(row.accuracy, f"candidates[{place}].accuracy"),
            engine=_same_fields(EngineInfo, row),
            costs=_costs(row, f"candidates[{place}]"),
            pixels=tuple(_on_pixels(one) for one in row.pixels),
        )
        candidates.append(candidate)
    return tuple(candidates)


def _same_fields(kind: type[_T], row: object, **changed: Any) -> _T:
    """Return a part whose fields are those of the same names in a row, but for some."""
    names = {field.name for field in dataclasses.fields(kind)} - changed.keys()  # type: ignore[arg-type]
    return kind(**{name: getattr(row, name) for name in names}, **changed)


def _on_pixels(row: _OnPixels) -> PixelParity:
    return _same_fields(
        PixelParity,
        row,
        against_torch=_optional_parity(row.against_torch),
        against_engine=_optional_parity(row.against_engine),
    )


def _stage(row: _Stage) -> StageParity:
    return StageParity(
        row.kind,
        row.reason,
        _optional_parity(row.against_torch),
        _optional_parity(row.against_previous),
    )


def _optional_parity(row: _Parity | None) -> Parity | None:
    if row is None:
        return None
    return _parity(row)


def _parity(row: _Parity) -> Parity:
    flips = Flips(row.flips_real_to_fake, row.flips_fake_to_real, row.flips)
    return _same_fields(Parity, row, flips=flips)


def _detection(row: _Accuracy, where: str) -> Detection:
    methods = []
    for index, part in enumerate(row.methods):
        place = f"{where}.methods[{index}]"
        faces, videos = _metrics(part, part.method, place)
        methods.append(MethodDetection(part.method, faces, videos))
    faces, videos = _metrics(row, "all", where)
    return Detection(faces, videos, tuple(methods))


class _MetricsByLevel(NamedTuple):
    """Metrics over faces, and over videos."""

    faces: DetectionMetrics
    videos: DetectionMetrics | None


def _metrics(row: _Accuracy | _MethodAccuracy, method: str, where: str) -> _MetricsByLevel:
    """Return the metrics in a row, which names their method."""

    def read(level: str, values: dict[str, Any]) -> DetectionMetrics:
        named = values | {"method": method}
        return read_record(DetectionMetrics, named, f"{where}.{level}", others=True)

    faces = read("face", row.face)
    if row.video is None:
        return _MetricsByLevel(faces, None)
    return _MetricsByLevel(faces, read("video", row.video))


def _costs(row: _Costs, where: str) -> EngineCosts:
    unavailable: dict[str, str] = {}

    def measured(name: str, kind: type[_T], values: dict[str, Any] | None) -> _T | None:
        if values is None:
            return None
        place = f"{where}.{name}"
        if "unavailable" in values:
            reason = read_record(_Unavailable, values, place, others=True)
            unavailable[name] = reason.unavailable
            return None
        return read_record(kind, values, place, others=True)

    patch = measured("single_patch", _SinglePatch, row.single_patch)
    energy = measured("energy", _Energy, row.energy)
    return EngineCosts(
        device_memory=DeviceMemory(row.device_memory_bytes, row.device_memory_reason),
        latency_by_batch=tuple(_latency(one) for one in row.latency_by_batch),
        speed=tuple(_speed(one) for one in row.speed),
        throughput=measured("throughput", ThroughputResult, row.throughput),
        like_trtexec=measured("like_trtexec", TrtexecMetrics, row.like_trtexec),
        single_patch=None if patch is None else _single_patch(patch),
        energy=None if energy is None else _energy(energy),
        unavailable=unavailable,
    )


def _latency(row: _Latency) -> LatencyResult:
    ends = row.intervals_ms
    times = Percentiles(
        p50=_interval(row.per_face_p50_ms, *ends.p50),
        p90=_interval(row.per_face_p90_ms, *ends.p90),
        p95=_interval(row.per_face_p95_ms, *ends.p95),
        p99=_interval(row.per_face_p99_ms, *ends.p99),
    )
    return _same_fields(LatencyResult, row, per_face_ms=times)


def _speed(row: _Speed) -> Speed:
    ratio = _interval(row.ratio, row.low, row.high)
    return Speed(row.batch, row.against, SpeedTest(ratio, row.p_value, row.rounds, row.verdict))


def _single_patch(row: _SinglePatch) -> PatchCost:
    return PatchCost(row.size_px, row.grid, row.iterations, _interval(row.p50_us, *row.interval_us))


def _energy(row: _Energy) -> EnergyResult:
    means = {}
    for name, value in vars(row).items():
        if isinstance(value, _Mean):
            means[name] = _interval(value.mean, value.low, value.high)
    return _same_fields(EnergyResult, row, **means)


def _interval(estimate: float, low: float | None, high: float | None) -> Interval:
    """Return an interval; an end that JSON has as null was not bounded."""
    # JSON has no infinity, which the report writes as null.
    if low is None:
        low = -math.inf
    if high is None:
        high = math.inf
    return Interval(estimate, low, high)
