"""`lpx compare`: regressions from one report to another."""

from __future__ import annotations

import copy
import json

import pytest


def estimate(mean, half):
    return {"mean": mean, "low": mean - half, "high": mean + half}


def energy(gross=2.0, net=0.5, half=0.05):
    """An energy that was not measured but written in."""
    return {
        "source": "ina3221: VDD_IN",
        "covers": "the board",
        "batch": 1,
        "windows": 5,
        "faces": 50,
        "gross_j_per_face": estimate(gross, half),
        "net_j_per_face": estimate(net, half),
    }


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """A report with latencies that were not measured but written in."""
    import shutil

    from lpx import Workspace
    from tests.support.costs import UNTIMED

    root = tmp_path_factory.mktemp("compared") / "lpx-out"
    shutil.copytree(built.root, root)
    report = Workspace(root).bench("demo", limit=24, costs=UNTIMED).report
    for entry in (report["reference"], *report["candidates"]):
        entry["latency_by_batch"] = [
            {"batch": batch, "per_face_p50_ms": 10.0, "intervals_ms": {"p50": [9.0, 10.2]}}
            for batch in (1, 8)
        ]
        entry["energy"] = energy()
        entry["verdict" if "dialect" in entry else "name"] = (
            "holds" if "dialect" in entry else "torch"
        )
    return json.loads(json.dumps(report))


@pytest.fixture
def compared(lpx, made, tmp_path):
    """Changes a copy of the report, and compares it with the report as it was."""

    def run(change, *options):
        after = copy.deepcopy(made)
        change(after)
        (tmp_path / "before").mkdir(exist_ok=True)
        (tmp_path / "before" / "report.json").write_text(json.dumps(made))
        (tmp_path / "after.json").write_text(json.dumps(after))
        return lpx("compare", tmp_path / "before", tmp_path / "after.json", *options)

    return run


def test_a_report_and_itself(compared):
    ran = compared(lambda report: None)
    assert ran.code == 0, ran.err
    assert ran.out.endswith("no regression\n")
    assert "REGRESSION" not in ran.out


def auc_falls(report):
    report["candidates"][1]["auc"] -= 0.006


def verdict_falls(report):
    report["candidates"][0]["verdict"] = "undecided"


def slower(report):
    row = report["candidates"][0]["latency_by_batch"][1]
    row |= {"per_face_p50_ms": 11.0, "intervals_ms": {"p50": [10.3, 11.4]}}


def more_gross_energy(report):
    report["candidates"][1]["energy"] = energy(gross=2.3)


def more_net_energy(report):
    report["candidates"][1]["energy"] = energy(gross=2.05, net=0.75)


def engine_is_gone(report):
    del report["candidates"][1]


def engine_fails(report):
    engine_is_gone(report)
    report["failed"].append(
        {"name": "onnxruntime-int8", "during": "scoring", "reason": "RuntimeError: no memory"}
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (auc_falls, "onnxruntime-int8  AUC: "),
        (verdict_falls, "onnxruntime-fp32  AUC parity: holds -> undecided"),
        (slower, "onnxruntime-fp32  ms per face, batch 8: 10 -> 11  (1.10 times as long)"),
        (
            more_gross_energy,
            "onnxruntime-int8  J per face, gross, batch 1: 2 -> 2.3  (1.15 times as much)",
        ),
        (
            more_net_energy,
            "onnxruntime-int8  J per face, net, batch 1: 0.5 -> 0.75  (1.50 times as much)",
        ),
        (engine_is_gone, "onnxruntime-int8  engine: ran -> –  (it is not measured any more)"),
        (engine_fails, "onnxruntime-int8  engine: ran -> –  (failed: RuntimeError: no memory)"),
    ],
)
def test_regressions_are_flagged(compared, change, said):
    ran = compared(change)
    assert ran.code == 1
    (flagged,) = (line for line in ran.out.splitlines() if line.startswith("REGRESSION"))
    assert said in flagged
    assert ran.out.endswith("1 regression\n")
    in_json = json.loads(compared(change, "--json").out)
    assert in_json["regressions"] == 1
    in_markdown = compared(change, "--markdown").out
    assert in_markdown.startswith("## ❌ 1 regression\n")
    assert in_markdown.count("| ❌ |") == 1


