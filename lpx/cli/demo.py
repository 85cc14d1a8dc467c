"""`lpx demo`: the whole way on material that ships with lpx."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import json_option, workspace_option
from lpx.data.wording import counted
from lpx.errors import LpxError

if TYPE_CHECKING:
    from lpx.api.clip_demo import ClipResult
    from lpx.api.workspace import Workspace

NOT_SHOWN = (
    "not shown: that it finds deepfakes. These people do not exist, the forgeries are blended by "
    "lpx, and the detector was trained on others like them; use your own on your own faces."
)
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
@click.option(
    "--video",
    is_flag=True,
    help="Show a short clip instead, some of it forged: boxes, heat maps and a timeline.",
)
@workspace_option
@json_option
def demo(unpack: Path | None, video: bool, workspace: Workspace, as_json: bool) -> None:
    """Export, build and bench a small detector on faces that ship with lpx.

    It needs no GPU, no download and about a minute. The faces are rendered: they demonstrate the
    toolkit, not a detector to rely on.

    With --video a clip of such people goes through `lpx predict` instead, in a few seconds; an
    engine of the demo's detector is built first where the workspace has none.
    """
    if video:
        if unpack is not None:
            raise LpxError("--unpack and --video are mutually exclusive", "", "give one of them")
        _video(workspace, as_json)
        return
    from lpx.cli.bench import exit_code, show
    from lpx.cli.console import ConsoleReporter
    from lpx.data.face_sets.demo import CHECKPOINT, folder
    from lpx.machine.machine import has_vnni

    if unpack is not None:
        from lpx.data.face_sets.demo import unpack_demo

        with ConsoleReporter() as reporter:
            count = unpack_demo(unpack, reporter.progress("writing faces"))
        if as_json:
            values = {"folder": str(unpack), "checkpoint": str(unpack / CHECKPOINT), "faces": count}
            click.echo(json.dumps(values, indent=2))
            return
        click.echo(f"{unpack}: {CHECKPOINT}, and {count} faces in real/ and fake/")
        steps = "lpx export ckpt.pt && lpx build --int8 && lpx bench --dataset folder:."
        click.echo(f"next: cd {shlex.quote(str(unpack))} && {steps}")
        return
    with ConsoleReporter() as reporter:
        reporter.say("lpx export ckpt.pt")
        made = workspace.export(folder() / CHECKPOINT, reporter=reporter)
        check = made.verification
        difference = f"{check.max_score_difference:.1e}"
        reporter.say(f"  verified on {check.faces} faces: max |score difference| {difference}")
        reporter.say("lpx build --fp32 --int8 --faces demo")
        built = workspace.build(("fp32", "int8"), faces="demo", reporter=reporter)
        reporter.say("lpx bench --dataset demo")
        done = workspace.bench("demo", reporter=reporter)
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


def _video(workspace: Workspace, as_json: bool) -> None:
    from lpx.api.clip_demo import show_clip
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        shown = show_clip(workspace, reporter=reporter)
    for line in [json.dumps(_values(shown), indent=2)] if as_json else clip_lines(shown):
        click.echo(line)


def _values(shown: ClipResult) -> dict[str, Any]:
    found = shown.predicted
    return {
        "engine": found.engine,
        "threshold": found.threshold,
        "frames": shown.file.frames,
        "frames_without_face": len(shown.file.faceless),
        "parts": [
            {
                "scene": part.scene,
                "first_frame": part.first,
                "last_frame": part.last,
                "truth": "forged" if part.fake else "real",
                "text": part.text,
                "mean_score": row.score,
                "frames_with_face": row.faces,
                "frames_called_fake": row.called,
            }
            for part, row in shown.parts
        ],
        "reused": found.resumed > 0,
        "video": str(shown.file.picture),
        "timeline": str(shown.file.timeline),
        "frame_scores": str(found.frames),
    }


def clip_lines(shown: ClipResult) -> list[str]:
    """Say in plain words what the clip has shown, with what certainty, and what it has not."""
    found, file = shown.predicted, shown.file
    head = ("scene", "time", "ground truth", "mean score", "frames called fake")
    table = [
        (
            str(part.scene),
            row.where,
            f"{'forged' if part.fake else 'real'}: {part.text}",
            "-" if row.score is None else f"{row.score:.3f}",
            f"{row.called} of {row.faces}",
        )
        for part, row in shown.parts
    ]
    wide = [max(len(cells[i]) for cells in [head, *table]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, wide, strict=True)).rstrip()
        for cells in [head, *table]
    ]
    called, faces = {}, {}
    for fake in (False, True):
        called[fake] = sum(row.called for part, row in shown.parts if part.fake == fake)
        faces[fake] = sum(row.faces for part, row in shown.parts if part.fake == fake)
    scenes = len({part.scene for part, _ in shown.parts})
    people = len({part.head for part, _ in shown.parts})
    again = " (drawn by an earlier run)" if found.resumed else ""
    return [
        *lines,
        f"video: {file.picture}{again}",
        f"timeline: {file.timeline}{again}",
        f"frames: {found.frames}",
        f"shown: a face was found in {file.frames - len(file.faceless)} of "
        f"{counted(file.frames, 'frame')}. At the threshold of {found.threshold:.3f}, "
        f"{found.engine} calls {called[True]} of {faces[True]} forged frames fake, and "
        f"{called[False]} of {faces[False]} real ones.",
        f"how certain: frames of a scene are nearly the same picture, and {scenes} scenes of "
        f"{people} people do not tell how often the detector is right; `lpx demo` measures that.",
        NOT_SHOWN,
    ]


def story(report: Mapping[str, Any], sizes: Mapping[str, int], vnni: bool | None) -> list[str]:
    """Say in plain words what the demo has shown, with what certainty, and what it has not.

    Args:
        report: The bench's.
        sizes: Bytes of the engine's file, by precision.
        vnni: Whether the processor has integer dot products; None where it is not x86.
    """
    from lpx.bench.report.sentences import percent

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
        NOT_SHOWN,
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
