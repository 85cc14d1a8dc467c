"""Values that are one of a few: every `Literal` is checked where it comes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from lpx.errors import LpxError

Name = TypeVar("Name", bound=str)


def several(given: Name | Iterable[Name]) -> tuple[Name, ...]:
    """The names of an argument that is one, or several: a text is not a list of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


def is_one_of(value: object, choices: Iterable[object]) -> bool:
    """Whether a value is one of its choices, by type too: True == 1, and 10.0 == 10."""
    return any(type(value) is type(choice) and value == choice for choice in choices)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Make sure that a value is one of its choices.

    Args:
        name: What the caller calls the value, such as "precision".
        value: What came in.
        choices: What it may be, such as `get_args(Precision)`.

    Raises:
        LpxError: It is none of them.
    """
    known = tuple(choices)
    if not is_one_of(value, known):
        raise LpxError(f"{name} must be one of {', '.join(map(str, known))} (got {value!r})")


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass that is a `Literal`, an optional one, or a tuple of them.

    Raises:
        LpxError: A field holds none of its choices.
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
    """The types of a dataclass's fields, by name."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
