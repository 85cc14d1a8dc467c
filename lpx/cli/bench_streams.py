"""`lpx bench --streams`: how many cameras this machine carries."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from typing import Protocol

import click
from rich.table import Table

from lpx.cli.bench_tables import plain_table
from lpx.cli.console import ConsoleReporter, Output
from lpx.data.wording import counted
from lpx.interrupts import Interrupted
from lpx.reporter import Reporter
from lpx.streams.capacity.result import CapacityResult, EngineCapacity, KnownAuc


class Measure(Protocol):
    """`lpx.Workspace.capacity` with its arguments."""

    def __call__(self, *, reporter: Reporter) -> CapacityResult:
        """Measure."""
        ...


def bench_streams(measure: Measure, *, as_json: bool) -> None:
    """Measure capacity, print it, and exit with 1 if nothing is to be recommended."""
    with ConsoleReporter() as reporter:
        try:
            result = measure(reporter=reporter)
        except Interrupted as stop:
            # The file may be there all the same, of an earlier measurement.
            kept = stop.kept or "nothing was finished, and streams.json was not written"
            raise Interrupted(stop.signal, kept, resumable=False) from None
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2))
    else:
        show(result)
    sys.exit(0 if result.recommended else 1)


def show(result: CapacityResult) -> None:
    """Print the tables, the notes and the recommendation."""
    console = Output()
    budget = result.budget
    watts = f" and {budget.watts:g} W" if budget.watts is not None else ""
    cameras = result.cameras
    console.say(
        f"{budget.fps:g} frames a second per camera, p99 within {budget.ms:g} ms{watts}; "
        f"{counted(cameras.threads, 'thread')} to decode, detect ({cameras.detector}) and crop "
        f"({cameras.crop})"
    )
    if result.engines:
        console.print(_table(result))
    for one in result.engines:
        console.say(_details(one))
    for failure in result.failed:
        console.say(f"{failure.name} failed: {failure.reason}", "red")
    for unfit in result.not_run:
        console.say(f"note: {unfit.manifest.name} was not run: {unfit.reason}")
    missing = dict.fromkeys(
        f"note: AUC of {one.engine} is not known: {one.auc.reason}"
        for one in result.engines
        if one.auc.reason
    )
    for text in missing:
        console.say(text)
    if result.energy_reason:
        console.say(f"note: power was not measured: {result.energy_reason}")
    for note in result.notes:
        console.say(f"note: {note}")
    console.say(conclusion(result), "bold")
    console.say(f"streams: {result.json_path}")


def _table(result: CapacityResult) -> Table:
    table = plain_table("engine", "batch", "streams", "p99 ms [95 %]", "W", AUC="left")
    for one in result.engines:
        streams = f"{one.streams}" + (" or more" if one.reached_limit else "")
        watts = "-" if one.best.load.watts is None else f"{one.best.load.watts:.1f}"
        table.add_row(one.engine, str(one.batch), streams, _p99(one), watts, _auc(one.auc))
    return table


def _p99(one: EngineCapacity) -> str:
    p99 = one.best.p99_ms
    text = f"{_ms(p99.estimate)} [{_ms(p99.low)}, {_ms(p99.high)}]"
    # Without a stream that holds, the trial with one stream is shown.
    return text if one.streams else f"{text} with 1 stream"


def _ms(value: float) -> str:
    return f"{value:.0f}" if math.isfinite(value) else "-"


def _auc(known: KnownAuc) -> str:
    if known.auc is None:
        return "-"
    return f"{known.auc.estimate:.4f} ({known.dataset}), parity {known.verdict}"


def _details(one: EngineCapacity) -> str:
    """Return where the time of a frame goes, and what the machine does meanwhile."""
    best = one.best
    parts = []
    if best.stages is not None:
        times = (f"{name} {ms:.1f}" for name, ms in asdict(best.stages).items())
        parts.append(f"ms per frame: {', '.join(times)}")
    parts.append(f"{best.load.cores:.1f} CPU cores")
    parts.append(
        f"engine busy {100 * best.load.engine_busy:.0f} %, "
        f"{best.load.faces_per_call:.1f} faces a call"
    )
    parts.append(f"of {counted(best.frames, 'frame')} {best.late} late, {best.dropped} dropped")
    return f"{one.engine}, batch {one.batch}, {counted(best.streams, 'stream')}: {'; '.join(parts)}"


def conclusion(result: CapacityResult) -> str:
    """Return which engine and batch size to use, or what came nearest."""
    if best := result.recommended:
        more = " or more" if best.reached_limit else ""
        streams = f"{counted(best.streams, 'stream')}{more}"
        return f"use {best.engine} with batch {best.batch}: {streams}"
    nearest = result.nearest
    if nearest is None:
        return "no engine could be measured"
    if nearest.streams:
        streams = counted(nearest.streams, "stream")
        return (
            f"no engine can be recommended: {nearest.engine} carries {streams}, but fails parity "
            "with the checkpoint in the last bench report"
        )
    why = nearest.best.reason
    return (
        f"not even one stream holds the budget: best was {nearest.engine} with batch "
        f"{nearest.batch}, p99 {_ms(nearest.best.p99_ms.estimate)} ms ({why})"
    )
