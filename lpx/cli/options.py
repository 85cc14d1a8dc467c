"""Options that several commands share."""

from __future__ import annotations

import functools
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from lpx.data.roots import DataPlaces
from lpx.workspace import DEFAULT, Workspace

Command = TypeVar("Command", bound=Callable[..., Any])


def workspace_option(command: Command) -> Command:
    """`-w DIR`: passes a Workspace as `workspace`."""
    return click.option(
        "-w", "--workspace", "workspace", envvar="LPX_WORKSPACE", default=str(DEFAULT),
        show_default=True, metavar="DIR", help="Where artefacts lie.",
        callback=lambda context, parameter, value: Workspace(Path(value)),
    )(command)  # fmt: skip


def data_options(command: Command) -> Command:
    """`--data-root DIR` and `--store DIR`: pass `places`, a DataPlaces."""

    def passing(*given: Any, data_root: Path | None, store: Path | None, **options: Any) -> Any:
        return command(*given, places=DataPlaces(data_root, store), **options)

    wrapped = cast(Command, functools.update_wrapper(passing, command))
    for option in (
        click.option("--store", type=click.Path(path_type=Path), metavar="DIR",
                     help="Prepared faces; else LPX_FACE_STORE, lpx.toml, ./lpx-faces."),
        click.option("--data-root", type=click.Path(path_type=Path), metavar="DIR",
                     help="Videos of public data sets; else LPX_DATA, lpx.toml."),
    ):  # fmt: skip
        wrapped = option(wrapped)
    return wrapped


def following(command: str, workspace: Workspace) -> str:
    """The command to type next, with `-w` where this one needed it."""
    if str(workspace.root) == os.environ.get("LPX_WORKSPACE", str(DEFAULT)):
        return f"next: {command}"
    return f"next: {command} -w {shlex.quote(str(workspace.root))}"


def json_option(command: Command) -> Command:
    """`--json`: passes `as_json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object; progress goes to stderr."
    )(command)
