"""A decoding process that crashes, hangs or talks nonsense is a lost source, and leaves nothing."""

from __future__ import annotations

import subprocess
import time

import pytest

from lpx.streams.live.connection import Connection, ConnectionLostError
from lpx.streams.live.source import live_source

SOURCE = live_source("rtsp://admin:secret@cam/x")
LONG_S = 20.0


def receive_all(program, timeout_s=LONG_S, grace_s=LONG_S):
    connection = Connection(SOURCE, timeout_s, grace_s=grace_s, program=program)
    try:
        connection.ask()
        while True:
            connection.receive(0.2, due=True)
    finally:
        connection.close()
        assert connection._process.poll() is not None


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", r"crashed \(signal 11\)"),
        ("raise SystemExit(5)", "exit code 5"),
        ("import sys; sys.stdout.write('x' * 4000)", "something else than frames"),
        ("import os, struct; os.write(1, struct.pack('=BQ', 3, 1 << 40))", "something else"),
        (
            "import os, struct; os.write(1, struct.pack('=BQ', 2, 0)"
            " + struct.pack('=dQQQII', 0, 0, 0, 0, 1 << 20, 1 << 20))",
            "too large a frame",
        ),
    ],
)
def test_a_process_that_fails(program, said):
    with pytest.raises(ConnectionLostError, match=said):
        receive_all(program)


def test_a_process_that_hangs_before_the_source_is_open():
    with pytest.raises(ConnectionLostError, match=r"no answer in 0\.2 s"):
        receive_all("import time; time.sleep(60)", 0.2, 0.2)


def test_a_process_that_hangs_in_the_middle_of_a_frame():
    program = (
        "import os, struct, time; os.write(1, struct.pack('=BQ', 2, 0)"
        " + struct.pack('=dQQQII', 0, 0, 0, 0, 480, 640)); time.sleep(60)"
    )
    with pytest.raises(ConnectionLostError, match="in the middle of a frame"):
        receive_all(program, LONG_S, 0.3)


def test_a_process_that_ignores_its_end_is_killed():
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    connection = Connection(SOURCE, LONG_S, program=program)
    began = time.monotonic()
    connection.close()
    assert time.monotonic() - began < 10
    assert connection._process.returncode == -9


def test_the_address_is_not_among_the_arguments_of_the_process():
    connection = Connection(SOURCE, LONG_S, program="import time; time.sleep(60)")
    try:
        pid = connection._process.pid
        shown = subprocess.run(
            ["ps", "-ww", "-o", "args=", "-p", str(pid)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        assert shown.stdout
        assert "secret" not in shown.stdout
    finally:
        connection.close()
