"""A connection to a live source: a decoding process, and the frames that it hands over."""

from __future__ import annotations

import fcntl
import json
import os
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lpx.data.images.decode import Image
from lpx.data.images.video_file import MAX_FRAME_PIXELS
from lpx.streams.live.ffmpeg_log import FfmpegLog, StreamSize
from lpx.streams.live.messages import (
    ENDED,
    FRAME,
    FRAME_BYTES,
    HEADER,
    IDLE,
    MAX_TEXT,
    NEXT,
    NO_VIDEO,
    OPENED,
    DecoderSettings,
    FrameHeader,
)
from lpx.streams.live.source import LiveSource

# What the decoding process may take beyond the limit for the source: its start, and its answer.
GRACE_S = 5.0
# Time between two looks at whether something else has ended the wait, s.
POLL_S = 0.1
# Time that a process has to say goodbye to its source before it is killed, s.
_GOODBYE_S = 1.5
_PIPE_BYTES = 1 << 20
# The modules of this process are found where it found them, whichever folder is current.
PROGRAM = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from lpx.streams.live.decoder import main; main()"
)


class ConnectionLostError(Exception):
    """A source that cannot be opened, or gives no more frames; the message says why."""


class SizeChangedError(Exception):
    """The pictures of a stream have changed size: it has to be opened again."""

    def __init__(self, size: StreamSize) -> None:
        super().__init__(size)
        self.size = size


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """A frame of a live source.

    Attributes:
        header: Time, number and counts.
        pixels: uint8 RGB [H, W, 3].
    """

    header: FrameHeader
    pixels: Image


class _Message(NamedTuple):
    kind: int
    text: dict[str, Any]
    frame: LiveFrame | None


class Connection:
    """Opens a source in a process of its own.

    Args:
        source: The source.
        timeout_s: Longest time for opening it, and between two frames, s.
        grace_s: What the decoding process may take beyond that, s.
        program: Python of the decoding process.

    Attributes:
        frames_per_second: Frame rate that the source states; 0 if it states none.
    """

    def __init__(
        self,
        source: LiveSource,
        timeout_s: float,
        *,
        grace_s: float = GRACE_S,
        program: str = PROGRAM,
    ) -> None:
        self.frames_per_second = 0.0
        self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._opened = False
        self._since = time.monotonic()
        settings = DecoderSettings(source.kind, source.address, timeout_s, MAX_FRAME_PIXELS)
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # Ctrl-C reaches every process of a session, but this one is ended by its parent.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._requests: BinaryIO = self._process.stdin  # type: ignore[assignment]
        self._answers = self._process.stdout.fileno()
        self._log = FfmpegLog(self._process.stderr)  # type: ignore[arg-type]
        os.set_blocking(self._answers, False)
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            _enlarge(self._answers)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        # On standard input rather than as an argument, which other users could read.
        self._write(settings.to_line())

    def ask(self) -> None:
        """Ask for the next frame that arrives."""
        self._since = time.monotonic()
        self._write(NEXT)

    def rest(self) -> None:
        """Say that no frame is wanted at present: those that arrive do not count as dropped."""
        self._write(IDLE)

    def receive(self, wait_s: float, *, due: bool) -> LiveFrame | None:
        """Wait for a frame.

        Args:
            wait_s: Longest time to wait, s.
            due: Whether a frame was asked for, or the source is being opened: then a source that
                gives none for too long counts as lost.

        Returns:
            The frame; None if none has come yet.

        Raises:
            ConnectionLostError: The source cannot be opened, has ended or stalls.
            SizeChangedError: Its pictures have changed size.
        """
        deadline = time.monotonic() + wait_s
        while True:
            # Looked at first: frames after a change are scaled to the old size, and score wrongly.
            if self._log.changed is not None:
                raise SizeChangedError(self._log.changed)
            left = deadline - time.monotonic()
            message = self._message(max(0.0, left))
            if message is not None:
                if message.kind == ENDED:
                    raise self._lost(str(message.text.get("reason", "")))
                if message.frame is not None:
                    return message.frame
                self._opened = True
                self._log.opened()
                self._since = time.monotonic()
                self.frames_per_second = float(message.text.get("frames_per_second", 0.0))
            elif due and time.monotonic() - self._since > self._timeout_s + self._grace_s:
                what = "no frame" if self._opened else "no answer"
                raise self._lost(f"{what} in {self._timeout_s:g} s")
            if left <= 0:
                return None

    @property
    def opened(self) -> bool:
        """Whether the source was opened."""
        return self._opened

    def close(self) -> None:
        """End the process, giving it time to say goodbye to the source."""
        # It may have ended already, with a request in the buffer.
        with suppress(OSError):
            self._requests.close()
        try:
            self._drain(time.monotonic() + _GOODBYE_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._log.close()
            assert self._process.stdout
            self._process.stdout.close()

    def _drain(self, deadline: float) -> None:
        # It may be writing a frame, and would not end before that was read.
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._poll.poll(10) and not self._read(_PIPE_BYTES):
                break
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))

    def _write(self, data: bytes) -> None:
        # If it has ended, `receive` finds out why.
        with suppress(OSError):
            self._requests.write(data)
            self._requests.flush()

    def _lost(self, reason: str) -> ConnectionLostError:
        known = ""
        if self._process.poll() is not None or not self._opened:
            # The last words of a process that ends come a little later.
            self._log.close()
            known = self._log.reason
        if known and reason == NO_VIDEO:
            return ConnectionLostError(known)
        return ConnectionLostError(f"{reason}: {known}" if known else reason)

    def _message(self, wait_s: float) -> _Message | None:
        """Return the next message; None if none begins in time."""
        if not self._poll.poll(round(min(wait_s, POLL_S) * 1000)):
            return None
        kind, size = HEADER.unpack(self._exactly(HEADER.size))
        if kind != FRAME:
            if size > MAX_TEXT or kind not in (OPENED, ENDED):
                raise ConnectionLostError("the decoding process sent something else than frames")
            return _Message(kind, json.loads(self._exactly(size)), None)
        header = FrameHeader.unpack(self._exactly(FRAME_BYTES))
        shape = (header.height, header.width, 3)
        if header.height * header.width > MAX_FRAME_PIXELS:
            raise ConnectionLostError("the decoding process sent too large a frame")
        pixels = np.empty(shape, np.uint8)
        self._fill(pixels.data.cast("B"))
        return _Message(kind, {}, LiveFrame(header, pixels))

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        self._fill(memoryview(data))
        return bytes(data)

    def _fill(self, place: memoryview) -> None:
        deadline = time.monotonic() + self._grace_s
        while place:
            if not self._poll.poll(round(POLL_S * 1000)):
                if time.monotonic() > deadline:
                    raise self._lost("the decoding process stopped in the middle of a frame")
                continue
            try:
                count = os.readv(self._answers, [place])
            except BlockingIOError:
                continue
            if not count:
                raise self._crashed()
            place = place[count:]

    def _read(self, size: int) -> bytes:
        try:
            return os.read(self._answers, size)
        except BlockingIOError:
            # Not empty, which would mean that the process has closed its end.
            return b" "

    def _crashed(self) -> ConnectionLostError:
        try:
            code = self._process.wait(self._grace_s)
        except subprocess.TimeoutExpired:
            return self._lost("the decoding process stopped answering")
        if code < 0:
            return self._lost(f"the decoder crashed (signal {-code})")
        return self._lost(f"the decoding process ended (exit code {code})")


def _enlarge(pipe: int) -> None:
    # A system may allow less to a user, which is slower.
    with suppress(OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
