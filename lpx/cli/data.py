"""`lpx data`: cut faces out of data sets, and describe sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import data_options, json_option, workspace_option
from lpx.cli.ray import ray_options
from lpx.cli.shards import check_shard, shard_options, show_part
from lpx.data.roots import DataPlaces
from lpx.data.wording import counted, some

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.data.face_sets.info import SetInfo
    from lpx.data.prepare import PrepareResult


@click.group()
def data() -> None:
    """Cut faces out of data sets, and describe data sets.

    Both commands take --json.
    """


@data.command()
@click.argument("name", metavar="SET")
@click.option("--split", metavar="NAME", help="Split to prepare: train, val or test. Default: all.")
@click.option(
    "--methods",
    default="",
    metavar="A,B,...",
    help="Comma-separated manipulation methods; real videos are always included. "
    "Default: the usual ones of the set.",
)
@click.option(
    "--frames", default=32, show_default=True, help="Number of frames per video, evenly spaced."
)
@click.option(
    "--crop",
    metavar="RECIPE",
    help="Crop recipe: square-1.3, aligned-1.3-256 or square-1.75-landmarks. Default: the one "
    "in the card of the workspace's model, else square-1.3.",
)
@click.option(
    "--detector",
    default="blazeface",
    show_default=True,
    metavar="NAME",
    help="Face detector: blazeface or centerface.",
)
@click.option("--processes", type=int, help="Maximum number of processes. Default: one per core.")
@click.option("--strict", is_flag=True, help="Fail if a video of the set's lists is not on disk.")
@shard_options
@ray_options
@data_options
@workspace_option
@json_option
def prepare(
    name: str,
    split: str | None,
    methods: str,
    frames: int,
    crop: str | None,
    detector: str,
    processes: int | None,
    strict: bool,
    shard: str | None,
    out: Path | None,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Cut the faces out of the videos of SET, once.

    SET is ffpp-raw, ffpp-c23, ffpp-c40, celeb-df-v2, dfdc, dfdcp or deeperforensics. If a run is
    interrupted, run the command again to resume it: finished videos are not cut again.
    """
    from lpx.cli.console import ConsoleReporter

    check_shard(shard, out)
    options: dict[str, Any] = {
        "split": split,
        "methods": [method for method in methods.split(",") if method],
        "frames": frames,
        "crop": crop,
        "detector": detector,
        "processes": processes,
        "strict": strict,
    }
    with ConsoleReporter() as reporter:
        if shard is not None:
            part = workspace.shard(shard, out=out).prepare_faces(name, **options, reporter=reporter)
        else:
            done = workspace.prepare_faces(name, **options, reporter=reporter)
    if shard is not None:
        show_part(part, workspace, as_json=as_json)
    elif as_json:
        click.echo(json.dumps(prepared(done), indent=2))
    else:
        show_prepared(done)


def show_prepared(done: PrepareResult) -> None:
    """Print what was prepared."""
    if not done.done_now:
        click.echo(f"nothing to do: {counted(done.videos, 'video')} done before")
    none = f" ({done.faceless_videos} more gave none)" if done.faceless_videos else ""
    videos = counted(done.videos - done.faceless_videos, "video")
    click.echo(f"{done.folder}: {counted(done.faces, 'face')} of {videos}{none}, crop {done.crop}")
    _tell_skipped(done.reasons())
    _tell_missing(done.missing)
    for note in done.notes:
        click.echo(f"note: {note}")
    if total := sum(done.seconds.values()):
        shares = (f"{stage} {value / total:.0%}" for stage, value in done.seconds.items() if value)
        click.echo(f"time: {total:.0f} s of one core: {', '.join(shares)}")


def prepared(done: PrepareResult) -> dict[str, Any]:
    """Return plain values, for --json."""
    return {
        "folder": str(done.folder),
        "crop": done.crop,
        "frames_per_video": done.frames_per_video,
        "videos": done.videos,
        "done_now": done.done_now,
        "faces": done.faces,
        "faceless_videos": done.faceless_videos,
        "skipped": [vars(one) for one in done.skipped],
        "skipped_by_reason": done.reasons(),
        "missing": list(done.missing),
        "notes": list(done.notes),
        "seconds": dict(done.seconds),
    }


def _tell_skipped(reasons: Mapping[str, int]) -> None:
    for reason, count in reasons.items():
        click.echo(f"without a face: {count} x {reason}")
    if reasons:
        click.echo("each of these is named in the set's manifest.json")


def _tell_missing(missing: tuple[str, ...]) -> None:
    if missing:
        click.echo(f"not on disk: {counted(len(missing), 'video')}: {some(missing)}")


@data.command()
@click.argument("source", metavar="SET|FOLDER")
@click.option(
    "--contact-sheet",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Write a picture with some faces of each split and method.",
)
@data_options
@json_option
def info(
    source: str,
    contact_sheet: Path | None,
    data_root: Path | None,
    store: Path | None,
    as_json: bool,
) -> None:
    """Describe SET or FOLDER: its faces, people, splits and methods.

    For a public data set that was not prepared, describes the videos on disk.
    """
    from lpx.data.face_sets.info import read_info, write_sheet

    found = read_info(source, DataPlaces(data_root, store))
    if contact_sheet is not None:
        write_sheet(found, contact_sheet)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    _show(found)
    if contact_sheet is not None:
        click.echo(f"written: {contact_sheet}")


def _show(found: SetInfo) -> None:
    from rich import box
    from rich.table import Table

    from lpx.cli.console import Output

    console = Output()
    console.say(f"{found.name}: {found.where}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("split", "method"):
        table.add_column(name)
    for name in ("label", "videos", "people", "faces"):
        table.add_column(name, justify="right")
    for part in found.parts:
        label = {0: "real", 1: "fake", None: "?"}[part.label]
        people, faces = (str(n) if n else "-" for n in (part.identities, part.faces))
        table.add_row(part.split or "-", part.method, label, str(part.videos), people, faces)
    console.print(table)
    if found.crop:
        console.say(f"crop {found.crop}")
    if s := found.sizes:
        console.say(
            f"crops are {s.least} to {s.greatest} pixels wide, half of them up to {s.median}"
        )
    _tell_skipped(found.skipped_by_reason)
    _tell_missing(found.missing)
    for (one, other), shared in found.overlaps:
        more = ", ..." if len(shared) > 3 else ""
        console.say(
            f"warning: {len(shared)} identities are in {one} and in {other}: "
            f"{', '.join(shared[:3])}{more}"
        )
    for note in found.notes:
        console.say(f"note: {note}")
