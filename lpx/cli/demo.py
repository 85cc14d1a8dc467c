"""`lpx demo`: the whole way on material that ships with lpx."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click

from lpx.cli.options import json_option, workspace_option
from lpx.workspace import Workspace


@click.command()
@click.option(
    "--unpack",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Only write the demo's checkpoint and faces to DIR, as ordinary files.",
)
@workspace_option
@json_option
def demo(unpack: Path | None, workspace: Workspace, as_json: bool) -> None:
    """Export, build and bench a small detector on faces that ship with lpx.

    It needs no GPU, no download and a few minutes. The detector demonstrates the toolkit; it is not
    one to rely on.
    """
    from lpx import pipeline
    from lpx.cli.bench import exit_code, show
    from lpx.cli.console import ConsoleReporter
    from lpx.data.demo_set import CHECKPOINT, folder

    if unpack is not None:
        from lpx.data.unpack import unpack_demo

        with ConsoleReporter() as report:
            count = unpack_demo(unpack, report.progress("writing faces"))
        if as_json:
            values = {"folder": str(unpack), "checkpoint": str(unpack / CHECKPOINT), "faces": count}
            click.echo(json.dumps(values, indent=2))
            return
        click.echo(f"{unpack}: {CHECKPOINT}, and {count} faces in real/ and fake/")
        steps = "lpx export ckpt.pt && lpx build --int8 && lpx bench --dataset folder:."
        click.echo(f"next: cd {shlex.quote(str(unpack))} && {steps}")
        return
    with ConsoleReporter() as report:
        report.say("lpx export ckpt.pt")
        made = pipeline.export(folder() / CHECKPOINT, workspace, report=report)
        check = made.verification
        report.say(f"  verified on {check.faces} faces: max |score difference| "
                   f"{check.max_score_difference:.1e}")  # fmt: skip
        report.say("lpx build --fp32 --int8 --faces demo")
        pipeline.build(workspace, ("fp32", "int8"), faces="demo", report=report)
        report.say("lpx bench --dataset demo")
        done = pipeline.bench(workspace, "demo", report=report)
    if as_json:
        click.echo(json.dumps(done.report, indent=2))
    else:
        show(done)
    sys.exit(exit_code(done.report["verdict"]))
