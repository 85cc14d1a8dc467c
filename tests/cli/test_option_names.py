"""Errors of the library name its arguments; the command line names its options instead."""

from __future__ import annotations

import inspect

import pytest

import lpx
from lpx import (
    AblationGrid,
    CapacityOptions,
    CostPlan,
    ForeignModel,
    LiveOptions,
    Recipe,
    TensorRTOptions,
    WeightOptions,
    Workspace,
)
from lpx.cli.main import cli
from lpx.cli.option_names import command_of, error_text, with_options
from lpx.errors import InvalidArgumentError, LpxError
from lpx.training.local_diversity import LocalDiversity
from lpx.training.run import RunOptions


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
        ("use `batches=(1, 8)`", "use --batch 1,8"),
        ("use `batches=(4,)`", "use --batch 4"),
        ("use `batches=BatchRange(1, 8, 32)`", "use --batch-range 1:8:32"),
    ],
)
def test_arguments_become_options(text, shown):
    assert with_options(text, command_of(cli, ["build"])) == shown


def test_an_argument_that_starts_an_error():
    build = command_of(cli, ["build"])
    error = InvalidArgumentError(
        "dla_core", "must be >= 0", -1, "of a Jetson", "leave out `batches`"
    )
    assert error_text(error, build).splitlines() == [
        "--dla must be >= 0 (got -1)",
        "  why: of a Jetson",
        "  fix: leave out --batch",
    ]


def test_folders_that_cannot_be_written_have_options():
    error = LpxError("x cannot be written", "", "use another folder", code="unwritable")
    assert "use another folder (-w DIR, --out DIR)" in error_text(
        error, command_of(cli, ["predict"])
    )


# Arguments that no option sets: objects made from several options, and settings of training that
# only the library has.
UNSET = {
    "costs",
    "limits",
    "weights",
    "tensorrt",
    "precisions",
    "foreign",
    "recipe",
    "grid",
    "options",
    "command",
    "diversity",
    "weight_decay",
    "ema",
    "held_out_pairs",
    "initial_weights_sha256",
    "warm_up",
    "progress_bar",
    "save_every_s",
    "callbacks",
    "first_pause_s",
    "longest_pause_s",
    "warm_up_seconds",
    "workers",
    "reporter",
    "self",
}


@pytest.mark.parametrize(
    ("line", "takes"),
    [
        ("export", (Workspace.export, ForeignModel)),
        ("calibrate", (Workspace.calibrate, Workspace.shard, WeightOptions)),
        ("build", (Workspace.build, TensorRTOptions, WeightOptions)),
        (
            "bench",
            (Workspace.bench, Workspace.shard, CostPlan, Workspace.capacity, CapacityOptions),
        ),
        ("predict", (Workspace.predict, Workspace.watch, LiveOptions)),
        ("debug", (Workspace.debug,)),
        ("explain", (Workspace.explain,)),
        ("pack", (Workspace.pack,)),
        ("package", (Workspace.package,)),
        ("unpack", (lpx.unpack,)),
        ("compare", (lpx.compare,)),
        ("data prepare", (Workspace.prepare_faces, Workspace.shard)),
        ("merge", (Workspace.merge,)),
        ("train", (lpx.train, Recipe, LocalDiversity, RunOptions)),
        ("ablate", (lpx.ablate, AblationGrid)),
    ],
)
def test_every_argument_has_an_option(line, takes):
    """Errors would else name what the command line does not have."""
    command = command_of(cli, line.split())
    names = {name for one in takes for name in inspect.signature(one).parameters} - UNSET
    negative = {name for name in names if with_options(f"`{name}=False`", command)[0] == "-"}
    missing = [n for n in sorted(names - negative) if with_options(f"`{n}`", command)[0] == "`"]
    assert missing == []


def test_other_errors_keep_their_words():
    error = LpxError("limit is a word", "", "")
    assert error_text(error, command_of(cli, ["bench"])) == "limit is a word"
