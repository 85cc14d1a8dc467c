"""Strict reading of JSON, and of dataclasses from its values.

Every artefact that lpx reads may have been edited, damaged or made by someone else. JSON has no
types, Python's reader accepts NaN, repeated keys and unlimited nesting, and a dataclass accepts
anything. Errors must be found here, and not become a wrong score later.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from lpx.arguments import field_hints, is_one_of

# Levels of nested lists and objects in JSON.
MAX_DEPTH = 32
# Largest magnitude of an integer.
MAX_INTEGER = 2**63 - 1
# Size of a JSON file, bytes.
MAX_BYTES = 256 << 20
# Field of a file, or of a line of a journal, with a checksum of the others.
CHECKSUM = "checksum"
# Hexadecimal digits of a line's checksum. Lines are many, and short: 64 bits find damage reliably.
_LINE_DIGITS = 16
# Digits of the largest 64-bit integer, with its sign.
_INTEGER_DIGITS = 20
# Characters of a value, of a place in a file, and unknown fields, that an error repeats.
_SHOWN, _PATH, _NAMED = 60, 200, 10

Record = TypeVar("Record")


class SchemaError(ValueError):
    """Data that does not have the expected form; the message says where."""


def parse_json(data: bytes | str) -> Any:
    """Read JSON strictly.

    Args:
        data: JSON, as text or in UTF-8.

    Returns:
        Plain values: finite numbers, integers of 64 bits, and texts that can be printed as UTF-8.

    Raises:
        SchemaError: It is not JSON, contains NaN, infinity, a number that is too large, a key
            twice, a NUL or half a surrogate pair, or is nested too deeply or too large.
    """
    if len(data) > MAX_BYTES:
        raise SchemaError(f"it has {len(data)} bytes; the limit is {MAX_BYTES}")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = json.loads(
            text,
            object_pairs_hook=_once,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_integer,
        )
    except RecursionError:
        raise SchemaError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except SchemaError:
        raise
    except ValueError as error:
        raise SchemaError(str(error)) from None
    check_plain(value)
    return value


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON has them, followed by the SHA-256 of their canonical JSON.

    Raises:
        ValueError: They cannot be written as JSON, or contain a checksum already.
    """
    # Through JSON: tuples become lists, so that the checksum is that of the values when read back.
    plain: dict[str, Any] = json.loads(json.dumps(values, allow_nan=False))
    if CHECKSUM in plain:
        raise ValueError(f"there is a field {CHECKSUM!r} already")
    return {**plain, CHECKSUM: _checksum(plain)}


def unsealed(value: object) -> dict[str, Any]:
    """Return the values that were passed to `sealed`.

    Raises:
        SchemaError: It is not an object with a checksum, or its checksum does not match.
    """
    return _unsealed(value, None)


def sealed_line(values: Mapping[str, Any]) -> bytes:
    """Return a line of a journal, with a checksum of its own; see `sealed`."""
    line = sealed(values)
    line[CHECKSUM] = line[CHECKSUM][:_LINE_DIGITS]
    return json.dumps(line).encode() + b"\n"


def unsealed_line(line: bytes) -> dict[str, Any]:
    """Return the values that were passed to `sealed_line`.

    Raises:
        SchemaError: It is not such a line, or is damaged.
    """
    return _unsealed(parse_json(line), _LINE_DIGITS)


def _unsealed(value: object, digits: int | None) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SchemaError(_expected("", "an object", value))
    values = dict(value)
    if CHECKSUM not in values:
        raise SchemaError("it has no checksum: an earlier lpx wrote it, or another program")
    if values.pop(CHECKSUM) != _checksum(values)[:digits]:
        raise SchemaError("its checksum does not match: a value was changed after it was written")
    return values


