from __future__ import annotations

from pathlib import Path

import pytest

from lpx.errors import InvalidArgumentError
from lpx.streams.live.source import is_live, live_source, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://10.0.0.7:554/stream1", "rtsp://10.0.0.7:554/stream1"),
        ("rtsp://admin:secret@10.0.0.7/h264", "rtsp://***@10.0.0.7/h264"),
        ("RTSP://admin:secret@cam.local:8554/a/b", "rtsp://***@cam.local:8554/a/b"),
        ("rtsp://secret@cam/", "rtsp://***@cam/"),
        ("rtsp://admin:se@cret@cam/x", "rtsp://***@cam/x"),
        # Characters of a password that end a host: nothing after them can be trusted.
        ("rtsp://admin:se/cret@cam/x", "rtsp://***"),
        ("rtsp://admin:secret/1@cam/x", "rtsp://***"),
        ("rtsp://admin:12?secret@cam/x", "rtsp://***"),
        ("rtsp://admin:12#secret@cam/x", "rtsp://***"),
        ("rtsp://admin:[secret@cam/x", "rtsp://***"),
        ("rtsp://cam:secret/x", "rtsp://***"),
        ("http://cam/video.cgi?user=admin&pwd=secret", "http://cam/video.cgi?***"),
        ("http://cam/video#secret", "http://cam/video?***"),
        ("rtsp://cam/user=admin_password=secret_channel=1.sdp", "rtsp://cam/***"),
        ("rtsp://cam/%73ecret", "rtsp://cam/***"),
        ("rtmp://live.example/app/secret", "rtmp://live.example/app/***"),
        ("rtmp://live.example/app", "rtmp://live.example/app"),
        ("rtmp://live.example/se=cret/x", "rtmp://live.example/***"),
        ("srt://host:9000?passphrase=secret", "srt://host:9000?***"),
        ("udp://@239.0.0.1:5000", "udp://239.0.0.1:5000"),
        ("udp://127.0.0.1:5000", "udp://127.0.0.1:5000"),
        ("rtsp://[::1]:554/x", "rtsp://[::1]:554/x"),
        ("rtsp://admin:secret@[::1]/x", "rtsp://***@[::1]/x"),
        ("udp://:5000", "udp://:5000"),
    ],
)
def test_urls_are_shown_without_secrets(url, shown):
    assert shown_url(url) == shown
    source = live_source(url)
    assert source.shown == shown
    assert source.address == url
    assert "secret" not in repr(source) + str(source) + source.shown


def test_cameras_and_files(tmp_path):
    camera = live_source("camera:07")
    assert (camera.kind, camera.address, camera.shown) == ("camera", "7", "camera:7")
    file = live_source(tmp_path / "a.mp4")
    assert (file.kind, file.address) == ("file", str(tmp_path / "a.mp4"))
    assert live_source("a.mp4").address == str(Path.cwd() / "a.mp4")


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        b"rtsp://x",
        "",
        "a\0b",
        "camera:",
        "camera:x",
        "camera:-1",
        "camera:256",
        "camera:1000",
        "camera:٣",
        "ftp://admin:secret@host/x",
        "file:///etc/secret",
        "concat://secret",
        "rtsp://cam/a b",
        "rtsp://secret\n@cam",
        "rtsp://cam/\x1b[2J",
    ],
)
def test_other_sources_are_refused(value):
    with pytest.raises(InvalidArgumentError) as caught:
        live_source(value)
    assert caught.value.argument == "source"
    assert "secret" not in str(caught.value)


def test_what_is_live():
    assert is_live("rtsp://cam")
    assert is_live("camera:0")
    assert is_live("ftp://host/x")
    for path in ("clip.mp4", "a/b", "/a://b", "C:\\x", ".", "camera"):
        assert not is_live(path)


def test_a_camera_that_is_not_there(tmp_path):
    assert live_source("camera:1").absence(tmp_path).startswith("there is no camera here")
    for name in ("video10", "video2", "video-x"):
        (tmp_path / name).touch()
    assert live_source("camera:1").absence(tmp_path) == "cameras here: camera:2, camera:10"
    assert live_source("camera:2").absence(tmp_path) == ""
    assert live_source("rtsp://cam").absence(tmp_path) == ""
