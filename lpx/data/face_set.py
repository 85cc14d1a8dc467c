"""Face sets: ordered faces with labels, decoded lazily, streamed in batches."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.data.decode import Image, UnreadableImageError, fit, read_image

DECODERS = 2
"""Threads that decode ahead of the consumer; OpenCV releases the interpreter while it works."""


class ImageSource(Protocol):
    """Where the pixels of a face come from."""

    def read(self) -> Image:
        """Decode or make the image, uint8 RGB [H, W, 3].

        Raises:
            UnreadableImageError: There is no usable image.
        """
        ...


@dataclass(frozen=True)
class ImageFile:
    """A face crop in a file."""

    path: Path

    def read(self) -> Image:
        """Decode the file."""
        return read_image(self.path)


@dataclass(frozen=True)
class Face:
    """One face of a set.

    Attributes:
        name: Unique in its set; for a file, its path relative to the set's root.
        label: 1 = fake, 0 = real, None = not known.
        method: "real", or the kind of manipulation.
        video: The video it is a frame of; the name itself for a single image.
        identity: Whose face, "" where not known.
        source: Where its pixels come from.
    """

    name: str
    label: int | None
    method: str
    video: str
    identity: str
    source: ImageSource


@dataclass(frozen=True)
class Skipped:
    """A face that could not be read, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Some faces of a set, decoded.

    Attributes:
        indices: int64 [N], their places in the set.
        pixels: uint8 RGB [N, S, S, 3].
    """

    indices: NDArray[np.int64]
    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class FaceSet:
    """Ordered faces.

    Attributes:
        name: As the user named it.
        split: Which part: "train", "val", "test", or "all".
        crop: The rule by which faces were cropped, "unknown" where not said.
        faces: The faces, in a fixed order.
        note: What a reader of results must know of this set; "" where nothing.
    """

    name: str
    split: str
    crop: str
    faces: tuple[Face, ...]
    note: str = ""

    def labels(self) -> NDArray[np.int64]:
        """Labels int64 [N]; -1 where not known."""
        return np.array([-1 if f.label is None else f.label for f in self.faces], np.int64)

    def digest(self) -> str:
        """SHA-256 of names and file sizes in order: tells two lists of faces apart.

        Crops that were made again under their old names differ in size, bar a few.
        """
        lines = (f"{face.name}\t{_bytes_on_disk(face.source)}\n" for face in self.faces)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def first(self, count: int | None) -> FaceSet:
        """`count` faces spread evenly over the set, in order; all where None or too many."""
        if count is None or count >= len(self.faces):
            return self
        chosen = np.linspace(0, len(self.faces) - 1, count).round().astype(int)
        return FaceSet(
            self.name, self.split, self.crop, tuple(self.faces[i] for i in chosen), self.note
        )

    def stream(self, batch_size: int, size: int, skipped: list[Skipped]) -> Iterator[Batch]:
        """Decode in order, ahead of the consumer, in bounded memory.

        Args:
            batch_size: Faces per batch; the last may hold fewer.
            size: Side to resize to, pixels.
            skipped: Receives every face that cannot be read; it is in no batch.

        Yields:
            Batches in the set's order.
        """
        indices: list[int] = []
        images: list[Image] = []
        for index, decoded in self._decoded(2 * batch_size, size):
            if isinstance(decoded, Skipped):
                skipped.append(decoded)
                continue
            indices.append(index)
            images.append(decoded)
            if len(images) == batch_size:
                yield Batch(np.array(indices), np.stack(images))
                indices, images = [], []
        if images:
            yield Batch(np.array(indices), np.stack(images))

    def _decoded(self, ahead: int, size: int) -> Iterator[tuple[int, Image | Skipped]]:
        waiting: deque[Future[Image | Skipped]] = deque()
        rest = iter(self.faces)
        with ThreadPoolExecutor(DECODERS) as pool:
            try:
                for index in range(len(self.faces)):
                    for face in islice(rest, ahead - len(waiting)):
                        waiting.append(pool.submit(_decode, face, size))
                    yield index, waiting.popleft().result()
            finally:
                # A consumer that stops early must not wait for faces it will never see.
                for future in waiting:
                    future.cancel()


def _bytes_on_disk(source: ImageSource) -> int:
    """Size of the file; -1 where there is none to be read, or pixels do not come from one."""
    try:
        return source.path.stat().st_size if isinstance(source, ImageFile) else -1
    except OSError:
        return -1


def _decode(face: Face, size: int) -> Image | Skipped:
    try:
        return fit(face.source.read(), size)
    except UnreadableImageError as error:
        return Skipped(face.name, str(error))
