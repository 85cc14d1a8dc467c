"""`lpx bench`: parity of AUC, and latency."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from lpx.bench.wording import headline, warnings
from lpx.cli.options import data_options, json_option, workspace_option
from lpx.data.roots import DataPlaces
from lpx.workspace import Workspace

if TYPE_CHECKING:
    from rich.table import Table

    from lpx.pipeline import Benched


@click.command()
@click.option("--dataset", required=True, metavar="NAME|DIR",
              help="demo, folder:DIR, DIR with real/ and fake/, or a public data set, as "
              "ffpp-c23.")  # fmt: skip
@click.option("--limit", type=int, help="Most faces, spread evenly over the set.")
@click.option("--margin", default=0.005, show_default=True, help="AUC that an engine may lose.")
@click.option(
    "--latency-seconds",
    default=2.0,
    show_default=True,
    help="Time to measure each engine for, per batch size; 0 leaves latency out.",
)
@click.option("--allow-overlap", is_flag=True,
              help="Measure even on faces that an engine was calibrated on.")  # fmt: skip
@data_options
@workspace_option
@json_option
def bench(
    dataset: str, limit: int | None, margin: float, latency_seconds: float, allow_overlap: bool,
    places: DataPlaces, workspace: Workspace, as_json: bool,
) -> None:  # fmt: skip
    """Measure every engine against the PyTorch checkpoint, on a labelled face set.

    Exits with 0 where parity holds for every engine, and with 1 where it fails or is undecided.
    """
    from lpx import pipeline
    from lpx.cli.console import ConsoleReporter

    with ConsoleReporter() as report:
        done = pipeline.bench(
            workspace, dataset, limit=limit, margin=margin, latency_seconds=latency_seconds,
            allow_overlap=allow_overlap, places=places, report=report,
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(done.report, indent=2))
    else:
        show(done)
    sys.exit(0 if done.report["verdict"] == "holds" else 1)


def show(done: Benched) -> None:
    """Print the tables, the notes and the verdict."""
    from lpx.cli.console import Output

    console = Output()
    values = done.report
    console.say(
        f"{values['faces']} faces of {values['dataset']['name']} "
        f"({values['real']} real, {values['fake']} fake)"
    )
    console.print(_parity(values))
    if values["reference"]["latency"]:
        console.print(_latency(values))
    for text in (values["dataset"]["note"], *_notes(values)):
        if text:
            console.say(f"note: {text}")
    console.say(f"parity {values['verdict']}: {headline(values)}", "bold")
    console.say(f"report: {done.html_path} (and {done.json_path.name})")


def _notes(values: dict[str, Any]) -> list[str]:
    not_run = [f"{row['name']} was not run: {row['reason']}" for row in values["not_run"]]
    return warnings(values) + not_run


def _parity(values: dict[str, Any]) -> Table:
    table = _table("engine", "AUC", "difference [95 %]", "max |ds|", "flips", parity="left")
    reference = values["reference"]
    table.add_row("torch fp32", f"{reference['auc']:.4f}", "the reference", "", "", "")
    styles = {"holds": "green", "fails": "red", "undecided": "yellow"}
    for c in values["candidates"]:
        d = c["auc_difference"]
        table.add_row(
            c["name"],
            f"{c['auc']:.4f}",
            rf"{d['estimate']:+.4f} \[{d['low']:+.4f}, {d['high']:+.4f}]",
            f"{c['score_difference']['max']:.4f}",
            str(c["flips"]),
            f"[{styles[c['verdict']]}]{c['verdict']}[/]",
        )
    return table


def _table(first: str, *numbers: str, **texts: Literal["left"]) -> Table:
    """A plain table that fits 80 columns: names to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
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
