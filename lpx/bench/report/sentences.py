"""Sentences of a report: its verdict, its warnings and what its times mean."""

from __future__ import annotations

import math
import re

from lpx.bench.parity.parity import CONCORDANCE, MIN_GROUPS
from lpx.bench.parity.score import Failure
from lpx.bench.parity.stages import Kind
from lpx.bench.performance.costs import Speed
from lpx.bench.performance.latency import UNSTABLE, UNSTABLE_COV, LatencyResult
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.bench.performance.speed_test import SpeedTest
from lpx.bench.report.document.entries import Candidate
from lpx.bench.report.document.report import Report
from lpx.metrics import Interval

# Stages between the checkpoint and an engine.
STAGES: dict[Kind, str] = {
    "onnx": "exported model in ONNX Runtime",
    "graph": "its graph in ONNX Runtime",
    "engine": "the engine itself",
}
# Sources of intervals, by their method.
INTERVALS = {
    "bootstrap": "2,000 resamples of whole groups (faces of one video or person)",
    "delong": "DeLong's, for independent faces",
    "one pair": "no rank swaps observed; width of one swapped pair assumed",
}


def has_map(report: Report) -> bool:
    """Return True if the model scores patches, rather than whole faces alone."""
    return report.model.grid != (1, 1)


def significant(value: float, digits: int = 3) -> str:
    """Write a number of at least 0 with `digits` significant digits: 0.0123, 1.23, 12.3, 1,234."""
    if not value:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        return re.sub(r"e-0?", "e−", f"{value:.1e}")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def auc(value: float | None) -> str:
    """Write an AUC."""
    return "–" if value is None else f"{value:.4f}"


def signed(value: float, margin: float = 0.0) -> str:
    """Write a difference of AUCs, with enough digits to distinguish it from -margin."""
    places = 4
    while margin and places < 8 and 0 < abs(value + margin) < 10.0**-places:
        places += 1
    text = f"{value:+.{places}f}"
    if not float(text):
        # No sign before a 0 that rounding made.
        return text[1:]
    return text.replace("-", "−")


def magnitude(value: float, margin: float = 0.0) -> str:
    """Write a difference of AUCs without its sign."""
    return signed(value, margin).lstrip("+−-")


def bracketed(interval: Interval, margin: float) -> str:
    """Write the interval of a difference of AUCs."""
    return f"[{signed(interval.low, margin)}, {signed(interval.high, margin)}]"


def sentence(candidate: Candidate, report: Report) -> str:
    """Say what a candidate's verdict means, with its numbers, and where parity is lost first."""
    return judged(candidate, report) + breaking(candidate)


def judged(candidate: Candidate, report: Report) -> str:
    """Say what a candidate's verdict means, with its numbers."""
    if candidate.verdict == "fails":
        return _failing(candidate, report)
    if candidate.verdict == "uninformative":
        return f"{candidate.name} cannot be judged: {no_discrimination(report)}"
    if candidate.verdict == "holds":
        return _holding(candidate, report.margin)
    return _undecided(candidate, report)


def _holding(candidate: Candidate, margin: float) -> str:
    name, difference = candidate.name, candidate.auc_difference
    if difference.low == difference.high == 0:
        return f"{name} has exactly the reference's AUC on these faces."
    low, high = signed(difference.low, margin), signed(difference.high, margin)
    # The rounded end decides the wording, so that it does not contradict the number shown.
    if float(low.replace("−", "-")) >= 0:
        return f"{name} loses no AUC (95 % interval {low} to {high}); the margin is {margin:g}."
    lost = magnitude(difference.low, margin)
    return f"{name} loses at most {lost} AUC (95 % interval); the margin is {margin:g}."


