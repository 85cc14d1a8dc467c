"""Properties of many faces, one array per property: a million rows without a million objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Indices into a set, int64 [M].
Rows = NDArray[np.int64]

# Texts that are joined at a time, which bounds the memory for a copy.
_CHUNK = 1 << 16


class PackedStrings(NamedTuple):
    """Texts without gaps, as they are stored.

    Attributes:
        blob: uint8 [B].
        offsets: Start of each text in `blob`, and the end of the last, int64 [N + 1].
    """

    blob: NDArray[np.uint8]
    offsets: Rows


@dataclass(frozen=True)
class Strings:
    """Texts as spans of a block of bytes, which selections of a column share.

    A text is UTF-8, or the bytes of a file name that is not.

    Attributes:
        blob: uint8 [B].
        start: Start of each text, int64 [N].
        stop: End of each text, int64 [N].
    """

    blob: NDArray[np.uint8]
    start: Rows
    stop: Rows

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, row: int) -> str:
        """Return a text, with surrogates for bytes that are not UTF-8."""
        return self.raw(row).decode("utf-8", "surrogateescape")

    def raw(self, row: int) -> bytes:
        """Return the bytes of a text."""
        return self.blob[self.start[row] : self.stop[row]].tobytes()

    def take(self, rows: Rows) -> Strings:
        """Select rows."""
        return Strings(self.blob, self.start[rows], self.stop[rows])

    def chunks(self) -> Iterator[bytes]:
        """Yield the joined texts in pieces."""
        for begin in range(0, len(self), _CHUNK):
            start, stop = self.start[begin : begin + _CHUNK], self.stop[begin : begin + _CHUNK]
            if np.array_equal(start[1:], stop[:-1]):
                # Neighbours in the block, as in every column that was not selected from.
                yield self.blob[start[0] : stop[-1]].tobytes()
            else:
                spans = zip(start.tolist(), stop.tolist(), strict=True)
                yield b"".join([self.blob[a:b].tobytes() for a, b in spans])

    def packed(self) -> PackedStrings:
        """Return only the bytes in use."""
        blob = np.frombuffer(b"".join(self.chunks()), np.uint8)
        ends = np.cumsum(self.stop - self.start)
        return PackedStrings(blob, np.concatenate([[0], ends]).astype(np.int64))


def pack(texts: Iterable[str]) -> Strings:
    """Convert texts to a column."""
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return Strings(np.frombuffer(b"".join(encoded), np.uint8), ends[:-1], ends[1:])


@dataclass(frozen=True)
class Coded:
    """A property with few different values, as a code per row.

    Attributes:
        codes: Indices into `values`, int32 [N].
        values: Different values.
    """

    codes: NDArray[np.int32]
    values: Strings

    def __getitem__(self, row: int) -> str:
        return self.values[int(self.codes[row])]

    def take(self, rows: Rows) -> Coded:
        """Select rows."""
        return Coded(self.codes[rows], self.values)

    def present(self) -> tuple[str, ...]:
        """Return the values that occur, in the order of their first occurrence."""
        return tuple(self.values[code] for code in _first_seen(self.codes).tolist())

    def canonical(self) -> Iterator[bytes]:
        """Yield bytes that depend on the texts and rows, but not on how texts are coded."""
        canonical = _renumbered(self.codes, len(self.values))
        yield canonical.codes.astype("<i4").tobytes()
        for code in canonical.used.tolist():
            yield self.values.raw(code)

    def where(self, wanted: Iterable[str]) -> NDArray[np.bool_]:
        """Return which rows have one of these values, bool [N]."""
        chosen = set(wanted)
        # Texts are compared once per value, not once per row.
        matches = np.zeros(len(self.values), np.bool_)
        for code in range(len(self.values)):
            matches[code] = self.values[code] in chosen
        return matches[self.codes]


def encode(values: Iterable[str]) -> Coded:
    """Convert texts to codes, numbered in the order of their first occurrence."""
    seen: dict[str, int] = {}
    # The length of the dictionary is the next free code.
    codes = np.array([seen.setdefault(value, len(seen)) for value in values], np.int32)
    return Coded(codes, pack(seen))


@dataclass(frozen=True)
class Identities:
    """People shown: any number of them per row.

    Attributes:
        codes: Index of each row's group of people, int32 [N].
        offsets: Start of each group in `members`, and the end of the last, int64 [G + 1].
        members: Indices into `people`, int32 [M].
        people: Different people.
    """

    codes: NDArray[np.int32]
    offsets: Rows
    members: NDArray[np.int32]
    people: Strings

    def __getitem__(self, row: int) -> tuple[str, ...]:
        return tuple(map(self.people.__getitem__, self._group(int(self.codes[row]))))

    def _group(self, group: int) -> list[int]:
        """Return the members of a group, as indices into `people`."""
        members: list[int] = self.members[self.offsets[group] : self.offsets[group + 1]].tolist()
        return members

    def take(self, rows: Rows) -> Identities:
        """Select rows."""
        return Identities(self.codes[rows], self.offsets, self.members, self.people)

    def present(self) -> tuple[str, ...]:
        """Return the people who occur, in the order of their first occurrence."""
        codes: list[int] = []
        for group in _first_seen(self.codes).tolist():
            codes += self._group(group)
        return tuple(map(self.people.__getitem__, dict.fromkeys(codes)))

    def canonical(self) -> Iterator[bytes]:
        """Yield bytes that depend on the people and rows, but not on how people are coded."""
        canonical = _renumbered(self.codes, len(self.offsets) - 1)
        yield canonical.codes.astype("<i4").tobytes()
        for group in canonical.used.tolist():
            members = self._group(group)
            yield len(members).to_bytes(4, "little")
            for code in members:
                yield self.people.raw(code)

    def first(self) -> NDArray[np.int64]:
        """Return the first person of each row as a code, int64 [N]; -1 if nobody is known."""
        of_group = np.full(len(self.offsets) - 1, -1, np.int64)
        known = np.diff(self.offsets) > 0
        of_group[known] = self.members[self.offsets[:-1][known]]
        return of_group[self.codes]


def encode_identities(rows: Iterable[tuple[str, ...]]) -> Identities:
    """Convert identities to codes, numbered in the order of their first occurrence."""
    groups: dict[tuple[str, ...], int] = {}
    codes = np.array([groups.setdefault(row, len(groups)) for row in rows], np.int32)
    people: dict[str, int] = {}
    members: list[int] = []
    for group in groups:
        members += [people.setdefault(name, len(people)) for name in group]
    offsets = np.cumsum([0, *map(len, groups)], dtype=np.int64)
    return Identities(codes, offsets, np.array(members, np.int32), pack(people))


@dataclass(frozen=True)
class Columns:
    """Properties of faces by which sets are selected, sampled and compared.

    Attributes:
        label: int8 [N]; 1 = fake, 0 = real, -1 = unknown.
        method: "real", or the manipulation.
        video: Video that the face is a frame of.
        split: "train", "val", "test", or "" if none is named.
        identities: People shown.
    """

    label: NDArray[np.int8]
    method: Coded
    video: Coded
    split: Coded
    identities: Identities

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: Rows) -> Columns:
        """Select rows."""
        return Columns(
            self.label[rows],
            self.method.take(rows),
            self.video.take(rows),
            self.split.take(rows),
            self.identities.take(rows),
        )

    def canonical(self) -> Iterator[bytes]:
        """Yield bytes that depend on labels, methods, videos and identities alone."""
        yield self.label.tobytes()
        yield from self.method.canonical()
        yield from self.video.canonical()
        yield from self.identities.canonical()


def paired(outer: NDArray[np.int64], inner: NDArray[np.generic]) -> NDArray[np.int64]:
    """Number the pairs of an outer and an inner code that occur, from 0 without gaps.

    Args:
        outer: int64 [N].
        inner: Integers [N], at least 0.

    Returns:
        Number of each row's pair, int64 [N].
    """
    codes = inner.astype(np.int64)
    pairs = outer * (int(codes.max()) + 1) + codes
    numbers: NDArray[np.int64] = np.unique(pairs, return_inverse=True)[1]
    return numbers


def _first_seen(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the codes that occur, in the order of their first occurrence."""
    present, places = np.unique(codes, return_index=True)
    return present[np.argsort(places)]


class _Renumbered(NamedTuple):
    """Codes numbered in the order of their first occurrence.

    Attributes:
        codes: New codes, int32 [N].
        used: Old code of each new one, int32 [K].
    """

    codes: NDArray[np.int32]
    used: NDArray[np.int32]


def _renumbered(codes: NDArray[np.int32], count: int) -> _Renumbered:
    used = _first_seen(codes)
    new = np.zeros(count, np.int32)
    new[used] = np.arange(len(used), dtype=np.int32)
    return _Renumbered(new[codes], used)
