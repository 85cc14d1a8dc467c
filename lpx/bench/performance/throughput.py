"""Throughput with several batches in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass

from lpx.engines.base import Engine, Faces

# Opens the engine of a thread: `lambda: closing(load(folder))`, or, if one engine serves several
# threads, `lambda: nullcontext(engine)`.
OpenEngine = Callable[[], AbstractContextManager[Engine]]
_WARM_UP_CALLS = 3


@dataclass(frozen=True)
class ThroughputResult:
    """Faces scored by several threads that each have a batch at work.

    Attributes:
        batch: Faces per call.
        in_flight: Number of threads.
        seconds: Wall time until the last thread's last call ended, s.
        calls: Number of calls of all threads.
        faces_per_second: Sum over threads of (faces / time until that thread's last call ended).
    """

    batch: int
    in_flight: int
    seconds: float
    calls: int
    faces_per_second: float


def measure_throughput(
    open_engine: OpenEngine,
    faces: Faces,
    in_flight: int,
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> ThroughputResult:
    """Keep `in_flight` batches at work for `seconds`.

    Engines are opened, warmed up and closed in the thread that uses them, as TensorRT requires.

    Args:
        open_engine: Called once in each thread.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        in_flight: Number of threads.
        seconds: Wall time to measure, s.
        sleep: Waits while the threads work.

    Raises:
        Exception: The error of the first engine that failed.
    """
    ready = threading.Barrier(in_flight + 1)
    stop = threading.Event()
    calls, ended = [0] * in_flight, [0.0] * in_flight
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with open_engine() as engine:
                for _ in range(_WARM_UP_CALLS):
                    engine.infer(faces)
                ready.wait()
                began = time.perf_counter()
                while not (calls[number] and stop.is_set()):
                    engine.infer(faces)
                    calls[number] += 1
                ended[number] = time.perf_counter() - began
        except threading.BrokenBarrierError:
            # Another thread failed, and its error is the one to raise.
            pass
        except BaseException as error:
            # Raised in the caller's thread, below.
            errors.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(in_flight)]
    for thread in threads:
        thread.start()
    try:
        _wait(ready, seconds, errors, sleep)
    except BaseException:
        # An interrupt: threads at the barrier would wait for ever.
        ready.abort()
        raise
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    rate = sum(len(faces) * n / spent for n, spent in zip(calls, ended, strict=True))
    return ThroughputResult(len(faces), in_flight, max(ended), sum(calls), rate)


def _wait(
    ready: threading.Barrier,
    seconds: float,
    errors: list[BaseException],
    sleep: Callable[[float], None],
) -> None:
    """Wait until all threads are warm and `seconds` have passed, or until one has failed."""
    with suppress(threading.BrokenBarrierError):
        ready.wait()
        end = time.perf_counter() + seconds
        while not errors and (left := end - time.perf_counter()) > 0:
            sleep(min(left, 0.05))
