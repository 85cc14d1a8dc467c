"""Throughput with several batches in flight, and latency over a range of batch sizes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from lpx.bench.latency import Samples, sample
from lpx.engines.base import Engine, Faces

OpenEngine = Callable[[], AbstractContextManager[Engine]]
"""Gives a thread its engine: `lambda: closing(load(folder))`, or, where one engine serves several
threads, `lambda: nullcontext(engine)`."""
_WARM_UP_CALLS = 3


@dataclass(frozen=True)
class ThroughputResult:
    """Faces scored by several threads / wall time.

    Attributes:
        batch: Faces per call.
        in_flight: Threads, each with one batch at work.
        seconds: Wall time measured.
        calls: Calls that began and ended in it.
        faces_per_second: batch * calls / seconds.
    """

    batch: int
    in_flight: int
    seconds: float
    calls: int
    faces_per_second: float


def measure_throughput(
    open_engine: OpenEngine, faces: Faces, in_flight: int, seconds: float
) -> ThroughputResult:
    """Keep `in_flight` batches at work for `seconds`.

    Engines are opened, warmed up and closed in the thread that uses them, as TensorRT's need.

    Args:
        open_engine: Called once in each thread.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        in_flight: Threads.
        seconds: Wall time to measure.

    Raises:
        Exception: What the first engine that failed raised.
    """
    ready = threading.Barrier(in_flight + 1)
    stop = threading.Event()
    calls = [0] * in_flight
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with open_engine() as engine:
                for _ in range(_WARM_UP_CALLS):
                    engine.infer(faces)
                ready.wait()
                while not stop.is_set():
                    engine.infer(faces)
                    # A call that ends after the time is up does not count.
                    calls[number] += not stop.is_set()
        except threading.BrokenBarrierError:
            pass  # another thread failed, and says why
        except BaseException as error:  # handed to the caller below
            errors.append(error)
            ready.abort()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(in_flight)]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
        began = time.perf_counter()
        while not errors and (left := began + seconds - time.perf_counter()) > 0:
            time.sleep(min(left, 0.05))
        spent, counted = time.perf_counter() - began, sum(calls)
    except threading.BrokenBarrierError:
        spent, counted = seconds, 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    rate = len(faces) * counted / spent
    return ThroughputResult(len(faces), in_flight, spent, counted, rate)


def sweep(
    engines: Mapping[str, Engine],
    pixels: Callable[[int], Faces],
    batches: Sequence[int],
    seconds: float,
    progress: Callable[[float], None] | None = None,
) -> dict[str, dict[int, Samples]]:
    """Time every engine at every batch size; engines take turns within a size.

    Args:
        engines: By name.
        pixels: Gives uint8 RGB [B, S, S, 3] for a batch size B.
        batches: Batch sizes, as (1, 8, 32).
        seconds: Time per engine and batch size.
        progress: Told the share done, in [0, 1].

    Returns:
        Samples per engine and batch size; `lpx.bench.latency.summarise` makes results of them.
    """
    found: dict[str, dict[int, Samples]] = {name: {} for name in engines}
    for index, batch in enumerate(batches):

        def tell(share: float, index: int = index) -> None:
            if progress is not None:
                progress((index + share) / len(batches))

        for name, samples in sample(engines, pixels(batch), seconds, tell).items():
            found[name][batch] = samples
    return found
