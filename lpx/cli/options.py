"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lpx.workspace import DEFAULT, Workspace

Command = TypeVar("Command", bound=Callable[..., Any])


def workspace_option(command: Command) -> Command:
    """`-w DIR`: passes a Workspace as `workspace`."""
    return click.option(
        "-w", "--workspace", "workspace", envvar="LPX_WORKSPACE", default=str(DEFAULT),
        show_default=True, metavar="DIR", help="Where artefacts lie.",
        callback=lambda context, parameter, value: Workspace(Path(value)),
    )(command)  # fmt: skip


def json_option(command: Command) -> Command:
    """`--json`: passes `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object; progress goes to stderr."
    )(command)
