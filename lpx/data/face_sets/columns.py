"""What is known of many faces, one array per property: a million rows without a million objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Places in a set, int64 [M]."""

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Strings:
    """Texts as spans of one block of bytes, which parts of a column share.

    A text is UTF-8, or, where a file's name on disk is not, the bytes of that name.

    Attributes:
        blob: uint8 [B].
        start: Where each text begins, int64 [N].
        stop: Where it ends, int64 [N].
    """

    blob: NDArray[np.uint8]
    start: Rows
    stop: Rows

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, row: int) -> str:
        """The text, which may hold surrogates that stand for bytes outside UTF-8."""
        return self.raw(row).decode("utf-8", "surrogateescape")

    def raw(self, row: int) -> bytes:
        """The bytes of a text."""
        return self.blob[self.start[row] : self.stop[row]].tobytes()

    def take(self, rows: Rows) -> Strings:
        """The texts in these rows."""
        return Strings(self.blob, self.start[rows], self.stop[rows])

    def chunks(self) -> Iterator[bytes]:
        """The texts without anything between them, in pieces."""
        for begin in range(0, len(self), _CHUNK):
            start, stop = self.start[begin : begin + _CHUNK], self.stop[begin : begin + _CHUNK]
            if np.array_equal(start[1:], stop[:-1]):
                yield self.blob[start[0] : stop[-1]].tobytes()
            else:
                spans = zip(start.tolist(), stop.tolist(), strict=True)
                yield b"".join([self.blob[a:b].tobytes() for a, b in spans])

    def packed(self) -> tuple[NDArray[np.uint8], Rows]:
        """Only the bytes in use, uint8 [B], and offsets int64 [N + 1]: what is stored."""
        blob = np.frombuffer(b"".join(self.chunks()), np.uint8)
        return blob, np.concatenate([[0], np.cumsum(self.stop - self.start)]).astype(np.int64)


