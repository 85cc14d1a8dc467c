"""Parts of a report: reference, candidates, data set, machine.

They mirror report.json, where groups of fields are flattened: `candidate.costs.energy` is the field
"energy" of a candidate. An end of an interval that so few measurements cannot bound is infinite
here, and null there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lpx.bench.parity.breakdown import Level
from lpx.bench.parity.detection import Detection
from lpx.bench.parity.parity import Discrimination
from lpx.bench.parity.recording import Origin
from lpx.bench.parity.stages import Kind
from lpx.bench.performance.costs import PatchCost, Speed
from lpx.bench.performance.energy import EnergyResult
from lpx.bench.performance.latency import LatencyResult
from lpx.bench.performance.throughput import ThroughputResult
from lpx.bench.performance.trtexec_metrics import TrtexecMetrics
from lpx.data.face_sets.face_set import Skipped
from lpx.engines.base import DeviceMemory
from lpx.engines.manifest import Precision
from lpx.machine.conditions import Conditions
from lpx.metrics import Flips, Interval, MapAgreement, ScoreDifference, Verdict


@dataclass(frozen=True)
class DatasetInfo:
    """The faces that were scored.

    Attributes:
        name: Name of the data set.
        split: Split of it.
        crop: Recipe by which faces were cropped.
        note: Remark on the data set; "" without one.
        methods: Manipulation methods that were asked for; None for all.
        digest: SHA-256 of the faces' names and sizes, in order.
        skipped: Faces that could not be read.
        faces: Number of faces scored.
        real: Number of real ones.
        fake: Number of fake ones.
    """

    name: str
    split: str
    crop: str
    note: str
    methods: tuple[str, ...] | None
    digest: str
    skipped: tuple[Skipped, ...]
    faces: int
    real: int
    fake: int


@dataclass(frozen=True)
class NotRun:
    """An engine of the workspace that does not run on this machine.

    Attributes:
        name: Name of the engine.
        reason: Reason why it does not run.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of the process that benched, MiB; None if the system does not report it.

    Attributes:
        process_rss_mib: Resident memory at the end.
        process_peak_mib: Peak of the resident memory.
    """

    process_rss_mib: float | None
    process_peak_mib: float | None


@dataclass(frozen=True)
class TimingConditions:
    """State of the machine while latency was measured.

    Attributes:
        before: State before.
        after: State after.
        changes: Notable changes between the two, in words.
    """

    before: Conditions
    after: Conditions
    changes: tuple[str, ...]


@dataclass(frozen=True)
class Environment:
    """The machine and software of a bench.

    Attributes:
        machine: CPU, GPUs, operating system and power mode, as plain values.
        versions: Versions of the libraries, by name.
        memory: Memory of the process; None if it was not read.
        conditions: State of the machine; None if latency was not measured.
    """

    machine: dict[str, Any]
    versions: dict[str, str]
    memory: ProcessMemory | None = None
    conditions: TimingConditions | None = None


@dataclass(frozen=True)
class Parity:
    """Comparison of an engine, or of a stage towards it, with the checkpoint or another stage.

    Attributes:
        verdict: Verdict on parity.
        auc: AUC; None in a report that does not know it.
        auc_interval: AUC with its 95 % interval.
        auc_difference: Gain of AUC (negative: loss) in the direction that the reference shows, with
            the 95 % interval that decides.
        auc_difference_delong: The same with DeLong's interval (assumes independent faces).
        auc_difference_bootstrap: The same with the interval over resampled groups; None if no group
            has two faces, or if it cannot be computed.
        concordance: Lin's concordance of the scores, with its 95 % interval.
        score_range: Lowest and highest score.
        dead: True if all faces get one score, although the reference's scores vary.
        score_difference: |score difference|, in [0, 1].
        flips: Faces on the other side of the threshold.
        patch_map: Agreement of the patch maps.
    """

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
    flips: Flips
    patch_map: MapAgreement


@dataclass(frozen=True)
class StageParity:
    """Parity of a stage between the checkpoint and an engine.

    Attributes:
        kind: "onnx": the exported model; "graph": the precision's graph, both in ONNX Runtime;
            "engine": the engine itself.
        reason: Reason why it did not run; otherwise "".
        against_torch: Comparison with the checkpoint; None if the stage did not run.
        against_previous: Comparison with the last stage before it that ran; None likewise.
    """

    kind: Kind
    reason: str
    against_torch: Parity | None
    against_previous: Parity | None


@dataclass(frozen=True)
class PixelParity:
    """Parity of an engine on faces that are resized as another pipeline does.

    Attributes:
        pipeline: Name of the pipeline.
        reason: Reason why it was not scored; otherwise "".
        against_torch: Comparison with the checkpoint on lpx's own pixels; None if it was not
            scored.
        against_engine: Comparison with the same engine on lpx's own pixels; None likewise.
        faces_needed: Number of faces that would probably decide the verdict; None if that cannot be
            estimated.
    """

    pipeline: str
    reason: str
    against_torch: Parity | None
    against_engine: Parity | None
    faces_needed: int | None

    @property
    def verdict(self) -> Verdict:
        """Verdict on parity with the checkpoint; "undecided" if it was not scored."""
        return "undecided" if self.against_torch is None else self.against_torch.verdict


@dataclass(frozen=True)
class PixelSummary:
    """How far the pixels of a pipeline are from lpx's own.

    Attributes:
        pipeline: Name of the pipeline.
        version: Version of its simulation.
        text: What it does.
        faces_changed: Number of faces with other pixels than lpx's.
        faces_resized: Number of faces whose crops are not of the model's size already.
        faces_shrunk: Number of faces whose crops are larger in both directions.
        median_side_px: Median of the crops' shorter sides, pixels.
        mean_difference: Mean absolute difference of the values, of 255.
    """

    pipeline: str
    version: int
    text: str
    faces_changed: int
    faces_resized: int
    faces_shrunk: int
    median_side_px: float
    mean_difference: float


@dataclass(frozen=True)
class PartialDifference:
    """AUC difference on the fakes of one method, or over videos.

    Attributes:
        level: "face", or "video" for videos by the mean score of their faces.
        method: Manipulation method, against all reals; "all" for all.
        fakes: Number of fakes, of this level.
        reals: Number of reals.
        verdict: Verdict on the AUC; None without an interval.
        reason: Reason why there is no interval, or what is wrong with it; otherwise "".
        auc_difference: Difference with the 95 % interval that decides; None if there is none.
        auc_difference_delong: The same with DeLong's interval.
        auc_difference_bootstrap: The same with the interval over resampled groups.
    """

    level: Level
    method: str
    fakes: int
    reals: int
    verdict: Verdict | None
    reason: str
    auc_difference: Interval | None
    auc_difference_delong: Interval | None
    auc_difference_bootstrap: Interval | None


@dataclass(frozen=True)
class EngineCosts:
    """Costs of an engine; None where a cost was not measured.

    Attributes:
        device_memory: Memory held on the device.
        latency_by_batch: Latency at each batch size, ascending; empty if it was not measured.
        speed: Speed tests against PyTorch and against the fastest float engine.
        throughput: Throughput with several batches in flight.
        like_trtexec: Latency in trtexec's terms.
        single_patch: Time of a single patch.
        energy: Energy per face.
        unavailable: Reasons why a cost was asked for and could not be measured, by the names of the
            four fields above.
    """

    device_memory: DeviceMemory
    latency_by_batch: tuple[LatencyResult, ...] = ()
    speed: tuple[Speed, ...] = ()
    throughput: ThroughputResult | None = None
    like_trtexec: TrtexecMetrics | None = None
    single_patch: PatchCost | None = None
    energy: EnergyResult | None = None
    unavailable: dict[str, str] = field(default_factory=dict)

    @property
    def latency(self) -> LatencyResult | None:
        """Latency at the smallest batch size; None if it was not measured."""
        return self.latency_by_batch[0] if self.latency_by_batch else None


@dataclass(frozen=True)
class EngineInfo:
    """Facts about an engine from its manifest.

    Attributes:
        dialect: Notation of the precision in the graph that it was built from.
        convolutions: Number of convolutions by the precision that they run in.
        multiply_accumulates: Multiply-accumulates for one face by precision; empty for float
            engines.
        int8_share: Share of these that run in integers, in [0, 1]; None if unknown.
        calibration: Faces, method and counts, as plain values; None for float engines.
        warnings: Warnings of the build.
        engine_sha256: SHA-256 of the engine file; "" in a report of an earlier version.
    """

    dialect: str
    convolutions: dict[str, int]
    multiply_accumulates: dict[str, int]
    int8_share: float | None
    calibration: dict[str, Any] | None
    warnings: tuple[str, ...]
    # By keyword, as the reader's record of a candidate adds fields without defaults.
    engine_sha256: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class Reference:
    """The PyTorch checkpoint.

    Attributes:
        name: "torch".
        target: "torch".
        precision: "fp32".
        auc: AUC; None in a report that does not know it.
        auc_interval: AUC with its 95 % interval.
        discrimination: Discrimination between real and fake on these faces.
        accuracy: Detection metrics per face, video and method.
        costs: Latency, energy and other costs.
        recorded: Where and when its scores were recorded; None if it ran in this bench.
    """

    name: str
    target: str
    precision: Precision
    auc: float | None
    auc_interval: Interval
    discrimination: Discrimination
    accuracy: Detection
    costs: EngineCosts
    recorded: Origin | None = None


@dataclass(frozen=True)
class Candidate:
    """An engine that was compared with the checkpoint.

    Attributes:
        name: Name of the engine.
        target: Runtime that it was built for.
        precision: Precision of its convolutions.
        parity: Comparison with the checkpoint.
        faces_needed: Number of faces that would probably decide the verdict; None if that cannot be
            estimated.
        parts: AUC differences per method and over videos.
        stages: Parity of the stages towards the engine; empty if they were left out.
        breaks_at: First stage that does as badly as the engine; None if parity holds.
        accuracy: Detection metrics per face, video and method.
        engine: Facts from its manifest.
        costs: Latency, energy and other costs.
        pixels: Parity on faces that are resized as other pipelines do; empty if none was asked for.
    """

    name: str
    target: str
    precision: Precision
    parity: Parity
    faces_needed: int | None
    parts: tuple[PartialDifference, ...]
    stages: tuple[StageParity, ...]
    breaks_at: Kind | None
    accuracy: Detection
    engine: EngineInfo
    costs: EngineCosts
    pixels: tuple[PixelParity, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Verdict on parity with the checkpoint."""
        return self.parity.verdict

    @property
    def auc(self) -> float | None:
        """AUC; None in a report that does not know it."""
        return self.parity.auc

    @property
    def auc_interval(self) -> Interval:
        """AUC with its 95 % interval."""
        return self.parity.auc_interval

    @property
    def auc_difference(self) -> Interval:
        """Gain of AUC (negative: loss) with the 95 % interval that decides the verdict."""
        return self.parity.auc_difference


Entry = Reference | Candidate
