"""Messages between the process that decodes a live source and the one that scores its frames.

The scoring process writes a line of JSON, `DecoderSettings`, and then single bytes: `NEXT` asks for
the next frame that arrives, `IDLE` says that no frame is being scored and none is wanted. The
decoding process answers with messages of a header and a body.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

NEXT, IDLE = b"n", b"i"
# Kinds of messages.
OPENED, FRAME, ENDED = 1, 2, 3
# Reason of `ENDED` if the source could not be opened: a better one may be in FFmpeg's log.
NO_VIDEO = "OpenCV finds no video there"
# Kind, and the size of the body in bytes.
HEADER = struct.Struct("=BQ")
# Bodies that are text are short; of frames, `MAX_FRAME_PIXELS` is the limit.
MAX_TEXT = 4096
_FRAME = struct.Struct("=dQQQII")
FRAME_BYTES = _FRAME.size


@dataclass(frozen=True)
class DecoderSettings:
    """What a decoding process is told.

    Attributes:
        kind: Kind of the source, as in `LiveSource`.
        address: What OpenCV opens.
        timeout_s: Longest time for opening the source, and between two frames, s.
        max_pixels: Maximum number of pixels of a frame.
    """

    kind: str
    address: str
    timeout_s: float
    max_pixels: int

    def to_line(self) -> bytes:
        """Return a line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> DecoderSettings:
        """Return the settings of a line of JSON."""
        return cls(**json.loads(line))


class FrameHeader(NamedTuple):
    """What precedes the pixels of a frame.

    Attributes:
        time_s: When it arrived, seconds since 1970.
        number: Number among the frames of this connection, from 0.
        dropped: Frames of this connection that arrived while another one was scored.
        skipped: Frames that arrived while none was wanted.
        height: Height, pixels.
        width: Width, pixels.
    """

    time_s: float
    number: int
    dropped: int
    skipped: int
    height: int
    width: int

    def pack(self) -> bytes:
        """Return the header as bytes."""
        return _FRAME.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> FrameHeader:
        """Return the header of bytes."""
        return cls(*_FRAME.unpack(data))


def text_message(kind: int, values: dict[str, Any]) -> bytes:
    """Return a message whose body is JSON."""
    body = json.dumps(values).encode()
    return HEADER.pack(kind, len(body)) + body
