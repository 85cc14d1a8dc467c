"""Sources on the loopback interface that ffmpeg makes, read by the real decoding process."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from dataclasses import replace

import pytest

from lpx.data.face_sets.demo_clip import clip_path
from lpx.errors import LpxError
from lpx.streams.live.source import live_source
from lpx.streams.live.watch import LiveLimits, LiveOptions, LiveWatch
from tests.support.processes import bounded
from tests.support.rtsp_server import RtspServer, wait_until
from tests.support.streaming import ConstantEngine, scorer

pytestmark = pytest.mark.skipif(
    shutil.which("ffmpeg") is None, reason="ffmpeg, which makes the sources, is not installed"
)
QUICK = LiveOptions(timeout_s=3, first_pause_s=0.1, longest_pause_s=0.2)
PATIENT = replace(QUICK, wait=True)


def ffmpeg(*arguments):
    return ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """MPEG transport streams of two seconds: as the clip is, half as wide, and without faces."""
    folder = tmp_path_factory.mktemp("streams")
    coded = ["-t", 2, "-c:v", "libx264", "-preset", "ultrafast", "-g", 10, "-f", "mpegts"]
    clip = clip_path()
    for name, picture in (("plain", "null"), ("narrow", "scale=192:288,setsar=1")):
        subprocess.run(
            ffmpeg("-i", clip, "-vf", picture, *coded, folder / f"{name}.ts"),
            check=True,
            timeout=120,
        )
    empty = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=10"]
    subprocess.run(ffmpeg(*empty, *coded, folder / "faceless.ts"), check=True, timeout=120)
    both = (folder / "plain.ts").read_bytes() + (folder / "narrow.ts").read_bytes()
    (folder / "changing.ts").write_bytes(both)
    return folder


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sending(*arguments, stdin=None):
    """Send until the end of a block."""
    process = subprocess.Popen(ffmpeg(*arguments), stdin=stdin, stderr=subprocess.DEVNULL)
    return bounded(process)


class HttpServer:
    """Sends bytes to each client; then ends the connection, or keeps it open and says nothing."""

    def __init__(self, data, *, stall=False):
        self.data, self.stall = data, stall
        self.clients = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/video.ts"
        self.held = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.clients += 1
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + self.data)
            self.held.append(client)
            if not self.stall:
                client.close()

    def close(self):
        self.listener.close()
        for client in self.held:
            client.close()


def collect(url, limits, options=QUICK, engine=None):
    # A source that does not do what a test expects must not keep it waiting for ever.
    limits = replace(limits, seconds=limits.seconds or 30)
    with LiveWatch(live_source(url), scorer(engine), limits, options) as live:
        items = list(live)
    return items, live.summary()


def kinds(items):
    return [item.to_dict()["kind"] for item in items]


def test_http(streams):
    port = free_port()
    url = f"http://127.0.0.1:{port}/live"
    sent = ["-re", "-stream_loop", -1, "-i", streams / "plain.ts", "-c", "copy"]
    with sending(*sent, "-f", "mpegts", "-listen", 1, url):
        items, summary = collect(url, LiveLimits(frames=5), PATIENT)
    # It may have been asked before it listened.
    items = [item for item in items if item.to_dict()["kind"] != "unreachable"]
    assert kinds(items) == ["connected"] + ["frame"] * 5
    assert (items[0].width, items[0].height, items[0].frames_per_second) == (384, 288, 10)
    assert all(len(item.faces) == 1 for item in items[1:])
    assert summary.faces == 5


def test_udp_that_ends_and_comes_back(streams):
    port = free_port(socket.SOCK_DGRAM)
    sent = ["-re", "-i", streams / "plain.ts", "-c", "copy", "-f", "mpegts"]
    sent.append(f"udp://127.0.0.1:{port}?pkt_size=1316")

    def send_twice():
        for _ in range(2):
            subprocess.run(ffmpeg(*sent), check=False, timeout=120)
            time.sleep(2.5)

    sender = threading.Thread(target=send_twice, daemon=True)
    sender.start()
    options = LiveOptions(timeout_s=1.5, first_pause_s=0.1, longest_pause_s=0.2, wait=True)
    with LiveWatch(
        live_source(f"udp://127.0.0.1:{port}"), scorer(), LiveLimits(seconds=30), options
    ) as live:
        items = []
        for item in live:
            items.append(item)
            if kinds(items).count("connected") == 2 and kinds(items)[-1] == "frame":
                break
    sender.join(timeout=60)
    found = kinds(items)
    assert "lost" in found
    lost = items[found.index("lost")]
    assert "no frame in 1.5 s" in lost.reason
    assert live.summary().counts.reconnects == 1
    numbers = [item.frame for item in items if hasattr(item, "frame")]
    assert numbers == sorted(set(numbers))


def test_http_that_ends_again_and_again(streams):
    server = HttpServer((streams / "plain.ts").read_bytes())
    items, summary = collect(server.url, LiveLimits(seconds=4))
    server.close()
    assert kinds(items).count("connected") >= 2
    assert summary.counts.reconnects == kinds(items).count("connected") - 1
    assert next(item for item in items if item.to_dict()["kind"] == "lost").reason == "it ended"


def test_a_source_that_stalls_is_lost_in_time(streams):
    server = HttpServer((streams / "plain.ts").read_bytes(), stall=True)
    began = time.monotonic()
    items, _ = collect(
        server.url,
        LiveLimits(),
        LiveOptions(timeout_s=1.0, reconnect=False),
    )
    server.close()
    assert kinds(items)[-1] == "lost"
    assert "no frame in 1 s" in items[-1].reason
    assert time.monotonic() - began < 40


def test_a_source_that_accepts_and_says_nothing():
    server = socket.create_server(("127.0.0.1", 0))
    url = f"http://admin:secret@127.0.0.1:{server.getsockname()[1]}/x"
    began = time.monotonic()
    with pytest.raises(LpxError, match="gives no frames") as caught:
        collect(url, LiveLimits(), LiveOptions(timeout_s=1))
    server.close()
    assert caught.value.code == "unreachable"
    assert "secret" not in str(caught.value)
    assert time.monotonic() - began < 40


@pytest.mark.parametrize("scheme", ["http", "rtsp", "tcp", "rtmp"])
def test_an_address_that_nobody_answers(scheme):
    with pytest.raises(LpxError, match="nothing listens at this address and port") as caught:
        collect(f"{scheme}://127.0.0.1:{free_port()}/x", LiveLimits())
    assert caught.value.code == "unreachable"


def test_udp_that_nobody_sends():
    with pytest.raises(LpxError, match="gives no frames"):
        collect(f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}", LiveLimits(), LiveOptions(1.0))


def test_an_unknown_host():
    with pytest.raises(LpxError, match="its host name is unknown"):
        collect("rtsp://u:secret@nobody.invalid/x", LiveLimits())


def test_a_stream_whose_pictures_change_size(streams):
    server = HttpServer((streams / "changing.ts").read_bytes())
    items, _ = collect(server.url, LiveLimits(seconds=3))
    server.close()
    # From the log of FFmpeg: the stream was opened again, before it ended.
    assert "connected" in kinds(items)
    assert server.clients >= 2


def test_udp_whose_pictures_change_size(streams):
    port = free_port(socket.SOCK_DGRAM)
    target = ["-c", "copy", "-f", "mpegts", f"udp://127.0.0.1:{port}?pkt_size=1316"]

    def send_both():
        # Two programs, as the time stamps of one file with both begin again in its middle, where
        # some releases of ffmpeg send the rest at once.
        for name in ("plain", "narrow"):
            sent = ["-re", "-stream_loop", 1, "-i", streams / f"{name}.ts", *target]
            subprocess.run(ffmpeg(*sent), check=False, timeout=60)

    sender = threading.Thread(target=send_both, daemon=True)
    sender.start()
    limits = LiveLimits(seconds=30)
    with LiveWatch(
        live_source(f"udp://127.0.0.1:{port}"), scorer(), limits, LiveOptions(2, wait=True)
    ) as live:
        changed = next((item for item in live if item.to_dict()["kind"] == "size-changed"), None)
    sender.join(timeout=60)
    assert changed is not None
    assert (changed.width, changed.height) == (192, 288)


def test_a_source_without_faces(streams):
    server = HttpServer((streams / "faceless.ts").read_bytes())
    engine = ConstantEngine()
    items, summary = collect(server.url, LiveLimits(frames=3), engine=engine)
    server.close()
    assert summary.faceless == 3
    assert items[-1].score is None
    assert engine.batches == []


def test_what_is_no_video(streams):
    server = HttpServer(b"<html>secret</html>" * 1000)
    with pytest.raises(LpxError, match="finds no video there") as caught:
        collect(server.url, LiveLimits())
    server.close()
    assert "secret" not in str(caught.value)


def test_a_playlist_must_not_lead_to_local_files(streams):
    lines = ["#EXTM3U", "#EXT-X-TARGETDURATION:10", "#EXTINF:2,", f"file://{streams}/plain.ts"]
    server = HttpServer("\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode())
    with pytest.raises(LpxError):
        collect(server.url.replace(".ts", ".m3u8"), LiveLimits(frames=1))
    server.close()


def test_rtsp_with_a_password():
    server = RtspServer(clip_path(), "admin:secret")
    url = f"rtsp://admin:secret@{server.address}/camera"
    items, summary = collect(url, LiveLimits(frames=5), LiveOptions(timeout_s=8))
    # Cameras keep few sessions, each until it is torn down or times out.
    wait_until(lambda: "TEARDOWN" in server.methods)
    server.close()
    assert kinds(items) == ["connected"] + ["frame"] * 5
    assert summary.faces == 5
    assert summary.source == f"rtsp://***@{server.address}/camera"


def test_rtsp_with_a_wrong_password():
    server = RtspServer(clip_path(), "admin:secret")
    with pytest.raises(LpxError, match="refuses the user name and password") as caught:
        collect(f"rtsp://admin:guess@{server.address}/camera", LiveLimits())
    server.close()
    assert "guess" not in str(caught.value)


def test_only_the_newest_frames_are_kept(streams):
    """A consumer that is slower than the source gets new frames, and the others are counted."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/live"
    sent = ["-re", "-stream_loop", 9, "-i", streams / "plain.ts", "-c", "copy"]
    limits = LiveLimits(frames=6, seconds=30)
    server = sending(*sent, "-f", "mpegts", "-listen", 1, url)
    with server, LiveWatch(live_source(url), scorer(), limits, PATIENT) as live:
        frames = []
        for item in live:
            if item.to_dict()["kind"] == "frame":
                frames.append(item)
                time.sleep(0.5)
    ages = [item.latency_ms for item in frames]
    # Scoring takes a few ms, far more on a busy machine: a queue would add half a second to each.
    assert max(ages) < 1500
    assert frames[-1].counts.dropped >= 6
    assert frames[-1].frame == frames[-1].counts.dropped + 5
