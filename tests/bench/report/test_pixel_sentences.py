"""What a report says of faces that are resized as other pipelines do, in all its forms."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from rich.console import Console

from lpx.bench.parity.pixels import StageResults
from lpx.bench.report.compare import compare, render_comparison
from lpx.bench.report.document.entries import PixelSummary
from lpx.bench.report.headline import headline, warnings
from lpx.bench.report.html import render_html
from lpx.bench.report.markdown import render_markdown
from lpx.bench.report.pixel_sentences import listed, pixel_facts, pixel_verdicts
from lpx.cli import bench_tables
from lpx.cli.bench import exit_code
from lpx.data.pipelines.table import PIPELINES
from tests.support.reports import full_report, on_pixels, report_of, result

QUIET = {"torch": 0.0, "onnxruntime-fp32": 1e-5, "onnxruntime-int8": 2e-5}


@pytest.fixture(scope="module")
def report():
    """Parity holds but on the pixels of one pipeline; the other was not scored."""
    return report_of(on_pixels(result(400, noise=QUIET), noise=0.35))


@pytest.fixture(scope="module")
def kept():
    """Parity holds on the pixels of the pipeline that was scored."""
    bench = on_pixels(result(400, noise=QUIET), noise=0.0)
    pixels = {name: rows[:1] for name, rows in bench.stages.pixels.items()}
    stages = StageResults(bench.stages.graphs, pixels, bench.stages.facts[:1])
    return report_of(replace(bench, stages=stages))


def test_a_loss_on_pixels_that_were_asked_for_is_the_verdict(report, kept):
    assert report.engine_verdict == "holds"
    assert [line.verdict for line in pixel_verdicts(report)] == ["fails", "undecided"]
    assert report.verdict == "fails"
    assert exit_code(report.verdict) == 1
    assert kept.verdict == kept.engine_verdict == "holds"
    assert exit_code(kept.verdict) == 0


def test_pixels_that_were_not_scored_are_not_shown_to_keep_the_auc():
    bench = on_pixels(result(400, noise=QUIET), noise=0.0)
    report = report_of(bench)
    assert [line.verdict for line in pixel_verdicts(report)] == ["holds", "undecided"]
    assert report.verdict == "undecided"


def test_the_headline_tells_pixels_from_engines(report, kept):
    assert headline(report).startswith(
        "Parity fails on the pixels of deepstream, and is undecided on the pixels of "
        "opencv-linear. On lpx's own pixels it holds: Both engines keep the AUC."
    )
    assert headline(kept).startswith("Both engines keep the AUC.")


def test_each_pipeline_has_a_sentence_with_its_numbers(report):
    lost, missing = pixel_verdicts(report)
    assert re.match(
        r"onnxruntime-\w+ on these pixels .* The pixels alone change its AUC by "
        r"−0\.\d+ \[−0\.\d+, [−+]0\.\d+\]\.$",
        lost.text,
    )
    assert missing.text.endswith("on these pixels was not scored: RuntimeError: no memory.")


def test_a_loss_by_pixels_is_warned_of_once_for_all_engines(report, kept):
    said = [text for text in warnings(report) if "lost by the pixels of deepstream" in text]
    assert len(said) == 1
    assert said[0].startswith("Parity of onnxruntime-fp32 and onnxruntime-int8 is lost")
    assert not any("lost by the pixels" in text for text in warnings(kept))


def test_an_engine_that_fails_anyway_is_not_said_to_fail_by_pixels(report):
    engines = []
    for candidate in report.candidates:
        parity = replace(candidate.parity, verdict="fails")
        engines.append(replace(candidate, parity=parity))
    failing = replace(report, candidates=tuple(engines))
    assert not any("lost by the pixels" in text for text in warnings(failing))
    assert not headline(failing).startswith("Parity")


def test_pixels_that_are_the_same_are_warned_of(report):
    (said,) = [text for text in warnings(report) if "opencv-linear" in text]
    assert said == (
        "The pixels of opencv-linear are lpx's own on all of these faces, of which 0 are larger "
        "than 64 px: its figures say nothing about larger crops."
    )


def test_crops_of_the_models_size_are_warned_of(report):
    summary = replace(report.pixels[0], faces_resized=0, faces_shrunk=0, median_side_px=64.0)
    there = replace(report, pixels=(summary,))
    (said,) = [text for text in warnings(there) if text.startswith("All crops")]
    assert said == (
        "All crops are 64 px already: the figures of deepstream say nothing about its resize, only "
        "about its colours and its rounding of sizes."
    )
    assert pixel_facts(summary, there).endswith("on average; all crops are 64 px already.")


@pytest.mark.parametrize(
    ("side", "changed", "said"),
    [
        (
            128.0,
            400,
            "400 of 400 faces differ, by 1.25 of 255 on average; crops of 128 px (median) are "
            "shrunk 2.00 times.",
        ),
        (40.5, 0, "0 of 400 faces differ; crops of 40.5 px (median) become 64 px."),
    ],
)
def test_facts(report, side, changed, said):
    pipeline = PIPELINES["nv12"]
    summary = PixelSummary("nv12", 1, pipeline.text, changed, 400, 0, side, 1.25)
    assert pixel_facts(summary, report) == f"nv12: {pipeline.text}. {said}"


def test_every_form_shows_every_pipeline_and_engine(report):
    bench = on_pixels(result(400, noise=QUIET), noise=0.35)
    page, text = render_html(report, bench), render_markdown(report)
    console = Console(width=80, record=True, color_system=None)
    console.print(bench_tables.pixels(report))
    table = console.export_text()
    assert 'href="#pixels"' in page
    rows = page[page.index('id="pixels-table"') : page.index('id="detection"')]
    for name in ("onnxruntime-fp32", "onnxruntime-int8"):
        assert rows.count(f'<td class="engine">{name}</td>') == 2
        assert table.count(name) == 2
    assert rows.count("not scored: RuntimeError: no memory") == 2
    assert "Faces resized as other pipelines do" in text
    assert text.count("| deepstream |") == text.count("| opencv-linear |") == 2
    assert table.count("pixels alone") == 2
    assert max(map(len, table.splitlines())) <= 80


def test_a_report_without_pixels_has_no_section():
    bench = result(60)
    page, text = render_html(report_of(bench), bench), render_markdown(report_of(bench))
    assert 'id="pixels"' not in page
    assert "other pipelines" not in text


def test_comparing_reports_notices_a_loss_on_pixels(report, kept):
    before = replace(report, candidates=tuple(_with_verdict(report, "holds")))
    found = compare(before, report)
    (first, *_) = [change for change in found.changes if change.kind == "pixels"]
    assert first.figure == "AUC parity, pixels of deepstream"
    assert (first.before, first.after, first.regression) == ("holds", "fails", True)
    assert "AUC parity, pixels of deepstream" in render_comparison(found)
    # The other pipeline could not be scored, before or after.
    assert len(found.regressions) == 2


def test_pixels_that_one_report_lacks(report):
    plain = replace(
        report, pixels=(), candidates=tuple(replace(c, pixels=()) for c in report.candidates)
    )
    added = [c for c in compare(plain, report).changes if c.kind == "pixels"]
    assert {c.note for c in added} == {"not scored before"}
    assert not any(c.regression or c.unjudged for c in added)
    left = [c for c in compare(report, plain).changes if c.kind == "pixels"]
    assert all(c.unjudged and not c.regression for c in left)
    assert {c.note for c in left} == {"not judged: not scored now"}


def _with_verdict(report, verdict):
    for candidate in report.candidates:
        rows = []
        for row in candidate.pixels:
            parity = row.against_torch and replace(row.against_torch, verdict=verdict)
            rows.append(replace(row, against_torch=parity))
        yield replace(candidate, pixels=tuple(rows))


def test_names_in_a_sentence():
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a and b"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_everything_is_in_the_full_report():
    report = full_report()
    assert [summary.pipeline for summary in report.pixels] == ["deepstream", "opencv-linear"]
    assert all(len(candidate.pixels) == 2 for candidate in report.candidates)