def _checksum(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        # Python's reader would keep the last value without a word.
        if name in values:
            raise SchemaError(f"the key {_shown(name)} occurs twice")
        values[name] = value
    return values


def _constant(text: str) -> Any:
    raise SchemaError(f"{text} is not a number that JSON allows")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise SchemaError(f"the number {text[:_SHOWN]} is too large")
    return value


def _integer(text: str) -> int:
    # By its length first: int() takes quadratic time.
    if len(text) > _INTEGER_DIGITS or abs(int(text)) > MAX_INTEGER:
        raise SchemaError(f"the integer {text[:_SHOWN]} is too large")
    return int(text)


def check_plain(value: object, where: str = "") -> None:
    """Check that JSON can hold a value, within the limits of `parse_json`.

    Args:
        value: A value from JSON, or from a checkpoint.
        where: Name of the value, for errors.

    Raises:
        SchemaError: It cannot; see `parse_json`.
    """
    # A stack instead of recursion, which deep nesting would exhaust before it is found.
    rest: list[tuple[object, str, int]] = [(value, where, 0)]
    while rest:
        one, path, depth = rest.pop()
        if depth > MAX_DEPTH:
            raise SchemaError(f"it is nested deeper than {MAX_DEPTH} levels")
        if isinstance(one, dict):
            for key, inner in one.items():
                if not isinstance(key, str):
                    raise SchemaError(_expected(path, "a text as key", key))
                _check_text(key, path)
                # Cut off: a path is made for each value, and a key may be megabytes long.
                below = f"{path}.{key[:_SHOWN]}" if path else key[:_SHOWN]
                rest.append((inner, below[:_PATH], depth + 1))
        elif isinstance(one, (list, tuple)):
            below = f"{path}[]"[:_PATH]
            rest.extend((inner, below, depth + 1) for inner in one)
        elif isinstance(one, str):
            _check_text(one, path)
        elif isinstance(one, float):
            if not math.isfinite(one):
                raise SchemaError(_expected(path, "a finite number", one))
        elif isinstance(one, int):
            if abs(one) > MAX_INTEGER:
                raise SchemaError(f"{path}: an integer is too large")
        elif one is not None:
            raise SchemaError(_expected(path, "a plain value", one))


def _check_text(text: str, path: str) -> None:
    if "\0" in text:
        raise SchemaError(_expected(path, "a text without NUL characters", text))
    try:
        # Names of files that are not UTF-8 come with U+DC80 to U+DCFF, by PEP 383.
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise SchemaError(
            _expected(path, "a text without halves of surrogate pairs", text)
        ) from None


def read_record(
    kind: type[Record], values: object, where: str = "", *, others: bool = False
) -> Record:
    """Make a dataclass of plain values, each of which must have its field's type.

    Args:
        kind: A dataclass of int, float, bool, str, Literal, None, tuple, dict, Any and dataclasses.
        values: A mapping with the fields, lists for tuples. Fields with defaults may be missing.
        where: Name of the value, for errors.
        others: Ignore fields that the dataclass does not have, here and below: files of other
            programs may contain more than lpx reads.

    Raises:
        SchemaError: A field is unknown, missing, or of another type; it is named. A bool does not
            count as an integer, and a number must be finite.
    """
    if not isinstance(values, Mapping):
        raise SchemaError(_expected(where, "an object", values))
    check_plain(dict(values), where)
    hints = field_hints(cast(type, kind))
    unknown = sorted(str(name)[:_SHOWN] for name in values.keys() - hints.keys())
    if unknown and not others:
        place = f"{where[:_PATH]}: " if where else ""
        raise SchemaError(f"{place}unknown fields: {', '.join(unknown[:_NAMED])}")
    missing: list[str] = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        is_required = field.default is field.default_factory is dataclasses.MISSING
        if is_required and field.name not in values:
            missing.append(field.name)
    if missing:
        raise SchemaError(f"{where + ': ' if where else ''}missing fields: {', '.join(missing)}")
    prefix = f"{where}." if where else ""
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name in hints:
            arguments[name] = _read(hints[name], value, prefix + name, others=others)
    return kind(**arguments)


def in_range(value: float | None, low: float, high: float, where: str) -> None:
    """Check that a number is None, or between two others.

    Raises:
        SchemaError: It is outside, or NaN.
    """
    # In this form NaN, which compares as False, is refused.
    if value is not None and not low <= value <= high:
        raise SchemaError(f"{where} is {_shown(value)}, not from {low:g} to {high:g}")


def _read(hint: Any, value: object, where: str, *, others: bool) -> Any:
    """Return a value as its type hint says: see `read_record`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, UnionType):
        kinds = [kind for kind in arguments if kind is not type(None)]
        if value is None and len(kinds) < len(arguments):
            return None
        assert len(kinds) == 1, hint
        return _read(kinds[0], value, where, others=others)
    if origin is Literal:
        if is_one_of(value, arguments):
            return value
        raise SchemaError(_expected(where, f"one of {', '.join(map(str, arguments))}", value))
    if origin is tuple:
        return _read_tuple(arguments, value, where, others=others)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise SchemaError(_expected(where, "an object", value))
        return {
            key: _read(arguments[1], one, f"{where}.{key}", others=others)
            for key, one in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return read_record(cast(type, hint), value, where, others=others)
    # JSON writes 1.0 as 1 in some programs; True is an int in Python.
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in _NAMES and type(value) is hint:
        return value
    raise SchemaError(_expected(where, _NAMES[hint], value))


_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}


def _read_tuple(
    arguments: tuple[Any, ...], value: object, where: str, *, others: bool
) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise SchemaError(_expected(where, "a list", value))
    if arguments[1:] == (...,):
        arguments = (arguments[0],) * len(value)
    if len(value) != len(arguments):
        raise SchemaError(_expected(where, f"a list of {len(arguments)}", value))
    return tuple(
        _read(hint, one, f"{where}[{place}]", others=others)
        for place, (hint, one) in enumerate(zip(arguments, value, strict=True))
    )


def _expected(where: str, what: str, value: object) -> str:
    return f"{where[:_PATH] or 'it'}: expected {what}, found {_shown(value)}"


def _shown(value: object) -> str:
    """Return a value in few characters, however large it is, that a terminal can print."""
    if isinstance(value, (dict, list, tuple)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, str):
        return ascii(value[:_SHOWN]) + "..." * (len(value) > _SHOWN)
    if value is None or isinstance(value, (bool, float)):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if abs(value) <= MAX_INTEGER else "a larger integer"
    return f"a {type(value).__name__}"
