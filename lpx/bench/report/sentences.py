"""A report in words: its numbers, its verdict, its warnings and what its times say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from lpx.bench.parity.parity import CONCORDANCE, overall
from lpx.bench.performance.latency import UNSTABLE, UNSTABLE_COV

STAGES = {
    "onnx": "exported model in ONNX Runtime",
    "graph": "its graph in ONNX Runtime",
    "engine": "the engine itself",
}
"""A stage on the way from checkpoint to engine, by its kind."""
INTERVALS = {
    "bootstrap": "2,000 resamples of whole groups (faces of one video or person)",
    "delong": "DeLong's, for independent faces",
    "one pair": "no rank swaps observed; width of one swapped pair assumed",
}
"""Where an interval comes from, by its method."""


def has_map(report: Mapping[str, Any]) -> bool:
    """Whether the model scores patches, rather than whole faces alone."""
    return list(report["model"]["grid"]) != [1, 1]


def significant(value: float, digits: int = 3) -> str:
    """Write a number of at least 0 with `digits` significant digits: 0.0123, 1.23, 12.3, 1,234."""
    if not value:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4:
        return re.sub(r"e-0?", "e−", f"{value:.1e}")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def auc(value: float) -> str:
    """Write an AUC."""
    return f"{value:.4f}"


def signed(value: float, margin: float = 0.0) -> str:
    """Write a difference of AUCs, with as many digits as it takes to tell it from -margin."""
    places = 4
    while margin and places < 8 and 0 < abs(value + margin) < 10.0**-places:
        places += 1
    text = f"{value:+.{places}f}"
    return text[1:] if not float(text) else text.replace("-", "−")


def magnitude(value: float, margin: float = 0.0) -> str:
    """Write a difference of AUCs without its sign."""
    return signed(value, margin).lstrip("+−-")


def sentence(candidate: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Say what a candidate's verdict means, with its numbers, and where parity is lost first."""
    return _judged(candidate, report) + breaking(candidate)


