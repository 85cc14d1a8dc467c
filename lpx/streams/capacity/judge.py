"""Judge a trial: does every stream get what the budget asks?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lpx.bench.performance.latency import percentile, percentile_interval
from lpx.metrics import Interval
from lpx.streams.capacity.plan import Budget
from lpx.streams.capacity.trial import TrialSamples

TrialVerdict = Literal["holds", "fails", "undecided"]
# Blocks of the window over which the growth of latency is fitted.
_BLOCKS = 20
# A backlog counts as growing if it would use up the budget within this time, s.
_HORIZON_S = 60.0
_LEVEL = 0.95


@dataclass(frozen=True)
class StageTimes:
    """Mean times of a frame, ms; their sum is its mean latency.

    Attributes:
        waiting: From its due time until a thread takes it.
        decode: Decoding.
        detect: Finding faces.
        crop: Cutting them out, with landmarks if the recipe needs them.
        batching: Waiting for the engine, and for other faces of the batch.
        score: The engine's call.
    """

    waiting: float
    decode: float
    detect: float
    crop: float
    batching: float
    score: float


@dataclass(frozen=True)
class Load:
    """Load of the machine and of the engine during a trial.

    Attributes:
        watts: Mean power, W; None if it was not measured, or the trial was ended early.
        cores: Processor seconds of this process per second.
        other_cores: The same of all other processes; None if unknown.
        faces_per_frame: Mean number of faces in a frame.
        faces_per_call: Mean number of faces in a call of the engine.
        engine_busy: Share of the time in which the engine computed.
    """

    watts: float | None
    cores: float
    other_cores: float | None
    faces_per_frame: float
    faces_per_call: float
    engine_busy: float


@dataclass(frozen=True)
class Trial:
    """A judged trial.

    Attributes:
        streams: Number of cameras.
        verdict: "holds": the 95 % interval of the 99th percentile is within the budget, and
            nothing else is wrong; "fails": something is; "undecided": the budget is within the
            interval.
        reason: What is wrong, or why it is undecided; "" if it holds.
        frames: Frames that were due in the window.
        late: Number of them that were later than the budget.
        dropped: Number of them that were not finished.
        p50_ms: Median latency, ms; infinity if most frames were not finished.
        p99_ms: 99th percentile with its 95 % interval, ms.
        growth_ms_per_s: Growth of the latency, ms per second; None if too few were finished.
        load: Load of the machine and of the engine.
        stages: Mean times of finished frames; None if none was.
    """

    streams: int
    verdict: TrialVerdict
    reason: str
    frames: int
    late: int
    dropped: int
    p50_ms: float
    p99_ms: Interval
    growth_ms_per_s: float | None
    load: Load
    stages: StageTimes | None


def judge(samples: TrialSamples, budget: Budget, *, scout: bool = False) -> Trial:
    """Judge a trial.

    Frames that were due and not finished count with an infinite latency: leaving them out would
    make a machine look the better the more it drops.

    Args:
        samples: What was measured.
        budget: What is asked.
        scout: The trial is a short one: it fails by its 90th percentile, as a single disturbance
            makes the 99th of so few frames, and it never holds.
    """
    done = [frame for frame in samples.frames if math.isfinite(frame.done)]
    latency_ms = np.full(samples.due, np.inf)
    latency_ms[: len(done)] = [1e3 * (frame.done - frame.due) for frame in done]
    latency_ms.sort()
    p99 = Interval(math.inf, -math.inf, math.inf)
    p50 = math.inf
    if samples.due:
        p99, p50 = percentile_interval(latency_ms, 99), percentile(latency_ms, 50)
    growth = _growth(samples)
    verdict, reason = _verdict(samples, budget, p99, growth)
    if scout and not samples.hopeless:
        verdict, reason = "undecided", "too few frames to judge"
        if samples.due and percentile(latency_ms, 90) > budget.ms:
            verdict, reason = "fails", f"p90 is over {budget.ms:g} ms"
    faces = sum(frame.faces for frame in done)
    return Trial(
        streams=samples.streams,
        verdict=verdict,
        reason=reason,
        frames=samples.due,
        late=int((latency_ms > budget.ms).sum()),
        dropped=samples.due - len(done),
        p50_ms=p50,
        p99_ms=p99,
        growth_ms_per_s=growth.estimate if growth else None,
        load=Load(
            watts=samples.watts,
            cores=samples.cores,
            other_cores=samples.other_cores,
            faces_per_frame=faces / max(len(done), 1),
            faces_per_call=samples.batches.faces / max(samples.batches.calls, 1),
            engine_busy=samples.batches.seconds / samples.lasted_s,
        ),
        stages=_stages(samples),
    )


class _Judged(NamedTuple):
    """A verdict with its reason."""

    verdict: TrialVerdict
    reason: str


def _verdict(
    samples: TrialSamples, budget: Budget, p99: Interval, growth: Interval | None
) -> _Judged:
    if samples.hopeless:
        return _Judged("fails", "the machine could not keep up, and the trial was ended")
    # Infinite as soon as more than 1 % of the frames were not finished.
    if p99.estimate > budget.ms:
        return _Judged("fails", f"p99 is over {budget.ms:g} ms")
    if growth is not None and growth.low * _HORIZON_S > budget.ms:
        return _Judged(
            "fails", f"the backlog grows: latency by {growth.estimate:.1f} ms each second"
        )
    if budget.watts is not None and samples.watts is None:
        return _Judged("undecided", "the power could not be read")
    if budget.watts is not None and samples.watts is not None and samples.watts > budget.watts:
        return _Judged("fails", f"{samples.watts:.1f} W are over {budget.watts:g} W")
    if p99.high > budget.ms:
        return _Judged("undecided", f"the 95 % interval of p99 reaches beyond {budget.ms:g} ms")
    return _Judged("holds", "")


def _growth(samples: TrialSamples) -> Interval | None:
    """Fit a line through the latency over time; returns its slope, ms per second.

    Medians of blocks rather than frames: neighbouring frames are late together, and frames taken
    as independent would make every slope look certain.
    """
    done = [frame for frame in samples.frames if math.isfinite(frame.done)]
    if len(done) < 3 * _BLOCKS:
        return None
    due = np.array([frame.due for frame in done])
    latency_ms = 1e3 * np.array([frame.done - frame.due for frame in done])
    order = np.argsort(due, kind="stable")
    times, medians = [], []
    for block in np.array_split(order, _BLOCKS):
        times.append(float(due[block].mean()) - samples.begin)
        medians.append(float(np.median(latency_ms[block])))
    fit = stats.linregress(times, medians)
    half = float(stats.t.ppf((1 + _LEVEL) / 2, _BLOCKS - 2) * fit.stderr)
    return Interval.about(float(fit.slope), half)


def _stages(samples: TrialSamples) -> StageTimes | None:
    rows = []
    for frame in samples.frames:
        if math.isfinite(frame.done):
            rows.append(
                [
                    frame.due,
                    frame.started,
                    frame.decoded,
                    frame.detected,
                    frame.cut,
                    frame.scoring,
                    frame.done,
                ]
            )
    if not rows:
        return None
    moments: NDArray[np.float64] = np.array(rows)
    means_ms = 1e3 * np.diff(moments, axis=1).mean(axis=0)
    return StageTimes(*means_ms.tolist())
