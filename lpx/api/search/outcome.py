"""What a search found, in one sentence and an exit code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lpx.bench.performance.speed_test import SpeedTest
from lpx.metrics import Interval
from lpx.search.propose import Candidate
from lpx.search.trials import Trial

Outcome = Literal["plan", "all-int8", "no-gain", "no-plan"]
"""Outcome of a search.

"plan": a plan with some layers in float holds, and is faster than float. "all-int8": the engine
with every layer in INT8 that the rules allow already holds. "no-gain": what holds is no faster than
float. "no-plan": nothing that is faster holds.
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
class SearchResult:
    """Result of `lpx.Workspace.search`.

    Attributes:
        outcome: What was found.
        sentence: The same in a sentence.
        margin: AUC that an engine may lose.
        confidence: Confidence of the intervals.
        groups: Number of groups of layers.
        trials: Engines that were built and judged, in the order of their test.
        chosen: The chosen one; None if there is none.
        float_name: Precision of the float engine that trials are timed beside.
        float_ms: Its latency, ms per face; None if it was not timed.
        proposals: Plans that were predicted to hold.
        latency_source: Where predicted latencies come from.
        faces: Number of search faces, and of verification faces.
        minutes: Wall time of this run, minutes.
        plan: Path of `plan.json`; None without a chosen engine.
        engine: Name of the engine that was built; None without one.
        log: Path of `trials.jsonl`.
        report: Path of `search.html`.
    """

    outcome: Outcome
    sentence: str
    margin: float
    confidence: float
    groups: int
    trials: tuple[TimedTrial, ...]
    chosen: TimedTrial | None
    float_name: str
    float_ms: float | None
    proposals: tuple[Candidate, ...]
    latency_source: str
    faces: tuple[int, int]
    minutes: float
    plan: Path | None
    engine: str | None
    log: Path
    report: Path

    @property
    def exit_code(self) -> int:
        """Exit code of `lpx build --int8 --search`."""
        return EXIT_CODES[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `search.json` holds them."""
        values = asdict(self)
        for name in ("plan", "log", "report"):
            values[name] = None if values[name] is None else str(values[name])
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
        return f"no plan is needed: INT8 in all {groups} groups holds AUC ({_loss(chosen)})"
    if outcome == "plan":
        assert chosen is not None
        count = groups - len(chosen.trial.int8)
        return (
            f"with {count} of {groups} groups in float, the engine holds AUC ({_loss(chosen)}) and "
            f"is {_speed(chosen)} as fast as float"
        )
    if outcome == "no-gain":
        assert chosen is not None
        return f"INT8 does not pay here: what holds AUC is no faster than float ({_speed(chosen)})"
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
