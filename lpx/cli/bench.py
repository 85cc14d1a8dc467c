"""`lpx bench`: parity of AUC, and latency."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from lpx.cli.options import data_options, json_option, workspace_option
from lpx.data.roots import DataPlaces
from lpx.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

    from lpx.pipeline import Benched


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


@click.command()
@click.option("--dataset", required=True, metavar="NAME|DIR",
              help="demo, folder:DIR, DIR with real/ and fake/, or a public data set, as "
              "ffpp-c23.")  # fmt: skip
@click.option("--limit", type=int, help="Most faces, spread evenly over the set.")
@click.option("--method", "methods", metavar="NAMES", callback=by_commas,
              help="Manipulations to keep, by commas; real faces stay.")  # fmt: skip
@click.option("--candidates", metavar="NAMES", callback=by_commas,
              help="Engines to measure, by commas; all by default.")  # fmt: skip
@click.option("--margin", default=0.005, show_default=True, help="AUC that an engine may lose.")
@click.option(
    "--latency-seconds",
    default=2.0,
    show_default=True,
    help="Time to measure each engine for, per batch size; 0 leaves latency out.",
)
@click.option("--no-stages", is_flag=True,
              help="Leave out ONNX and graph on the way to each engine.")  # fmt: skip
@click.option("--allow-overlap", is_flag=True,
              help="Measure even on faces that an engine was calibrated on.")  # fmt: skip
@data_options
@workspace_option
@json_option
def bench(
    dataset: str, limit: int | None, methods: tuple[str, ...] | None,
    candidates: tuple[str, ...] | None, margin: float, latency_seconds: float, no_stages: bool,
    allow_overlap: bool, places: DataPlaces, workspace: Workspace, as_json: bool,
) -> None:  # fmt: skip
    """Measure every engine against the PyTorch checkpoint, on a labelled face set.

    Exits with 0 where parity holds for every engine, and with 1 where it fails or is undecided, or
    an engine fails to run. A bench that was stopped goes on when the command is given again.
    """
    from lpx import pipeline
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as report:
        done = pipeline.bench(
            workspace, dataset, limit=limit, methods=methods, candidates=candidates, margin=margin,
            latency_seconds=latency_seconds, stages=not no_stages, allow_overlap=allow_overlap,
            places=places, report=report,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(done.report, indent=2))
    else:
        show(done)
    sys.exit(0 if done.report["verdict"] == "holds" else 1)


def show(done: Benched) -> None:
    """Print the tables, the notes and the verdict."""
    from lpx.bench.wording import failure, headline, interval_kinds, warnings
    from lpx.cli.console import Output

    console = Output()
    values = done.report
    console.say(
        f"{values['faces']} faces of {values['dataset']['name']} "
        f"({values['real']} real, {values['fake']} fake)"
    )
    console.print(_parity(values))
    console.say(f"95 % intervals: {interval_kinds(values)}")
    if any(c["breaks_at"] and len(c["stages"]) > 1 for c in values["candidates"]):
        console.print(_stages(values))
    if values["reference"]["latency"]:
        console.print(_latency(values))
    for row in values["failed"]:
        console.say(failure(row), "red")
    not_run = [f"{row['name']} was not run: {row['reason']}" for row in values["not_run"]]
    for text in (values["dataset"]["note"], *warnings(values), *not_run):
        if text:
            console.say(f"note: {text}")
    console.say(f"parity {values['verdict']}: {headline(values)}", "bold")
    console.say(f"report: {done.html_path} (and {done.json_path.name}, {done.markdown_path.name})")


def _parity(values: dict[str, Any]) -> Table:
    table = _table("engine", "AUC", "difference [95 %]", "max |ds|", "flips", parity="left")
    reference = values["reference"]
    table.add_row("torch fp32", f"{reference['auc']:.4f}", "the reference", "", "", "")
    for c in values["candidates"]:
        d = c["auc_difference"]
        table.add_row(
            c["name"],
            f"{c['auc']:.4f}",
            rf"{d['estimate']:+.4f} \[{d['low']:+.4f}, {d['high']:+.4f}]",
            f"{c['score_difference']['max']:.4f}",
            str(c["flips"]),
            _coloured(c["verdict"]),
        )
    return table


def _coloured(verdict: str) -> str:
    style = {"holds": "green", "fails": "red", "undecided": "yellow"}[verdict]
    return f"[{style}]{verdict}[/]"


def _stages(values: dict[str, Any]) -> Table:
    """Stage by stage, of the engines whose parity does not hold."""
    table = _table("stage of", "against torch [95 %]", "max |ds|", parity="left")
    for candidate in values["candidates"]:
        if not candidate["breaks_at"]:
            continue
        table.add_row(f"[bold]{candidate['name']}[/]")
        for row in candidate["stages"]:
            found = row["against_torch"]
            if found is None:
                table.add_row(f"  {row['kind']}", "", "", "not run")
                continue
            d = found["auc_difference"]
            first = row["kind"] == candidate["breaks_at"]
            table.add_row(
                f"  {row['kind']}",
                rf"{d['estimate']:+.4f} \[{d['low']:+.4f}, {d['high']:+.4f}]",
                f"{found['score_difference']['max']:.4f}",
                _coloured(found["verdict"]) + " <- first" * first,
            )
    return table


def _table(first: str, *numbers: str, **texts: Literal["left"]) -> Table:
    """A plain table that fits 80 columns: names to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column(first, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for name, side in texts.items():
        table.add_column(name, justify=side, no_wrap=True)
    return table


def _latency(values: dict[str, Any]) -> Table:
    headers = ("batch", "ms/face p50", "p90", "p99", "us/patch", "faces/s", "speed")
    table = _table("engine", *headers)
    slow = {row["batch"]: row["per_face_p50_ms"] for row in values["reference"]["latency_by_batch"]}
    for entry in (values["reference"], *values["candidates"]):
        for row in entry["latency_by_batch"]:
            table.add_row(
                entry["name"],
                str(row["batch"]),
                f"{row['per_face_p50_ms']:.2f}",
                f"{row['per_face_p90_ms']:.2f}",
                f"{row['per_face_p99_ms']:.2f}",
                f"{row['per_patch_p50_us']:.2f}",
                f"{row['faces_per_second']:.0f}",
                f"{slow[row['batch']] / row['per_face_p50_ms']:.1f}x",
            )
    return table
