"""`lpx bench --streams`: how many cameras this machine carries."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click
from rich.table import Table

from lpx.cli.console import ConsoleReporter, Output
from lpx.data.wording import counted
from lpx.interrupts import Interrupted
from lpx.streams.capacity.plan import CapacityOptions
from lpx.streams.capacity.result import CapacityResult, EngineCapacity, KnownAuc

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace


@dataclass(frozen=True)
class StreamsCommand:
    """Options of the command; those of `lpx.Workspace.capacity`."""

    videos: str
    fps: float
    budget_ms: float
    budget_watts: float | None
    candidates: tuple[str, ...] | None
    batches: tuple[int, ...]
    detector: str
    crop: str | None
    seconds: float
    batch_wait_ms: float
    most_streams: int


def bench_streams(workspace: Workspace, command: StreamsCommand, *, as_json: bool) -> None:
    """Measure capacity, print it, and exit with 1 if nothing is to be recommended."""
    options = CapacityOptions(
        command.seconds, batch_wait_ms=command.batch_wait_ms, most_streams=command.most_streams
    )
    with ConsoleReporter() as reporter:
        try:
            result = workspace.capacity(
                command.videos,
                fps=command.fps,
                budget_ms=command.budget_ms,
                budget_watts=command.budget_watts,
                engines=command.candidates,
                batches=command.batches,
                detector=command.detector,
                crop=command.crop,
                options=options,
                reporter=reporter,
            )
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
    table = Table("engine", "batch", "streams", "p99 ms [95 %]", "W", "AUC")
    for name in ("batch", "streams", "p99 ms [95 %]", "W"):
        next(column for column in table.columns if column.header == name).justify = "right"
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
        return f"use {best.engine} with batch {best.batch}: {counted(best.streams, 'stream')}"
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
