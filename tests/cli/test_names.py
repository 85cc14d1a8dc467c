"""Names that look like markup or emoji codes are printed as they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lpx.bench.markdown import escaped, table
from lpx.cli import bench_tables
from lpx.cli.console import ConsoleReporter, Output

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
    difference = {"estimate": -0.01, "low": -0.02, "high": 0.0}
    found = {
        "auc_difference": difference,
        "score_difference": {"max": 0.1},
        "verdict": "fails",
    }
    candidate = {
        "name": "engine[old]",
        "auc": 0.9,
        "flips": 3,
        "breaks_at": "engine",
        "stages": [{"kind": "engine", "against_torch": found}],
        **found,
    }
    values = {"reference": {"auc": 0.91}, "candidates": [candidate]}
    console = Output()
    console.print(bench_tables.parity(values))
    console.print(bench_tables.stages(values))
    out = capsys.readouterr().out
    assert out.count("engine[old]") == 2
    assert out.count("-0.0100 [-0.0200, +0.0000]") == 2
    assert "fails <- first" in out


MARKED = (
    *NAMES,
    *("a|b", "a\\|b", "<b>x</b>", "<!-- x -->", "`code`", "&lt;", "&amp;amp;", "~~x~~", "$x$"),
    *("*x*", "__x__", "#1", "![x](y)", "[x](y)"),
)


def shown(markdown):
    """The text that a reader of Markdown sees, by lines and cells."""
    tokens = MarkdownIt().enable(["table", "strikethrough"]).parse(markdown)
    inlines = [token.children for token in tokens if token.type == "inline"]
    assert {child.type for inline in inlines for child in inline} <= {"text", "text_special"}
    return ["".join(child.content for child in inline) for inline in inlines]


@pytest.mark.parametrize("name", MARKED)
def test_names_in_markdown(name):
    assert shown(f"Faces of {escaped(name)}.") == [f"Faces of {name}."]
    assert shown(table(("engine", "faces"), [[name, "1"]])) == ["engine", "faces", name, "1"]


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=12))
def test_any_name_in_markdown(name):
    name = " ".join(name.split()) or "-"  # runs of blanks are one in Markdown
    assert shown(f"x {escaped(name)} x") == [f"x {name} x"]
