from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from lpx import interrupts
from lpx.interrupts import Interrupted
from tests.conftest import environment


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def restored():
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    # Under `nohup`, or in the background of a shell, some are ignored.
    for number in interrupts.SIGNALS:
        signal.signal(number, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_unwinds_and_is_known_afterwards(number):
    with interrupts.handled():
        with pytest.raises(Interrupted) as caught:
            send(number)
        assert caught.value.signal == interrupts.received() == number
    assert interrupts.received() is None
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored():
    """As SIGHUP under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interrupts.handled():
        send(signal.SIGHUP)
        assert interrupts.received() is None
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_the_same_request_twice_is_one():
    """`timeout` signals the process, and then its whole group."""
    with interrupts.handled():
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert interrupts.received() == signal.SIGTERM


def test_a_later_signal_ends_at_once():
    code = """
import os, signal, time
from lpx import interrupts
interrupts.AGAIN_AFTER_S = 0
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interrupts.handled():
        os.kill(os.getpid(), signal.SIGTERM)
except interrupts.Interrupted:
    pass
with interrupts.handled():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except interrupts.Interrupted:
        os.kill(os.getpid(), signal.SIGINT)
    print("still here")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (128 + signal.SIGINT, b"")


def test_deferred_signals_wait_for_a_good_moment():
    done = []

    def work(error=None):
        with interrupts.handled(), interrupts.deferred():
            send(signal.SIGTERM)
            done.append("more")
            if error is not None:
                raise error
            interrupts.check("step 3 is kept")

    with pytest.raises(Interrupted, match="step 3 is kept"):
        work()
    with pytest.raises(ValueError, match="its own"):
        work(ValueError("its own"))
    assert done == ["more", "more"]


def test_deferred_signals_come_at_the_end():
    with interrupts.handled(), pytest.raises(Interrupted), interrupts.deferred():
        send(signal.SIGTERM)


def test_a_signal_that_is_swallowed_comes_again():
    done = []

    def work():
        with interrupts.handled():
            try:
                send(signal.SIGTERM)
            except BaseException:
                done.append("swallowed")
            time.sleep(10)
            done.append("to the end")

    with pytest.raises(Interrupted):
        work()
    assert done == ["swallowed"]


def test_what_cleans_up_is_not_struck_again():
    done = []

    def work():
        with interrupts.handled():
            try:
                send(signal.SIGTERM)
            finally:
                time.sleep(0.4)
                done.append("clean")

    with pytest.raises(Interrupted):
        work()
    assert done == ["clean"]


def test_no_lock_stays_taken():
    """As that of a condition, whose own method takes it, and that of imports."""
    condition = threading.Condition(threading.Lock())

    class Sends:
        def __enter__(self):
            condition.__enter__()
            os.kill(os.getpid(), signal.SIGTERM)
            return self

        def __exit__(self, *_):
            return condition.__exit__(*_)

    def work():
        with interrupts.handled():
            with Sends():
                pass
            time.sleep(10)

    with pytest.raises(Interrupted):
        work()
    assert condition.acquire(blocking=False)
    condition.release()


def test_handlers_of_a_library_are_replaced():
    with interrupts.handled():
        signal.signal(signal.SIGTERM, lambda *_: None)
        interrupts.take_back()
        with pytest.raises(Interrupted):
            send(signal.SIGTERM)
    before = signal.getsignal(signal.SIGTERM)
    interrupts.take_back()
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_change_nothing():
    found = []

    def work():
        with interrupts.handled():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_what_is_done_keeps_its_exit_code():
    """The interpreter's own end may take long."""
    code = """
import atexit, os, signal
from lpx import interrupts
atexit.register(lambda: [os.kill(os.getpid(), number) for number in interrupts.SIGNALS])
with interrupts.handled():
    print("done")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")


WORKER = """
import multiprocessing, os, signal, sys, time
from lpx import interrupts
def work(ready):
    interrupts.follow_parent()
    ready.send(1)
    time.sleep(60)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    mine, theirs = context.Pipe()
    with interrupts.handled():
        with interrupts.starting_workers():
            child = context.Process(target=work, args=(theirs,))
            child.start()
        mine.recv()
        try:
            os.killpg(0, signal.{number})
            time.sleep(0.2)
        except interrupts.Interrupted:
            # As the command line does: otherwise it is raised again 10 ms later.
            interrupts.settle()
        print(child.pid, child.is_alive(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("method", "number"), [("fork", "SIGTERM"), ("spawn", "SIGINT"), ("fork", "SIGHUP")]
)
def test_workers_follow_their_parent_alone(tmp_path, method, number):
    """They survive what is sent to the whole group, and not the parent's death."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(number=number))
    done = subprocess.run(
        [sys.executable, str(script), method],
        env=environment(),
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stderr == ""
    pid, alive = done.stdout.split()
    assert alive == "True"
    end = time.monotonic() + 5
    while is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_running(pid)


def is_running(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    # A zombie has ended.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_an_import_is_not_broken_off(tmp_path, monkeypatch):
    """An extension that imports in C++ ends the process when what it imports raises."""
    (tmp_path / "half_imported.py").write_text(
        "import os, signal, time\n"
        "def struck():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.3)\n"
        "struck()\n"
        "whole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with interrupts.handled():
        try:
            import half_imported

            time.sleep(5)
        except Interrupted:
            pass
        else:
            pytest.fail("the signal was lost")
    assert half_imported.whole


def test_one_that_a_callback_swallows_comes_again_and_is_not_shown(monkeypatch):
    class Thing:
        pass

    def strike_and_wait():
        things = [Thing()]
        watched = weakref.ref(things[0], lambda _: send(signal.SIGTERM))
        things.clear()
        time.sleep(5)
        return watched

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    with interrupts.handled(), pytest.raises(Interrupted):
        strike_and_wait()
    assert shown == []


def test_deferring_within_deferring_waits_for_the_outer_one():
    done = []

    def nested() -> None:
        with interrupts.deferred():
            with interrupts.deferred():
                send(signal.SIGTERM)
            done.append("inner")

    with interrupts.handled(), pytest.raises(Interrupted):
        nested()
    assert done == ["inner"]
