"""A command line for a board: checked here, with what it reads here found and renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from lpx.api.workspace import Workspace
from lpx.artefacts.plan_file import read_plan
from lpx.cli.main import COMMANDS, cli
from lpx.data.roots import DataPlaces, expanded
from lpx.errors import LpxError
from lpx.streams.live.source import is_live

# Parameters that name something on this machine, and mean nothing on the board.
_STAYS = ("workspace", "data_root", "store")
# Commands that read a checkpoint or reports, train, or carry workspaces: they belong here.
_NOT_THERE = (
    *("data", "export", "calibrate", "compare", "explain", "pack", "unpack", "remote"),
    *("train", "ablate", "package", "demo"),
)
# Parameters that name files which are neither sent nor fetched.
_FILES_HERE = ("out", "emit", "import_cache", "export_cache", "trtexec_times")
_FACES_THERE = "lpx-out/faces"


@dataclass
class RemoteCommand:
    """A command for a board.

    Attributes:
        words: Its words there; what is sent has a placeholder.
        workspace: The workspace here; None if the command needs none.
        places: Folders of public data sets and of prepared faces.
        inputs: Files and folders to send, by placeholder.
        faces: Face set to send with the workspace; None for none.
        limit: Maximum number of its faces; None for all.
    """

    words: list[str]
    workspace: Workspace | None
    places: DataPlaces
    inputs: dict[str, Path] = field(default_factory=dict)
    faces: str | None = None
    limit: int | None = None


def remote_command(name: str, arguments: Sequence[str]) -> RemoteCommand:
    """Check a command line as if it ran here, and make it one for a board.

    Args:
        name: Command of lpx.
        arguments: What follows it.

    Raises:
        click.ClickException: The command or an option is unknown, or a value is none.
        LpxError: It cannot run on a board, or names files that cannot be sent.
    """
    command = cli.get_command(click.Context(cli), name)
    if command is None or isinstance(command, click.Group) or name in _NOT_THERE:
        there = ", ".join(one for one in COMMANDS if one not in _NOT_THERE)
        raise click.UsageError(f"{name} cannot run on a board; these can: {there}")
    # Here, so that a mistake is found before anything is sent; prints the help for --help.
    helps = ["-h", "--help"]
    context = command.make_context(
        f"lpx remote HOST {name}", list(arguments), help_option_names=helps
    )
    raw: dict[str, Any] = command.make_parser(context).parse_args(list(arguments))[0]
    values: dict[str, Any] = context.params
    _refuse_there(name, values)
    places = DataPlaces(values.get("data_root"), values.get("store"))
    workspace = None
    if "workspace" in values:
        workspace = Workspace(expanded(str(values["workspace"])))
    made = RemoteCommand([name], workspace, places)
    last: list[str] = []
    for parameter in command.params:
        if parameter.name is None or parameter.name in _STAYS:
            continue
        value = raw.get(parameter.name)
        # LPX_FACES names faces on this machine.
        if value is None and parameter.name == "faces":
            value = context.params["faces"]
        if not isinstance(value, (str, list, bool)):
            continue
        if parameter.name in _FILES_HERE:
            raise LpxError(
                f"{max(parameter.opts, key=len)} cannot be used on a board",
                "it names a file or folder of this machine",
                "leave it out: results are fetched into the workspace",
                code="invalid-argument",
            )
        if isinstance(value, str):
            value = _renamed(made, name, parameter.name, value, context)
        if isinstance(parameter, click.Argument):
            last.append(str(value))
        else:
            made.words += _option_words(parameter, value)
    if last:
        # Behind "--": a file may be called "-x".
        made.words += ["--", *last]
    return made


def _refuse_there(name: str, values: dict[str, Any]) -> None:
    """Refuse what works on the board itself only, and what its command would refuse at once.

    Raises:
        click.UsageError: Neither a data set nor videos are named.
        LpxError: The command needs cameras or videos of the board, or is a part of a larger run.
    """
    what = ""
    if name == "bench" and values["videos"] is not None:
        what = "--streams"
    elif values.get("shard") is not None:
        what = "--shard"
    elif values.get("ray_address") is not None:
        what = "--ray"
    elif name == "predict" and (values["live"] or is_live(str(values["path"]))):
        # Its address may have a password, which must not get into the board's list of commands.
        what = "a live source"
    if what:
        raise LpxError(
            f"{what} cannot be used with `lpx remote`",
            "only the files of a workspace and of a face set are sent and fetched",
            "log in to the board, and run the command there",
            code="unsupported",
        )
    if name == "bench" and values["dataset"] is None:
        raise click.UsageError("Missing option '--dataset'.")


def _option_words(parameter: click.Parameter, value: str | list[Any] | bool) -> list[str]:
    if isinstance(value, bool):
        names = parameter.opts if value else parameter.secondary_opts
        return [max(names, key=len)] if names else []
    option = max(parameter.opts, key=len)
    values = value if isinstance(value, list) else [value]
    # In one word: a value may begin with "-".
    return [f"{option}={one}" if option.startswith("--") else one for one in map(str, values)]


def _renamed(
    made: RemoteCommand, command: str, parameter: str, value: str, context: click.Context
) -> str:
    """Return the value of a parameter on the board, and note what has to be sent."""
    if (command, parameter) == ("predict", "path"):
        return _placeholder(made, expanded(value))
    if (command, parameter) == ("bench", "dataset") and value != "demo":
        made.faces = value
        # With a choice of methods the limit is for what is left of the set.
        if not context.params.get("methods"):
            made.limit = context.params.get("limit")
        return _FACES_THERE
    if parameter == "plan":
        path = expanded(value)
        # Here, so that a mistake is found before anything is sent.
        read_plan(path)
        return _placeholder(made, path)
    if parameter in ("faces", "dataset", "search_faces") and value != "demo":
        path = Path(os.path.expanduser(value.removeprefix("folder:")))
        if not path.exists():
            fix = (
                f"calibrate here (`lpx build --int8 --faces {value}`): the ranges travel with the "
                "workspace"
            )
            if parameter == "search_faces":
                fix = "name a folder of labelled faces"
            raise LpxError(
                f"{value} cannot be sent",
                "no folder of this name exists here, and data sets given by name are sent for a "
                "bench only",
                fix,
                code="not-found",
            )
        return _placeholder(made, path)
    return value


def _placeholder(made: RemoteCommand, path: Path) -> str:
    """Note a file or folder to send; returns a text that no other word has in it."""
    text = f"{{{secrets.token_hex(8)}}}"
    made.inputs[text] = path
    return text