def small_loss(report):
    report["candidates"][1]["auc"] -= 0.004


def overlapping(report):
    row = report["candidates"][0]["latency_by_batch"][1]
    row |= {"per_face_p50_ms": 11.0, "intervals_ms": {"p50": [10.1, 12.0]}}


def hardly_slower(report):
    row = report["candidates"][0]["latency_by_batch"][1]
    row |= {"per_face_p50_ms": 10.4, "intervals_ms": {"p50": [10.3, 10.5]}}


def torch_slower(report):
    report["reference"]["latency_by_batch"][0] |= {
        "per_face_p50_ms": 20.0,
        "intervals_ms": {"p50": [19.0, 21.0]},
    }


def unbounded(report):
    slower(report)
    report["candidates"][0]["latency_by_batch"][1]["intervals_ms"]["p50"] = [None, 11.4]


def energies_overlap(report):
    report["candidates"][1]["energy"] = energy(gross=2.3, half=0.26)


def hardly_more_energy(report):
    report["candidates"][1]["energy"] = energy(gross=2.09, half=0.01)


def one_window(report):
    report["candidates"][1]["energy"] = energy(gross=9.0)
    report["candidates"][1]["energy"]["gross_j_per_face"] |= {"low": None, "high": None}


def torch_needs_more_energy(report):
    report["reference"]["energy"] = energy(gross=9.0)


@pytest.mark.parametrize(
    "change",
    [
        small_loss,
        overlapping,
        hardly_slower,
        torch_slower,
        unbounded,
        energies_overlap,
        hardly_more_energy,
        one_window,
        torch_needs_more_energy,
    ],
)
def test_what_is_within_bounds_is_none(compared, change):
    ran = compared(change)
    assert ran.code == 0, ran.out


def test_slower_is_what_the_user_says(compared):
    assert compared(hardly_slower, "--slower", 0.03).code == 1
    assert compared(slower, "--slower", 0.2).code == 0


def test_more_energy_is_what_the_user_says(compared):
    assert compared(hardly_more_energy, "--more-energy", 0.04).code == 1
    assert compared(more_gross_energy, "--more-energy", 0.2).code == 0
    assert "--more-energy -1 is not a share" in compared(more_gross_energy, "--more-energy", -1).err


def test_net_energy_below_nothing_is_compared_without_a_ratio(made):
    from lpx.bench.report.compare import compare_reports

    before, after = copy.deepcopy(made), copy.deepcopy(made)
    before["candidates"][0]["energy"] = energy(net=-0.1, half=0.01)
    after["candidates"][0]["energy"] = energy(net=0.1, half=0.01)
    (worse,) = compare_reports(before, after).regressions
    assert (worse.kind, worse.before, worse.after, worse.note) == ("energy", -0.1, 0.1, "more")
    assert not compare_reports(after, before).regressions


@pytest.mark.parametrize(
    ("energy_now", "said"),
    [
        (
            {"unavailable": "no rails"},
            "J per face, gross: 2 -> –  (not judged: unavailable now: no rails)",
        ),
        (None, "J per face, gross: 2 -> –  (not judged: not measured now)"),
        (
            energy(9.0) | {"batch": 8},
            "J per face, gross, batch 8: 2 -> 9  (4.50 times as much, not "
            "judged: batch was 1, is 8)",
        ),
        (
            energy(9.0) | {"source": "nvml"},
            "2 -> 9  (4.50 times as much, not judged: what measured "
            "it was ina3221: VDD_IN, is nvml)",
        ),
    ],
)
def test_energy_that_cannot_be_judged_is_told_and_no_regression(compared, energy_now, said):
    ran = compared(lambda report: report["candidates"][0].update(energy=energy_now))
    assert ran.code == 0, ran.out
    assert said in ran.out


