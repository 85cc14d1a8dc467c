from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.schema import (
    MAX_DEPTH,
    MAX_INTEGER,
    SchemaError,
    parse_json,
    read_record,
    sealed,
    sealed_line,
    unsealed,
    unsealed_line,
)

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
)


@given(value=plain)
def test_json_round_trip(value):
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(data=st.binary() | st.text())
def test_any_bytes_are_read_or_refused(data):
    try:
        value = parse_json(data)
    except SchemaError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("NaN", "NaN"),
        ('{"a": [Infinity]}', "Infinity"),
        ("-Infinity", "Infinity"),
        ("1e999", "too large"),
        ("9" * 5000, "too large"),
        ("9223372036854775808", "too large"),
        ('{"a": 1, "a": 2}', "'a' occurs twice"),
        (r'"\u0000"', "NUL"),
        (r'{"\ud800": 1}', "surrogate"),
        ("[" * 100_000, "nested deeper than"),
        ("[" * (MAX_DEPTH + 1) + "1" + "]" * (MAX_DEPTH + 1), "nested deeper than"),
        ('{"a":' * 1_000_000, "nested deeper than"),
        ("", "Expecting value"),
        (b"\xff{}", "decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
        ("{} {}", "Extra data"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_json_that_is_refused(text, said):
    with pytest.raises(SchemaError, match=said):
        parse_json(text)


@dataclass(frozen=True)
class Inner:
    name: str
    share: float


@dataclass(frozen=True)
class Outer:
    count: int
    kind: Literal["a", "b"]
    parts: tuple[Inner, ...] = ()
    pair: tuple[int, int] = (0, 0)
    named: dict[str, Inner] = field(default_factory=dict)
    flag: bool = False
    maybe: float | None = None
    rest: Any = None


WHOLE: dict[str, Any] = {
    "count": 3,
    "kind": "a",
    "parts": [{"name": "x", "share": 1}],
    "pair": [1, 2],
    "named": {"y": {"name": "y", "share": 0.5}},
    "flag": True,
    "maybe": None,
    "rest": [1],
}


def test_record():
    read = read_record(Outer, WHOLE)
    assert read == Outer(
        3, "a", (Inner("x", 1.0),), (1, 2), {"y": Inner("y", 0.5)}, True, None, [1]
    )
    assert isinstance(read.parts[0].share, float)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"count": True}, "count: expected an integer, found true"),
        ({"count": 3.0}, "count: expected an integer"),
        ({"kind": "c"}, "kind: expected one of a, b, found 'c'"),
        ({"parts": [{"name": "x"}]}, r"parts\[0\]: missing fields: share"),
        ({"parts": [{"name": "x", "share": True}]}, r"parts\[0\]\.share: expected a number"),
        ({"parts": "x"}, "parts: expected a list"),
        ({"pair": [1]}, "pair: expected a list of 2, found a list of 1"),
        ({"named": {"y": 1}}, r"named\.y: expected an object, found 1"),
        ({"maybe": math.nan}, "maybe: expected a finite number"),
        ({"flag": 1}, "flag: expected true or false"),
        ({"more": 1}, "unknown fields: more"),
        ({"rest": {1: 2}}, "rest: expected a text as key"),
        ({"rest": b"x"}, "rest: expected a plain value, found a bytes"),
    ],
    ids=str,
)
def test_record_that_is_refused(change, said):
    with pytest.raises(SchemaError, match=said):
        read_record(Outer, WHOLE | change)


def test_record_that_lacks_fields():
    with pytest.raises(SchemaError, match="missing fields: count, kind"):
        read_record(Outer, {})


@given(values=st.dictionaries(st.sampled_from(list(WHOLE)), plain))
def test_any_values_make_a_record_or_are_refused(values):
    try:
        read = read_record(Outer, WHOLE | values)
    except SchemaError:
        return
    assert type(read.count) is int
    assert read.kind in ("a", "b")
    assert type(read.flag) is bool
    assert read.maybe is None or math.isfinite(read.maybe)


def test_names_of_files_that_are_not_utf_8_pass():
    """Python holds such bytes as U+DC80 to U+DCFF; manifests name files."""
    assert parse_json(r'{"file": "latin-\udce9.png"}') == {"file": "latin-\udce9.png"}


PLAIN = {"score": 0.125, "names": ["a", "é\udc80"], "inner": {"n": 1, "t": True, "none": None}}


@pytest.mark.parametrize(
    "change",
    [
        lambda v: {**v, "score": 0.126},
        lambda v: {**v, "score": True},
        lambda v: {**v, "names": ["a"]},
        lambda v: {**v, "inner": {**v["inner"], "n": 2}},
        lambda v: {**v, "inner": {**v["inner"], "t": 1}},
        lambda v: {**v, "more": 1},
        lambda v: {k: one for k, one in v.items() if k != "score"},
        lambda v: {k: one for k, one in v.items() if k != "checksum"},
        lambda v: {**v, "checksum": None},
        lambda v: {**v, "checksum": v["checksum"][:-1]},
        lambda v: {**v, "checksum": ""},
        lambda v: [v],
    ],
)
def test_every_change_under_a_checksum_is_found(change):
    whole = json.loads(json.dumps(sealed(PLAIN)))
    assert unsealed(whole) == PLAIN
    assert unsealed(dict(reversed(whole.items()))) == PLAIN
    with pytest.raises(SchemaError):
        unsealed(change(whole))


def test_no_byte_of_a_line_can_change_unseen():
    line = sealed_line({"score": 0.5, "name": "a.png"})
    assert unsealed_line(line) == {"score": 0.5, "name": "a.png"}
    for at in range(len(line) - 1):
        for bit in range(8):
            flipped = line[:at] + bytes([line[at] ^ 1 << bit]) + line[at + 1 :]
            try:
                found = unsealed_line(flipped)
            except SchemaError:
                continue
            assert found == {"score": 0.5, "name": "a.png"}  # an "E" of 1E-1, or a space


def test_what_has_a_checksum_already_gets_no_other():
    with pytest.raises(ValueError, match="already"):
        sealed(sealed({"a": 1}))
