"""Standard streams whose failure never ends a command.

A reader that goes away (`lpx bench | head -1`), a full disk behind a redirection and a closed
stream are noticed when something is printed, perhaps after hours of work. Output that cannot be
written is dropped, and the exit code says so at the end.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

# What a shell reports of a program that a broken pipe ended: 128 + SIGPIPE.
READER_GONE = 141


class _Stream(io.TextIOWrapper):
    """Writes to a descriptor until that fails once, and discards the rest."""

    error: OSError | None = None

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.error = self.error or error
        # Also for what is still buffered, and for libraries that write to the descriptor.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class Streams:
    """The standard streams of a running command."""

    def __init__(self, output: Any) -> None:
        self._output = output

    def exit_code(self, code: int) -> int:
        """Return `code`, or another exit code if standard output could not be written."""
        _flush(self._output)
        error = self._output.error if isinstance(self._output, _Stream) else None
        if error is None:
            return code
        if error.errno == errno.EPIPE:
            return code or READER_GONE
        click.echo(
            f"error: standard output cannot be written: {error.strerror}\n"
            "  the command itself is done, and its artefacts are saved",
            err=True,
        )
        return code or 2


@contextmanager
def guarded() -> Iterator[Streams]:
    """Replace standard output and error by streams that never raise, until the block ends."""
    _reserve()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _guard(sys.stdout), _guard(sys.stderr)
    try:
        yield Streams(sys.stdout)
    finally:
        _flush(sys.stdout)
        _flush(sys.stderr)
        sys.stdout, sys.stderr = before


def _flush(stream: Any) -> None:
    # None if Python was started without one; a stream may also be closed.
    if stream is not None and not stream.closed:
        stream.flush()


def _reserve() -> None:
    """Open closed standard descriptors, or the next file opened would receive the output."""
    # os.open returns the lowest free descriptor.
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)


def _guard(stream: Any) -> Any:
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    # A terminal that lacks a character shows a question mark instead of failing.
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError):
        stream.reconfigure(errors="replace")
        return stream
    stream.flush()
    raw = io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False))
    return _Stream(raw, stream.encoding, "replace", line_buffering=stream.line_buffering)
