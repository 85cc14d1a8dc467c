"""`lpx bench`: parity of AUC, and latency."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import (
    data_options,
    factory_option,
    host_code_option,
    json_option,
    rebuild_option,
    refuse_options,
    workspace_option,
)
from lpx.cli.ray import ray_options
from lpx.cli.shards import check_shard, shard_options, show_part
from lpx.errors import InvalidArgumentError

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.artefacts.bench_reference import ReferenceKind
    from lpx.bench.performance.trtexec_metrics import Release
    from lpx.bench.report.document.report import Report
    from lpx.metrics import Verdict

# Exit code if the checkpoint cannot tell real from fake, so that parity cannot be judged.
UNINFORMATIVE = 4
# A shard scores; costs are measured, and the verdict is given, by the bench after the merge.
_NOT_SHARDED = (
    "margin",
    "latency_seconds",
    "batches",
    "in_flight",
    "energy",
    "energy_seconds",
    "like",
    "trtexec_times",
    "rebuild",
    "videos",
)
# Options that only one of the two kinds of bench has.
_OF_FACES = (
    "dataset",
    "limit",
    "methods",
    "margin",
    "latency_seconds",
    "in_flight",
    "energy",
    "energy_seconds",
    "like",
    "trtexec_times",
    "pixels",
    "no_stages",
    "allow_overlap",
    "reference",
    "ray_address",
)
_OF_STREAMS = (
    "fps",
    "budget_ms",
    "budget_watts",
    "detector",
    "crop",
    "seconds",
    "batch_wait_ms",
    "most_streams",
)
_RELEASES: dict[str, Release] = {"10": 10, "11": 11}


def by_commas(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Split comma-separated names; None if the option was not given."""
    if value is None:
        return None
    names = tuple(filter(None, (name.strip() for name in value.split(","))))
    if not names:
        raise click.BadParameter("it is empty")
    return names


def sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Split comma-separated batch sizes."""
    try:
        return tuple(int(size) for size in by_commas(context, parameter, value) or ())
    except ValueError:
        raise click.BadParameter(f"must be whole numbers, such as 1,8 (got {value!r})") from None


def stages_of(pipelines: Sequence[str], *, no_stages: bool) -> list[str]:
    """Return the stages of `Workspace.bench`: those on the way to an engine, and on its pixels."""
    stages = [] if no_stages else ["onnx", "graph"]
    return stages + [f"pixels:{name}" for name in pipelines]


def times_of(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[Path, str | None]]:
    """Split FILE[=NAME] into file and name; the name is None if it is not given."""
    files: list[tuple[Path, str | None]] = []
    for value in values:
        path, sign, name = value.rpartition("=")
        # The name of a file may contain "=" too.
        named = bool(sign) and not Path(value).exists()
        files.append((Path(path), name) if named else (Path(value), None))
    return files


@click.command()
@click.option(
    "--dataset",
    metavar="NAME|DIR",
    help="Labelled face set: demo, folder:DIR, DIR with real/ and fake/, or a public data set such "
    "as ffpp-c23.",
)
@click.option("--limit", type=int, help="Maximum number of faces, sampled evenly; all by default.")
@click.option(
    "--method",
    "methods",
    metavar="NAMES",
    callback=by_commas,
    help="Comma-separated manipulation methods to include; real faces are always included.",
)
@click.option(
    "--candidates",
    metavar="NAMES",
    callback=by_commas,
    help="Comma-separated names of the engines to measure; all by default.",
)
@click.option(
    "--margin", default=0.005, show_default=True, help="Largest accepted loss of AUC, 0 to 1."
)
@click.option(
    "--latency-seconds",
    default=2.0,
    show_default=True,
    help="Seconds to measure each engine for, per batch size; 0 leaves latency out.",
)
@click.option(
    "--batches",
    default="1,8",
    show_default=True,
    metavar="SIZES",
    callback=sizes,
    help="Comma-separated batch sizes. Energy, throughput and trtexec-style latency use the "
    "smallest.",
)
@click.option(
    "--in-flight",
    type=int,
    default=0,
    metavar="N",
    help="Measure throughput with N batches at work at a time; 0 leaves it out.",
)
@click.option(
    "--energy",
    is_flag=True,
    help="Measure energy over five windows per engine; takes minutes.",
)
@click.option(
    "--energy-seconds",
    default=10.0,
    show_default=True,
    help="Length of an energy window in seconds; shorter ones are less exact.",
)
@click.option(
    "--like-trtexec",
    "like",
    type=click.Choice(("10", "11")),
    help="Also measure latency as this release of trtexec does.",
)
@click.option(
    "--import-trtexec",
    "trtexec_times",
    metavar="FILE[=NAME]",
    multiple=True,
    callback=times_of,
    help="Also show times of trtexec --exportTimes=FILE; can be repeated.",
)
@click.option(
    "--pixels",
    "stages",
    metavar="NAMES",
    callback=by_commas,
    help="Also score faces as other pipelines resize them: comma-separated, of deepstream, "
    "deepstream-nearest, triton, opencv-linear, pillow-bilinear, nv12, nv12-wrong-matrix.",
)
@click.option(
    "--no-stages",
    is_flag=True,
    help="Skip the intermediate stages (exported ONNX model, quantised graph).",
)
@click.option(
    "--allow-overlap", is_flag=True, help="Accept faces that an engine was calibrated on."
)
@click.option(
    "--reference",
    type=click.Choice(("auto", "checkpoint", "recorded")),
    default="auto",
    show_default=True,
    help="Compare engines with the checkpoint, which needs PyTorch, or with its scores that an "
    "earlier bench of these faces recorded. auto: the checkpoint where it runs.",
)
@click.option(
    "--streams",
    "videos",
    metavar="PATH",
    help="Measure instead how many cameras this machine carries: videos that stand for them (a "
    "file, a folder, or demo).",
)
@click.option(
    "--fps",
    default=10.0,
    show_default=True,
    metavar="F",
    help="Streams: frames a second of each camera.",
)
@click.option(
    "--budget-ms",
    default=200.0,
    show_default=True,
    metavar="MS",
    help="Streams: largest 99th percentile of the time from a frame to its scores.",
)
@click.option(
    "--budget-watts", type=float, metavar="W", help="Streams: largest mean power, in watts."
)
@click.option(
    "--detector",
    default="blazeface",
    show_default=True,
    metavar="blazeface|centerface",
    help="Streams: face detector.",
)
@click.option("--crop", metavar="RECIPE", help="Streams: crop recipe. Default: the model card's.")
@click.option(
    "--stream-seconds",
    "seconds",
    default=10.0,
    show_default=True,
    metavar="S",
    help="Streams: length of a trial; longer where that is less than 400 frames.",
)
@click.option(
    "--batch-wait-ms",
    default=2.0,
    show_default=True,
    metavar="MS",
    help="Streams: longest time that a face waits for others to fill its batch.",
)
@click.option(
    "--most-streams",
    default=256,
    show_default=True,
    metavar="N",
    help="Streams: number at which the search ends.",
)
@shard_options
@ray_options
@rebuild_option
@host_code_option
@factory_option
@data_options
@workspace_option
@json_option
@click.pass_context
def bench(
    context: click.Context,
    dataset: str | None,
    limit: int | None,
    methods: tuple[str, ...] | None,
    candidates: tuple[str, ...] | None,
    margin: float,
    latency_seconds: float,
    batches: tuple[int, ...],
    in_flight: int,
    energy: bool,
    energy_seconds: float,
    like: str | None,
    trtexec_times: list[tuple[Path, str | None]],
    stages: tuple[str, ...] | None,
    no_stages: bool,
    allow_overlap: bool,
    reference: ReferenceKind,
    videos: str | None,
    fps: float,
    budget_ms: float,
    budget_watts: float | None,
    detector: str,
    crop: str | None,
    seconds: float,
    batch_wait_ms: float,
    most_streams: int,
    shard: str | None,
    out: Path | None,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Measure every engine against the PyTorch checkpoint, on a labelled face set.

    Exit codes: 0 if parity holds for every engine, and on the pixels of each pipeline of --pixels;
    1 if it fails or is undecided, or an engine fails to run; 4 if the checkpoint itself cannot tell
    real from fake on these faces, so that parity cannot be judged. An interrupted bench resumes
    when the command is run again.

    With --streams, the whole road from video to score is measured for more and more simulated
    cameras: exit code 0 if an engine carries at least one within the budget, else 1.

    With --shard, faces are only scored: after `lpx merge` the same command without it finds all
    scores, measures costs, and writes the report.
    """
    check_shard(shard, out, _NOT_SHARDED)
    if videos is not None:
        from lpx.cli.bench_streams import bench_streams
        from lpx.streams.capacity.plan import CapacityOptions

        refuse_options(context, _OF_FACES, "--streams scores no labelled faces")
        measure = partial(
            workspace.capacity,
            videos,
            fps=fps,
            budget_ms=budget_ms,
            budget_watts=budget_watts,
            engines=candidates,
            batches=batches,
            detector=detector,
            crop=crop,
            options=CapacityOptions(
                seconds, batch_wait_ms=batch_wait_ms, most_streams=most_streams
            ),
        )
        bench_streams(measure, as_json=as_json)
        return
    if dataset is None:
        raise click.UsageError("Missing option '--dataset' (or '--streams').")
    refuse_options(context, _OF_STREAMS, "it belongs to --streams")
    from lpx.bench.performance.cost_plan import CostPlan
    from lpx.cli.console import ConsoleReporter

    if shard is not None:
        with ConsoleReporter() as reporter:
            part = workspace.shard(shard, out=out).bench(
                dataset,
                limit=limit,
                methods=methods,
                candidates=candidates,
                stages=stages_of(stages or (), no_stages=no_stages),
                allow_overlap=allow_overlap,
                reference=reference,
                reporter=reporter,
            )
        show_part(part, workspace, as_json=as_json)
        return
    # In `CostPlan` 0 leaves energy out, which is what leaving out --energy means here.
    if energy and energy_seconds == 0:
        raise InvalidArgumentError("energy_seconds", "must be > 0", energy_seconds)
    costs = CostPlan(
        batches,
        latency_seconds,
        in_flight,
        _RELEASES[like] if like else None,
        energy_seconds if energy else 0.0,
        trtexec_times,
    )
    with ConsoleReporter() as reporter:
        report = workspace.bench(
            dataset,
            limit=limit,
            methods=methods,
            candidates=candidates,
            margin=margin,
            costs=costs,
            stages=stages_of(stages or (), no_stages=no_stages),
            allow_overlap=allow_overlap,
            reference=reference,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        show(report)
    sys.exit(exit_code(report.verdict))


def exit_code(verdict: Verdict) -> int:
    """Return the exit code of a bench with this verdict."""
    return {"holds": 0, "uninformative": UNINFORMATIVE}.get(verdict, 1)


def show(report: Report) -> None:
    """Print the tables, the notes and the verdict."""
    from lpx.bench.report.cost_tables import cost_tables
    from lpx.bench.report.headline import headline, warnings
    from lpx.bench.report.pixel_sentences import pixel_facts, pixel_verdicts
    from lpx.bench.report.sentences import ability, failure, interval_kinds, speed_notes
    from lpx.cli import bench_tables as tables
    from lpx.cli.console import Output

    console = Output()
    data = report.dataset
    console.say(f"{data.faces} faces of {data.name} ({data.real} real, {data.fake} fake)")
    console.print(tables.parity(report))
    console.say(f"95 % intervals: {interval_kinds(report)}")
    if any(c.breaks_at and len(c.stages) > 1 for c in report.candidates):
        console.print(tables.stages(report))
    if report.pixels:
        console.print(tables.pixels(report))
    if report.batches:
        console.print(tables.latency(report))
    notes = speed_notes(report)
    for table in cost_tables(report):
        if table.rows:
            console.say(f"{table.title.lower()}:")
            console.print(tables.costs(table))
        notes += table.notes
    for row in report.failed:
        console.say(failure(row), "red")
    notes += [pixel_facts(summary, report) for summary in report.pixels]
    not_run = [f"{row.name} was not run: {row.reason}" for row in report.not_run]
    for text in (ability(report), data.note, *notes, *warnings(report), *not_run):
        if text:
            console.say(f"note: {text}")
    for line in pixel_verdicts(report):
        console.say(f"pixels of {line.pipeline}: parity {line.verdict}: {line.text}")
    console.say(f"parity {report.verdict}: {headline(report)}", "bold")
    names = f"{report.json_path.name}, {report.markdown_path.name}"
    console.say(f"report: {report.html_path} (and {names})")
