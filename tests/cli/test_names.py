"""Names that look like markup or emoji codes are printed as they are."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.table import Table

from lpx.bench.report.document.entries import StageParity
from lpx.bench.report.markdown import escaped, table
from lpx.cli import bench_tables
from lpx.cli.console import ConsoleReporter, Output
from lpx.metrics import Interval
from tests.support.reports import full_report

NAMES = ("[old]", "a:x:b", "a[/b]", "[bold red]", "[link=x]", ":smile:", r"back\[slash", "[[x]]")


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_notes_bars_and_results(capsys, monkeypatch, name, terminal):
    monkeypatch.setenv("COLUMNS", "200")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    with ConsoleReporter() as report:
        report.say(f"faces of {name}")
        tell = report.progress(f"calibrating on {name}")
        tell(1, 2)
        if terminal:
            report.bars.refresh()
        tell(2, 2)
    Output().say(f"written: {name}", "bold")
    out, err = capsys.readouterr()
    assert f"faces of {name}" in err
    assert f"calibrating on {name}" in err
    assert f"written: {name}" in out


def test_methods_in_the_table_of_a_set(lpx, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    methods = [name for name in NAMES if "/" not in name]
    for folder in ("real", *(f"fake/{name}" for name in methods)):
        (tmp_path / folder).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / folder / "0.png"), np.zeros((16, 16, 3), np.uint8))
    ran = lpx("data", "info", tmp_path)
    assert ran.code == 0, ran.err
    assert {line.split()[1] for line in ran.out.splitlines() if " fake " in line} == {
        name.split()[0] for name in methods
    }
    assert "[bold red]" in ran.out


def test_intervals_and_verdicts_in_the_tables_of_a_bench(capsys, monkeypatch):
    """Whose own brackets are no markup either."""
    monkeypatch.setenv("COLUMNS", "200")
    report = full_report()
    engine = report.candidates[0]
    parity = replace(engine.parity, auc_difference=Interval(-0.01, -0.02, 0.0), verdict="fails")
    stage = StageParity("engine", "", parity, parity)
    engine = replace(engine, name="engine[old]", parity=parity, stages=(stage,), breaks_at="engine")
    report = replace(report, candidates=(engine,))
    console = Output()
    console.print(bench_tables.parity(report))
    console.print(bench_tables.stages(report))
    out = capsys.readouterr().out
    assert out.count("engine[old]") == 2
    assert out.count("-0.0100 [-0.0200, +0.0000]") == 2
    assert "fails <- first" in out


MARKED = (
    *NAMES,
    *("a|b", "a\\|b", "<b>x</b>", "<!-- x -->", "`code`", "&lt;", "&amp;amp;", "~~x~~", "$x$"),
    *("*x*", "__x__", "#1", "![x](y)", "[x](y)", "@people", "https://x.org", "www.x.org", "GH-1"),
)


def shown(markdown):
    """The text that a reader of Markdown sees, by lines and cells."""
    tokens = MarkdownIt().enable(["table", "strikethrough"]).parse(markdown)
    inlines = [token.children for token in tokens if token.type == "inline"]
    kinds = {child.type for inline in inlines for child in inline}
    assert kinds <= {"text", "text_special", "html_inline"}
    marks = {c.content for inline in inlines for c in inline if c.type == "html_inline"}
    assert marks <= {"<!-- -->"}
    return [
        "".join(child.content for child in inline if child.type != "html_inline")
        for inline in inlines
    ]


@pytest.mark.parametrize("name", MARKED)
def test_names_in_markdown(name):
    assert shown(f"Faces of {escaped(name)}.") == [f"Faces of {name}."]
    assert shown(table(("engine", "faces"), [[name, "1"]])) == ["engine", "faces", name, "1"]


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12))
def test_any_name_in_markdown(name):
    name = " ".join(name.split()) or "-"  # runs of blanks are one in Markdown
    assert shown(f"x {escaped(name)} x") == [f"x {name} x"]


HOSTILE = {
    "\x1b[2J.png": r"\x1b[2J.png",
    "\x1b]0;title\x07.png": r"\x1b]0;title\x07.png",
    "real\nfake.png": r"real\x0afake.png",
    "gpj.\u202eexe.png": r"gpj.\u202eexe.png",
    "\u2066a\u2069\u2028.png": r"\u2066a\u2069\u2028.png",
    "\udcfc.png": r"\xfc.png",
}
"""Names that a terminal would obey, and as they are shown."""


@pytest.mark.parametrize(("name", "said"), HOSTILE.items())
def test_names_that_a_terminal_would_obey(lpx, workspace, crops, monkeypatch, name, said):
    monkeypatch.setenv("COLUMNS", "200")
    (crops / "real" / name).write_bytes((crops / "real" / "0.png").read_bytes())
    (crops / "fake" / name).write_text("no picture")
    for line in (["predict", "--crops", "crops"], ["data", "info", "crops"]):
        ran = lpx(*line)
        assert ran.code == 0, ran.err
        for text in (ran.out, ran.err):
            assert all(sign.isprintable() for sign in text.replace("\n", ""))
    ran = lpx("predict", "--crops", "crops", "--json")
    json.loads(ran.out.encode("utf-8"))
    assert said in (workspace.predictions / "scores.csv").read_text(encoding="utf-8")
    assert lpx("predict", f"crops/fake/{name}").code == 2


def test_errors_and_notes_spell_out_what_a_terminal_would_obey(lpx, capsys):
    ran = lpx("predict", "a\x1b[2J\u202e.png", "-w", "nowhere")
    assert ran.code == 2
    assert r"a\x1b[2J\u202e.png does not exist" in ran.err
    Output().say("x\x1b[2J")
    Output().print(Table("a\x1b[2J"))
    with ConsoleReporter() as report:
        report.say("y\u202e")
        report.progress("z\x1b[2J")(1, 1)
    out, err = capsys.readouterr()
    assert "\x1b[2J" not in out + err
    assert "\u202e" not in out + err


def test_names_that_are_not_utf_8_have_a_picture_each(lpx, workspace, crops):
    for byte in (b"\xfc", b"\xe4"):
        name = os.fsdecode(bytes(crops) + b"/real/latin-" + byte + b".png")
        Path(name).write_bytes((crops / "real" / "0.png").read_bytes())
    ran = lpx("predict", "--crops", "crops", "--json")
    assert ran.code == 0, ran.err
    files = json.loads(ran.out)["files"]
    pictures = [Path(file["picture"]) for file in files]
    assert len(set(pictures)) == len(files) == len({file["file"] for file in files})
    assert all(picture.is_file() for picture in pictures)


def test_folders_that_are_not_utf_8(lpx, workspace, crops):
    """As the place of results, and as a set."""
    place = os.fsdecode(b"out-\xfc")
    ran = lpx("predict", "--crops", "crops/real", "--out", place)
    assert ran.code == 0, ran.err
    (Path(place) / "scores.csv").read_text(encoding="utf-8")
    crops.rename(os.fsdecode(bytes(crops) + b"-\xfc"))
    ran = lpx(
        "bench",
        "--dataset",
        os.fsdecode(b"crops-\xfc"),
        "--latency-seconds",
        0,
        "--candidates",
        "onnxruntime-fp32",
    )
    assert ran.code == 0, ran.err


@pytest.mark.parametrize("name", ["@people", "https://x.org", "www.x.org", "GH-1", "#1", "a@b.org"])
def test_nobody_is_called_and_nothing_linked_in_markdown(name):
    assert name not in escaped(name)
    assert "<!-- -->" in escaped(name)
    assert "\x1b" not in escaped("\x1b[2J")
