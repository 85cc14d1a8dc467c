"""What FFmpeg's log says about a live source: why it failed, and that its pictures changed size.

OpenCV returns no reasons, and scales the pictures of a stream that changes its size to the first
size, which stretches faces and falsifies their scores. Both are in FFmpeg's log. Its lines contain
addresses and passwords: only phrases that are known here leave this module.
"""

from __future__ import annotations

import re
import threading
from typing import BinaryIO, NamedTuple

# A longer line is read in pieces, so that no source can fill the memory with one.
_LONGEST_LINE = 4096
# Written for H.264 only, with the size in whole macroblocks, and twice for the first pictures.
_SIZE = re.compile(rb"Reinit context to (\d{1,6})x(\d{1,6})")
_STATUS = re.compile(rb"(?:HTTP error|failed:) (4\d\d|5\d\d)\b")
_STATUS_TEXT = {
    401: "it refuses the user name and password, or needs them",
    403: "it refuses access",
    404: "it has no such path",
}
_PHRASES = (
    (b"Connection refused", "nothing listens at this address and port"),
    (b"Failed to resolve hostname", "its host name is unknown"),
    (b"No route to host", "its network cannot be reached"),
    (b"Network is unreachable", "its network cannot be reached"),
    (b"Host is unreachable", "its host cannot be reached"),
    (b"Connection timed out", "it does not answer"),
    (b"Connection reset", "it closed the connection"),
    (b"Address already in use", "another program already receives at this port"),
    (b"Cannot assign requested address", "this machine does not have this address"),
    (b"Protocol not found", "this OpenCV was built without its protocol"),
    (b"not on whitelist", "it refers to a protocol that is not allowed, such as a local file"),
    (b"Circular buffer overrun", "packets arrived faster than they were read"),
    (b"Invalid data found", "what it sends is no video"),
)


class StreamSize(NamedTuple):
    """Size of a stream's pictures as they are coded, pixels."""

    width: int
    height: int


class FfmpegLog:
    """Follows the log of a decoding process until it ends.

    Args:
        stream: The log.

    Attributes:
        reason: Why the source failed, as far as it is known; "" if it is not.
        changed: The new size of the stream's pictures, if they have changed; otherwise None.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.reason = ""
        self.changed: StreamSize | None = None
        # Sizes of all streams of the source, of which one is decoded.
        self._known: set[StreamSize] = set()
        self._opened = False
        self._stream = stream
        self._follower = threading.Thread(target=self._follow, name="lpx-ffmpeg-log", daemon=True)
        self._follower.start()

    def close(self) -> None:
        """Wait for the rest of the log of a process that has ended."""
        self._follower.join(timeout=1)

    def _follow(self) -> None:
        with self._stream:
            while line := self._stream.readline(_LONGEST_LINE):
                self.read(line)

    def opened(self) -> None:
        """Take note that the source is open: sizes that follow are those of its pictures."""
        self._opened = True

    def read(self, line: bytes) -> None:
        """Take note of a line."""
        if match := _SIZE.search(line):
            size = StreamSize(int(match[1]), int(match[2]))
            if not self._opened or not self._known:
                self._known.add(size)
            elif size not in self._known:
                self.changed = size
        elif match := _STATUS.search(line):
            status = int(match[1])
            self.reason = _STATUS_TEXT.get(status, f"it answers with the error {status}")
        else:
            for phrase, reason in _PHRASES:
                if phrase in line:
                    self.reason = reason
