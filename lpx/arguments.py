"""Checks of arguments: types, choices, ranges and paths, where they come in."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lpx.errors import InvalidArgumentError

Name = TypeVar("Name", bound=str)


def several(given: Name | Iterable[Name]) -> tuple[Name, ...]:
    """Return the names in an argument that takes one name or several."""
    # Iterating over a single name would yield its letters.
    return (given,) if isinstance(given, str) else tuple(given)


def is_one_of(value: object, choices: Iterable[object]) -> bool:
    """Return whether a value is one of its choices, and of the same type."""
    # By type too, because True == 1 and 10.0 == 10.
    return any(type(value) is type(choice) and value == choice for choice in choices)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Check that a value is one of its choices.

    Args:
        name: Name of the argument, such as "precision".
        value: The value.
        choices: Values that it may have, such as `get_args(Precision)`.

    Raises:
        InvalidArgumentError: It has another value.
    """
    known = tuple(choices)
    if not is_one_of(value, known):
        raise InvalidArgumentError(name, f"must be one of {', '.join(map(str, known))}", value)


def check_at_least(name: str, value: object, least: int, why: str = "") -> None:
    """Check that a value is None, or a whole number that is not too small.

    Args:
        name: Name of the argument.
        value: The value.
        least: Smallest value allowed.
        why: Purpose of the value, for the error.

    Raises:
        InvalidArgumentError: It is not.
    """
    if value is None:
        return
    # Integral rather than int: NumPy's integers are welcome. True and False are integers, too.
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidArgumentError(name, "must be a whole number", value, why)
    if value < least:
        raise InvalidArgumentError(name, f"must be >= {least}", value, why)


def check_number(
    name: str,
    value: object,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
    why: str = "",
) -> None:
    """Check that a value is None, or a finite number in a range.

    Args:
        name: Name of the argument.
        value: The value.
        least: Smallest value allowed.
        above: Largest value that is too small.
        most: Largest value allowed.
        below: Smallest value that is too large.
        why: Purpose of the value, for the error.

    Raises:
        InvalidArgumentError: It is not.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise InvalidArgumentError(name, "must be a finite number", value, why)
    number = float(value)
    if not (least <= number <= most and above < number < below):
        raise InvalidArgumentError(name, _range(least, above, most, below), value, why)


def _range(least: float, above: float, most: float, below: float) -> str:
    """Return the requirement on a number, in words."""
    low, high = max(least, above), min(most, below)
    low_is_exclusive, high_is_exclusive = above == low, below == high
    if math.isfinite(low) and math.isfinite(high):
        if low_is_exclusive == high_is_exclusive:
            exclusive = ", exclusive" if low_is_exclusive else ""
            return f"must be between {low:g} and {high:g}{exclusive}"
        lower = ">" if low_is_exclusive else ">="
        upper = "<" if high_is_exclusive else "<="
        return f"must be {lower} {low:g} and {upper} {high:g}"
    if math.isfinite(low):
        return f"must be {'>' if low_is_exclusive else '>='} {low:g}"
    return f"must be {'<' if high_is_exclusive else '<='} {high:g}"


def as_path(name: str, value: object) -> Path:
    """Return an argument that is a path, or the text of one, as a Path.

    Args:
        name: Name of the argument.
        value: A str or an `os.PathLike`, such as `pathlib.Path`.

    Raises:
        InvalidArgumentError: It is something else, empty, or holds a NUL character.
    """
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidArgumentError(name, "must be a path, as str or pathlib.Path", value)
    text = os.fspath(value)
    # Path("") is the current folder, which nobody means by an empty text.
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidArgumentError(name, "must be the path of a file or folder", value)
    return Path(text)


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass that is a `Literal`, an optional one, or a tuple of them.

    Raises:
        InvalidArgumentError: A field does not have one of its choices.
    """
    kind: type = type(instance)
    for name, hint in field_hints(kind).items():
        _check(name, getattr(instance, name), hint)


def _check(name: str, value: Any, hint: Any) -> None:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        check_choice(name, value, arguments)
    elif origin in (Union, UnionType) and value is not None:
        kinds = [kind for kind in arguments if kind is not type(None)]
        if len(kinds) == 1:
            _check(name, value, kinds[0])
    elif origin is tuple and arguments[1:] == (...,):
        for one in value:
            _check(name, one, arguments[0])


@cache
def field_hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
