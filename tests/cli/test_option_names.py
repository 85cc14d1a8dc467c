"""Errors of the library name its arguments; the command line names its options instead."""

from __future__ import annotations

import pytest

from lpx.cli.main import cli
from lpx.cli.option_names import command_of, error_text, with_options
from lpx.errors import InvalidArgumentError, LpxError


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (["build", "--int8"], "build"),
        (["data", "prepare", "ffpp"], "prepare"),
        (["-h"], "cli"),
        (["nonsense"], "cli"),
        ([], "cli"),
        (["explain-graph", "x"], "explain-graph"),
    ],
)
def test_command_of_a_line(line, name):
    assert command_of(cli, line).name == name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("leave out `hardware_compatible`", "leave out --hardware-compatible"),
        ('use `target="onnxruntime"`', "use --target onnxruntime"),
        ("pass `tf32=False`", "pass --no-tf32"),
        ("pass `version_compatible=True`", "pass --version-compatible"),
        ("pass `dla_core`", "pass --dla"),
        ("run `lpx doctor`, see `model.onnx`", "run `lpx doctor`, see `model.onnx`"),
        ("pass `detector=None`", "pass --crops"),
        ("`unheard_of` stays", "`unheard_of` stays"),
    ],
)
def test_arguments_become_options(text, shown):
    assert with_options(text, command_of(cli, ["build"])) == shown


def test_an_argument_that_starts_an_error():
    build = command_of(cli, ["build"])
    error = InvalidArgumentError("dla_core", "must be >= 0", -1, "of a Jetson", "leave out `batch`")
    assert error_text(error, build).splitlines() == [
        "--dla must be >= 0 (got -1)",
        "  why: of a Jetson",
        "  fix: leave out --batch",
    ]


def test_other_errors_keep_their_words():
    error = LpxError("limit is a word", "", "")
    assert error_text(error, command_of(cli, ["bench"])) == "limit is a word"