def _judged(candidate: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    name, margin = candidate["name"], report["margin"]
    verdict, found = candidate["verdict"], candidate["auc_difference"]
    low, high = (signed(found[end], margin) for end in ("low", "high"))
    if verdict == "fails":
        return _failing(candidate, report)
    if verdict == "uninformative":
        return f"{name} cannot be judged: {_no_discrimination(report)}"
    if verdict == "holds":
        if found["low"] == found["high"] == 0:
            return f"{name} has exactly the reference's AUC on these faces."
        if float(low.replace("−", "-")) >= 0:
            return f"{name} loses no AUC (95 % interval {low} to {high}); the margin is {margin:g}."
        lost = magnitude(found["low"], margin)
        return f"{name} loses at most {lost} AUC (95 % interval); the margin is {margin:g}."
    known = report["reference"]["discrimination"]
    if known["few_groups"]:
        return (
            f"{name} cannot be judged: a verdict takes at least {known['min_groups']} independent "
            f"groups of each class, and these faces have {known['real_groups']} real and "
            f"{known['fake_groups']} fake (faces of one video or of one person count as one)."
        )
    if found["low"] > -margin:  # the AUC is kept, so the scores are what is not decided
        return f"{name} loses no more AUC than allowed, but {_concordance(candidate)}."
    needed = candidate["faces_needed"]
    decide = (
        "the difference lies on the margin, so that more faces would hardly decide it."
        if needed is None
        else f"about {_rounded(needed):,} such faces would probably decide it."
    )
    return (
        f"{name}: the AUC difference lies between {low} and {high} (95 % interval), on both sides"
        f" of the margin of −{margin:g}; {decide}"
    )


def _failing(candidate: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    name, margin = candidate["name"], report["margin"]
    found = candidate["auc_difference"]
    lost = f"at least {magnitude(found['high'], margin)} AUC (95 % interval)"
    if candidate["dead"]:
        low, high = candidate["score_range"]
        return (
            f"{name} is dead: it gives all faces one score ({low:.4f} to {high:.4f}), while the "
            "reference's scores vary."
        )
    if found["high"] < -margin:
        return f"{name} loses {lost}; the margin is {margin:g}."
    flips = f"{candidate['flips']:,} of {report['faces']:,} decisions change"
    return f"{name} does not follow the reference: {_concordance(candidate)}; {flips}."


def _concordance(candidate: Mapping[str, Any]) -> str:
    found = candidate["concordance"]
    return (
        f"the concordance of its scores with the reference's is {found['estimate']:.3f} (95 % "
        f"interval {found['low']:.3f} to {found['high']:.3f}), and {CONCORDANCE:g} is required"
    )


def _no_discrimination(report: Mapping[str, Any]) -> str:
    found = report["reference"]["discrimination"]["auc_interval"]
    return (
        "the reference is not shown to tell real from fake on these faces (AUC "
        f"{auc(found['estimate'])}, 95 % interval {auc(found['low'])} to {auc(found['high'])})."
    )


def interval_kinds(report: Mapping[str, Any]) -> str:
    """Say where the intervals that decide come from."""
    kinds = dict.fromkeys(c["auc_difference"]["method"] for c in report["candidates"])
    return "; ".join(INTERVALS[kind] for kind in kinds) or "none"


def breaking(candidate: Mapping[str, Any]) -> str:
    """Say at which stage parity is lost first; "" where it holds, or stages were left out."""
    kind = candidate["breaks_at"]
    if kind is None or not any(stage["kind"] != "engine" for stage in candidate["stages"]):
        return ""
    lacking = [STAGES[s["kind"]] for s in candidate["stages"] if s["against_torch"] is None]
    unless = f" (not run: {', '.join(lacking)})" if lacking else ""
    return f" The first stage that shows it: {STAGES[kind]}{unless}."


def failure(row: Mapping[str, Any]) -> str:
    """Say of an engine that it failed, when, and why."""
    return f"{row['name']} failed while {row['during']}: {row['reason']}"


def headline(report: Mapping[str, Any]) -> str:
    """Say what the verdict means: that of the engine that decided it, and of how many."""
    candidates, failed = report["candidates"], sorted({row["name"] for row in report["failed"]})
    lost = f"{', '.join(failed)} failed. " if failed else ""
    if not candidates:
        return f"{lost}No engine could be measured."
    decisive = _decisive(report)
    verdict, few = decisive["verdict"], report["reference"]["discrimination"]["few_groups"]
    if verdict == "uninformative" and len(candidates) > 1:
        return f"{lost}No engine can be judged: {_no_discrimination(report)}"
    said = sentence(decisive, report)
    if len(candidates) == 1 or (verdict == "undecided" and few):
        return lost + said
    count = sum(c["verdict"] == verdict for c in candidates)
    share = f"{count} of {len(candidates)} engines"
    everyone = "Both" if len(candidates) == 2 else f"All {len(candidates)}"
    lead = {
        "holds": f"{everyone} engines {'that ran ' * bool(lost)}keep the AUC. At worst, ",
        "fails": f"{share} fail{'s' if count == 1 else ''}. {'At worst, ' if count > 1 else ''}",
        "undecided": f"{report['faces']:,} faces do not decide {share}. ",
    }
    return lost + lead[verdict] + said


def ability(report: Mapping[str, Any]) -> str:
    """Say how well the reference itself tells these faces apart: parity is of that, no more."""
    reference, known = report["reference"], report["reference"]["discrimination"]
    face = reference["accuracy"]["face"]
    low, high = (f"{known['auc_interval'][end]:.3f}" for end in ("low", "high"))
    groups = (
        f"; {known['real_groups']:,} independent groups of real faces, {known['fake_groups']:,} of "
        "fake ones"
    )
    return (
        f"The checkpoint's AUC on these {report['faces']:,} faces is {reference['auc']:.3f} (95 % "
        f"interval {low} to {high}{groups}). At its threshold of {report['threshold']:.3g} it "
        f"calls {percent(face['false_positive_rate'])} of the real faces and "
        f"{percent(face['true_positive_rate'])} of the fakes fake."
    )


def percent(share: float) -> str:
    """Write a share in percent: no decimals, but one below 10 %, and never 0 or 100 for more."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 0.1:
        return "less than 0.1 %"
    if value > 99.9:
        return "more than 99.9 %"
    return f"{value:.1f} %" if value < 9.95 or value >= 99.5 else f"{value:.0f} %"


def _decisive(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """The candidate that does worst of those with the worst verdict."""
    worst_verdict = overall([c["verdict"] for c in report["candidates"]])
    end = "high" if worst_verdict == "fails" else "low"
    alike = [c for c in report["candidates"] if c["verdict"] == worst_verdict]
    worst: Mapping[str, Any] = min(
        alike, key=lambda c: (not c["dead"], float(c["auc_difference"][end]))
    )
    return worst


def others(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Verdict and sentence of the candidates that the headline leaves out."""
    if not report["candidates"]:
        return []
    decisive = _decisive(report)
    rest = (c for c in report["candidates"] if c is not decisive)
    return [(c["verdict"], sentence(c, report)) for c in rest]


def _rounded(count: int) -> int:
    """Two significant digits, upwards: an estimate of faces knows no more."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return int(-(-count // unit) * unit)


def warnings(report: Mapping[str, Any]) -> list[str]:
    """All that a reader must know, what the numbers themselves warn of first."""
    found: list[str] = []
    reference = report["reference"]
    known = reference["discrimination"]
    if known["direction"] == "real higher":
        ends = (auc(known["auc_interval"][end]) for end in ("low", "high"))
        found.append(
            f"Classes look reversed: the reference scores real faces higher than fake ones (AUC "
            f"{auc(reference['auc'])}, 95 % interval {' to '.join(ends)}). Differences are counted "
            "in its direction. Check the labels of the set, and which class of the model is fake: "
            "`lpx export --fake-class`."
        )
    if known["direction"] == "none":
        text = _no_discrimination(report)
        found.append(f"{text[0].upper()}{text[1:]} Parity with it says little.")
    found += [
        f"{c['name']} is dead: it gives all faces one score."
        for c in report["candidates"]
        if c["dead"]
    ]
    if reference["auc"] in (0.0, 1.0):
        found.append(
            "The reference separates these faces perfectly: parity here says nothing of harder "
            "faces."
        )
    found += report["warnings"]
    found += [f"{c['name']}: {text}" for c in report["candidates"] for text in c["warnings"]]
    return list(dict.fromkeys(found))


def speed_notes(report: Mapping[str, Any]) -> list[str]:
    """Say in words how far times are to be relied on, and which engines are no faster.

    Every engine should be faster than PyTorch, and INT8 than the fastest float engine.
    """
    timed = [(entry["name"], row) for entry in entries(report) for row in entry["latency_by_batch"]]
    notes = _unsteady(timed) + [
        f"{name}, batch {row['batch']}: {text}."
        for name, row in timed
        for text in row["warnings"]
        if not text.startswith(UNSTABLE)
    ]
    for entry in report["candidates"]:
        rivals = ["torch"]
        if entry["precision"] == "int8":
            rivals += [f["against"] for f in entry["speed"]]
        for rival in dict.fromkeys(rivals):
            found = [
                f for f in entry["speed"] if f["against"] == rival and f["verdict"] != "faster"
            ]
            if found:
                slower = any(f["verdict"] == "slower" for f in found)
                verb = "is slower" if slower else "is not shown to be faster"
                # What has a verdict comes first.
                found.sort(key=lambda f: f["verdict"] is None)
                said = "; ".join(map(_no_faster, found))
                notes.append(f"{entry['name']} {verb} than {rival}: {said}.")
    return notes


def _unsteady(timed: list[tuple[str, dict[str, Any]]]) -> list[str]:
    most: dict[str, float] = {}
    for name, row in timed:
        if any(text.startswith(UNSTABLE) for text in row["warnings"]):
            most[name] = max(most.get(name, 0.0), _variation(row))
    if not most:
        return []
    found = ", ".join(f"{100 * share:.0f} % ({name})" for name, share in most.items())
    return [
        f"Times varied from call to call by more than {100 * UNSTABLE_COV:g} %, by up to {found}. "
        "Lock the clocks and leave the machine alone before relying on small differences."
    ]


def _variation(row: Mapping[str, Any]) -> float:
    return float(row["device"]["compute_cov"] if row["device"] else row["cov"])


def _no_faster(found: Mapping[str, Any]) -> str:
    """The paired ratio alone: medians of all calls, in the table, may point the other way."""
    ratio, batch = significant(found["ratio"]), found["batch"]
    if None in (found["low"], found["high"]):
        return (
            f"batch {batch} was timed in {found['rounds']} rounds, too few for a verdict: raise "
            "--latency-seconds"
        )
    low, high = significant(found["low"]), significant(found["high"])
    return (
        f"it takes {ratio} times as long at batch {batch} (95 % interval {low} to {high}, paired "
        f"over {found['rounds']} rounds)"
    )


def entries(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The report's engines, the reference first."""
    return [report["reference"], *report["candidates"]]


def median_ms(entry: Mapping[str, Any], batch: int) -> float:
    """Median milliseconds per face at a batch size that was measured."""
    return next(
        float(row["per_face_p50_ms"]) for row in entry["latency_by_batch"] if row["batch"] == batch
    )
