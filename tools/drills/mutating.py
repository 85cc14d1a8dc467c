"""Seeded damage: to bytes, as disks and cables do it, and to JSON and tables, as people do it."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

SENSELESS: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    -5,
    2,
    0.5,
    1.5,
    -0.1,
    10**9,
    2**31,
    2**63 - 1,
    2**63,
    10**400,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "0.5",
    "NaN",
    "fake",
    "\0",
    "a\0b",
    "\ud800",
    "\x1b[2J",
    "../../etc/passwd",
    "/etc/passwd",
    "~root",
    "n" * 300,
    [],
    {},
    [[]],
    {"": {}},
    [None],
    [0] * 1000,
)
"""What a field of any type is replaced by."""


def damage(rng: random.Random, data: bytes) -> tuple[str, bytes]:
    """Bytes, damaged in one way, and its name."""
    name = rng.choice(tuple(_DAMAGES))
    return name, _DAMAGES[name](rng, data)


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 4, 32))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    value = rng.choice((0, 0, 0xFF, rng.randrange(256)))
    return data[:start] + bytes([value]) * (end - start) + data[end:]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.randbytes(rng.choice((1, 4, 64))) + data[place:]


def _number(rng: random.Random, data: bytes) -> bytes:
    """A length or an offset that is far off."""
    if len(data) < 8:
        return data
    place = rng.randrange(min(len(data) - 7, 4096) if rng.random() < 0.7 else len(data) - 7)
    size = rng.choice((2, 4, 8))
    value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1))
    order = rng.choice(("little", "big"))
    return data[:place] + value.to_bytes(size, order) + data[place + size :]  # type: ignore[arg-type]


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 8, 64, 4096, len(data) + 1)))


_DAMAGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "flip": _flip,
    "overwrite": _overwrite,
    "truncate": _truncate,
    "remove": _remove,
    "repeat": _repeat,
    "insert": _insert,
    "number": _number,
}


def alter_json(rng: random.Random, value: Any) -> bytes:
    """JSON with one to three things in it changed, as bytes."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _alter(rng, changed)
    text = json.dumps(changed)
    if rng.random() < 0.03:
        text = "[" * 100_000 + text
    if rng.random() < 0.03 and isinstance(changed, dict) and changed:
        # A key twice: readers of JSON keep the last.
        key = rng.choice(list(changed))
        text = text[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice(SENSELESS))}}}"
    return text.encode("utf-8", "replace")


def _alter(rng: random.Random, value: Any) -> None:
    """Change one thing in nested lists and objects."""
    while True:
        if isinstance(value, dict):
            keys: list[Any] = list(value)
        elif isinstance(value, list):
            keys = list(range(len(value)))
        else:
            return
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(value[key], (dict, list)) and value[key] and rng.random() < 0.7:
            value = value[key]
            continue
        kind = rng.random()
        if kind < 0.15:
            del value[key]
        elif kind < 0.22 and isinstance(value, dict):
            value[rng.choice(("more", "", "\0", str(key).upper()))] = rng.choice(SENSELESS)
        elif kind < 0.3 and isinstance(value[key], (int, float)):
            value[key] = value[key] * rng.choice((-1, 10, 1e-6, 1e6))
        else:
            value[key] = rng.choice(SENSELESS)
        return


_CELLS = (
    *("", "2", "-1", "nan", "NaN", "1e9", "fake", "real", "yes", "0.0", '"', '""', "'", ";", "\t"),
    *("../x.png", "/etc/passwd", "a\\b.png", "\x1b[2J", "\u202e", "n" * 300, "=1+1", "\0", "#"),
)


def alter_table(rng: random.Random, text: str) -> bytes:
    """A table with one to three cells or lines changed, in some encoding."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(lines))
        cells = lines[place].split(",")
        kind = rng.random()
        if kind < 0.6:
            cells[rng.randrange(len(cells))] = rng.choice(_CELLS)
            lines[place] = ",".join(cells)
        elif kind < 0.7:
            lines[place] = ",".join(cells[:-1])
        elif kind < 0.8:
            lines.insert(place, lines[place])
        elif kind < 0.9:
            lines[place] += rng.choice(_CELLS)
        else:
            lines[place] = rng.choice(_CELLS) * rng.choice((1, 1000))
    changed = "\n".join(lines)
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1", "utf-8-sig"))
    return changed.encode(encoding, "replace")