def _undecided(candidate: Candidate, report: Report) -> str:
    name, margin = candidate.name, report.margin
    known = report.reference.discrimination
    # First: with few groups the interval itself is not to be trusted.
    if known.few_groups:
        return (
            f"{name} cannot be judged: a verdict needs at least {MIN_GROUPS} independent groups of "
            f"each class, and these faces have {known.real_groups} real and {known.fake_groups} "
            "fake (faces of one video or of one person count as one)."
        )
    difference = candidate.auc_difference
    if difference.low > -margin:  # the AUC is kept: it is the scores that are not decided
        return f"{name} loses no more AUC than allowed, but {_concordance(candidate)}."
    decide = "the difference equals the margin, so more faces would hardly decide it."
    if candidate.faces_needed is not None:
        needed = _rounded(candidate.faces_needed)
        decide = f"about {needed:,} such faces would probably decide it."
    low, high = signed(difference.low, margin), signed(difference.high, margin)
    return (
        f"{name}: the test is inconclusive. The 95 % interval of the AUC difference, {low} to "
        f"{high}, includes the margin of −{margin:g}; {decide}"
    )


def _failing(candidate: Candidate, report: Report) -> str:
    name, margin, parity = candidate.name, report.margin, candidate.parity
    if parity.dead:
        low, high = parity.score_range
        return (
            f"{name} is dead: it gives all faces one score ({low:.4f} to {high:.4f}), while the "
            "reference's scores vary."
        )
    if parity.auc_difference.high < -margin:
        lost = f"at least {magnitude(parity.auc_difference.high, margin)} AUC (95 % interval)"
        return f"{name} loses {lost}; the margin is {margin:g}."
    flips = f"{parity.flips.total:,} of {report.dataset.faces:,} decisions change"
    return f"{name} does not follow the reference: {_concordance(candidate)}; {flips}."


def _concordance(candidate: Candidate) -> str:
    agreement = candidate.parity.concordance
    return (
        f"the concordance of its scores with the reference's is {agreement.estimate:.3f} (95 % "
        f"interval {agreement.low:.3f} to {agreement.high:.3f}), and {CONCORDANCE:g} is required"
    )


def no_discrimination(report: Report) -> str:
    """Say that the reference is not shown to tell real from fake; the end of a sentence."""
    interval = report.reference.discrimination.auc
    return (
        "the reference is not shown to tell real from fake on these faces (AUC "
        f"{auc(interval.estimate)}, 95 % interval {auc(interval.low)} to {auc(interval.high)})."
    )


def interval_kinds(report: Report) -> str:
    """Say where the intervals that decide come from."""
    kinds = dict.fromkeys(c.auc_difference.method for c in report.candidates)
    return "; ".join(INTERVALS[kind] for kind in kinds) or "none"


def breaking(candidate: Candidate) -> str:
    """Say at which stage parity is lost first; "" if it holds, or stages were left out."""
    kind = candidate.breaks_at
    if kind is None or all(stage.kind == "engine" for stage in candidate.stages):
        return ""
    text = f" The first stage that shows it: {STAGES[kind]}"
    missing = []
    for stage in candidate.stages:
        if stage.against_torch is None:
            missing.append(STAGES[stage.kind])
    if missing:
        text += f" (not run: {', '.join(missing)})"
    return f"{text}."


def failure(row: Failure) -> str:
    """Say that an engine failed, when, and why."""
    return f"{row.name} failed while {row.during}: {row.reason}"


def ability(report: Report) -> str:
    """Say how well the reference itself detects fakes: parity is parity with that, no more."""
    known = report.reference.discrimination
    face = report.reference.accuracy.face
    interval = f"{known.auc.low:.3f} to {known.auc.high:.3f}"
    groups = (
        f"; {known.real_groups:,} independent groups of real faces, {known.fake_groups:,} of "
        "fake ones"
    )
    estimate = report.reference.auc_interval.estimate
    return (
        f"The checkpoint's AUC on these {report.dataset.faces:,} faces is {estimate:.3f} (95 % "
        f"interval {interval}{groups}). At its threshold of {report.model.threshold:.3g} it "
        f"calls {percent(face.false_positive_rate)} of the real faces and "
        f"{percent(face.true_positive_rate)} of the fakes fake.{_recorded(report)}"
    )


