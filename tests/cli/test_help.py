from __future__ import annotations

import re
import resource

import pytest

from lpx import __version__
from lpx.cli.main import COMMANDS

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "cv2", "matplotlib", "scipy", "tensorrt")
AT_THE_END = f"""
import atexit, sys
atexit.register(lambda: print("heavy:", sorted(sys.modules.keys() & set({HEAVY!r}))))
"""


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_is_fast_and_imports_nothing_heavy(shell, command):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ran = shell(*command.split(), "--help", before=AT_THE_END)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"Usage: lpx {command}")
    assert ran.out.endswith("heavy: []\n")
    # Seconds of the processor, not of the clock: other work on the machine does not count.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_explains_every_option(lpx, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = lpx(command, "--help")
    assert ran.code == 0
    assert max(map(len, ran.out.splitlines())) <= 80
    assert "--json" in ran.out


def test_help_lists_the_commands_in_the_order_of_use(lpx):
    listed = re.findall(
        r"^  ([\w-]+) {2,}\w", lpx("--help").out.split("Commands:")[1], re.MULTILINE
    )
    assert listed == list(COMMANDS)


def test_dash_h_is_help_too(lpx):
    assert lpx("build", "-h").out == lpx("build", "--help").out


def test_version(lpx):
    assert lpx("--version").out == f"lpx, version {__version__}\n"


def test_no_command_shows_help_and_is_a_users_error(lpx):
    ran = lpx()
    assert ran.code == 2
    assert "export" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["build", "--int9"], "No such option"),
        (["bench"], "Missing option '--dataset'"),
        (["build", "--limit", "many"], "'many' is not a valid integer"),
        (["predict"], "Missing argument 'PATH'"),
    ],
)
def test_mistyped_commands_say_so(lpx, arguments, said):
    ran = lpx(*arguments)
    assert ran.code == 2
    assert said in ran.err
    assert "lpx" in ran.err.splitlines()[0]
    assert ran.out == ""


def test_help_works_where_a_package_is_broken(shell):
    assert shell("--help", before="import sys; sys.modules['torch'] = None").code == 0
