"""Read images in parallel, ahead of their consumer, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image, UnreadableImageError, fit, silence

MAX_READERS = 8
# Maximum number of faces per task: submitting single JPEGs costs a tenth of decoding them.
MAX_TASK = 8


@dataclass(frozen=True)
class UnreadableRow:
    """A row that could not be read.

    Attributes:
        row: The row.
        reason: Reason, for the user.
    """

    row: int
    reason: str


class ImageBatch(NamedTuple):
    """Consecutive rows.

    Attributes:
        rows: int64 [N].
        pixels: uint8 RGB [N, S, S, 3].
        unreadable: Those of the rows whose pixels are undefined.
    """

    rows: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    unreadable: list[UnreadableRow]


def readers() -> int:
    """Return the number of reading threads."""
    # One per core of this process: OpenCV releases Python's lock while it decodes.
    return min(MAX_READERS, len(os.sched_getaffinity(0)))


def read_ahead(
    read: Callable[[int], Image], count: int, batch_size: int, size: int
) -> Iterator[ImageBatch]:
    """Read rows 0 to `count` - 1 in batches.

    At most four batches exist at a time: the one that the consumer is done with, the next one, and
    two ahead, so that threads do not wait for an irregular consumer. If batches are small, there
    are as many as keep all threads busy.

    Args:
        read: Returns the image of a row, or raises UnreadableImageError; called from several
            threads.
        count: Number of rows.
        batch_size: Rows per batch; the last may hold fewer.
        size: Side to resize to, pixels.
    """
    threads = readers()
    task = max(1, min(MAX_TASK, batch_size // threads))
    # Two tasks per thread, in whole batches.
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
            # A consumer that stops early must not wait for faces that it will never see.
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
        self.tasks: list[Future[list[UnreadableRow]]] = []
        for start in range(0, len(rows), task):
            part = slice(start, start + task)
            # A view: threads write straight into the batch.
            self.tasks.append(pool.submit(_fill, read, rows[part], self.pixels[part], stop))

    def result(self) -> ImageBatch:
        """Wait for the batch."""
        unreadable: list[UnreadableRow] = []
        for task in self.tasks:
            unreadable += task.result()
        return ImageBatch(self.rows, self.pixels, unreadable)

    def cancel(self) -> None:
        """Drop tasks that have not begun."""
        for task in self.tasks:
            task.cancel()


def _fill(
    read: Callable[[int], Image], rows: NDArray[np.int64], pixels: NDArray[np.uint8], stop: Event
) -> list[UnreadableRow]:
    unreadable = []
    with silence():
        for row, place in zip(rows.tolist(), pixels, strict=True):
            if stop.is_set():
                break
            try:
                place[...] = fit(read(row), pixels.shape[1])
            except UnreadableImageError as error:
                unreadable.append(UnreadableRow(row, str(error)))
    return unreadable
