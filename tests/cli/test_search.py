"""`lpx sensitivity`, and `lpx build --int8 --search`."""

from __future__ import annotations

import json
import signal

import pytest

from lpx.interrupts import Interrupted


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--int8", "--margin", "0.01"), "--margin needs --search"),
        (("--int8", "--budget-minutes", "3"), "--budget-minutes needs --search"),
        (("--int8", "--blocks"), "--blocks needs --search"),
        (("--search",), "use it with --int8 alone"),
        (("--search", "--int8", "--fp16"), "use it with --int8 alone"),
        (("--search", "--int8", "--plan", "p.json"), "cannot be combined with --plan"),
        (("--search", "--int8", "--emit", "trtexec"), "cannot be combined with --emit"),
        (("--search", "--int8", "--margin", "0"), "--margin must be > 0"),
        (("--search", "--int8", "--search-limit", "1"), "--search-limit must be >= 4"),
        (("--search", "--int8", "--search-faces", "nowhere"), "nowhere"),
    ],
)
def test_options_that_do_not_fit_are_refused(lpx, workspace, arguments, what):
    ran = lpx("build", *arguments)
    assert ran.code == 2
    assert what in ran.err


def test_a_search_prints_its_outcome_and_ends_with_its_exit_code(lpx, workspace):
    # So few faces decide nothing, whatever the engine does.
    arguments = ("--target", "onnxruntime", "--search-faces", "demo", "--search-limit", "16")
    ran = lpx("build", "--int8", "--search", "--margin", "0.45", *arguments, "--json")
    values = json.loads(ran.out)
    assert values["outcome"] == "no-plan"
    assert ran.code == 1
    assert values["trials"][0]["trial"]["verdict"] == "undecided"
    ran = lpx("build", "--int8", "--search", "--margin", "0.45", *arguments)
    assert ran.code == 1
    assert "no plan is shown to hold AUC" in ran.out
    assert "inconclusive" in ran.out


def test_sensitivity_lists_groups(lpx, workspace):
    ran = lpx("sensitivity", "--target", "onnxruntime", "--search-limit", "16")
    assert ran.code == 0
    assert "AUC difference" in ran.out
    assert "sensitivity.png" in ran.out
    ran = lpx("sensitivity", "--target", "onnxruntime", "--search-limit", "16", "--json")
    values = json.loads(ran.out)
    assert len(values["groups"]) == 24
    assert {"name", "weights", "multiply_accumulates", "auc_difference"} <= values["groups"][
        0
    ].keys()


def test_an_interrupted_search_says_that_it_resumes(lpx, workspace, monkeypatch):
    def interrupted(*given, **named):
        raise Interrupted(signal.SIGTERM)

    monkeypatch.setattr("lpx.api.search.search.survey", interrupted)
    ran = lpx("build", "--int8", "--search", "--target", "onnxruntime", "--search-limit", "16")
    assert ran.code == 143
    assert "what a search measured, are saved; run the same command to resume" in ran.err
