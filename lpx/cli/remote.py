"""`lpx remote HOST ...`: commands on a board, over ssh."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import json_option, workspace_option

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.remote.board import Board, RemoteResult

_PASSED_ON: dict[str, Any] = {"ignore_unknown_options": True, "help_option_names": []}


class _HostGroup(click.Group):
    """Has `HOST` before the names of its commands, and shows its help without one, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args in (["-h"], ["--help"]):
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)


@click.group(cls=_HostGroup, subcommand_metavar="COMMAND [ARGS]...")
@click.option(
    "-F",
    "--ssh-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration of ssh.  [default: the user's]",
)
@click.option(
    "--remote-folder",
    default=".lpx-remote",
    show_default=True,
    metavar="DIR",
    help="Folder of lpx on the board, relative to the user's home there.",
)
@click.option(
    "--patience",
    "patience_s",
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to try to connect again for when the connection is lost.",
)
@click.argument("host")
@click.pass_context
def remote(
    context: click.Context,
    host: str,
    ssh_config: Path | None,
    remote_folder: str,
    patience_s: float,
) -> None:
    """Run lpx on HOST, a board that `ssh HOST` reaches without asking for a password.

    \b
      lpx remote jetson setup                  once; without PyTorch
      lpx remote jetson build --int8           the options of lpx build
      lpx remote jetson bench --dataset demo
      lpx remote jetson predict photos

    The workspace (-w) travels there, and only what changed is sent again. What a command prints is
    shown as it comes, its exit code becomes that of this command, and its results are fetched into
    remote/HOST in the workspace. If the connection breaks, the command goes on there, and this one
    connects again. Ctrl-C stops it there, too; closing the terminal does not.

    Every command has --json, as it has here.
    """  # noqa: D301 (click reads the escape: it keeps the block's lines)
    from lpx.remote.board import Board

    context.obj = Board(
        host, remote_folder=remote_folder, ssh_config=ssh_config, patience_s=patience_s
    )


@remote.command()
@click.option(
    "--python",
    metavar="PATH",
    help="Python there to install for.  [default: python3, or a newer one beside it]",
)
@click.option(
    "--wheels",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Carry the wheels in DIR, for a board without a network.",
)
@click.option(
    "--download",
    is_flag=True,
    help="Download wheels for the board's Python and architecture here, and carry them.",
)
@click.option(
    "--no-environment",
    is_flag=True,
    help="Make no virtual environment: use the packages of that Python as they are.",
)
@json_option
@click.pass_obj
def setup(
    board: Board,
    python: str | None,
    wheels: Path | None,
    download: bool,
    no_environment: bool,
    as_json: bool,
) -> None:
    """Install this lpx on the board, without PyTorch.

    It gets a virtual environment in the folder of lpx there; on a Jetson this sees the system's
    packages, where JetPack puts TensorRT. Nothing else there is changed. By default pip there
    downloads what lpx needs from PyPI. Run it again after updating lpx here.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        info = board.setup(
            python=python,
            wheels=wheels,
            download=download,
            environment=not no_environment,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(asdict(info), indent=2))
        return
    assert info.installed is not None
    click.echo(f"lpx {info.installed.lpx} is set up on {board.host}, in {info.base}")
    for name, yes in (("TensorRT", "tensorrt"), ("PyTorch", "torch")):
        click.echo(f"{name} there: {'yes' if info.installed.has.get(yes) else 'no'}")
    click.echo(f"next: lpx remote {board.host} build --int8")


@remote.command(context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def build(board: Board, arguments: tuple[str, ...]) -> None:
    """Build engines on the board.

    All options are those of `lpx build`. Ranges that are in the workspace travel along; --faces
    names a folder here, which is sent.
    """
    _run(board, "build", arguments)


@remote.command(context_settings=_PASSED_ON, short_help="Check AUC and measure costs on the board.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def bench(board: Board, arguments: tuple[str, ...]) -> None:
    """Check on the board that AUC holds, and measure latency and energy there.

    All options are those of `lpx bench`. The faces of --dataset are found here, and sent. The exit
    code is that of the bench there.
    """
    _run(board, "bench", arguments)


@remote.command(context_settings=_PASSED_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def predict(board: Board, arguments: tuple[str, ...]) -> None:
    """Score the faces in images and videos on the board.

    All arguments are those of `lpx predict`. PATH is here, and is sent.
    """
    _run(board, "predict", arguments)


@remote.command(context_settings=_PASSED_ON, short_help="Run another command, such as doctor.")
@click.argument("command")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def run(board: Board, command: str, arguments: tuple[str, ...]) -> None:
    """Run another COMMAND of lpx on the board, such as doctor or debug.

    Its arguments are passed on as they are; no files are sent but the workspace.
    """
    _run(board, command, arguments)


@remote.command(short_help="Show the last command of the workspace, to its end.")
@workspace_option
@json_option
@click.pass_obj
def attach(board: Board, workspace: Workspace, as_json: bool) -> None:
    """Show the last command of the workspace on the board, to its end.

    Its output is shown from the beginning, its results are fetched, and its exit code becomes that
    of this command.
    """
    from lpx.cli.console import ConsoleReporter
    from lpx.remote.running import PassOn

    with ConsoleReporter() as reporter:
        output = PassOn(sys.stderr) if as_json else None
        result = board.attach(workspace, output=output, reporter=reporter)
    if as_json:
        click.echo(json.dumps(asdict(result) | {"folder": str(result.folder)}, indent=2))
    else:
        _show(result)
    sys.exit(result.exit_code)


@remote.command(short_help="Fetch results from the board that are not here yet.")
@workspace_option
@json_option
@click.pass_obj
def pull(board: Board, workspace: Workspace, as_json: bool) -> None:
    """Fetch reports, predictions and engines from the board that are not here yet.

    They are put into remote/HOST in the workspace, with remote.json, which describes both machines.
    """
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        fetched = board.pull(workspace, reporter=reporter)
    if as_json:
        click.echo(json.dumps({"folder": str(fetched.folder), "new": fetched.new}, indent=2))
    elif fetched.new:
        click.echo(f"fetched into {fetched.folder}: {', '.join(fetched.new)}")
    else:
        click.echo(f"{fetched.folder}: nothing new")


def _run(board: Board, name: str, arguments: Sequence[str]) -> None:
    """Run a command of lpx on the board, and end with its exit code."""
    from lpx.cli.console import ConsoleReporter
    from lpx.cli.remote_command import remote_command

    command = remote_command(name, arguments)
    with ConsoleReporter() as reporter:
        result = board.run(
            command.words,
            command.workspace,
            inputs=command.inputs,
            faces=command.faces,
            limit=command.limit,
            places=command.places,
            reporter=reporter,
        )
    # Standard output is that of the command there, which may be JSON.
    _show(result, err=True)
    sys.exit(result.exit_code)


def _show(result: RemoteResult, *, err: bool = False) -> None:
    if result.new:
        click.echo(f"fetched into {result.folder}: {', '.join(result.new)}", err=err)
