"""`lpx compare`: regressions from one report to another."""

from __future__ import annotations

import copy
import json

import pytest

from lpx import pipeline


@pytest.fixture(scope="module")
def made(built, tmp_path_factory):
    """A report with latencies that were not measured but written in."""
    import shutil

    from lpx.workspace import Workspace

    root = tmp_path_factory.mktemp("compared") / "lpx-out"
    shutil.copytree(built.root, root)
    report = pipeline.bench(Workspace(root), "demo", limit=24, latency_seconds=0).report
    for entry in (report["reference"], *report["candidates"]):
        entry["latency_by_batch"] = [
            {"batch": batch, "per_face_p50_ms": 10.0, "intervals_ms": {"p50": [9.0, 10.2]}}
            for batch in (1, 8)
        ]  # fmt: skip
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
        "per_face_p50_ms": 20.0, "intervals_ms": {"p50": [19.0, 21.0]}
    }  # fmt: skip


def unbounded(report):
    slower(report)
    report["candidates"][0]["latency_by_batch"][1]["intervals_ms"]["p50"] = [None, 11.4]


@pytest.mark.parametrize(
    "change", [small_loss, overlapping, hardly_slower, torch_slower, unbounded]
)
def test_what_is_within_bounds_is_none(compared, change):
    ran = compared(change)
    assert ran.code == 0, ran.out


def test_slower_is_what_the_user_says(compared):
    assert compared(hardly_slower, "--slower", 0.03).code == 1
    assert compared(slower, "--slower", 0.2).code == 0


def test_another_machine_is_told_first_and_latencies_are_not_judged(compared):
    def change(report):
        slower(report)
        report["environment"]["machine"]["jetson"] = {"power_mode": "15W"}

    ran = compared(change)
    assert ran.code == 0
    assert ran.out.startswith("warning: the machine or its power mode differs")
    assert "machine jetson power mode: – -> 15W" in ran.out
    assert "1.10 times as long, not judged" in ran.out
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
        (lambda r: r.pop("schema"), "is no report of lpx bench"),
        (lambda r: r.pop("candidates"), "lacks candidates"),
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