def test_energy_that_came_to_be_measured_is_told(made):
    from lpx.bench.report.compare import compare_reports

    before = copy.deepcopy(made)
    before["candidates"][0]["energy"] = {"unavailable": "no rails"}
    before["candidates"][1]["energy"] = None
    notes = [c.note for c in compare_reports(before, made).changes if c.kind == "energy"]
    assert notes == ["not judged: unavailable before: no rails", "not judged: not measured before"]
    for report in (before, neither := copy.deepcopy(before)):
        report["candidates"][0]["energy"] = None
    assert not [c for c in compare_reports(before, neither).changes if c.kind == "energy"]


def test_another_machine_is_told_first_and_latencies_are_not_judged(compared):
    def change(report):
        slower(report)
        more_gross_energy(report)
        report["environment"]["machine"]["jetson"] = {"power_mode": "15W"}

    ran = compared(change)
    assert ran.code == 0
    assert ran.out.startswith("warning: the machine or its power mode differs")
    assert "machine jetson power mode: – -> 15W" in ran.out
    assert "1.10 times as long, not judged" in ran.out
    assert "1.15 times as much, not judged: another machine or power mode" in ran.out
    assert "**The machine differs" in compared(change, "--markdown").out


def test_other_versions_are_told_and_latencies_are_judged(compared):
    def change(report):
        slower(report)
        report["environment"]["versions"]["onnxruntime"] = "9.9"

    ran = compared(change)
    assert ran.code == 1
    assert "versions onnxruntime: " in ran.out.splitlines()[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r.update(schema="lpx-report/1"), "is a report of another version, lpx-report/1"),
        (lambda r: r.pop("schema"), "is not a report of lpx bench"),
        (lambda r: r.pop("candidates"), "missing fields: candidates"),
        (lambda r: r["dataset"].update(digest="0"), "the reports are of different faces"),
    ],
)
def test_reports_that_cannot_be_compared_are_refused(compared, change, said):
    ran = compared(change)
    assert ran.code == 2
    assert said in ran.err
    assert "fix: " in ran.err
    assert ran.out == ""


def test_what_is_not_there_is_refused(lpx, tmp_path):
    ran = lpx("compare", tmp_path, tmp_path / "x.json")
    assert ran.code == 2
    assert "report.json does not exist" in ran.err


def auc_unknown(report):
    report["candidates"][1]["auc"] = None


def test_an_auc_that_is_not_known_cannot_be_judged(compared):
    ran = compared(auc_unknown)
    assert ran.code == 4, ran.err
    assert "NOT JUDGED" in ran.out
    assert ran.out.endswith("no regression found, and 1 AUC cannot be judged\n")
    assert compared(auc_unknown, "--markdown").out.startswith("## ❔ no regression found")
    assert json.loads(compared(auc_unknown, "--json").out)["unjudged"] == 1


def test_a_regression_counts_more_than_what_cannot_be_judged(compared):
    def change(report):
        auc_unknown(report)
        verdict_falls(report)

    ran = compared(change)
    assert ran.code == 1
    assert ran.out.endswith("1 regression, and 1 AUC cannot be judged\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["candidates"][0].update(auc=float("nan")),
        lambda r: r["candidates"][0].update(auc=1.5),
        lambda r: r["candidates"][0].update(auc="0.9"),
        lambda r: r["candidates"][0].update(verdict="passes"),
        lambda r: r["candidates"][0].update(energy={}),
        lambda r: r["candidates"][0].update(name="torch fp32 \0"),
        lambda r: r["candidates"][0]["latency_by_batch"][0].update(per_face_p50_ms=-1.0),
        lambda r: r["candidates"][0]["latency_by_batch"][0].update(intervals_ms={}),
        lambda r: r["candidates"].append(r["candidates"][0]),
        lambda r: r.update(candidates={}),
        lambda r: r.update(margin=-1),
        lambda r: r.update(failed=[{}]),
        lambda r: r.update(environment=[]),
        lambda r: r["dataset"].pop("digest"),
        lambda r: r["reference"].pop("discrimination"),
    ],
)
def test_reports_that_no_bench_writes_are_refused(compared, change):
    ran = compared(change)
    assert ran.code == 2, ran.err
    assert "error: " in ran.err
    assert ran.out == ""
