"""`lpx demo`: export, build and bench on material that ships with lpx."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import json_option, workspace_option
from lpx.data.wording import counted
from lpx.errors import LpxError

if TYPE_CHECKING:
    from lpx.api.clip_demo import ClipResult
    from lpx.api.workspace import Workspace
    from lpx.bench.report.document.report import Report
    from lpx.data.face_sets.demo_clip import ClipSpan
    from lpx.metrics import Verdict

NOT_SHOWN = (
    "not shown: that it finds deepfakes. These people do not exist, the forgeries are blended by "
    "lpx, and the detector was trained on others like them; use your own on your own faces."
)
# Kinds of fakes in the demo set.
_KINDS = {
    "alpha": "swaps",
    "poisson": "Poisson-blended swaps (not seen in training)",
    "sbi": "self-blended faces",
}


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
    engine of the demo's detector is built first if the workspace has none.
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
        report = workspace.bench("demo", reporter=reporter)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        show(report)
        # In the order in which they were asked for.
        fp32, int8 = (workspace.engines / engine.name / engine.file for engine in built)
        for line in story(report, int8.stat().st_size / fp32.stat().st_size, has_vnni()):
            click.echo(line)
    sys.exit(exit_code(report.verdict))


def _video(workspace: Workspace, as_json: bool) -> None:
    from lpx.api.clip_demo import show_clip
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as reporter:
        shown = show_clip(workspace, reporter=reporter)
    if as_json:
        click.echo(json.dumps(_values(shown), indent=2))
    else:
        click.echo("\n".join(clip_lines(shown)))


def _values(shown: ClipResult) -> dict[str, Any]:
    predicted = shown.predicted
    parts = []
    for part, row in shown.parts:
        values = {
            "scene": part.scene,
            "first_frame": part.first,
            "last_frame": part.last,
            "truth": _truth(part),
            "text": part.text,
            "mean_score": row.score,
            "frames_with_face": row.faces,
            "frames_called_fake": row.called,
        }
        parts.append(values)
    return {
        "engine": predicted.engine,
        "threshold": predicted.threshold,
        "frames": shown.file.frames,
        "frames_without_face": len(shown.file.faceless),
        "parts": parts,
        "reused": predicted.resumed > 0,
        "video": str(shown.file.picture),
        "timeline": str(shown.file.timeline),
        "frame_scores": str(predicted.frames),
    }


def clip_lines(shown: ClipResult) -> list[str]:
    """Say in plain words what the clip shows, how certain that is, and what it does not show."""
    predicted, file = shown.predicted, shown.file
    table = [("scene", "time", "ground truth", "mean score", "frames called fake")]
    called: Counter[bool] = Counter()
    faces: Counter[bool] = Counter()
    for part, row in shown.parts:
        score = "-"
        if row.score is not None:
            score = f"{row.score:.3f}"
        truth = f"{_truth(part)}: {part.text}"
        table.append((str(part.scene), row.where, truth, score, f"{row.called} of {row.faces}"))
        called[part.fake] += row.called
        faces[part.fake] += row.faces
    scenes = len({part.scene for part, _ in shown.parts})
    people = len({part.head for part, _ in shown.parts})
    again = ""
    if predicted.resumed:
        again = " (drawn by an earlier run)"
    return [
        *_aligned(table),
        f"video: {file.picture}{again}",
        f"timeline: {file.timeline}{again}",
        f"frames: {predicted.frames}",
        f"shown: a face was found in {file.frames - len(file.faceless)} of "
        f"{counted(file.frames, 'frame')}. At the threshold of {predicted.threshold:.3f}, "
        f"{predicted.engine} calls {called[True]} of {faces[True]} forged frames fake, and "
        f"{called[False]} of {faces[False]} real ones.",
        f"how certain: frames of a scene are nearly the same picture, and {scenes} scenes of "
        f"{people} people do not show how often the detector is right; `lpx demo` measures that.",
        NOT_SHOWN,
    ]


def _truth(part: ClipSpan) -> str:
    if part.fake:
        return "forged"
    return "real"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table in columns as wide as their longest cells."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = map(str.ljust, row, widths)
        # The padding of the last cell would wrap in a narrow terminal.
        lines.append("  ".join(cells).rstrip())
    return lines


def story(report: Report, int8_share: float, vnni: bool | None) -> list[str]:
    """Say in plain words what the demo shows, how certain that is, and what it does not show.

    Args:
        report: Report of the bench.
        int8_share: Size of the INT8 engine's file, as a fraction of the FP32 engine's.
        vnni: True if the processor has integer dot products; None if it is not x86.
    """
    from lpx.bench.report.sentences import percent

    known, accuracy = report.reference.discrimination, report.reference.accuracy
    # Over people: pictures of one person say less than as many of different people.
    interval = known.auc
    kinds = [f"{_KINDS[row.method]} {row.face.auc:.2f}" for row in accuracy.methods]
    lines = [
        f"shown: on {report.dataset.faces} pictures of {known.real_groups} rendered people, half "
        f"of them forged, the detector's AUC is {interval.estimate:.3f} (95 % interval "
        f"{interval.low:.3f} to {interval.high:.3f}): {', '.join(kinds)}. At its threshold it "
        f"calls {percent(accuracy.face.false_positive_rate)} of the real pictures fake, and "
        f"{percent(accuracy.face.true_positive_rate)} of the forged ones. "
        f"{_kept(report.verdict, report.margin)}",
        NOT_SHOWN,
    ]
    verdicts = []
    for candidate in report.candidates:
        if candidate.precision == "int8":
            for speed in candidate.costs.speed:
                # Faster than PyTorch is any engine: the question is whether INT8 beats FP32.
                if speed.against != "torch":
                    verdicts.append(speed.test.verdict)
    if verdicts and "faster" not in verdicts:
        which = {True: ", although it has VNNI", False: ", which has no VNNI", None: ""}[vnni]
        lines.append(
            f"int8: not shown to be faster than FP32 on this CPU{which}. Its advantage here is a "
            f"file of {100 * int8_share:.0f} % of the size."
        )
    return lines


def _kept(verdict: Verdict, margin: float) -> str:
    if verdict == "holds":
        return f"Every engine keeps that AUC to within {margin:g} (95 % confidence)."
    if verdict == "fails":
        return "An engine fails parity: see above which one, and why."
    return "These faces do not decide whether every engine keeps that AUC."
