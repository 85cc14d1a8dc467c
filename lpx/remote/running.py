"""Commands on a board: started once, followed over any number of connections, stopped."""

from __future__ import annotations

import codecs
import contextlib
import getpass
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from lpx import interrupts
from lpx.errors import LpxError
from lpx.plain import plain
from lpx.remote.connection import Connection, LostError
from lpx.reporter import Reporter
from lpx.schema import SchemaError, in_range, parse_json, read_record

Output = Callable[[str, bytes], None]
"""Receives "stdout" or "stderr", and bytes that a command on a board wrote there."""

# Waits between attempts to reach a board again, seconds; the last one is repeated.
_WAITS_S = (1, 2, 4, 8, 15)
# Time that a command has to end after Ctrl-C, before it is left to itself.
STOP_S = 30.0
_MAX_SIGNAL = 64


@dataclass(frozen=True)
class RemoteJob:
    """A command on a board.

    Attributes:
        job: Its identifier.
        work: Name of its workspace there.
        key: Digest of its words and inputs.
        words: The command, after `lpx`.
        started: When, seconds since 1970 by the board's clock.
        running: Whether it was running when the board was asked.
    """

    job: str
    work: str
    key: str
    words: tuple[str, ...]
    started: float
    running: bool


@dataclass(frozen=True)
class _End:
    """End of a command: its exit code, or why it could not be started; neither if unknown."""

    code: int | None = None
    error: str = ""
    ended: float = 0.0


class PassOn:
    """Writes output of a command on a board to the same streams of this process.

    Args:
        stdout: Stream for its standard output; None for standard output.
    """

    def __init__(self, stdout: TextIO | None = None) -> None:
        self._stdout = stdout
        # A piece may end within a character.
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder(errors="replace") for name in ("stdout", "stderr")}

    def __call__(self, name: str, data: bytes) -> None:
        """Write a piece of "stdout" or "stderr"."""
        stream = sys.stderr if name == "stderr" else self._stdout or sys.stdout
        # What the board prints is not trusted: no escape sequences for this terminal.
        stream.write(plain(self._decoders[name].decode(data), keep="\n\t"))
        stream.flush()


