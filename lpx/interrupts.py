"""Signals that ask lpx to end: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal is closed).

The command line turns them into `Interrupted`, which unwinds the stack, so that temporary files are
removed and processes ended. It derives from BaseException and not from KeyboardInterrupt, which
Lightning and others catch.
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

# Windows has no SIGHUP.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# A second signal within this time of the first is the same request: `timeout` sends SIGTERM to the
# process and then to its group. A later one ends the process at once.
AGAIN_AFTER_S = 1.0
# Times after which an `Interrupted` that could not be raised, or was swallowed, is raised again.
_FIRST_TICK_S, _TICK_S = 0.01, 0.1
# Functions of `threading` that wait, and may be left by an exception; see `_raise`.
_WAITING = ("wait", "join", "_wait_for_tstate_lock", "_wait")
# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1
_PARENT_POLL_S = 1.0


class Interrupted(BaseException):
    """A signal asked lpx to end.

    Args:
        number: The signal.
        kept: Result that was kept, for the user; "" for the command's usual text.
        resumable: Whether the same command goes on from there.
    """

    def __init__(self, number: signal.Signals, kept: str = "", *, resumable: bool = True) -> None:
        super().__init__(number, kept)
        self.signal = number
        self.kept = kept
        self.resumable = resumable


class _State:
    # The handler is one for the whole process, and so is its state.
    received: signal.Signals | None = None
    at_s = 0.0
    deferring = 0
    process = 0
    ignoring_at_exit = False
    handling: tuple[signal.Signals, ...] = ()


def received() -> signal.Signals | None:
    """Return the first signal since `handled` began, None if there was none."""
    return _State.received


def check(kept: str = "") -> None:
    """Raise `Interrupted` if a signal has arrived.

    Args:
        kept: Result that was kept; see `Interrupted`.

    Raises:
        Interrupted: A signal has arrived.
    """
    if _State.received is not None:
        raise Interrupted(_State.received, kept)


@contextmanager
def handled() -> Iterator[None]:
    """Turn signals into `Interrupted` within a block, and restore their handlers afterwards.

    Does nothing outside the main thread.
    """
    # Python runs signal handlers in the main thread only, and lets no other set them.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    # An ignored signal stays ignored: `nohup` ignores SIGHUP.
    mine = tuple(number for number in SIGNALS if before[number] is not signal.SIG_IGN)
    _State.received, _State.process, _State.handling = None, os.getpid(), mine
    take_back()
    deferring, unraisable = _State.deferring, sys.unraisablehook

    def quiet(swallowed: sys.UnraisableHookArgs) -> None:
        # Python swallows what is raised in a callback or a finaliser. The timer raises it again.
        if swallowed.exc_type is None or not issubclass(swallowed.exc_type, Interrupted):
            unraisable(swallowed)

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
        # Registered now, and not earlier: the last function to be registered is the first to run
        # when the process ends.
        if not _State.ignoring_at_exit:
            _State.ignoring_at_exit = True
            atexit.register(_ignore)
        for number in mine:
            # None: the handler was not set by Python, and cannot be restored by it.
            signal.signal(number, before[number] or signal.SIG_DFL)


def take_back() -> None:
    """Handle signals again after a library has installed handlers of its own."""
    for number in _State.handling:
        signal.signal(number, _handle)


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait until `check` is called, or until the end of the block.

    For work that can be interrupted at certain points only.

    Raises:
        Interrupted: A signal arrived, and nothing else was raised.
    """
    _State.deferring += 1
    try:
        yield
    finally:
        _State.deferring -= 1
    # In a nested block the outer one decides where to raise.
    if not _State.deferring:
        check()


@contextmanager
def starting_workers() -> Iterator[None]:
    """Let signals wait while processes are started, and block them in these.

    A half-started process would print a traceback, and a started one must not be hit by a signal
    before it reaches `follow_parent`.

    Raises:
        Interrupted: A signal arrived, and nothing else was raised.
    """
    with deferred():
        if not hasattr(signal, "pthread_sigmask"):
            yield
            return
        # New processes inherit the mask of this thread. Other threads still receive the signals.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent(*_: object) -> None:
    """Make this worker process end with its parent and for no other reason.

    If the parent is killed, the kernel kills the worker (Linux), or a thread notices (elsewhere).
    """
    # Ctrl-C and the end of a terminal reach every process of a group, and `timeout` signals the
    # whole group too. But the parent decides when its workers end: hence a group of their own.
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    for number in SIGNALS:
        # With SIGTERM the parent ends a worker that does not end by itself.
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
        # The parent may have ended just before: then no signal comes.
        if os.getppid() != parent:
            os._exit(1)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="lpx-parent", daemon=True).start()


def end_children() -> None:
    """Kill the worker processes that `multiprocessing` has started."""
    multiprocessing = sys.modules.get("multiprocessing")
    children = multiprocessing.active_children() if multiprocessing else []
    if children and hasattr(signal, "SIGCHLD"):
        # PyTorch's handler raises an error if a process that makes batches is killed.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()


def _ignore() -> None:
    """Ignore signals while the process ends: unloading PyTorch takes up to a second."""
    # The work is done and the exit code is decided: a signal must not change it now.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def settle() -> None:
    """Stop raising: the command has ended."""
    _State.deferring += 1
    _tick(0)


def _handle(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _State.process:
        # A forked worker inherits this handler until it reaches `follow_parent`.
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
    """Raise again, if that was not possible before or was swallowed."""
    if _State.received is not None and not _State.deferring:
        _raise(frame)


def _raise(frame: FrameType | None) -> None:
    """Raise `Interrupted`, unless a lock would stay locked or it was raised already."""
    if frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        # An exception between acquiring a lock and entering its block leaves the lock acquired, and
        # threads that need it wait forever; that includes the lock of imports. In a finaliser the
        # exception would be swallowed.
        if name in ("__enter__", "__exit__", "__del__"):
            return
        if file == threading.__file__ and name not in _WAITING:
            return
        # An extension module may abort the process if an import in its initialisation raises.
        if _is_importing(frame):
            return
    # Clean-up code that runs because of the first `Interrupted` must not be hit by a second one.
    handling = sys.exc_info()[1]
    while handling is not None:
        if isinstance(handling, Interrupted):
            return
        handling = handling.__context__
    assert _State.received is not None
    raise Interrupted(_State.received)


def _is_importing(frame: FrameType | None) -> bool:
    """Return whether a module is being imported anywhere up the stack."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _tick(first_s: float) -> None:
    """Call `_again` after this time and then regularly; 0 stops that."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, first_s, first_s and _TICK_S)
