"""An RTSP server for tests: one video over TCP, with or without a password."""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import subprocess
import threading
import time


class RtspServer:
    """Serves what ffmpeg sends as RTP, inside the connection, to one client at a time.

    Args:
        video: Video to send, again and again.
        user: "name:password"; "" for none.

    Attributes:
        address: "127.0.0.1:PORT".
        methods: Methods of all requests, in order.
    """

    def __init__(self, video, user=""):
        self.user = user
        self.methods = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # RTP takes even ports, and RTCP the one above.
        for port in range(21000, 23000, 2):
            try:
                self._rtp.bind(("127.0.0.1", port))
                break
            except OSError:
                continue
        self._rtp.settimeout(0.01)
        arguments = ["-re", "-stream_loop", "-1", "-i", str(video), "-an", "-c:v", "mjpeg"]
        arguments += [
            "-huffman",
            "default",
            "-pix_fmt",
            "yuvj420p",
            "-q:v",
            "3",
            "-f",
            "rtp",
            f"rtp://127.0.0.1:{port}",
        ]
        self._ffmpeg = subprocess.Popen(
            ["ffmpeg", "-v", "error", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self):
        self._ended = True
        # Closing alone does not wake the thread that waits for a client.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._ffmpeg.kill()
        self._ffmpeg.wait(timeout=30)
        self._thread.join(timeout=5)
        self._rtp.close()

    def _serve(self):
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                self._talk(client)

    def _talk(self, client):
        buffer, playing = b"", False
        client.settimeout(0.01)
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                data = client.recv(4096)
                if not data:
                    return
                buffer += data
            while b"\r\n\r\n" in buffer:
                # RTCP of the client comes between, as "$", channel and length.
                if buffer[:1] == b"$":
                    buffer = buffer[4 + int.from_bytes(buffer[2:4], "big") :]
                    continue
                request, _, buffer = buffer.partition(b"\r\n\r\n")
                method, answer = self._answer(request.decode())
                self.methods.append(method)
                client.sendall(answer)
                playing = playing or method == "PLAY"
                if method == "TEARDOWN":
                    return
            if playing:
                with contextlib.suppress(TimeoutError):
                    for _ in range(5):
                        packet = self._rtp.recv(65536)
                        client.settimeout(5)
                        client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
                client.settimeout(0.01)

    def _answer(self, request):
        method, _, _ = request.splitlines()[0].split()
        number = re.search(r"CSeq: *(\d+)", request)[1]
        expected = base64.b64encode(self.user.encode()).decode()
        if self.user and f"Basic {expected}" not in request:
            return method, (
                f"RTSP/1.0 401 Unauthorized\r\nCSeq: {number}\r\n"
                'WWW-Authenticate: Basic realm="camera"\r\n\r\n'
            ).encode()
        more, body = "", ""
        if method == "OPTIONS":
            more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
        elif method == "DESCRIBE":
            body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\n"
            body += "m=video 0 RTP/AVP 26\r\na=control:track\r\na=framerate:10\r\n"
            more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
        elif method == "SETUP":
            more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        else:
            more = "Session: 1\r\n"
        return method, f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n{body}".encode()


def wait_until(true, seconds=10.0):
    """Wait until a function returns something true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")
