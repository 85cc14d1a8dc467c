"""What `data prepare`, `calibrate` and `bench` have in common with `--shard`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import Command, following, was_given

if TYPE_CHECKING:
    from lpx.shards.part import PartResult
    from lpx.workspace import WorkspaceFolder


def shard_options(command: Command) -> Command:
    """`--shard I/N` and `--out DIR`: pass `shard` and `out`."""
    out = click.option(
        "--out",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="With --shard: folder of the part.  [default: shards/STEP/I-of-N]",
    )
    shard = click.option(
        "--shard",
        metavar="I/N|auto",
        help="Do one of N shares only, I from 0 to N - 1, and leave a part for `lpx merge`. auto: "
        "the task of a Slurm array.",
    )
    return shard(out(command))


def check_shard(shard: str | None, out: Path | None, without: Sequence[str] = ()) -> None:
    """Refuse options that make no sense with `--shard`, and `--out` without it.

    Args:
        shard: Value of `--shard`.
        out: Value of `--out`.
        without: Parameters that shards do not take.

    Raises:
        UsageError: One was given.
    """
    if shard is None:
        if out is not None:
            raise click.UsageError("--out is the folder of a part: it needs --shard")
        return
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in ("ray_address", *without) and was_given(context, parameter.name):
            name = max(parameter.opts, key=len)
            if isinstance(parameter, click.Argument):
                name = parameter.make_metavar(context)
            raise click.UsageError(f"{name} cannot be combined with --shard")


def show_part(part: PartResult, workspace: WorkspaceFolder, *, as_json: bool) -> None:
    """Print what a shard left."""
    if as_json:
        click.echo(json.dumps(part.to_dict(), indent=2))
        return
    unit = "videos" if part.kind == "prepare" else "faces"
    click.echo(f"shard {part.shard}: {part.units} of {part.total} {unit}, in {part.folder}")
    for note in part.notes:
        click.echo(f"note: {note}")
    parts = "PART..."
    if part.folder.name == part.shard.folder_name:
        parts = shlex.quote(str(part.folder.parent))
    command = following(f"lpx merge {parts}", workspace)
    if part.shard.count > 1:
        command = command.replace("next:", "next, once all shards have finished:", 1)
    click.echo(command)
