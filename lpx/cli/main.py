"""`lpx`: the command group, and how errors become messages and exit codes."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Sequence

import click

from lpx import __version__, interrupts
from lpx.cli.streams import guarded
from lpx.errors import LpxError
from lpx.interrupts import Interrupted

# Help texts by command; here, so that listing the commands imports nothing.
COMMANDS = {
    "data": "Prepare faces from data sets, and show what a set holds.",
    "export": "Export a checkpoint to ONNX, verified on faces.",
    "calibrate": "Choose calibration faces, and rank calibration methods.",
    "build": "Build FP32, FP16 and INT8 engines.",
    "sensitivity": "Show what each layer costs in INT8.",
    "bench": "Check that AUC holds, and measure latency and energy.",
    "merge": "Join the parts of calibrate, bench or data prepare with --shard.",
    "debug": "Find the layer where an engine diverges from float32.",
    "compare": "List regressions between two reports.",
    "predict": "Score the faces in images and videos, and draw heat maps.",
    "explain": "Show where a checkpoint looks, face by face.",
    "explain-graph": "Show what INT8 would quantise, and why.",
    "pack": "Pack a workspace into one file for another machine.",
    "unpack": "Unpack such a file into a workspace.",
    "remote": "Run commands on a board, over ssh.",
    "train": "Train a detector on image-level labels.",
    "ablate": "Measure what each part of the method adds.",
    "package": "Write a C++ project that runs an engine without Python.",
    "demo": "Run export, build and bench on the bundled demo.",
    "doctor": "Show what this machine can build and run.",
}

# What an interrupted command leaves for the next run. The others leave nothing.
KEPT = {
    "data prepare": "finished videos are saved",
    "calibrate": "observations are saved from time to time",
    "build": "finished ranges, and what a search measured, are saved",
    "sensitivity": "scores of finished batches are saved",
    "bench": "scores of finished batches are saved",
    "merge": "the parts are as they were",
    "predict": "scored files are saved",
    "train": "the training's state is saved",
    "ablate": "finished trainings, and the state of this one, are saved",
}


class _Group(click.Group):
    """Imports a command's module only when it is called: `lpx --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = cmd_name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"lpx.cli.{module}"), module)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lpx")
def cli() -> None:
    """Take a trained local-prediction deepfake detector to verified edge engines.

    \b
      lpx export ckpt.pt          checkpoint -> ONNX
      lpx build --int8            ONNX -> engines, calibrated on faces
      lpx bench --dataset demo    engines against PyTorch: AUC parity, latency

    Each step leaves its artefacts in the workspace (./lpx-out, or -w DIR, or LPX_WORKSPACE), where
    the next one finds them. `lpx demo` runs all three.

    Exit codes: 0 done and parity holds, 1 parity does not hold, or an engine is dead or does not
    compute in the precision asked for, 2 user error, 3 internal error, 4 parity cannot be judged
    because the checkpoint cannot tell real from fake, 5 a search found no INT8 engine that is
    faster than float, 130 interrupted by SIGINT (Ctrl-C), 143 by SIGTERM, 129 by SIGHUP.
    """  # noqa: D301 (click reads the escape: it keeps the block's lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; turn errors and signals into messages and exit codes.

    Args:
        arguments: Words after `lpx`; None for those that the process was started with.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with guarded() as streams, interrupts.handled():
            code = streams.exit_code(_run(words))
    except Interrupted as late:
        # The signal came when the command had already ended.
        code = _interrupted(late, words)
    if code:
        sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command; returns its exit code."""
    try:
        return exit_code(cli, arguments)
    except Interrupted as interruption:
        return _interrupted(interruption, arguments)
    except BaseException:
        # A library may turn a signal into an error of its own, as where it ended a worker process.
        if (number := interrupts.received()) is None:
            raise
        return _interrupted(Interrupted(number), arguments)


def _interrupted(interruption: Interrupted, arguments: list[str]) -> int:
    """Say what is saved; returns the exit code that shells give a program ended by the signal."""
    interrupts.settle()
    interrupts.end_children()
    words = [word for word in arguments[:2] if not word.startswith("-")]
    kept = interruption.kept or KEPT.get(" ".join(words)) or KEPT.get("".join(words[:1]))
    if kept and not interruption.resumable:
        text = f"{kept}; the same command starts again"
    elif kept:
        text = f"{kept}; run the same command to resume"
    else:
        text = "no partial results were left; run the same command to start again"
    click.echo(f"interrupted by {interruption.signal.name}: {text}", err=True)
    return 128 + interruption.signal


def exit_code(root: click.Group, arguments: list[str]) -> int:
    """Run a command of a group; print its error, if any, and return its exit code.

    Args:
        root: The group of commands.
        arguments: Name of the command, and its arguments.

    Raises:
        Interrupted: A signal asked it to end.
    """
    try:
        # Not cli(): click turns some errors into exit codes that mean something else here.
        with root.make_context("lpx", arguments) as context:
            root.invoke(context)
    except LpxError as error:
        interrupts.check()
        _show(error, root, arguments)
        return error.exit_code
    except click.ClickException as error:
        interrupts.check()
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        interrupts.check()
        raise Interrupted(signal.SIGINT) from None
    except click.exceptions.Exit as done:
        return done.exit_code
    except SystemExit as done:
        interrupts.check()
        return done.code if isinstance(done.code, int) else 1 if done.code else 0
    except Exception as error:
        interrupts.check()
        if (known := _user_error(error)) is not None:
            _show(known, root, arguments)
            return known.exit_code
        import traceback

        traceback.print_exc()
        click.echo(
            "internal error: this is a bug in lpx. Please report the lines above, the command, and "
            "the output of `lpx doctor`",
            err=True,
        )
        return 3
    return 0


def _show(error: LpxError, root: click.Group, arguments: list[str]) -> None:
    from lpx.cli.option_names import command_of, error_text

    click.echo(f"error: {error_text(error, command_of(root, arguments))}", err=True)


def _user_error(error: Exception) -> LpxError | None:
    """Make a message for failures of the machine or of files that have none yet."""
    from lpx.cli.failures import user_error

    return user_error(error)
