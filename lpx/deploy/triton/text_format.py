"""Protobuf's text format, as far as `config.pbtxt` needs it.

The messages are Triton's, whose Python classes are in `tritonclient`. lpx would depend on it, and
on the version of protobuf that it was generated for, for a few lines of text: it writes them
itself, and its tests parse them with those classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Enum:
    """A name of an enumeration: written without quotes."""

    name: str


@dataclass(frozen=True)
class Message:
    """Fields of a message, in order; a name that is there several times is a repeated field."""

    fields: tuple[Field, ...]


@dataclass(frozen=True)
class Field:
    """A field of a message: a sequence is a repeated field, of the form `name: [a, b]`."""

    name: str
    value: str | bool | int | Enum | Message | Sequence[str] | Sequence[int]


def message(*fields: Field) -> Message:
    """Return a message of these fields."""
    return Message(fields)


def entry(key: str, value: str | Message) -> Message:
    """Return an entry of a map."""
    return message(Field("key", key), Field("value", value))


def text_of(body: Message, indent: str = "") -> str:
    """Return a message as text, a field on a line."""
    lines = []
    for field in body.fields:
        if isinstance(field.value, Message):
            inner = text_of(field.value, indent + "  ")
            lines.append(f"{indent}{field.name} {{\n{inner}{indent}}}\n")
        else:
            lines.append(f"{indent}{field.name}: {_value(field.value)}\n")
    return "".join(lines)


def _value(value: str | bool | int | Enum | Sequence[str] | Sequence[int]) -> str:
    if isinstance(value, Enum):
        return value.name
    # The order matters: a bool is also an int, and a str is also a sequence.
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    return "[" + ", ".join(_value(one) for one in value) + "]"


def _quoted(text: str) -> str:
    """Return a string literal, in ASCII."""
    characters = []
    for byte in text.encode():
        character = chr(byte)
        if character in '"\\':
            character = "\\" + character
        elif not 32 <= byte < 127:
            # Always three digits: otherwise a digit that follows would become part of the escape.
            character = f"\\{byte:03o}"
        characters.append(character)
    return '"' + "".join(characters) + '"'
