"""`lpx predict`: score the faces in images and videos."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import (
    factory_option,
    host_code_option,
    json_option,
    rebuild_option,
    refuse_options,
    was_given,
    workspace_option,
)
from lpx.data.wording import counted
from lpx.streams.live.source import is_live

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.predict.results import FileScore, PredictionResult


# Options that only a live source has, and those that it does not have.
_ONLY_LIVE = ("seconds", "fps", "timeout_s", "wait", "no_reconnect")
_NOT_LIVE = ("crops", "limit", "overlay")


def _frames(context: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "all":
        return None
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor 'all'") from None


@click.command()
@click.argument("path")
@click.option(
    "--crops", is_flag=True, help="The pictures are face crops, cut as for the model's training."
)
@click.option("--limit", type=int, metavar="N", help="Maximum number of files, sampled evenly.")
@click.option(
    "--frames",
    default="32",
    show_default=True,
    metavar="N|all",
    callback=_frames,
    help="Number of frames per video, evenly spaced. Of a live source: stop after N frames; by "
    "default never.",
)
@click.option(
    "--detector",
    default="blazeface",
    show_default=True,
    metavar="blazeface|centerface",
    help="Face detector.",
)
@click.option("--crop", metavar="RECIPE", help="Crop recipe. Default: the one in the model's card.")
@click.option(
    "--overlay/--no-overlay",
    default=True,
    help="Draw heat maps, and pages of videos' scores over time, or write scores only.",
)
@click.option(
    "--engine",
    metavar="NAME",
    help="Engine of the workspace, or torch for the checkpoint. Default: the fastest one that runs "
    "here.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder for pictures and tables. Default: predictions in the workspace. Of a live source: "
    "file to append lines of JSON to. Default: standard output.",
)
@click.option("--live", is_flag=True, help="Play a video file as if it were a camera, in a loop.")
@click.option("--seconds", type=float, metavar="S", help="Live: stop after S seconds.")
@click.option("--fps", type=float, metavar="F", help="Live: score at most F frames a second.")
@click.option(
    "--timeout",
    "timeout_s",
    type=float,
    default=10.0,
    show_default=True,
    metavar="S",
    help="Live: a source that gives no frame for S seconds is lost.",
)
@click.option("--wait", is_flag=True, help="Live: wait for a source that is not there yet.")
@click.option("--no-reconnect", is_flag=True, help="Live: end when the source is lost.")
@rebuild_option
@host_code_option
@factory_option
@workspace_option
@json_option
@click.pass_context
def predict(
    context: click.Context,
    path: str,
    crops: bool,
    limit: int | None,
    frames: int | None,
    detector: str,
    crop: str | None,
    overlay: bool,
    engine: str | None,
    out: Path | None,
    live: bool,
    seconds: float | None,
    fps: float | None,
    timeout_s: float,
    wait: bool,
    no_reconnect: bool,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Score every face in the image or video PATH, or in all images and videos below folder PATH.

    PATH may also be a live source: rtsp://..., http://..., udp://... or camera:0. Its newest
    frames are scored until a signal (Ctrl-C) or a limit ends it, and written as lines of JSON; it
    is opened again when it is lost.

    Faces are detected in each picture, and cut out as in the model's training. Use --crops if the
    images are already face crops.

    The score of a face is its probability of fake, that of a frame the score of its highest-scoring
    face, that of a video the mean over its frames with a face. A file without a detected face has
    no score.

    Writes scores.csv (a row per file), frames.csv (a row per face of each frame), an overlay of
    each file, and a page of each video's scores over time. If a run is interrupted, run the command
    again to resume it: files that were scored with the same model and options are not scored again.
    Files that cannot be read are left out, counted and named; the exit code is 2 only if none can
    be read.
    """
    from lpx.cli.console import ConsoleReporter

    if live or is_live(path):
        from lpx.cli.predict_live import show_live
        from lpx.streams.live.watch import LiveOptions

        refuse_options(context, _NOT_LIVE, "a live source is scored as it comes")
        if not was_given(context, "frames"):
            frames = None
        watch = partial(
            workspace.watch,
            path,
            engine=engine,
            detector=detector,
            crop=crop,
            frames=frames,
            seconds=seconds,
            fps=fps,
            options=LiveOptions(timeout_s, wait, not no_reconnect),
        )
        show_live(watch, out, as_json=as_json)
        return
    refuse_options(context, _ONLY_LIVE, "it is for live sources, such as rtsp://..., or --live")
    with ConsoleReporter() as reporter:
        result = workspace.predict(
            path,
            engine=engine,
            out=out,
            limit=limit,
            frames=frames,
            detector=None if crops else detector,
            crop=crop,
            overlay=overlay,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        _show(result)


def _show(result: PredictionResult) -> None:
    for file in result.files:
        where = f" -> {file.picture}" if file.picture else ""
        score = "  -  " if file.score is None else f"{file.score:.3f}"
        word = {None: "none", True: "FAKE", False: "real"}[file.fake]
        click.echo(f"{score}  {word}  {file.name}{_counts(file)}{where}")
        if file.timeline:
            click.echo(f"  timeline: {file.timeline}")
        if file.kind == "image" and len(file.faces) > 1:
            for face in file.faces:
                click.echo(
                    f"  face {face.face}: {face.score:.3f}  {'FAKE' if face.fake else 'real'}"
                )
        if file.note:
            click.echo(f"warning: {file.name}: {file.note}", err=True)
    for skipped in result.skipped:
        click.echo(f"skipped {skipped.name}: {skipped.reason}", err=True)
    if len(result.files) + len(result.skipped) > 1:
        click.echo(_summary(result))
    if times := result.ms_per_frame():
        said = ", ".join(f"{step} {ms:.1f}" for step, ms in times.items())
        click.echo(f"ms per frame: {said}")
    click.echo(f"scores: {result.scores}")
    if result.crop is not None:
        click.echo(f"frames: {result.frames}")


def _summary(result: PredictionResult) -> str:
    total = len(result.files) + len(result.skipped)
    parts = [f"scored {sum(f.score is not None for f in result.files)} of {counted(total, 'file')}"]
    if without := sum(file.score is None for file in result.files):
        parts.append(f"{without} without a face")
    if result.skipped:
        parts.append(f"{len(result.skipped)} could not be read")
    if noted := sum(bool(file.note) for file in result.files):
        parts.append(f"{noted} with a warning")
    return ", ".join(parts)


def _counts(file: FileScore) -> str:
    if file.kind == "video":
        without = f", {len(file.faceless)} without a face" if file.faceless else ""
        return f"  ({counted(file.frames, 'frame')}{without})"
    if file.kind == "image" and len(file.faces) != 1:
        return f"  ({len(file.faces)} faces)" if file.faces else "  (no face)"
    return ""
