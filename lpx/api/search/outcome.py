"""What a search found, in one sentence and an exit code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lpx.bench.performance.speed_test import SpeedTest
from lpx.engines.manifest import Precision
from lpx.metrics import Interval
from lpx.search.propose import Candidate
from lpx.search.timing.latency import GroupCost
from lpx.search.trials import Trial

Outcome = Literal["plan", "all-int8", "no-gain", "no-plan"]
"""Outcome of a search.

"plan": an engine with some layers in float holds, and is faster than the float engine. "all-int8":
the engine with every layer in INT8 that the rules allow holds, and is faster. "no-gain": no engine
that holds is shown to be faster than the float engine. "no-plan": no engine holds.
"""

EXIT_CODES: dict[Outcome, int] = {"plan": 0, "all-int8": 0, "no-plan": 1, "no-gain": 5}


@dataclass(frozen=True)
class TimedTrial:
    """A trial, and its latency beside the float engine's.

    Attributes:
        trial: The trial.
        ms: Measured latency, ms per face, median; None if it was not timed.
        speed: Time of this engine / time of the float engine; None if it was not timed.
    """

    trial: Trial
    ms: float | None = None
    speed: SpeedTest | None = None


@dataclass(frozen=True)
class SearchTest:
    """The test that engines had to pass.

    Attributes:
        margin: AUC that an engine may lose.
        confidence: Confidence of the intervals.
        search_faces: Number of faces that layers were measured on.
        verification_faces: Number of faces that engines were judged on.
    """

    margin: float
    confidence: float
    search_faces: int
    verification_faces: int


@dataclass(frozen=True)
class FloatReference:
    """The float engine that others are timed beside.

    Attributes:
        precision: Its precision.
        ms: Its latency, ms per face, median; None if nothing was timed.
    """

    precision: Precision
    ms: float | None


@dataclass(frozen=True)
class PredictedLatency:
    """What latencies were predicted from.

    Attributes:
        source: Where the figures come from.
        groups: Times of each group; empty for targets whose layers are not timed.
    """

    source: str
    groups: tuple[GroupCost, ...]


@dataclass(frozen=True)
class SearchFiles:
    """Files of a search.

    Attributes:
        plan: `plan.json`; None without an engine that was kept.
        log: `trials.jsonl`.
        report: `search.html`.
    """

    plan: Path | None
    log: Path
    report: Path


@dataclass(frozen=True)
class SearchResult:
    """Result of `lpx.Workspace.search`.

    Attributes:
        outcome: What was found.
        sentence: The same in a sentence.
        test: Margin, confidence and faces.
        groups: Number of groups of layers.
        proposals: Plans that were predicted to hold.
        trials: Engines that were built and judged, in the order of their test.
        chosen: The fastest that holds; None if none does.
        reference: The float engine.
        latency: What latencies were predicted from.
        engine: Name of the chosen engine in the workspace; None if it was not kept.
        files: Files of the search.
        minutes: Wall time of this run, minutes.
    """

    outcome: Outcome
    sentence: str
    test: SearchTest
    groups: int
    proposals: tuple[Candidate, ...]
    trials: tuple[TimedTrial, ...]
    chosen: TimedTrial | None
    reference: FloatReference
    latency: PredictedLatency
    engine: str | None
    files: SearchFiles
    minutes: float

    @property
    def exit_code(self) -> int:
        """Exit code of `lpx build --int8 --search`."""
        return EXIT_CODES[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `search.json` holds them."""
        values = asdict(self)
        for name, path in values["files"].items():
            values["files"][name] = None if path is None else str(path)
        for proposal in values["proposals"]:
            proposal["int8"] = sorted(proposal["int8"])
        plain: dict[str, Any] = _finite(values)
        return plain


def _finite(value: Any) -> Any:
    """Return plain values with None for infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def sentence(
    outcome: Outcome, chosen: TimedTrial | None, best: TimedTrial | None, groups: int, margin: float
) -> str:
    """Say what was found.

    Args:
        outcome: What was found.
        chosen: The chosen engine; None without one.
        best: The engine with the smallest measured loss; None if none was built.
        groups: Number of groups of layers.
        margin: AUC that an engine may lose.
    """
    if outcome == "all-int8":
        assert chosen is not None
        return (
            f"no layer has to stay in float: INT8 in all {groups} groups holds AUC "
            f"({_loss(chosen)}) and is {_speed(chosen)} as fast as the float engine"
        )
    if outcome == "plan":
        assert chosen is not None
        count = groups - len(chosen.trial.int8)
        return (
            f"with {count} of {groups} groups in float, the engine holds AUC ({_loss(chosen)}) and "
            f"is {_speed(chosen)} as fast as the float engine"
        )
    if outcome == "no-gain":
        assert chosen is not None
        assert chosen.speed is not None
        slower = chosen.speed.verdict == "slower"
        finding = "is slower than" if slower else "is not shown to be faster than"
        return (
            f"INT8 gains nothing here: the fastest engine that holds AUC {finding} the float "
            f"engine ({_speed(chosen)} its speed)"
        )
    if best is None:
        return f"no plan is predicted to lose less than {margin:g} AUC"
    kept = f"{len(best.trial.int8)} of {groups} groups in INT8"
    if best.trial.verdict == "uninformative":
        return (
            "nothing can be judged: on these faces, the float model is not shown to tell real from "
            "fake"
        )
    if best.trial.verdict == "undecided":
        return (
            f"no plan is shown to hold AUC: the best, with {kept}, is inconclusive "
            f"({_loss(best)}); more faces of more people may decide it"
        )
    return f"no plan holds AUC; the best has {kept} ({_loss(best)})"


def _loss(timed: TimedTrial) -> str:
    difference: Interval = timed.trial.measured
    return (
        f"{difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}] on faces "
        "that the search did not see"
    )


def _speed(timed: TimedTrial) -> str:
    assert timed.speed is not None
    ratio = timed.speed.ratio
    return f"{1 / ratio.estimate:.2f} times"
