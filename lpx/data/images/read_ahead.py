"""Read images in parallel ahead of whoever uses them, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image, UnreadableImageError, fit, silence

MOST_READERS = 8
TASK = 8
"""Most faces per task: handing over a single JPEG would cost a tenth of decoding it."""


@dataclass(frozen=True)
class Unread:
    """A row that could not be read, and why."""

    row: int
    reason: str


Read = tuple[NDArray[np.int64], NDArray[np.uint8], list[Unread]]
"""Rows int64 [N], pixels uint8 RGB [N, S, S, 3], and which of the rows hold no pixels."""


def readers() -> int:
    """Threads that read: one per core of this process. OpenCV decodes outside Python's lock."""
    return min(MOST_READERS, len(os.sched_getaffinity(0)))


def read_ahead(
    read: Callable[[int], Image], count: int, batch_size: int, size: int
) -> Iterator[Read]:
    """Read rows 0 to `count` - 1.

    What is read goes straight to its place in the batch. At most four batches exist at a time: one
    that the consumer leaves, one that it gets, and two ahead, so that threads do not wait for a
    consumer that is slower now and then. Where batches are small, as many as keep them at work.

    Args:
        read: Gives the image of a row, or raises UnreadableImageError; called from several threads.
        count: Rows in all.
        batch_size: Rows per batch; the last may hold fewer.
        size: Side to resize to, pixels.
    """
    threads = readers()
    task = max(1, min(TASK, batch_size // threads))
    ahead = max(2, -(-2 * threads * task // batch_size))
    starts = iter(range(0, count, batch_size))
    waiting: deque[_Pending] = deque()
    stop = Event()
    with ThreadPoolExecutor(threads, "lpx-read") as pool:
        try:
            while True:
                while len(waiting) <= ahead and (start := next(starts, None)) is not None:
                    rows = np.arange(start, min(start + batch_size, count), dtype=np.int64)
                    waiting.append(_Pending(pool, read, rows, size, task, stop))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            # A consumer that stops early must not wait for faces it will never see.
            stop.set()
            for pending in waiting:
                pending.cancel()


class _Pending:
    """A batch that is being read."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        read: Callable[[int], Image],
        rows: NDArray[np.int64],
        size: int,
        task: int,
        stop: Event,
    ) -> None:
        self.rows = rows
        self.pixels = np.empty((len(rows), size, size, 3), np.uint8)
        self.parts: list[Future[list[Unread]]] = [
            pool.submit(_fill, read, rows[i : i + task], self.pixels[i : i + task], stop)
            for i in range(0, len(rows), task)
        ]

    def result(self) -> Read:
        """Wait for the batch."""
        return self.rows, self.pixels, [one for part in self.parts for one in part.result()]

    def cancel(self) -> None:
        """Drop what has not begun."""
        for part in self.parts:
            part.cancel()


def _fill(
    read: Callable[[int], Image], rows: NDArray[np.int64], pixels: NDArray[np.uint8], stop: Event
) -> list[Unread]:
    unread = []
    with silence():
        for row, place in zip(rows.tolist(), pixels, strict=True):
            if stop.is_set():
                break
            try:
                place[...] = fit(read(row), pixels.shape[1])
            except UnreadableImageError as error:
                unread.append(Unread(row, str(error)))
    return unread
