"""Face sets: ordered faces with labels, decoded lazily, streamed in batches."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lpx.data.contents import UNREADABLE, file_digests
from lpx.data.face_sets.columns import Columns, Rows, Strings, encode, encode_identities, pack
from lpx.data.images.decode import Image, UnreadableImageError, fit, read_image
from lpx.data.images.read_ahead import Resize, read_ahead
from lpx.errors import LpxError
from lpx.reporter import Progress

CONTENT_DIGITS = 16
"""Digits of the SHA-256 of a face's content that suffice to identify it."""

# Name of lpx's own way to resize, among others; none of these has it.
_OWN = ""


class ImageSource(Protocol):
    """The source of a face's pixels."""

    def read(self) -> Image:
        """Decode or make the image, uint8 RGB [H, W, 3].

        Raises:
            UnreadableImageError: There is no usable image.
        """
        ...


@runtime_checkable
class MadeImage(Protocol):
    """An image made when it is read, which can be identified without making it."""

    def content_digest(self) -> bytes:
        """Return the SHA-256 of everything that the image is made from."""
        ...


@dataclass(frozen=True)
class ImageFile:
    """A face crop in a file."""

    path: Path

    def read(self) -> Image:
        """Decode the file, uint8 RGB [H, W, 3].

        Raises:
            UnreadableImageError: There is no usable image.
        """
        return read_image(self.path)


@dataclass(frozen=True)
class Face:
    """A face of a set.

    Attributes:
        name: Unique in its set; for a file, the path relative to the set's root.
        label: 1 = fake, 0 = real, None = unknown.
        method: "real", or the manipulation.
        video: Video that the face is a frame of; the name itself for a single image.
        identities: People in the face: empty if unknown; (target, source) for a face swap.
        source: Source of its pixels.
    """

    name: str
    label: int | None
    method: str
    video: str
    identities: tuple[str, ...]
    source: ImageSource


class LazyFaces(Sequence[Face]):
    """Faces stored as columns; a `Face` is made when it is asked for."""

    names: Strings
    columns: Columns

    @abstractmethod
    def source(self, row: int) -> ImageSource:
        """Return the source of a face's pixels."""

    @abstractmethod
    def take(self, rows: Rows) -> LazyFaces:
        """Select rows."""

    @abstractmethod
    def paths(self) -> list[bytes]:
        """Return the path of each face's file, in bytes as on disk."""


