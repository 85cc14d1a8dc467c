"""Signals that ask lpx to end: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal is closed).

The command line turns them into `Interrupted`, which unwinds what is under way, so that temporary
files are removed and processes ended. It derives from BaseException and not from KeyboardInterrupt,
which Lightning and others take for themselves.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Windows has no SIGHUP."""
AGAIN_AFTER_S = 1.0
"""A second signal within this time of the first is the same request: `timeout` sends SIGTERM to the
process and then to its group. A later one ends the process at once."""
_FIRST_TICK_S, _TICK_S = 0.01, 0.1
_WAITING = ("wait", "join", "_wait_for_tstate_lock", "_wait")
_PR_SET_PDEATHSIG = 1
_PARENT_POLL_S = 1.0


class Interrupted(BaseException):
    """A signal asked lpx to end.

    Args:
        number: The signal.
        kept: What was kept, for the user; "" for what is always true of the command.
    """

    def __init__(self, number: signal.Signals, kept: str = "") -> None:
        super().__init__(number, kept)
        self.signal = number
        self.kept = kept


class _State:
    received: signal.Signals | None = None
    at_s = 0.0
    deferring = 0
    process = 0
    ignoring_at_exit = False
    handling: tuple[signal.Signals, ...] = ()


def received() -> signal.Signals | None:
    """The first signal since `handled` began, if there was one."""
    return _State.received


def check(kept: str = "") -> None:
    """End the command where a signal has arrived.

    Args:
        kept: As of `Interrupted`.

    Raises:
        Interrupted: It has.
    """
    if _State.received is not None:
        raise Interrupted(_State.received, kept)


@contextmanager
def handled() -> Iterator[None]:
    """Turn signals into `Interrupted`; what handled them before does so again afterwards.

    A signal that is ignored at the start stays ignored, as SIGHUP under `nohup`. Outside the main
    thread nothing is changed: Python handles signals there alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mine = tuple(number for number in SIGNALS if before[number] is not signal.SIG_IGN)
    _State.received, _State.process, _State.handling = None, os.getpid(), mine
    take_back()
    deferring, unraisable = _State.deferring, sys.unraisablehook

    def quiet(found: sys.UnraisableHookArgs) -> None:
        # Raised in a callback or a finaliser, where Python swallows it: it comes again.
        if found.exc_type is None or not issubclass(found.exc_type, Interrupted):
            unraisable(found)

    sys.unraisablehook = quiet
    alarm = signal.signal(signal.SIGALRM, _again) if hasattr(signal, "SIGALRM") else None
    try:
        yield
    finally:
        _tick(0)
        sys.unraisablehook = unraisable
        if alarm is not None:
            signal.signal(signal.SIGALRM, alarm)
        _State.received, _State.handling, _State.deferring = None, (), deferring
        # Not before: this runs first of what is done at the end of the process.
        if not _State.ignoring_at_exit:
            _State.ignoring_at_exit = True
            atexit.register(_ignore)
        for number in mine:
            # None: what handled it was not set by Python, and cannot be set by it.
            signal.signal(number, before[number] or signal.SIG_DFL)


def take_back() -> None:
    """Handle signals again, where a library has put handlers of its own in front."""
    for number in _State.handling:
        signal.signal(number, _handle)


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait: `check` raises where it is called, or the end of the block does.

    For work that can only be left at certain points.

    Raises:
        Interrupted: A signal arrived, and nothing else was raised.
    """
    _State.deferring += 1
    try:
        yield
    finally:
        _State.deferring -= 1
    # Within another such block it is for that one to choose the point.
    if not _State.deferring:
        check()


@contextmanager
def starting_workers() -> Iterator[None]:
    """Let signals wait while processes are started, and block them in these.

    One that is half started prints a traceback; one that is started must not be struck before it
    comes to `follow_parent`.

    Raises:
        Interrupted: A signal arrived, and nothing else was raised.
    """
    with deferred():
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        # What is blocked here is blocked in what is started; other threads still receive it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent(*_: object) -> None:
    """Make this worker process end with its parent and for no other reason.

    Ctrl-C and the end of a terminal reach every process of a group, and `timeout` signals the whole
    group too: the parent alone decides what becomes of its workers. Where the parent is killed, the
    kernel kills the worker (Linux), or a thread notices (elsewhere).
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    for number in SIGNALS:
        # By SIGTERM the parent ends a worker that does not end by itself.
        if number is not signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent()


def end_with_parent() -> None:
    """End this process when its parent ends, however that happens."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="lpx-parent", daemon=True).start()


def end_children() -> None:
    """Kill the worker processes that `multiprocessing` knows of."""
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing else []
    if children and hasattr(signal, "SIGCHLD"):
        # PyTorch's handler raises an error where a process that makes batches is killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()


def _ignore() -> None:
    """The work is done, and so is its exit code: taking PyTorch down needs up to a second."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def settle() -> None:
    """Raise no more: what the signal ended has ended."""
    _State.deferring += 1
    _tick(0)


def _handle(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.process:
        # A worker that was forked, before `follow_parent`.
        if number == signal.SIGTERM:
            os._exit(128 + number)
        return
    now = time.monotonic()
    if _State.received is None:
        _State.received, _State.at_s = signal.Signals(number), now
        if not _State.deferring:
            _tick(_FIRST_TICK_S)
            _raise(frame)
    elif now - _State.at_s >= AGAIN_AFTER_S:
        end_children()
        os._exit(128 + number)


def _again(number: int, frame: FrameType | None) -> None:
    """Raise where that was not possible before, or was swallowed."""
    if _State.received is not None and not _State.deferring:
        _raise(frame)


def _raise(frame: FrameType | None) -> None:
    """Raise, except where locks would stay taken or where that was done already."""
    if frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        # What is raised between taking a lock and its block leaves the lock taken, and threads that
        # need it wait for ever: for the lock of imports, too. In a callback it would be swallowed.
        if name in ("__enter__", "__exit__", "__del__"):
            return
        if file == threading.__file__ and name not in _WAITING:
            return
        # An extension that is being imported may end the process when what it imports raises.
        if _is_importing(frame):
            return
    under_way = sys.exc_info()[1]
    while under_way is not None:
        if isinstance(under_way, Interrupted):
            return
        under_way = under_way.__context__
    assert _State.received is not None
    raise Interrupted(_State.received)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported anywhere up the stack."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tick(first_s: float) -> None:
    """Try again after this time, and then regularly; 0 stops that."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, first_s, first_s and _TICK_S)