def pack(texts: Iterable[str]) -> Strings:
    """Texts as a column."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return Strings(np.frombuffer(b"".join(encoded), np.uint8), ends[:-1], ends[1:])


@dataclass(frozen=True)
class Coded:
    """A property with few values: a number per row, and what each number stands for.

    Attributes:
        codes: int32 [N], places in `values`.
        values: The values, each once.
    """

    codes: NDArray[np.int32]
    values: Strings

    def __getitem__(self, row: int) -> str:
        return self.values[int(self.codes[row])]

    def take(self, rows: Rows) -> Coded:
        """The same property of these rows."""
        return Coded(self.codes[rows], self.values)

    def present(self) -> tuple[str, ...]:
        """The values that occur, in the order in which they first do."""
        return tuple(self.values[code] for code in _first_seen(self.codes).tolist())

    def canonical(self) -> Iterator[bytes]:
        """The same bytes for the same texts in the same rows, however they are coded."""
        codes, used = _renumbered(self.codes, len(self.values))
        yield codes.astype("<i4").tobytes()
        yield from (self.values.raw(code) for code in used.tolist())

    def where(self, wanted: Iterable[str]) -> NDArray[np.bool_]:
        """Rows that have one of these values, bool [N]."""
        chosen = set(wanted)
        known = [self.values[code] in chosen for code in range(len(self.values))]
        return np.array(known, np.bool_)[self.codes]


def encode(values: Iterable[str]) -> Coded:
    """Texts as codes, numbered in the order of their first occurrence."""
    seen: dict[str, int] = {}
    codes = np.array([seen.setdefault(value, len(seen)) for value in values], np.int32)
    return Coded(codes, pack(seen))


@dataclass(frozen=True)
class Identities:
    """Whose faces: any number of people per row.

    Attributes:
        codes: int32 [N], places among the groups of people that occur.
        offsets: int64 [G + 1], where each group's members lie in `members`.
        members: int32 [M], places in `people`.
        people: The people, each once.
    """

    codes: NDArray[np.int32]
    offsets: Rows
    members: NDArray[np.int32]
    people: Strings

    def __getitem__(self, row: int) -> tuple[str, ...]:
        group = int(self.codes[row])
        members = self.members[self.offsets[group] : self.offsets[group + 1]]
        return tuple(self.people[code] for code in members.tolist())

    def take(self, rows: Rows) -> Identities:
        """The identities of these rows."""
        return Identities(self.codes[rows], self.offsets, self.members, self.people)

    def present(self) -> tuple[str, ...]:
        """The people who occur, in the order in which they first do."""
        groups = _first_seen(self.codes)
        spans = [self.members[self.offsets[g] : self.offsets[g + 1]] for g in groups.tolist()]
        codes = np.concatenate([np.zeros(0, np.int32), *spans])
        return tuple(self.people[code] for code in _first_seen(codes).tolist())

    def canonical(self) -> Iterator[bytes]:
        """The same bytes for the same people in the same rows, however they are coded."""
        codes, used = _renumbered(self.codes, len(self.offsets) - 1)
        yield codes.astype("<i4").tobytes()
        for group in used.tolist():
            members = self.members[self.offsets[group] : self.offsets[group + 1]]
            yield len(members).to_bytes(4, "little")
            yield from (self.people.raw(code) for code in members.tolist())

    def first(self) -> NDArray[np.int64]:
        """The first person of each row as a code, int64 [N]; -1 where nobody is known."""
        lone = np.full(len(self.offsets) - 1, -1, np.int64)
        known = np.diff(self.offsets) > 0
        lone[known] = self.members[self.offsets[:-1][known]]
        return lone[self.codes]


def encode_identities(rows: Iterable[tuple[str, ...]]) -> Identities:
    """Identities as codes, numbered in the order of their first occurrence."""
    groups: dict[tuple[str, ...], int] = {}
    codes = np.array([groups.setdefault(row, len(groups)) for row in rows], np.int32)
    people: dict[str, int] = {}
    members = [people.setdefault(name, len(people)) for group in groups for name in group]
    offsets = np.cumsum([0, *map(len, groups)], dtype=np.int64)
    return Identities(codes, offsets, np.array(members, np.int32), pack(people))


@dataclass(frozen=True)
class Columns:
    """What selecting, sampling and comparing sets need to know of each face.

    Attributes:
        label: int8 [N]; 1 = fake, 0 = real, -1 = not known.
        method: "real", or the kind of manipulation.
        video: The video it is a frame of.
        split: "train", "val", "test", or "" where none is named.
        identities: Whose faces.
    """

    label: NDArray[np.int8]
    method: Coded
    video: Coded
    split: Coded
    identities: Identities

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Rows) -> Columns:
        """The same of these rows."""
        return Columns(
            self.label[rows],
            self.method.take(rows),
            self.video.take(rows),
            self.split.take(rows),
            self.identities.take(rows),
        )

    def canonical(self) -> Iterator[bytes]:
        """The same bytes for the same labels, methods, videos and identities."""
        yield self.label.tobytes()
        yield from self.method.canonical()
        yield from self.video.canonical()
        yield from self.identities.canonical()


def paired(outer: NDArray[np.int64], inner: NDArray[np.generic]) -> NDArray[np.int64]:
    """A number for every pair of an outer and an inner code, from 0 without gaps."""
    codes = inner.astype(np.int64)
    pairs = outer * (int(codes.max()) + 1) + codes
    found: NDArray[np.int64] = np.unique(pairs, return_inverse=True)[1].reshape(-1)
    return found


def _first_seen(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The codes that occur, in the order of their first occurrence."""
    found, places = np.unique(codes, return_index=True)
    return found[np.argsort(places)]


def _renumbered(
    codes: NDArray[np.int32], count: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Codes in the order of their first occurrence, int32 [N], and the old code of each."""
    used = _first_seen(codes)
    new = np.zeros(count, np.int32)
    new[used] = np.arange(len(used), dtype=np.int32)
    return new[codes], used
