"""`lpx bench`: parity of AUC, and latency."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lpx.cli.options import (
    data_options,
    factory_option,
    host_code_option,
    json_option,
    workspace_option,
)
from lpx.errors import LpxError

if TYPE_CHECKING:
    from lpx.api.bench import Benched
    from lpx.api.workspace import Workspace
    from lpx.bench.performance.trtexec_metrics import Release
    from lpx.metrics import Verdict

UNINFORMATIVE = 4
"""Exit code where the checkpoint cannot tell real from fake, so that parity cannot be judged."""
_RELEASES: dict[str, Release] = {"10": 10, "11": 11}


def by_commas(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> tuple[str, ...] | None:
    """Names between commas; None where the option was not given."""
    if value is None:
        return None
    names = tuple(filter(None, (name.strip() for name in value.split(","))))
    if not names:
        raise click.BadParameter("it names nothing")
    return names


def sizes(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Batch sizes between commas."""
    try:
        return tuple(int(size) for size in by_commas(context, parameter, value) or ())
    except ValueError:
        raise click.BadParameter(f"{value!r} are no whole numbers, as 1,8") from None


def times_of(
    context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> list[tuple[Path, str | None]]:
    """Files of times, and what to call their engines; None where that is not said."""
    found: list[tuple[Path, str | None]] = []
    for value in values:
        path, sign, name = value.rpartition("=")
        # A file's name may hold "=" too.
        named = bool(sign) and not Path(value).exists()
        found.append((Path(path), name) if named else (Path(value), None))
    return found


@click.command()
@click.option(
    "--dataset",
    required=True,
    metavar="NAME|DIR",
    help="demo, folder:DIR, DIR with real/ and fake/, or a public data set, as ffpp-c23.",
)
@click.option("--limit", type=int, help="Most faces, spread evenly over the set.")
@click.option(
    "--method",
    "methods",
    metavar="NAMES",
    callback=by_commas,
    help="Manipulations to keep, by commas; real faces stay.",
)
@click.option(
    "--candidates",
    metavar="NAMES",
    callback=by_commas,
    help="Engines to measure, by commas; all by default.",
)
@click.option("--margin", default=0.005, show_default=True, help="AUC that an engine may lose.")
@click.option(
    "--latency-seconds",
    default=2.0,
    show_default=True,
    help="Time to measure each engine for, per batch size; 0 leaves latency out.",
)
@click.option(
    "--batches",
    default="1,8",
    show_default=True,
    metavar="SIZES",
    callback=sizes,
    help="Faces per call, by commas; the smallest is that of --energy, --in-flight and "
    "--like-trtexec.",
)
@click.option(
    "--in-flight",
    type=int,
    default=0,
    metavar="N",
    help="Measure throughput with N batches at work at a time.",
)
@click.option(
    "--energy", is_flag=True, help="Measure energy, five windows per engine; takes minutes."
)
@click.option(
    "--energy-seconds",
    default=10.0,
    show_default=True,
    help="Length of such a window; shorter ones are less exact.",
)
@click.option(
    "--like-trtexec",
    type=click.Choice(("10", "11")),
    help="Put latency in the terms of this release of trtexec too.",
)
@click.option(
    "--import-trtexec",
    "trtexec_times",
    metavar="FILE[=NAME]",
    multiple=True,
    callback=times_of,
    help="Show times of trtexec --exportTimes=FILE; may be given again.",
)
@click.option(
    "--no-stages", is_flag=True, help="Leave out ONNX and graph on the way to each engine."
)
@click.option(
    "--allow-overlap", is_flag=True, help="Measure even on faces that an engine was calibrated on."
)
@host_code_option
@factory_option
@data_options
@workspace_option
@json_option
def bench(
    dataset: str,
    limit: int | None,
    methods: tuple[str, ...] | None,
    candidates: tuple[str, ...] | None,
    margin: float,
    latency_seconds: float,
    batches: tuple[int, ...],
    in_flight: int,
    energy: bool,
    energy_seconds: float,
    like_trtexec: str | None,
    trtexec_times: list[tuple[Path, str | None]],
    no_stages: bool,
    allow_overlap: bool,
    workspace: Workspace,
    as_json: bool,
) -> None:
    """Measure every engine against the PyTorch checkpoint, on a labelled face set.

    Exit codes: 0 if parity holds for every engine; 1 if it fails or is undecided, or an engine
    fails to run; 4 if the checkpoint itself cannot tell real from fake on these faces, so that
    parity cannot be judged. An interrupted bench resumes when the command is run again.
    """
    from lpx.bench.performance.costs import CostPlan
    from lpx.cli.console import ConsoleReporter

    if energy:
        _check_window(energy_seconds)
    costs = CostPlan(
        batches,
        latency_seconds,
        in_flight,
        _RELEASES[like_trtexec] if like_trtexec else None,
        energy_seconds if energy else 0.0,
    )
    with ConsoleReporter() as reporter:
        done = workspace.bench(
            dataset,
            limit=limit,
            methods=methods,
            candidates=candidates,
            margin=margin,
            costs=costs,
            trtexec_times=trtexec_times,
            stages=not no_stages,
            allow_overlap=allow_overlap,
            reporter=reporter,
        )
    if as_json:
        click.echo(json.dumps(done.report, indent=2))
    else:
        show(done)
    sys.exit(exit_code(done.report["verdict"]))


def _check_window(seconds: float) -> None:
    if not 0 < seconds < math.inf:
        raise LpxError(
            f"--energy-seconds {seconds:g} is not a duration",
            "it is how long one of the five windows of an engine lasts",
            "give a number of seconds, as --energy-seconds 10",
        )


def exit_code(verdict: Verdict) -> int:
    """The exit code of a bench with this verdict."""
    return {"holds": 0, "uninformative": UNINFORMATIVE}.get(verdict, 1)


def show(done: Benched) -> None:
    """Print the tables, the notes and the verdict."""
    from lpx.bench.report.cost_tables import cost_tables
    from lpx.bench.report.sentences import (
        ability,
        failure,
        headline,
        interval_kinds,
        speed_notes,
        warnings,
    )
    from lpx.cli import bench_tables as tables
    from lpx.cli.console import Output

    console = Output()
    values = done.report
    console.say(
        f"{values['faces']} faces of {values['dataset']['name']} "
        f"({values['real']} real, {values['fake']} fake)"
    )
    console.print(tables.parity(values))
    console.say(f"95 % intervals: {interval_kinds(values)}")
    if any(c["breaks_at"] and len(c["stages"]) > 1 for c in values["candidates"]):
        console.print(tables.stages(values))
    if values["reference"]["latency"]:
        console.print(tables.latency(values))
    notes = speed_notes(values)
    for found in cost_tables(values):
        if found.rows:
            console.say(f"{found.title.lower()}:")
            console.print(tables.costs(found))
        notes += found.notes
    for row in values["failed"]:
        console.say(failure(row), "red")
    not_run = [f"{row['name']} was not run: {row['reason']}" for row in values["not_run"]]
    for text in (ability(values), values["dataset"]["note"], *notes, *warnings(values), *not_run):
        if text:
            console.say(f"note: {text}")
    console.say(f"parity {values['verdict']}: {headline(values)}", "bold")
    console.say(f"report: {done.html_path} (and {done.json_path.name}, {done.markdown_path.name})")
