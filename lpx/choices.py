"""Strings that are one of a few: every `Literal` is checked where it comes in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lpx.errors import LpxError


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
    # By type too: True == 1, and 10.0 == 10.
    if any(type(value) is type(choice) and value == choice for choice in known):
        return
    raise LpxError(f"{name} must be one of {', '.join(map(str, known))} (got {value!r})")


def check_fields(instance: Any) -> None:
    """Check every field of a dataclass that is a `Literal`, an optional one, or a tuple of them.

    Raises:
        LpxError: A field holds none of its choices.
    """
    kind: type = type(instance)
    for name, (choices, optional, several) in _choices_of(kind).items():
        value = getattr(instance, name)
        if value is None and optional:
            continue
        for one in value if several else (value,):
            check_choice(name, one, choices)


@cache
def _choices_of(kind: type) -> dict[str, tuple[tuple[object, ...], bool, bool]]:
    """Per field with choices: these, whether None is allowed, whether it holds several."""
    hints = get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        hint, optional, several = hints[field.name], False, False
        if get_origin(hint) in (Union, UnionType):
            parts = [part for part in get_args(hint) if part is not type(None)]
            optional = len(parts) < len(get_args(hint))
            hint = parts[0] if len(parts) == 1 else hint
        if get_origin(hint) is tuple and get_args(hint)[1:] == (...,):
            hint, several = get_args(hint)[0], True
        if get_origin(hint) is Literal:
            found[field.name] = (get_args(hint), optional, several)
    return found
