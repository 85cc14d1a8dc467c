"""Connections that break, are refused, or cannot be made; and two workstations at one board."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from lpx import Board, LpxError, Workspace
from lpx.remote.connection import Connection, Frame, LostError, Session, failure
from lpx.remote.installing import check_installed
from lpx.remote.running import PassOn, follow, holder
from lpx.remote.sending import Shipment
from tests.remote.conftest import free_port, write_client

SLOW = """
for number in range({count}):
    print("line", number, flush=True)
    time.sleep(0.2)
sys.exit({code})
"""


# Tests may run in the background of a shell, where SIGINT is ignored.
MAIN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from lpx.cli.main import main
main()
"""


def lines(heard):
    return heard.output["stdout"].decode().split("\n")[:-1]


def test_an_ssh_that_outlives_its_output_is_not_waited_for():
    process = subprocess.Popen(
        ["sh", "-c", "exec >&-; exec sleep 300"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        session = Session("board", process, io.BytesIO(), patience_s=0.1)
        with pytest.raises(LostError, match="board cannot be reached"):
            session.read(1)
        assert process.returncode == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate(timeout=20)


def wait_for(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.05)


def in_background(work):
    """Run a function in a thread; the result is a list, filled with what it returned or raised."""
    done = []

    def run():
        try:
            done.append(work())
        except BaseException as error:
            done.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, done


def doctor_in_background(board, workspace, heard):
    return in_background(lambda: board.run(["doctor"], workspace, output=heard, reporter=heard))


def test_a_broken_connection_in_the_middle(ready, workspace, heard):
    ready.replace_lpx(SLOW.format(count=25, code=4))
    board = ready.board()
    thread, done = doctor_in_background(board, workspace, heard)
    wait_for(lambda: len(lines(heard)) > 3)
    assert ready.kill_sessions()
    thread.join(60)
    assert done[0].exit_code == 4
    # Every line once, in order, and the command was started once.
    assert lines(heard) == [f"line {number}" for number in range(25)]
    assert len(list((ready.home / ".lpx-remote/jobs").iterdir())) == 1
    assert "the command goes on there" in heard.warnings[0]


def test_a_connection_that_breaks_while_files_are_sent(ready, workspace, heard, tmp_path):
    ready.replace_lpx("print(os.path.getsize(sys.argv[-1])); sys.exit(4)")
    big = tmp_path / "big.png"
    big.write_bytes(bytes(120 << 20))
    board = ready.board()
    thread, done = in_background(
        lambda: board.run(
            ["predict", "@big@"], workspace, inputs={"@big@": big}, output=heard, reporter=heard
        )
    )
    work = ready.home / ".lpx-remote/work"
    wait_for(lambda: list(work.rglob("big.png.part")) or done, 60)
    ready.kill_sessions()
    thread.join(120)
    assert done[0].exit_code == 4
    assert lines(heard) == [str(120 << 20)]
    assert "connecting again" in heard.warnings[0]
    assert not list(work.rglob("*.part"))
    assert len(list((ready.home / ".lpx-remote/jobs").iterdir())) == 1


@pytest.mark.parametrize("missing", [None, 3, "x", ["other"], [["a"]], {"a": 1}, ["a", None], [{}]])
def test_a_board_that_asks_for_other_files(missing):
    with pytest.raises(LpxError) as caught:
        Shipment({"a": (1, "0" * 64)}).missing("b", {"missing": missing})
    assert caught.value.code == "damaged"


def test_a_board_that_stays_away_is_no_verdict(ready, workspace, heard):
    ready.replace_lpx(SLOW.format(count=30, code=0))
    board = Board("board", ssh_config=ready.config, patience_s=1)
    thread, done = doctor_in_background(board, workspace, heard)
    wait_for(lambda: lines(heard))
    ready.stop_hard()
    thread.join(60)
    assert isinstance(done[0], LpxError)
    assert done[0].code == "unreachable"
    assert done[0].exit_code == 2
    assert "goes on" in done[0].what
    # Later, the same command attaches to the one that runs, and shows all of its output.
    ready.start()
    heard.output["stdout"] = b""
    result = ready.board().run(["doctor"], workspace, output=heard, reporter=heard)
    assert result.exit_code == 0
    assert lines(heard) == [f"line {number}" for number in range(30)]
    assert len(list((ready.home / ".lpx-remote/jobs").iterdir())) == 1


def test_a_command_that_ended_while_nobody_was_connected(ready, workspace, heard):
    ready.replace_lpx(SLOW.format(count=10, code=1))
    board = Board("board", ssh_config=ready.config, patience_s=0)
    thread, done = doctor_in_background(board, workspace, heard)
    wait_for(lambda: lines(heard))
    ready.stop_hard()
    thread.join(60)
    assert done[0].code == "unreachable"
    job = next((ready.home / ".lpx-remote/jobs").iterdir())
    wait_for((job / "exit.json").exists)
    ready.start()
    heard.output["stdout"] = b""
    result = ready.board().attach(workspace, output=heard, reporter=heard)
    assert result.exit_code == 1
    assert len(lines(heard)) == 10
    # It was seen now: the next one is a new one.
    ready.board().run(["doctor"], workspace, output=heard, reporter=heard)
    assert len(list((ready.home / ".lpx-remote/jobs").iterdir())) == 2


def test_a_command_without_an_exit_code_is_no_verdict(ready, workspace, heard):
    # Kills the process that waits for it, as a restart of the board would.
    ready.replace_lpx("print('x', flush=True); time.sleep(1); os.kill(os.getppid(), 9)")
    with pytest.raises(LpxError) as caught:
        ready.board().run(["doctor"], workspace, output=heard, reporter=heard)
    assert caught.value.code == "unreachable"
    assert "without an exit code" in caught.value.what
    # It never will have one: the same command is started again.
    ready.replace_lpx("sys.exit(4)")
    assert ready.board().run(["doctor"], workspace, output=heard).exit_code == 4


def test_key_refused(sshd, workspace):
    write_client(sshd.config, sshd.folder, sshd.port, key="other_key")
    with pytest.raises(LpxError) as caught:
        sshd.board().run(["doctor"], workspace)
    assert caught.value.code == "unreachable"
    assert "let this user in" in caught.value.what
    assert "ssh-copy-id" in caught.value.fix


def test_host_key_unknown(sshd, workspace):
    (sshd.folder / "known_hosts").write_text("")
    with pytest.raises(LpxError) as caught:
        sshd.board().pull(workspace)
    assert caught.value.code == "unreachable"
    assert "host key" in caught.value.why


def test_host_unreachable(server, workspace):
    write_client(server.config, server.folder, free_port())
    with pytest.raises(LpxError) as caught:
        server.board().setup()
    assert caught.value.code == "unreachable"
    assert "refused" in caught.value.why


def test_ssh_missing(sshd, workspace, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LpxError) as caught:
        sshd.board().pull(workspace)
    assert caught.value.code == "not-found"
    assert "ssh is not installed" in caught.value.what


def test_configuration_of_ssh_missing(sshd, workspace, tmp_path):
    with pytest.raises(LpxError) as caught:
        Board("board", ssh_config=tmp_path / "none").pull(workspace)
    assert caught.value.code == "unreachable"
    assert "configuration" in caught.value.why


def test_no_python_there(sshd, workspace):
    (sshd.bin / "python3").write_text("#!/nonexistent/python\n")
    with pytest.raises(LpxError) as caught:
        sshd.board().setup()
    assert caught.value.code == "unsupported"
    assert "python3" in caught.value.what


def test_two_workstations_at_one_board(ready, workspace, heard, tmp_path):
    ready.replace_lpx(SLOW.format(count=20, code=0))
    board = ready.board()
    thread, done = doctor_in_background(board, workspace, heard)
    wait_for(lambda: lines(heard))
    shutil.copytree(workspace.root, tmp_path / "theirs")
    with pytest.raises(LpxError) as caught:
        ready.board().run(["doctor"], Workspace(tmp_path / "theirs"))
    assert caught.value.code == "in-use"
    assert holder("")["who"] in caught.value.what
    assert "lpx doctor" in caught.value.why
    with pytest.raises(LpxError) as caught:
        ready.board().setup(environment=False)
    assert caught.value.code == "in-use"
    # The same command of the same workspace is the one that runs.
    again = ready.board().run(["doctor"], workspace, output=lambda *_: None)
    thread.join(60)
    assert again.exit_code == done[0].exit_code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(ready, workspace, number):
    """Ctrl-C stops the command there; the end of a terminal does not."""
    ready.replace_lpx(
        "try:\n    print('begun', flush=True); time.sleep(8)\n"
        "except KeyboardInterrupt:\n    print('saved', flush=True); sys.exit(130)\n"
    )
    words = ["remote", "-F", str(ready.config), "board", "run", "explain-graph"]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # nohup, under which the tests may run, ignores SIGHUP, and so would the command.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    job = next((ready.home / ".lpx-remote/jobs").iterdir())
    if number == signal.SIGHUP:
        assert "the command goes on" in err
        assert not (job / "exit.json").exists()
        assert ready.board().attach(workspace, output=lambda *_: None).exit_code == 0
    else:
        assert out == "saved\n"
        assert "has ended with exit code 130" in err
        # Given again, it is started again.
        ready.replace_lpx("sys.exit(3)")
        result = ready.board().run(["explain-graph"], workspace, output=lambda *_: None)
        assert result.exit_code == 3


def test_hosts_that_ssh_would_misread(workspace):
    hosts = ["-oProxyCommand=touch x", "a;b", "a b", "$(x)", "u@-oX", "", "a\nb", "a'b", 3, "-"]
    for host in [*hosts, "x" * 300, "a|b", "u@h@-F", "é", "`x`@h", "h\\x"]:
        with pytest.raises(LpxError) as caught:
            Board(host)
        assert caught.value.code == "invalid-argument", host


@pytest.mark.parametrize(
    "host", ["jetson", "nvidia@10.0.0.7", "a_b", "user@[fe80::1%eth0]", "u.v-w@h.example.org"]
)
def test_hosts(host):
    assert Board(host).host == host


@pytest.mark.parametrize(
    ("code", "text", "kind", "part"),
    [
        (127, "sh: python3: not found", "unsupported", "no python3"),
        (1, "MemoryError", "unsupported", "cannot serve"),
        (
            255,
            "ssh: connect to host h port 22: No route to host",
            "unreachable",
            "cannot be reached",
        ),
        (255, "", "unreachable", "cannot be reached"),
        (255, "Permission denied (publickey).", "unreachable", "let this user in"),
        (255, "bad \x1b[2J escape", "unreachable", "cannot be reached"),
    ],
)
def test_ends_of_ssh(code, text, kind, part):
    error = failure("h", code, text)
    assert error.code == kind
    assert part in error.what
    assert "\x1b" not in str(error)


def test_one_connection_serves_all_calls(sshd):
    with Connection("board", ".lpx-remote", sshd.config) as connection:
        connection.call("probe", {"python": None})
        begin = time.monotonic()
        for _ in range(3):
            connection.call("latest", {"work": "x"})
        assert time.monotonic() - begin < 5
        sockets = list(connection._sockets.iterdir())
        assert len(sockets) == 1
    assert not sockets[0].exists()


class Sends:
    """The standard output of an ssh whose board sends certain bytes."""

    def __init__(self, data):
        self.stdout = io.BytesIO(data)


@pytest.mark.parametrize(
    "head", [b"o-0000001", b"o00200000", b"q00000001", b"o+-000001", b"\xff" * 9]
)
def test_frames_that_are_refused(head):
    session = Session("b", Sends(head + b"x" * 100), io.BytesIO())
    with pytest.raises(LpxError) as caught:
        next(session.frames())
    assert caught.value.code == "damaged"


class Replies:
    """A board whose reply is given."""

    host = "b"

    def __init__(self, reply):
        self.reply = reply

    def call(self, verb, request):
        return self.reply

    @contextmanager
    def session(self, verb, request):
        yield self

    def frames(self):
        yield Frame("x", json.dumps(self.reply).encode())


@pytest.mark.parametrize("reply", [{}, {"installed": 3}, {"installed": {"lpx": 1}}])
def test_a_board_that_does_not_say_what_is_installed(reply):
    with pytest.raises(LpxError) as caught:
        check_installed(Replies(reply))
    assert caught.value.code == "not-found"


@pytest.mark.parametrize("code", [256, -256, 1 << 40, "0", 0.5, True])
def test_exit_codes_that_a_command_cannot_have(code, heard):
    """As exit code of this process, 256 would be 0."""
    with pytest.raises(LpxError) as caught:
        follow(Replies({"code": code}), "j", heard, patience_s=0, reporter=heard)
    assert caught.value.code == "damaged"


def test_pieces_that_end_within_a_character(capsys):
    pass_on = PassOn(sys.stderr)
    for piece in ("grü\x1b[2J".encode()[:3], "grü\x1b[2J".encode()[3:]):
        pass_on("stdout", piece)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("grü")
    assert "\x1b" not in shown.err
