"""`lpx`: the command group, and what becomes of errors."""

from __future__ import annotations

import importlib
import sys

import click

from lpx import __version__
from lpx.cli.streams import guarded
from lpx.errors import LpxError

COMMANDS = {
    "data": "Cut faces out of data sets, and show what a set holds.",
    "export": "Export a checkpoint to ONNX, verified on faces.",
    "calibrate": "Choose faces, observe them, and find the method that serves best.",
    "build": "Build FP32, FP16 and INT8 engines.",
    "bench": "Prove parity of AUC, and measure latency.",
    "debug": "Name the layer where an engine leaves the float32 graph.",
    "compare": "Flag what became worse from one report to another.",
    "predict": "Score the faces in images and videos, and draw heat maps.",
    "explain": "Show where a checkpoint looks, face by face.",
    "explain-graph": "Show what INT8 would quantise, and why.",
    "train": "Train a detector on image-level labels.",
    "ablate": "Show what each part of the method adds.",
    "demo": "Run export, build and bench on material that ships with lpx.",
    "doctor": "Show what this machine can build and run.",
}
"""The help text is here so that listing the commands imports nothing."""


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
    because the checkpoint cannot tell real from fake.
    """  # noqa: D301 (click reads the escape: it keeps the block's lines)


def main() -> None:
    """Run the command line; turn errors into messages and exit codes."""
    with guarded() as streams:
        code = streams.exit_code(_run(sys.argv[1:]))
    if code:
        sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Run a command; returns its exit code."""
    try:
        # Not cli(): click would turn some errors into exit codes that mean something else here.
        with cli.make_context("lpx", arguments) as context:
            cli.invoke(context)
    except LpxError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except click.exceptions.Exit as done:
        return done.exit_code
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 1 if done.code else 0
    except Exception as error:
        if (known := _user_error(error)) is not None:
            click.echo(f"error: {known}", err=True)
            return known.exit_code
        import traceback

        traceback.print_exc()
        click.echo(
            "internal error: this is a mistake in lpx, not yours. Please report the lines above, "
            "the command, and what `lpx doctor` prints",
            err=True,
        )
        return 3
    return 0


def _user_error(error: Exception) -> LpxError | None:
    """What of the machine or of files failed, where no better message was given nearer."""
    from lpx.cli.failures import user_error

    return user_error(error)
