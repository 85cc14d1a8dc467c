"""The commands and names that README and docs show exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from lpx.cli.main import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[str]:
    """Every `lpx ...` line of a code block, continuation lines joined, comments cut."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line.split("  #")[0].strip() for line in lines if line.startswith("lpx ")]
        found += re.findall(r"`(lpx [^`]+)`", page.read_text())
    return sorted({c for c in found if "DIR|" not in c})


@pytest.mark.parametrize("command", commands())
def test_command_is_understood(command):
    # --help is looked at last: an option that does not exist is refused before.
    result = CliRunner().invoke(cli, [*shlex.split(command)[1:], "--help"])
    assert result.exit_code == 0, result.output


def test_commands_are_found():
    assert {"lpx export ckpt.pt", "lpx build --int8", "lpx bench --dataset demo"} <= set(commands())


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_named_files_exist(page):
    for target in re.findall(
        r"\b((?:lpx|tests|benchmarks)/[\w/]+\.(?:py|md|json))\b", page.read_text()
    ):
        if "NAME" not in target:  # a file that the reader is to add
            assert (ROOT / target).exists(), target
