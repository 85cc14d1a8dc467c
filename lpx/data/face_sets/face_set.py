"""Face sets: ordered faces with labels, decoded lazily, streamed in batches."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_choice
from lpx.data.contents import UNREADABLE, file_digests
from lpx.data.face_sets.columns import Columns, Rows, Strings, encode, encode_identities, pack
from lpx.data.face_sets.sampling import Stratum, stratified
from lpx.data.images.decode import Image, UnreadableImageError, read_image
from lpx.data.images.read_ahead import read_ahead
from lpx.errors import LpxError
from lpx.reporter import Progress

CONTENT_DIGITS = 16
"""Digits of the SHA-256 of a face's content that tell it from all others."""


class ImageSource(Protocol):
    """Where the pixels of a face come from."""

    def read(self) -> Image:
        """Decode or make the image, uint8 RGB [H, W, 3].

        Raises:
            UnreadableImageError: There is no usable image.
        """
        ...


@runtime_checkable
class MadeImage(Protocol):
    """An image that is made when it is read, of things that need not be read to compare them."""

    def content_digest(self) -> bytes:
        """SHA-256 of all that the image is made from."""
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
        identities: Whose face: nobody known, one person, or, for a fake made of two, both, the one
            whose head it is first.
        source: Where its pixels come from.
    """

    name: str
    label: int | None
    method: str
    video: str
    identities: tuple[str, ...]
    source: ImageSource


class LazyFaces(Sequence[Face]):
    """Faces kept as columns, and made one by one when they are asked for."""

    names: Strings
    columns: Columns

    @abstractmethod
    def source(self, row: int) -> ImageSource:
        """Where the pixels of the face in this row come from."""

    @abstractmethod
    def take(self, rows: Rows) -> LazyFaces:
        """The faces in these rows."""

    @abstractmethod
    def paths(self) -> list[bytes]:
        """Path of each face's file, in bytes as on disk."""


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
        faces: The faces, in a fixed order: a tuple, or a table that makes them when asked.
        note: What a reader of results must know of this set; "" where nothing.
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
        return Columns(
            np.array([-1 if f.label is None else f.label for f in self.faces], np.int8),
            encode(f.method for f in self.faces),
            encode(f.video for f in self.faces),
            encode("" if self.split == "all" else self.split for _ in self.faces),
            encode_identities(f.identities for f in self.faces),
        )

    def labels(self) -> NDArray[np.int64]:
        """Labels int64 [N]; -1 where not known."""
        return self.columns.label.astype(np.int64)

    def methods(self) -> tuple[str, ...]:
        """The methods that occur, "real" among them, in the order in which they first do."""
        return self.columns.method.present()

    def videos(self) -> tuple[str, ...]:
        """The videos that occur, in the order in which they first do."""
        return self.columns.video.present()

    def splits(self) -> tuple[str, ...]:
        """The splits that occur, in the order in which they first do; "" stands for none."""
        return self.columns.split.present()

    def identities(self) -> tuple[str, ...]:
        """The people who occur, sorted; empty where the set does not say."""
        return tuple(sorted(self.columns.identities.present()))

    def digest(self) -> str:
        """SHA-256 of what the faces are: names, content, labels, methods, videos, identities.

        In order, and as they are when it is first asked for; see `has_changed`.
        """
        digest = hashlib.sha256(b"lpx-face-set/2")
        names = self.faces.names if isinstance(self.faces, LazyFaces) else self._packed_names()
        digest.update((names.stop - names.start).astype("<i8").tobytes())
        for chunk in names.chunks():
            digest.update(chunk)
        digest.update(self.contents.tobytes())
        for part in self.columns.canonical():
            digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    @cached_property
    def contents(self) -> NDArray[np.uint8]:
        """SHA-256 of each face's file, uint8 [N, 32]; zeros where it cannot be read.

        Of a face that is in no file, of what it is made from, or else of its pixels.
        """
        return self.read_contents()

    def look_up(self, progress: Progress) -> None:
        """Take down `contents` as of now, with progress: of many files it takes a while.

        Args:
            progress: Receives how many files are done.
        """
        self.__dict__["contents"] = self.read_contents(progress)

    def read_contents(self, progress: Progress | None = None) -> NDArray[np.uint8]:
        """`contents` as of now; files that were read before and have not changed are not read.

        Args:
            progress: Receives how many files are done.
        """
        if isinstance(self.faces, LazyFaces):
            return file_digests(self.faces.paths(), progress)
        found = np.zeros((len(self.faces), len(UNREADABLE)), np.uint8)
        rows, paths = [], []
        for row, face in enumerate(self.faces):
            if isinstance(face.source, ImageFile):
                rows.append(row)
                paths.append(os.fsencode(face.source.path))
            else:
                found[row] = np.frombuffer(_made_digest(face.source), np.uint8)
        if rows:
            found[rows] = file_digests(paths, progress)
        return found

    def short_contents(self) -> tuple[str, ...]:
        """The first `CONTENT_DIGITS` digits of each face's content, sorted, each once.

        They tell faces again under other names; those that cannot be read are left out.
        """
        readable = self.contents[self.contents.any(axis=1), : CONTENT_DIGITS // 2]
        return tuple(sorted({row.tobytes().hex() for row in readable}))

    def has_changed(self) -> bool:
        """Whether a file holds something else than when `digest` or `contents` was asked for."""
        return not np.array_equal(self.contents, self.read_contents())

    def _packed_names(self) -> Strings:
        return pack(face.name for face in self.faces)

    def take(self, rows: Rows) -> FaceSet:
        """The faces in these rows, in the order of the rows."""
        if isinstance(self.faces, LazyFaces):
            return replace(self, faces=self.faces.take(rows))
        return replace(self, faces=tuple(self.faces[row] for row in rows.tolist()))

    def first(self, count: int | None) -> FaceSet:
        """`count` faces spread evenly over the set, in order; all where None or too many."""
        if count is None or count >= len(self.faces):
            return self
        return self.take(np.linspace(0, len(self.faces) - 1, count).round().astype(np.int64))

    def sample(
        self, count: int, by: Sequence[Stratum] = ("method", "label"), seed: int = 0
    ) -> FaceSet:
        """`count` faces, every stratum in proportion, from as many videos and people as there are.

        See `lpx.data.face_sets.sampling.stratified`. The order of the set is kept; all faces where
        the set has no more than `count`.

        Raises:
            LpxError: `count` is less than 1.
        """
        if count < 1:
            raise LpxError(f"a sample of {count} faces", "", "ask for one at least")
        if count >= len(self.faces):
            return self
        return self.take(stratified(self.columns, count, by, seed))

    def select(self, split: str | None = None, methods: Sequence[str] | None = None) -> FaceSet:
        """The faces of a split, of some methods, or of both, in order.

        Args:
            split: A split that occurs; None for all.
            methods: Manipulations that occur; None for all. Real faces stay: there is no AUC
                without them.

        Raises:
            LpxError: There is no such split or method (those there are listed), or no face is in
                both.
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
            raise LpxError(f"{self.name} has no faces of {wanted}", "", "select less narrowly")
        return replace(self.take(np.flatnonzero(keep)), split=split or self.split)

    def stream(self, batch_size: int, size: int, skipped: list[Skipped]) -> Iterator[Batch]:
        """Decode in order, ahead of the consumer, in bounded memory.

        Args:
            batch_size: Faces per batch. The last may hold fewer, and so does one some of whose
                faces cannot be read; no batch is empty.
            size: Side to resize to, pixels.
            skipped: Receives every face that cannot be read; it is in no batch.

        Yields:
            Batches in the set's order.
        """
        for rows, pixels, unreadable in read_ahead(self._read, len(self.faces), batch_size, size):
            skipped += [Skipped(self.faces[one.row].name, one.reason) for one in unreadable]
            if unreadable:
                good = ~np.isin(rows, [one.row for one in unreadable])
                rows, pixels = rows[good], pixels[good]
            if len(rows):
                yield Batch(rows, pixels)

    def _read(self, row: int) -> Image:
        if isinstance(self.faces, LazyFaces):
            return self.faces.source(row).read()
        return self.faces[row].source.read()


def assert_disjoint(a: FaceSet, b: FaceSet, by: Literal["identity", "video"] = "identity") -> None:
    """Check that two sets share nobody, or no video; names are compared, across data sets too.

    Faces whose identity is not known are taken to be nobody's.

    Raises:
        LpxError: They overlap; the first few that are in both are named, and all counted.
    """
    check_choice("by", by, ("identity", "video"))
    mine, theirs = (
        (a.identities(), b.identities()) if by == "identity" else (a.videos(), b.videos())
    )
    shared = sorted(set(mine) & set(theirs))
    if not shared:
        return
    kind = {"identity": ("identity", "identities"), "video": ("video", "videos")}[by]
    more = f" and {len(shared) - 5} more" * (len(shared) > 5)
    raise LpxError(
        f"{_titled(a)} and {_titled(b)} share {len(shared)} {kind[len(shared) > 1]}: "
        f"{', '.join(shared[:5])}{more}",
        "a detector that has seen a face scores it for who it is, so figures come out too good",
        "take splits that are disjoint, as the official ones of a data set mostly are",
    )


def _titled(faces: FaceSet) -> str:
    return faces.name if faces.split == "all" else f"{faces.name} ({faces.split})"


def _check_known(name: str, what: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    if absent := [value for value in wanted if value not in known]:
        listed = ", ".join(filter(None, known))
        raise LpxError(
            f"{name} has no {what} {absent[0]!r}",
            f"it has {listed}" if listed else f"its faces name no {what}",
            f"name a {what} that it has",
        )


def _made_digest(source: ImageSource) -> bytes:
    """SHA-256 of an image that is in no file."""
    if isinstance(source, MadeImage):
        return source.content_digest()
    try:
        image = source.read()
    except UnreadableImageError:
        return UNREADABLE
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()
