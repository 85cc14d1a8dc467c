"""The library speaks of its arguments, the command line of its options: one becomes the other."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from lpx.errors import InvalidArgumentError, LpxError, layout

# `name`, or `name=value` with the value as Python writes it. Commands, paths and file names in
# backticks have spaces, slashes or dots, and stay as they are.
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=([^`]*))?`")
# Arguments that the failing command has no parameter for: fields of options objects that have
# another name on the command line, and arguments of other commands that errors advise to use.
_ELSEWHERE = {
    "architecture": "--backbone",
    "batches": "--batch",
    "clip": "--weight-clip",
    "cpus": "--ray-cpus",
    "dla_core": "--dla",
    "engines": "--candidates",
    "folder": "--workspace",
    "gpus": "--ray-gpus",
    "host": "HOST",
    "limit": "--limit",
    "memory_gib": "--ray-memory",
    "min_channels": "--min-channels",
    "patience_s": "--patience",
    "ray": "--ray",
    "remote_folder": "--remote-folder",
    "requantise": "--requantise",
    "rounding": "--weight-rounding",
    "source": "PATH",
    "videos": "--streams",
    "ssh_config": "--ssh-config",
    "target": "--target",
    "version_compatible": "--version-compatible",
    "workspace": "--workspace",
}
# Options that name the folders that commands write to.
_FOLDERS = {"workspace": "-w DIR", "out": "--out DIR"}
# Arguments that options say in their own way.
_VALUES = {("detector", "None"): "--crops"}


def command_of(root: click.Command, arguments: Sequence[str]) -> click.Command:
    """Return the command of a command line; `lpx data prepare` names two in a row."""
    command = root
    for word in arguments:
        if not isinstance(command, click.Group):
            break
        if word.startswith("-"):
            continue
        found = command.get_command(click.Context(command), word)
        if found is None:
            # `lpx remote HOST build`: a group may have arguments of its own.
            if any(isinstance(parameter, click.Argument) for parameter in command.params):
                continue
            break
        command = found
    return command


def error_text(error: LpxError, command: click.Command) -> str:
    """Return the text of an error, with options in place of the library's arguments."""
    what = error.what
    if isinstance(error, InvalidArgumentError) and what.startswith(error.argument):
        rest = what[len(error.argument) :]
        what = (_option(error.argument, command) or error.argument) + rest
    fix = error.fix
    if error.code in ("unwritable", "in-use"):
        # These end in "use another folder".
        folders = [flag for name, flag in _FOLDERS.items() if _option(name, command)]
        if _option("shard", command):
            # There --out is for the part of a shard, and only for that.
            folders.remove(_FOLDERS["out"])
        if folders:
            fix += f" ({', '.join(folders)})"
    return layout(*(with_options(text, command) for text in (what, error.why, fix)))


def with_options(text: str, command: click.Command) -> str:
    """Replace arguments in backticks by the options of a command."""

    def option(match: re.Match[str]) -> str:
        name, value = match.groups()
        if (name, value) in _VALUES:
            return _VALUES[name, value]
        if value is not None and value.startswith("BatchRange("):
            ends = re.findall(r"\d+", value)
            return f"--batch-range {':'.join(ends)}"
        if value == "False" and (negative := _option(f"no_{name}", command)):
            return negative
        flag = _option(name, command)
        if flag is None:
            return match.group()
        if value is None or value == "True":
            return flag
        if value.startswith("("):
            return f"{flag} {value.strip('(),').replace(' ', '')}"
        return f"{flag} {value.strip(chr(34) + chr(39))}"

    return _ARGUMENT.sub(option, text)


def _option(name: str, command: click.Command) -> str | None:
    """Return the option, or the positional argument, that sets an argument of the library."""
    for parameter in command.params:
        if parameter.name == name:
            if isinstance(parameter, click.Argument):
                return parameter.make_metavar(click.Context(command))
            return max(parameter.opts, key=len)
    return _ELSEWHERE.get(name)