def holder(command: str) -> dict[str, str]:
    """Return what others see while this workstation has the board."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {"who": f"{user}@{os.uname().nodename}", "command": command[:200]}


def read_job(host: str, reply: Mapping[str, Any]) -> RemoteJob | None:
    """Return the command in a reply of the board; None if there is none.

    Raises:
        LpxError: It is not one.
    """
    if reply.get("job") is None:
        return None
    try:
        return read_record(RemoteJob, reply["job"])
    except SchemaError as error:
        raise LpxError(
            f"{host} sends what lpx does not understand", str(error), "", code="damaged"
        ) from error


def again(connection: Connection, patience_s: float, reporter: Reporter) -> Iterator[None]:
    """Connect again after a lost connection: yields whenever there is a connection.

    Args:
        connection: The board.
        patience_s: Time after which it gives up, counted from the last connection.
        reporter: Receives a message when the connection is back.

    Raises:
        LostError: There was no connection for that time.
        LpxError: The board does not let this user in any more.
    """
    number, lost_at = 0, time.monotonic()
    while True:
        try:
            connection.connect()
            number, lost_at = 0, time.monotonic()
            reporter.say(f"connected to {connection.host} again")
            yield
        except LostError:
            if time.monotonic() - lost_at >= patience_s:
                raise
        time.sleep(_WAITS_S[min(number, len(_WAITS_S) - 1)])
        number += 1


def follow(
    connection: Connection,
    job: str,
    output: Output,
    *,
    patience_s: float,
    reporter: Reporter,
) -> int:
    """Pass on the output of a command until it ends, over lost connections too.

    SIGINT and SIGTERM stop the command there; after SIGHUP, when a terminal is closed, it goes on.

    Args:
        connection: The board.
        job: Identifier of the command.
        output: Receives its output.
        patience_s: Time to try for when the connection is lost, seconds.
        reporter: Receives notes.

    Returns:
        Exit code of the command.

    Raises:
        LostError: The connection is lost for longer than that. The command goes on.
        LpxError: The command could not be started, or ended without an exit code.
        Interrupted: A signal asked this process to end.
    """
    reading = _Following(connection, job, output)
    try:
        return _follow(reading, patience_s, reporter)
    except interrupts.Interrupted as interruption:
        reading.interrupted(interruption, reporter)
        raise


def _follow(reading: _Following, patience_s: float, reporter: Reporter) -> int:
    host = reading.connection.host
    try:
        return reading.once()
    except LostError as lost:
        reporter.warn(
            f"the connection to {host} is lost ({plain(lost.why) or 'no reason given'}); the "
            "command goes on there, reconnecting"
        )
    try:
        for _ in again(reading.connection, patience_s, reporter):
            with contextlib.suppress(LostError):
                return reading.once()
    except LostError as error:
        raise LostError(
            f"the connection to {host} is lost, and the command there goes on",
            error.why,
            f"run the same command again, or `lpx remote {host} attach`: it is not started twice",
        ) from error
    raise AssertionError("`again` ends with an error only")


class _Following:
    """The output of a command, as far as it has been read.

    Args:
        connection: The board.
        job: Identifier of the command.
        output: Receives its output.
    """

    def __init__(self, connection: Connection, job: str, output: Output) -> None:
        self.connection = connection
        self._job = job
        self._output = output
        self._positions = {"stdout": 0, "stderr": 0}

    def once(self, until: float | None = None) -> int:
        """Read over one connection; returns the exit code of the command.

        Args:
            until: Time by `time.monotonic` to give up at.

        Raises:
            LostError: The connection was lost, or it is that late.
            LpxError: The command has no exit code.
        """
        request = {"job": self._job, **self._positions}
        with self.connection.session("follow", request) as session:
            for frame in session.frames():
                if frame.kind == "x":
                    return self._exit_code(frame.data)
                if frame.kind in "oe":
                    name = "stdout" if frame.kind == "o" else "stderr"
                    # First: after an interruption in between nothing is shown twice.
                    self._positions[name] += len(frame.data)
                    self._output(name, frame.data)
                if until is not None and time.monotonic() > until:
                    break
        raise LostError("the command has not ended")

    def _exit_code(self, data: bytes) -> int:
        host = self.connection.host
        try:
            end = read_record(_End, parse_json(data))
            # As exit code, 256 would be 0.
            in_range(end.code, -_MAX_SIGNAL, 255, "its exit code")
        except SchemaError as error:
            raise LpxError(
                f"{host} does not say how the command ended", str(error), "", code="damaged"
            ) from error
        if end.error:
            raise LpxError(
                f"the command could not be started on {host}",
                plain(end.error)[:300],
                f"run `lpx remote {host} setup` again",
                code="not-found",
            )
        if end.code is None:
            raise LpxError(
                f"the command on {host} ended without an exit code",
                "the board was restarted, or the process that waited for it was killed",
                "run the same command again: it resumes where it can",
                code="unreachable",
            )
        # As shells do for a process that a signal ended.
        return end.code if end.code >= 0 else 128 - end.code

    def interrupted(self, interruption: interrupts.Interrupted, reporter: Reporter) -> None:
        """Stop the command after SIGINT or SIGTERM, and say what becomes of it."""
        host = self.connection.host
        left = f"the command goes on, on {host}: see it with `lpx remote {host} attach`"
        if interruption.signal not in (signal.SIGINT, signal.SIGTERM):
            interruption.kept = left
            return
        reporter.say(f"stopping the command on {host}")
        try:
            self.connection.call("stop", {"job": self._job, "signal": int(signal.SIGINT)})
            code = self.once(time.monotonic() + STOP_S)
            # Given again, the command resumes there, and does not show this end.
            self.connection.call("seen", {"job": self._job})
        except LpxError as error:
            interruption.kept = f"{left} ({error.what})"
            return
        interruption.kept = f"the command on {host} has ended with exit code {code}"
