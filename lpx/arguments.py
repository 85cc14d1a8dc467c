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


def several(name: str, value: Name | Iterable[Name]) -> tuple[Name, ...]:
    """Return the names in an argument that takes one name or several.

    Args:
        name: Name of the argument, for the error.
        value: What came in. A str is one name, not a list of its letters.

    Raises:
        InvalidArgumentError: It is neither a str nor several of them.
    """
    if isinstance(value, str):
        return (value,)
    names = tuple(value) if isinstance(value, Iterable) else ()
    if not all(isinstance(one, str) for one in names) or not isinstance(value, Iterable):
        raise InvalidArgumentError(name, "must be a name or several names", value)
    return names


def check_instance(name: str, value: object, kind: type | tuple[type, ...]) -> None:
    """Refuse a value that is not an instance of a class; None passes.

    Raises:
        InvalidArgumentError: It is refused.
    """
    if value is None or isinstance(value, kind):
        return
    kinds = kind if isinstance(kind, tuple) else (kind,)
    wanted = " or ".join(one.__name__ for one in kinds)
    raise InvalidArgumentError(name, f"must be {wanted}", value)


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
    if least == low and most == high and math.isfinite(low) and math.isfinite(high):
        return f"must be between {low:.12g} and {high:.12g}"
    parts = []
    if math.isfinite(low):
        parts.append(f"{'>' if above == low else '>='} {low:.12g}")
    if math.isfinite(high):
        parts.append(f"{'<' if below == high else '<='} {high:.12g}")
    return f"must be {' and '.join(parts)}"


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
    """Check the fields of a dataclass against their types: Python itself checks nothing.

    Checked are Literals, bool, int, float, str and paths, tuples of these, and optional ones.
    Fields of other types are not checked.

    Raises:
        InvalidArgumentError: A field has a value of another type, or none of its choices.
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
    elif origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise InvalidArgumentError(name, "must be a tuple", value)
        if arguments[1:] == (...,):
            for one in value:
                _check(name, one, arguments[0])
        elif len(value) != len(arguments):
            raise InvalidArgumentError(name, f"must have {len(arguments)} values", value)
        else:
            for one, kind in zip(value, arguments, strict=True):
                _check(name, one, kind)
    elif hint in _SCALARS:
        accepted, wanted = _SCALARS[hint]
        # bool is an int to Python, and `limit=True` a mistake.
        wrong_bool = isinstance(value, bool) and hint is not bool
        if wrong_bool or not isinstance(value, accepted):
            raise InvalidArgumentError(name, f"must be {wanted}", value)


# Accepted classes and their description, by type hint. NumPy's numbers are Integral and Real.
_SCALARS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a str"),
    Path: (os.PathLike, "a path"),
}


@cache
def field_hints(kind: type) -> dict[str, Any]:
    """Return the types of a dataclass's fields, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
