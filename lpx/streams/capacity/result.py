"""What a measurement of capacity found, and streams.json."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpx.artefacts.select_engine import UnfitEngine
from lpx.bench.parity.score import Failure
from lpx.data.face_sets.face_set import Skipped
from lpx.engines.manifest import Precision
from lpx.metrics import Interval, Verdict
from lpx.streams.capacity.judge import Trial
from lpx.streams.capacity.plan import Budget, CapacityOptions

SCHEMA = "lpx-streams/1"
FILE = "streams.json"


@dataclass(frozen=True)
class KnownAuc:
    """AUC of an engine in the last bench report.

    Attributes:
        auc: AUC with its 95 % interval; None if it is not known.
        verdict: Verdict on parity with the checkpoint; None likewise.
        dataset: Name of the face set; "" likewise.
        reason: Why it is not known; "" if it is.
    """

    auc: Interval | None
    verdict: Verdict | None
    dataset: str
    reason: str


@dataclass(frozen=True)
class EngineCapacity:
    """Capacity with one engine and one batch size.

    Attributes:
        engine: Name of the engine.
        target: Runtime that it was built for.
        precision: Its precision.
        engine_sha256: SHA-256 of its file.
        batch: Maximum number of faces per call.
        streams: Most streams that hold the budgets; 0 if not even one does.
        reached_limit: Whether the search ended at its limit: there may be more.
        best: The last trial with this number of streams; for 0, the best that failed with one.
        trials: All trials, in their order; the short ones are undecided, or fail.
        auc: AUC in the last bench report.
    """

    engine: str
    target: str
    precision: Precision
    engine_sha256: str
    batch: int
    streams: int
    reached_limit: bool
    best: Trial
    trials: tuple[Trial, ...]
    auc: KnownAuc


@dataclass(frozen=True)
class Recommendation:
    """The engine and batch size to use.

    Attributes:
        engine: Name of the engine.
        batch: Maximum number of faces per call.
        streams: Most streams that hold the budgets with them.
        reached_limit: Whether the search ended at its limit: there may be more.
    """

    engine: str
    batch: int
    streams: int
    reached_limit: bool


@dataclass(frozen=True)
class CameraSetup:
    """The simulated cameras, and how faces are found in them: the same for all engines.

    Attributes:
        threads: Threads that decoded, detected and cropped.
        videos: Videos of the simulated cameras.
        skipped: Videos that could not be read.
        detector: Face detector.
        crop: Crop recipe.
    """

    threads: int
    videos: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    detector: str
    crop: str


@dataclass(frozen=True)
class CapacityResult:
    """Result of `lpx.Workspace.capacity`.

    Attributes:
        budget: What every stream must get.
        options: How it was measured.
        cameras: The simulated cameras, and how faces were found in them.
        energy_source: What measured the power; "" if nothing could.
        energy_reason: Why the power was not measured; "" if it was.
        engines: Capacity by engine and batch size.
        failed: Engines that failed.
        not_run: Engines that do not run here, and why.
        machine: The machine, as plain values.
        notes: What may have disturbed the measurement.
        complete: False while it is being measured.
        json_path: streams.json.
    """

    budget: Budget
    options: CapacityOptions
    cameras: CameraSetup
    energy_source: str
    energy_reason: str
    engines: tuple[EngineCapacity, ...]
    failed: tuple[Failure, ...]
    not_run: tuple[UnfitEngine, ...]
    machine: dict[str, Any]
    notes: tuple[str, ...]
    complete: bool
    json_path: Path

    @property
    def recommended(self) -> Recommendation | None:
        """The engine and batch size with the most streams.

        None if no engine holds the budgets, or only engines that fail parity in the last bench do.
        """
        held = [one for one in self.engines if one.streams and one.auc.verdict != "fails"]
        if not held:
            return None
        # Equal numbers of streams are decided by the time to spare.
        best = max(held, key=lambda one: (one.streams, -one.best.p99_ms.estimate))
        return Recommendation(best.engine, best.batch, best.streams, best.reached_limit)

    @property
    def nearest(self) -> EngineCapacity | None:
        """The engine that comes nearest to the budget; None if none could be measured."""
        if not self.engines:
            return None
        return max(self.engines, key=lambda one: (one.streams, -one.best.p99_ms.estimate))

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values: the content of streams.json.

        A time that is not bounded, as of frames that were not finished, is null.
        """
        recommended = self.recommended
        values = {
            "schema": SCHEMA,
            "complete": self.complete,
            "recommended": recommended and asdict(recommended),
            "budget": asdict(self.budget),
            "options": {**asdict(self.options), "workers": self.cameras.threads},
            "videos": [str(path) for path in self.cameras.videos],
            "skipped": [asdict(one) for one in self.cameras.skipped],
            "detector": self.cameras.detector,
            "crop": self.cameras.crop,
            "energy_source": self.energy_source,
            "energy_reason": self.energy_reason,
            "engines": [asdict(one) for one in self.engines],
            "failed": [asdict(one) for one in self.failed],
            "not_run": [{"name": one.manifest.name, "reason": one.reason} for one in self.not_run],
            "machine": self.machine,
            "notes": self.notes,
        }
        # Through JSON, so that tuples become lists: equal to what a reader of the file gets.
        plain: dict[str, Any] = json.loads(json.dumps(_bounded(values), allow_nan=False))
        return plain


def _bounded(value: Any) -> Any:
    """Replace numbers that are not finite, which JSON does not have, by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _bounded(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bounded(one) for one in value]
    return value
