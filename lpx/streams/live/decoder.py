"""The process that reads and decodes a live source.

A process of its own, since a stalled source can keep OpenCV waiting beyond its own limits (it has
none while a name is looked up), a damaged stream can crash a decoder, and only a process can be
ended. It decodes every frame as it arrives, so that no queue builds up anywhere, and hands over
the next one when it is asked to: a frame is never older than the time that its transfer takes.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from typing import BinaryIO

import cv2

from lpx.data.images.video_file import upright_rgb
from lpx.streams.live.messages import (
    ENDED,
    FRAME,
    HEADER,
    NEXT,
    NO_VIDEO,
    OPENED,
    DecoderSettings,
    FrameHeader,
    text_message,
)

# Time to say goodbye to the source, s: cameras keep few sessions, and each until it times out.
GOODBYE_S = 1.0
# FFmpeg writes at this level (verbose) that a stream has changed its size; see `ffmpeg_log`.
LOG_LEVEL = "40"
# What a network source may refer to, such as the parts of an HLS playlist: never local files.
PROTOCOLS = "rtsp,rtsps,rtp,srtp,udp,tcp,tls,http,https,httpproxy,hls,crypto,rtmp,rtmps,srt,data"
# OpenCV sets the first one itself where no options are given.
_OPTIONS = f"rtsp_flags;prefer_tcp|protocol_whitelist;{PROTOCOLS}"
# After its limit of time OpenCV still gives the frames that its decoder holds; at most so many.
_DRAINED = 32
# Frame rates above this are not believed when a file is played.
_MAX_RATE_HZ = 240.0
_USUAL_RATE_HZ = 25.0


class _Demand:
    """What the scoring process wants at the moment."""

    def __init__(self) -> None:
        self.next = False
        self.idle = False
        self.stop = False

    def listen(self, stream: BinaryIO) -> None:
        """Follow requests until the stream ends, which ends this process."""
        while command := stream.read(1):
            # First, so that no frame in between is counted as dropped.
            self.idle = True
            self.next = command == NEXT
        self.stop = True
        # The main thread may be waiting in OpenCV, which nothing interrupts.
        time.sleep(GOODBYE_S)
        os._exit(0)


def main() -> None:
    """Decode the source that standard input names, until that ends."""
    requests = sys.stdin.buffer
    settings = DecoderSettings.from_line(requests.readline())
    # OpenCV reads both when it opens its first source.
    os.environ["OPENCV_FFMPEG_LOGLEVEL"] = LOG_LEVEL
    if settings.kind == "url":
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", _OPTIONS)
    # Whatever a library prints must not get between the messages.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    demand = _Demand()
    threading.Thread(target=demand.listen, args=(requests,), daemon=True).start()
    # Broken if the scoring process has ended.
    with suppress(BrokenPipeError):
        _send(answers, text_message(ENDED, {"reason": _decode(settings, answers, demand)}))
    # Without unwinding: the listening thread holds the lock of standard input.
    os._exit(0)


def _decode(settings: DecoderSettings, answers: BinaryIO, demand: _Demand) -> str:
    """Hand over frames as they are asked for; returns why that ended."""
    asked = time.monotonic()
    capture = _open(settings)
    if not capture.isOpened():
        if time.monotonic() - asked >= settings.timeout_s * 0.9:
            return f"no answer in {settings.timeout_s:g} s"
        return NO_VIDEO
    pace_hz = 0.0
    if settings.kind == "file":
        pace_hz = capture.get(cv2.CAP_PROP_FPS)
        if not 0 < pace_hz <= _MAX_RATE_HZ:
            pace_hz = _USUAL_RATE_HZ
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    _send(answers, text_message(OPENED, {"frames_per_second": rate_hz if rate_hz > 0 else 0.0}))
    began = time.monotonic()
    number = dropped = skipped = 0
    # So far back that a source which ends at once does not pass for one that stalled.
    stalled_at = -_DRAINED
    while not demand.stop:
        ready = capture.grab()
        # The first time with the opening, which reads ahead and may have met the stall itself.
        if time.monotonic() - asked >= settings.timeout_s * 0.9:
            stalled_at = number
        if not ready and not demand.stop:
            if number - stalled_at < _DRAINED:
                return f"no frame in {settings.timeout_s:g} s"
            return "it ended"
        if demand.stop:
            break
        if pace_hz:
            # From the beginning, not from the last frame: errors of sleep would add up.
            time.sleep(max(0.0, began + number / pace_hz - time.monotonic()))
        if demand.next:
            # Before the frame is sent: the next request may follow at once, and must not be lost.
            demand.next = demand.idle = False
            header = FrameHeader(time.time(), number, dropped, skipped, 0, 0)
            problem = _hand_over(capture, header, settings.max_pixels, answers)
            if problem:
                return problem
        elif demand.idle:
            skipped += 1
        else:
            dropped += 1
        number += 1
        asked = time.monotonic()
    capture.release()
    return "stopped"


def _open(settings: DecoderSettings) -> cv2.VideoCapture:
    if settings.kind == "camera":
        # FFmpeg would take the number for the name of a file.
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        return cv2.VideoCapture(int(settings.address), backend)
    timeout_ms = max(1, round(settings.timeout_s * 1000))
    parameters = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms]
    parameters += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
    # One thread: several decode as many frames ahead, which delays a live source by their time.
    parameters += [cv2.CAP_PROP_N_THREADS, 1]
    return cv2.VideoCapture(settings.address, cv2.CAP_FFMPEG, parameters)


def _hand_over(
    capture: cv2.VideoCapture, header: FrameHeader, max_pixels: int, answers: BinaryIO
) -> str:
    """Send the frame that was grabbed; returns what is wrong with it, "" if nothing."""
    try:
        done, pixels = capture.retrieve()
    except cv2.error:
        done, pixels = False, None
    if not done or pixels is None or not pixels.size:
        return "a frame cannot be decoded"
    if pixels.shape[0] * pixels.shape[1] > max_pixels:
        return f"its frames have more than {max_pixels // 1_000_000} megapixels"
    image = upright_rgb(capture, pixels)
    height, width = image.shape[:2]
    header = header._replace(height=height, width=width)
    packed = header.pack()
    _send(answers, HEADER.pack(FRAME, len(packed) + image.nbytes) + packed)
    _send(answers, image.data.cast("B"))
    return ""


def _send(answers: BinaryIO, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[answers.write(rest) :]
