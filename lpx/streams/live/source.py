"""Names of live sources, and how they are shown: without user names, passwords and tokens."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from lpx.errors import InvalidArgumentError
from lpx.plain import plain

SourceKind = Literal["url", "camera", "file"]

# Protocols that OpenCV's FFmpeg reads from a network.
SCHEMES = (
    "rtsp",
    "rtsps",
    "http",
    "https",
    "udp",
    "tcp",
    "rtp",
    "rtmp",
    "rtmps",
    "srt",
)
CAMERA = "camera:"
# Linux numbers its video devices from 0 to 255.
MAX_CAMERA = 255
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# A path of an URL that can be shown: some cameras take passwords in it, as "user=a_password=b".
_HARMLESS_PATH = re.compile(r"[A-Za-z0-9_./-]*")
_HARMLESS_HOST = re.compile(r"[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\]")
# Stream keys are the last part of the path of these.
_KEY_IN_PATH = ("rtmp", "rtmps")
_HIDDEN = "***"


@dataclass(frozen=True)
class LiveSource:
    """A live source.

    Attributes:
        kind: "url", "camera", or "file": a video file, played at its own pace again and again.
        shown: Its name without credentials, for outputs and errors.
    """

    kind: SourceKind
    shown: str
    _address: str

    def __repr__(self) -> str:
        return f"LiveSource({self.shown!r})"

    @property
    def address(self) -> str:
        """What OpenCV opens: a URL with its credentials, a path, or the number of a camera."""
        return self._address

    def absence(self, devices: Path = Path("/dev")) -> str:
        """Return why a camera cannot be there; "" if it may be, and for other sources.

        Args:
            devices: Folder of the devices.
        """
        # Elsewhere cameras have no files.
        if self.kind != "camera" or sys.platform != "linux":
            return ""
        if (devices / f"video{self._address}").exists():
            return ""
        numbers = []
        for device in devices.glob("video*"):
            if (number := device.name.removeprefix("video")).isdecimal():
                numbers.append(int(number))
        if not numbers:
            return f"there is no camera here: no {devices}/video*"
        return f"cameras here: {', '.join(f'{CAMERA}{number}' for number in sorted(numbers))}"


def is_live(text: str) -> bool:
    """Return whether a text names a network source or a camera rather than a file."""
    return text.startswith(CAMERA) or _SCHEME.match(text) is not None


def live_source(value: object) -> LiveSource:
    """Return the live source that a user named.

    Args:
        value: A URL, "camera:0", or the path of a video file.

    Raises:
        InvalidArgumentError: It is none of these, or of a protocol that is not read.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InvalidArgumentError("source", "must be a URL, camera:NUMBER or a video file", value)
    if value.startswith(CAMERA):
        return _camera(value)
    if match := _SCHEME.match(value):
        return _url(value, match[1].lower())
    return LiveSource("file", plain(value), str(Path(value).absolute()))


def _camera(value: str) -> LiveSource:
    number = value.removeprefix(CAMERA)
    if not re.fullmatch(r"[0-9]{1,3}", number) or int(number) > MAX_CAMERA:
        raise InvalidArgumentError(
            "source", f"must be camera:NUMBER, from camera:0 to camera:{MAX_CAMERA}", value
        )
    return LiveSource("camera", f"{CAMERA}{int(number)}", str(int(number)))


def _url(value: str, scheme: str) -> LiveSource:
    if scheme not in SCHEMES:
        # Without the rest, which may have a password in it.
        raise InvalidArgumentError(
            "source",
            f"must be camera:NUMBER, a file, or a URL of {', '.join(SCHEMES)}",
            f"{scheme}://",
        )
    # FFmpeg would read on behind a line break or a blank as options, or not at all.
    if any(character.isspace() or not character.isprintable() for character in value):
        raise InvalidArgumentError(
            "source", "must be a URL without blanks and control characters", f"{scheme}://"
        )
    return LiveSource("url", shown_url(value), value)


def shown_url(url: str) -> str:
    """Return a URL without user name, password, query and anything else that may be secret."""
    scheme, _, rest = url.partition("://")
    hidden = f"{scheme.lower()}://{_HIDDEN}"
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
    except ValueError:
        return hidden
    # A password with "/", "?" or "#" in it ends the host too early: part of it would be shown.
    if "@" in rest[len(parts.netloc) :]:
        return hidden
    host = parts.netloc.rpartition("@")[2].removesuffix(port)
    # udp://@239.0.0.1:5000 has no user.
    if host and not _HARMLESS_HOST.fullmatch(host):
        return hidden
    user = f"{_HIDDEN}@" if "@" in parts.netloc.lstrip("@") else ""
    query = f"?{_HIDDEN}" if parts.query or parts.fragment else ""
    return f"{scheme.lower()}://{user}{host}{port}{_shown_path(parts)}{query}"


def _shown_path(parts: SplitResult) -> str:
    path = parts.path
    if parts.scheme.lower() in _KEY_IN_PATH:
        first, _, key = path.lstrip("/").partition("/")
        if not _HARMLESS_PATH.fullmatch(first):
            return f"/{_HIDDEN}"
        return f"/{first}/{_HIDDEN}" if key else f"/{first}"
    if _HARMLESS_PATH.fullmatch(path):
        return path
    return f"/{_HIDDEN}"