def _recorded(report: Report) -> str:
    """Say where and when the checkpoint's scores were recorded; "" if it ran in this bench."""
    origin = report.reference.recorded
    if origin is None:
        return ""
    device = ""
    if origin.device:
        device = f" on {origin.device}"
    return (
        f" It did not run here: its scores were recorded on {origin.created[:10]} with torch "
        f"{origin.torch}{device} ({origin.machine}), by lpx {origin.lpx}."
    )


def percent(share: float) -> str:
    """Write a share in percent: one decimal below 10 % only, and never 0 or 100 for more."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1:
        return "less than 0.1 %"
    if value > 99.9:
        return "more than 99.9 %"
    if 9.95 <= value < 99.5:
        return f"{value:.0f} %"
    return f"{value:.1f} %"


def _rounded(count: int) -> int:
    """Round up to two significant digits: the estimate is no better than that."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return int(-(-count // unit) * unit)


def speed_notes(report: Report) -> list[str]:
    """Say how far times are to be relied on, and which engines are not shown to be faster.

    Every engine should be faster than PyTorch, and INT8 than the fastest float engine.
    """
    timed: list[tuple[str, LatencyResult]] = []
    for entry in report.entries:
        for row in entry.costs.latency_by_batch:
            timed.append((entry.name, row))
    notes = _unsteady(timed)
    for name, row in timed:
        for text in row.warnings:
            if not text.startswith(UNSTABLE):
                notes.append(f"{name}, batch {row.batch}: {text}.")
    for candidate in report.candidates:
        rivals = [REFERENCE]
        if candidate.precision == "int8":
            rivals += [speed.against for speed in candidate.costs.speed]
        for rival in dict.fromkeys(rivals):
            if note := _not_faster(candidate, rival):
                notes.append(note)
    return notes


def _not_faster(candidate: Candidate, rival: str) -> str:
    """Say at which batch sizes an engine is slower than another, or not shown to be faster.

    Returns:
        A sentence; "" if the engine is faster at every batch size, or was not timed.
    """
    slower, inconclusive, untested = [], [], []
    for speed in candidate.costs.speed:
        if speed.against != rival:
            continue
        if speed.test.verdict == "slower":
            slower.append(speed)
        elif speed.test.verdict == "inconclusive":
            inconclusive.append(speed)
        elif speed.test.verdict is None:
            untested.append(speed)
    # Tests with a verdict come first.
    unshown = inconclusive + untested
    if slower and unshown:
        clauses = (
            f"slower than {rival} {_at_batches(slower)}, and not shown to be faster "
            f"{_at_batches(unshown)}"
        )
    elif slower:
        clauses = f"slower than {rival} {_at_batches(slower)}"
    elif unshown:
        clauses = f"not shown to be faster than {rival} {_at_batches(unshown)}"
    else:
        return ""
    return f"{candidate.name} is {clauses}."


def _unsteady(timed: list[tuple[str, LatencyResult]]) -> list[str]:
    most: dict[str, float] = {}
    for name, row in timed:
        if any(text.startswith(UNSTABLE) for text in row.warnings):
            cov = row.cov
            if row.device is not None:
                cov = row.device.compute_cov
            most[name] = max(most.get(name, 0.0), cov)
    if not most:
        return []
    shares = ", ".join(f"{100 * share:.0f} % ({name})" for name, share in most.items())
    return [
        f"Times varied from call to call by more than {100 * UNSTABLE_COV:g} %, by up to {shares}. "
        "Lock the clocks and leave the machine alone before relying on small differences."
    ]


def _at_batches(tests: list[Speed]) -> str:
    return " and ".join(f"at batch {speed.batch} ({_evidence(speed.test)})" for speed in tests)


def _evidence(test: SpeedTest) -> str:
    """Write the paired ratio alone: medians of all calls, in the table, may point the other way."""
    if test.verdict is None:
        return f"timed in {test.rounds} rounds, too few for a verdict: measure for longer"
    ratio = test.ratio
    return (
        f"{'inconclusive: ' * (test.verdict == 'inconclusive')}{significant(ratio.estimate)} times "
        f"as long, 95 % interval {significant(ratio.low)} to {significant(ratio.high)}, paired "
        f"over {test.rounds} rounds"
    )
