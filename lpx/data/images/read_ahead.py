"""Read images in parallel, ahead of their consumer, in order and in bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Event
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image, UnreadableImageError, silence

# Makes a face of a side from an image, uint8 RGB.
Resize = Callable[[Image, int], Image]

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
        pixels: uint8 RGB [N, S, S, 3], by the name of what resized them.
        sizes: Height and width of the images, int64 [N, 2].
        unreadable: Those of the rows whose pixels and sizes are undefined.
    """

    rows: NDArray[np.int64]
    pixels: dict[str, NDArray[np.uint8]]
    sizes: NDArray[np.int64]
    unreadable: list[UnreadableRow]


def readers() -> int:
    """Return the number of reading threads."""
    # One per core of this process: OpenCV releases Python's lock while it decodes.
    return min(MAX_READERS, len(os.sched_getaffinity(0)))


def read_ahead(
    read: Callable[[int], Image],
    count: int,
    batch_size: int,
    size: int,
    resizes: Mapping[str, Resize],
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
        resizes: What resizes the images, by name: each image is read once for all.
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
                    waiting.append(
                        _Pending(pool, read, _Rows.empty(rows, size, resizes), task, stop)
                    )
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            # A consumer that stops early must not wait for faces that it will never see.
            stop.set()
            for pending in waiting:
                pending.cancel()


@dataclass(frozen=True)
class _Rows:
    """Rows that are being read, or a part of them: arrays that threads write into.

    Attributes:
        rows: int64 [N].
        size: Side of a face, pixels.
        resizes: What resizes the images, by name.
        pixels: uint8 [N, S, S, 3] by the same names.
        sizes: int64 [N, 2].
    """

    rows: NDArray[np.int64]
    size: int
    resizes: Mapping[str, Resize]
    pixels: dict[str, NDArray[np.uint8]]
    sizes: NDArray[np.int64]

    @classmethod
    def empty(cls, rows: NDArray[np.int64], size: int, resizes: Mapping[str, Resize]) -> _Rows:
        """Return rows whose pixels are undefined."""
        shape = (len(rows), size, size, 3)
        pixels = {name: np.empty(shape, np.uint8) for name in resizes}
        return cls(rows, size, resizes, pixels, np.zeros((len(rows), 2), np.int64))

    def part(self, rows: slice) -> _Rows:
        """Return views of some of the rows."""
        pixels = {name: whole[rows] for name, whole in self.pixels.items()}
        return replace(self, rows=self.rows[rows], pixels=pixels, sizes=self.sizes[rows])

    def fill(self, place: int, image: Image) -> None:
        """Write a row."""
        self.sizes[place] = image.shape[:2]
        for name, resize in self.resizes.items():
            self.pixels[name][place] = resize(image, self.size)


class _Pending:
    """A batch that is being read."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        read: Callable[[int], Image],
        whole: _Rows,
        task: int,
        stop: Event,
    ) -> None:
        self.whole = whole
        self.tasks: list[Future[list[UnreadableRow]]] = []
        for start in range(0, len(whole.rows), task):
            part = whole.part(slice(start, start + task))
            self.tasks.append(pool.submit(_fill, read, part, stop))

    def result(self) -> ImageBatch:
        """Wait for the batch."""
        unreadable: list[UnreadableRow] = []
        for task in self.tasks:
            unreadable += task.result()
        return ImageBatch(self.whole.rows, self.whole.pixels, self.whole.sizes, unreadable)

    def cancel(self) -> None:
        """Drop tasks that have not begun."""
        for task in self.tasks:
            task.cancel()


def _fill(read: Callable[[int], Image], part: _Rows, stop: Event) -> list[UnreadableRow]:
    unreadable = []
    with silence():
        for place, row in enumerate(part.rows.tolist()):
            if stop.is_set():
                break
            try:
                part.fill(place, read(row))
            except UnreadableImageError as error:
                unreadable.append(UnreadableRow(row, str(error)))
    return unreadable
