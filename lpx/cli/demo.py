"""`lpx demo`: the whole way on material that ships with lpx."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lpx.cli.options import json_option, workspace_option
from lpx.workspace import Workspace

_KINDS = {
    "alpha": "swaps",
    "poisson": "Poisson-blended swaps (not seen in training)",
    "sbi": "self-blended faces",
}
"""The kinds of fake of the demo set, in words."""


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

    It needs no GPU, no download and about a minute. The faces are rendered: they demonstrate the
    toolkit, not a detector to rely on.
    """
    from lpx import pipeline
    from lpx.cli.bench import exit_code, show
    from lpx.cli.console import ConsoleReporter
    from lpx.data.demo_set import CHECKPOINT, folder
    from lpx.engines.machine import has_vnni

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
        difference = f"{check.max_score_difference:.1e}"
        report.say(f"  verified on {check.faces} faces: max |score difference| {difference}")
        report.say("lpx build --fp32 --int8 --faces demo")
        built = pipeline.build(workspace, ("fp32", "int8"), faces="demo", report=report)
        report.say("lpx bench --dataset demo")
        done = pipeline.bench(workspace, "demo", report=report)
    if as_json:
        click.echo(json.dumps(done.report, indent=2))
    else:
        show(done)
        sizes = {
            str(engine.precision): (workspace.engines / engine.name / engine.file).stat().st_size
            for engine in built
        }
        for line in story(done.report, sizes, has_vnni()):
            click.echo(line)
    sys.exit(exit_code(done.report["verdict"]))


def story(report: Mapping[str, Any], sizes: Mapping[str, int], vnni: bool | None) -> list[str]:
    """Say in plain words what the demo has shown, with what certainty, and what it has not.

    Args:
        report: The bench's.
        sizes: Bytes of the engine's file, by precision.
        vnni: Whether the processor has integer dot products; None where it is not x86.
    """
    from lpx.bench.wording import percent

    known, accuracy = (report["reference"][key] for key in ("discrimination", "accuracy"))
    # Over people: pictures of one person say less than as many of different people.
    found = known["auc_interval"]
    kept = {
        "holds": f"Every engine keeps that AUC to within {report['margin']:g} (95 % confidence).",
        "fails": "An engine fails parity: see above which one, and why.",
    }.get(report["verdict"], "These faces do not decide whether every engine keeps that AUC.")
    kinds = ", ".join(
        f"{_KINDS[row['method']]} {row['face']['auc']:.2f}" for row in accuracy["methods"]
    )
    lines = [
        f"shown: on {report['faces']} pictures of {known['real_groups']} rendered people, half of "
        f"them forged, the detector's AUC is {found['estimate']:.3f} (95 % interval "
        f"{found['low']:.3f} to {found['high']:.3f}): {kinds}. At its threshold it calls "
        f"{percent(accuracy['face']['false_positive_rate'])} of the real pictures fake, and "
        f"{percent(accuracy['face']['true_positive_rate'])} of the forged ones. {kept}",
        "not shown: that it finds deepfakes. These people do not exist, the forgeries are blended "
        "by lpx, and the detector was trained on others like them; use your own on your own faces.",
    ]
    int8 = next((c for c in report["candidates"] if c["precision"] == "int8"), None)
    compared = [] if int8 is None else [s for s in int8["speed"] if s["against"] != "torch"]
    if compared and all(s["verdict"] != "faster" for s in compared):
        share = 100 * sizes["int8"] / sizes["fp32"]
        which = {True: ", although it has VNNI", False: ", which has no VNNI", None: ""}[vnni]
        lines.append(
            f"int8: not shown to be faster than FP32 on this CPU{which}. What it brings here is a "
            f"file of {share:.0f} % of the size."
        )
    return lines
