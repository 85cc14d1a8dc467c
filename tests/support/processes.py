"""Processes that a test reads from, or leaves running meanwhile."""

from __future__ import annotations

import threading
from contextlib import contextmanager


@contextmanager
def bounded(process, seconds=120.0):
    """Yield a process that is killed at the end of the block, and after this time at the latest.

    A read of a pipe has no limit of its own, and ends when the process does.
    """
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        process.kill()
        process.wait(timeout=30)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
