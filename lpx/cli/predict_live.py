"""`lpx predict` of a live source: lines of JSON, until a signal or a limit ends it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Protocol

import click

from lpx import interrupts
from lpx.cli.console import ConsoleReporter
from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.interrupts import Interrupted
from lpx.reporter import Reporter
from lpx.streams.live.results import LiveEvent, LiveSummary
from lpx.streams.live.watch import LiveWatch
from lpx.workspace import Appended, check_writable


class Watch(Protocol):
    """`lpx.Workspace.watch` with its arguments."""

    def __call__(self, *, reporter: Reporter) -> LiveWatch:
        """Open the engine."""
        ...


def show_live(watch: Watch, out: Path | None, *, as_json: bool) -> None:
    """Watch a source, and write each frame and event as a line.

    Args:
        watch: Watches it.
        out: File to append to; None for standard output.
        as_json: Print the summary as one object; the lines go to `out`.

    Raises:
        LpxError: As for the method, or no frame came.
        Interrupted: A signal ended it, after the summary was written.
    """
    if as_json and out is None:
        raise LpxError(
            "--json needs --out for a live source",
            "it prints one object, and a live source gives a line for each frame",
            "leave --json out, as each line is an object by itself, or add --out FILE.jsonl",
            code="invalid-argument",
        )
    lines = _Lines(out)
    with ConsoleReporter() as reporter:
        summary = _follow(watch(reporter=reporter), lines, reporter)
        reporter.say(_text(summary, out))
    if as_json:
        click.echo(json.dumps(summary.to_dict(), indent=2))
    if not summary.counts.frames and not lines.broken:
        raise LpxError(
            f"{summary.source} gave no frame in {summary.seconds:.0f} s",
            "",
            "check that it sends, or give it more `seconds`",
            code="unreachable",
        )


def _follow(watch: LiveWatch, lines: _Lines, reporter: Reporter) -> LiveSummary:
    try:
        with watch:
            for item in watch:
                # A signal must not cut a line in two.
                with interrupts.deferred():
                    lines.write(item.to_dict())
                    if isinstance(item, LiveEvent):
                        say = reporter.say if item.kind == "connected" else reporter.warn
                        say(str(item))
                if lines.broken:
                    break
    except Interrupted as stop:
        summary = watch.summary(stop.signal.name)
        lines.write(summary.to_dict())
        reporter.say(_text(summary, lines.path))
        raise Interrupted(stop.signal, f"{_scored(summary)} and written") from None
    summary = watch.summary()
    with interrupts.deferred():
        lines.write(summary.to_dict())
    return summary


def _scored(summary: LiveSummary) -> str:
    frames = summary.counts.frames
    return f"{counted(frames, 'frame')} {'was' if frames == 1 else 'were'} scored"


def _text(summary: LiveSummary, out: Path | None) -> str:
    counts = summary.counts
    text = (
        f"{_scored(summary)} in {summary.seconds:.0f} s: {counted(summary.faces, 'face')}, "
        f"{counted(summary.faceless, 'frame')} without a face, "
        f"{counted(summary.fake_frames, 'frame')} called fake; {counts.dropped} dropped, "
        f"{counts.skipped} skipped, {counted(counts.reconnects, 'reconnection')}"
    )
    return f"{text}; lines: {out}" if out else text


class _Lines:
    """Writes lines of JSON.

    Args:
        path: File to append to; None for standard output.

    Attributes:
        path: The file.

    Raises:
        LpxError: The file cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._file: Appended | None = None
        if path is not None:
            check_writable(path.parent, path.name)
            self._file = Appended(path)
            if not _ends_whole(path):
                # A run that was killed left half a line: the next one begins on its own.
                self._file.add(b"\n")

    @property
    def broken(self) -> bool:
        """Whether nobody reads standard output any more, or it cannot be written."""
        return self._file is None and getattr(sys.stdout, "error", None) is not None

    def write(self, values: dict[str, Any]) -> None:
        """Write a line, whole."""
        line = json.dumps(values, allow_nan=False)
        if self._file is not None:
            self._file.add(line.encode() + b"\n")
        else:
            click.echo(line)


def _ends_whole(path: Path) -> bool:
    """Return whether a file is absent or empty, or ends with a line break."""
    try:
        with path.open("rb") as stream:
            if not stream.seek(0, os.SEEK_END):
                return True
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"
    except OSError:
        # Whatever is wrong with it, writing will say.
        return True