@dataclass(frozen=True)
class Skipped:
    """A face or file that could not be read, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """Decoded faces of a set.

    Attributes:
        indices: Indices into the set, int64 [N].
        pixels: uint8 RGB [N, S, S, 3].
        crop_sizes: Height and width of the faces before they were resized, int64 [N, 2].
        others: The same faces resized in other ways, by the names of these.
    """

    indices: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    crop_sizes: NDArray[np.int64]
    others: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


@dataclass(frozen=True)
class FaceSet:
    """Ordered faces.

    Attributes:
        name: Name given by the user.
        split: "train", "val", "test", or "all".
        crop: Crop recipe; "unknown" if the set does not say.
        faces: Faces in a fixed order: a tuple, or a `LazyFaces`.
        note: Note for readers of results; "" if there is none.
    """

    name: str
    split: str
    crop: str
    faces: Sequence[Face]
    note: str = ""

    @cached_property
    def columns(self) -> Columns:
        """Labels, methods, videos, splits and identities of all faces."""
        if isinstance(self.faces, LazyFaces):
            return self.faces.columns
        labels = np.full(len(self.faces), -1, np.int8)
        for row, face in enumerate(self.faces):
            if face.label is not None:
                labels[row] = face.label
        split = "" if self.split == "all" else self.split
        return Columns(
            labels,
            encode(face.method for face in self.faces),
            encode(face.video for face in self.faces),
            encode([split] * len(self.faces)),
            encode_identities(face.identities for face in self.faces),
        )

    def labels(self) -> NDArray[np.int64]:
        """Return the labels, int64 [N]; -1 for unknown."""
        return self.columns.label.astype(np.int64)

    def methods(self) -> tuple[str, ...]:
        """Return the methods that occur, including "real", in the order of first occurrence."""
        return self.columns.method.present()

    def videos(self) -> tuple[str, ...]:
        """Return the videos that occur, in the order of first occurrence."""
        return self.columns.video.present()

    def splits(self) -> tuple[str, ...]:
        """Return the splits that occur, in the order of first occurrence; "" stands for none."""
        return self.columns.split.present()

    def identities(self) -> tuple[str, ...]:
        """Return the people who occur, sorted; empty if the set does not say."""
        return tuple(sorted(self.columns.identities.present()))

    def digest(self) -> str:
        """Return the SHA-256 of names, contents, labels, methods, videos and identities, in order.

        Contents are those at the first call, see `has_changed`.
        """
        return self._digest(b"lpx-face-set/2", with_contents=True)

    def list_digest(self) -> str:
        """Return the same without contents, for which no file is read."""
        return self._digest(b"lpx-face-list/1", with_contents=False)

    def _digest(self, start: bytes, *, with_contents: bool) -> str:
        digest = hashlib.sha256(start)
        if isinstance(self.faces, LazyFaces):
            names = self.faces.names
        else:
            names = pack(face.name for face in self.faces)
        # Lengths first: otherwise "ab", "c" and "a", "bc" would be the same names.
        digest.update((names.stop - names.start).astype("<i8").tobytes())
        for chunk in names.chunks():
            digest.update(chunk)
        if with_contents:
            digest.update(self.contents.tobytes())
        # Not the codes themselves, which differ between a table and a selection of it.
        for part in self.columns.canonical():
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    @cached_property
    def contents(self) -> NDArray[np.uint8]:
        """SHA-256 of each face's file, uint8 [N, 32]; zeros if it cannot be read.

        For a face without a file, of what it is made from, or else of its pixels.
        """
        return self.read_contents()

    def look_up(self, progress: Progress) -> None:
        """Read `contents` now, with progress, as many files take a while.

        Args:
            progress: Receives the number of finished files, and that of all.
        """
        # Where cached_property keeps its value, which a frozen dataclass cannot assign.
        self.__dict__["contents"] = self.read_contents(progress)

    def read_contents(self, progress: Progress | None = None) -> NDArray[np.uint8]:
        """Return the current value of `contents`, without reading unchanged files again.

        Args:
            progress: Receives the number of finished files, and that of all.
        """
        if isinstance(self.faces, LazyFaces):
            # Without making a Face for each of a million rows.
            return file_digests(self.faces.paths(), progress)
        contents = np.zeros((len(self.faces), len(UNREADABLE)), np.uint8)
        rows, paths = [], []
        for row, face in enumerate(self.faces):
            if isinstance(face.source, ImageFile):
                rows.append(row)
                paths.append(os.fsencode(face.source.path))
            else:
                contents[row] = np.frombuffer(_made_digest(face.source), np.uint8)
        if rows:
            contents[rows] = file_digests(paths, progress)
        return contents

    def short_contents(self) -> tuple[str, ...]:
        """Return the first `CONTENT_DIGITS` digits of the faces' contents, sorted, without repeats.

        They identify faces under any name. Faces that cannot be read are left out.
        """
        readable = self.contents[self.contents.any(axis=1), : CONTENT_DIGITS // 2]
        return tuple(sorted({row.tobytes().hex() for row in readable}))

    def has_changed(self) -> bool:
        """Return whether a file changed since `digest` or `contents` was first used."""
        return not np.array_equal(self.contents, self.read_contents())

    def check_unchanged(self, during: str) -> None:
        """Refuse results of faces that changed while they were computed.

        Args:
            during: What computed them, such as "calibration".

        Raises:
            LpxError: A file changed since `digest` or `contents` was first used.
        """
        if self.has_changed():
            raise LpxError(
                f"faces of {self.name} changed during {during}",
                "its results would belong to neither the old faces nor the new ones",
                "run it again when nothing writes to them",
            )

    def take(self, rows: Rows) -> FaceSet:
        """Select faces by index, in the order of `rows`."""
        if isinstance(self.faces, LazyFaces):
            return replace(self, faces=self.faces.take(rows))
        return replace(self, faces=tuple(map(self.faces.__getitem__, rows.tolist())))

    def first(self, limit: int | None) -> FaceSet:
        """Return at most `limit` faces, sampled evenly over the set, in order; None for all."""
        if limit is None or limit >= len(self.faces):
            return self
        return self.take(np.linspace(0, len(self.faces) - 1, limit).round().astype(np.int64))

    def select(self, split: str | None = None, methods: Sequence[str] | None = None) -> FaceSet:
        """Select the faces of a split, of some methods, or both.

        Args:
            split: A split that occurs; None for all.
            methods: Manipulation methods that occur; None for all. Real faces are always included,
                as there is no AUC without them.

        Raises:
            LpxError: The split or method does not exist (the existing ones are listed), or no face
                has both.
        """
        keep = np.ones(len(self.faces), np.bool_)
        if split is not None:
            _check_known(self.name, "split", (split,), self.splits())
            keep &= self.columns.split.where((split,))
        if methods is not None:
            _check_known(self.name, "method", methods, self.methods())
            keep &= self.columns.method.where(methods) | (self.columns.label == 0)
        if not keep.any():
            wanted = ", ".join(filter(None, (split, *(methods or ()))))
            raise LpxError(f"{self.name} has no faces of {wanted}", "", "choose fewer restrictions")
        return replace(self.take(np.flatnonzero(keep)), split=split or self.split)

    def stream(
        self,
        batch_size: int,
        size: int,
        skipped: list[Skipped],
        others: Mapping[str, Resize] | None = None,
    ) -> Iterator[Batch]:
        """Decode faces in order, ahead of the consumer, in bounded memory.

        Args:
            batch_size: Maximum number of faces per batch. Batches are smaller at the end, and if
                faces cannot be read, but never empty.
            size: Side to resize to, pixels.
            skipped: Receives the faces that cannot be read, which are in no batch.
            others: Other ways to resize, by name, for `Batch.others`. A face is decoded once.

        Yields:
            Batches in the order of the set.
        """
        resizes = {_OWN: fit, **(others or {})}
        for rows, made, sizes, unreadable in read_ahead(
            self._read, len(self.faces), batch_size, size, resizes
        ):
            skipped += [Skipped(self.faces[one.row].name, one.reason) for one in unreadable]
            if unreadable:
                # Pixels of unreadable rows are undefined.
                good = ~np.isin(rows, [one.row for one in unreadable])
                rows, sizes = rows[good], sizes[good]
                made = {name: pixels[good] for name, pixels in made.items()}
            if len(rows):
                own = made.pop(_OWN)
                yield Batch(rows, own, sizes, made)

    def _read(self, row: int) -> Image:
        if isinstance(self.faces, LazyFaces):
            return self.faces.source(row).read()
        return self.faces[row].source.read()


def _check_known(name: str, what: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    listed = ", ".join(filter(None, known))
    why = f"it has {listed}" if listed else f"its faces name no {what}"
    for value in wanted:
        if value not in known:
            raise LpxError(
                f"{name} has no {what} {value!r}",
                why,
                f"use a {what} that it has",
                code="not-found",
            )


def _made_digest(source: ImageSource) -> bytes:
    """Return the SHA-256 of an image that is in no file."""
    if isinstance(source, MadeImage):
        return source.content_digest()
    try:
        image = source.read()
    except UnreadableImageError:
        return UNREADABLE
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
