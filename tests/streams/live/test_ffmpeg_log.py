from __future__ import annotations

import io

import pytest

from lpx.streams.live.ffmpeg_log import FfmpegLog


def log(*lines, opened_after=0):
    followed = FfmpegLog(io.BytesIO())
    followed.close()
    for number, line in enumerate(lines):
        if number == opened_after:
            followed.opened()
        followed.read(line)
    return followed


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[tcp] Connection to tcp://u:secret@h failed: Connection refused", "nothing listens"),
        (b"method DESCRIBE failed: 401 Unauthorized", "user name and password"),
        (b"HTTP error 404 File not found", "no such path"),
        (b"HTTP error 503 Service Unavailable", "error 503"),
        (b"Failed to resolve hostname secret.example: Name or service", "host name is unknown"),
        (b"Something about secret", ""),
        (b"", ""),
        (b"\xff\xfe secret", ""),
    ],
)
def test_reasons_have_no_secrets(line, reason):
    found = log(line).reason
    assert reason in found
    assert bool(reason) == bool(found)
    assert "secret" not in found


SMALL = b"[h264] Reinit context to 384x288, pix_fmt: yuv420p"
LARGE = b"[h264] Reinit context to 768x576, pix_fmt: yuv420p"


def test_the_first_size_is_no_change():
    assert log(SMALL, SMALL, SMALL).changed is None


def test_another_size_is_a_change():
    assert log(SMALL, SMALL, LARGE, opened_after=1).changed == (768, 576)


def test_sizes_of_all_streams_of_a_source_are_known():
    assert log(SMALL, LARGE, LARGE, SMALL, opened_after=2).changed is None


def test_the_log_is_followed_to_its_end():
    followed = FfmpegLog(io.BytesIO(b"x" * 100_000 + b"\nHTTP error 403 Forbidden\n"))
    followed.close()
    assert followed.reason == "it refuses access"
