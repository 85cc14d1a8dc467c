"""Python callers get the same checks as the command line's choices."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from lpx.arguments import as_path, check_at_least, check_choice, check_fields, check_number, several
from lpx.engines.request import BuildRequest
from lpx.errors import InvalidArgumentError, LpxError
from lpx.graph.qdq.weights import WeightOptions
from lpx.training.local_diversity import LocalDiversity
from lpx.training.recipe import Recipe

Size = Literal["small", "large"]


@dataclass(frozen=True)
class Order:
    size: Size
    sizes: tuple[Size, ...] = ()
    spare: Size | None = None
    note: str = ""

    def __post_init__(self):
        check_fields(self)


def test_fields_that_are_choices_are_checked():
    Order("small", ("large", "small"), None, "anything")
    for wrong in (("big",), ("small", ("big",)), ("small", (), "big")):
        with pytest.raises(LpxError, match=r"must be one of small, large \(got 'big'\)"):
            Order(*wrong)


@pytest.mark.parametrize("given", ["int8", ["int8"], ("int8",), iter(["int8"])])
def test_a_text_is_one_name_and_not_a_list_of_letters(given):
    assert several("precisions", given) == ("int8",)


@pytest.mark.parametrize("value", [True, 10.0, "10", None])
def test_a_value_of_another_type_is_no_choice(value):
    with pytest.raises(LpxError, match="release must be one of 10, 11"):
        check_choice("release", value, (10, 11))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: BuildRequest("tensorrt", "int4"), "precision"),
        (lambda: BuildRequest("tensorflow", "int8"), "target"),
        (lambda: WeightOptions(clip="entropy"), "clip"),
        (lambda: WeightOptions(rounding="adaround"), "rounding"),
        (lambda: LocalDiversity(form="cosine"), "form"),
        (lambda: LocalDiversity(on="real"), "on"),
        (lambda: Recipe(supervision="none"), "supervision"),
    ],
)
def test_every_literal_is_checked_where_it_comes_in(make, name):
    with pytest.raises(LpxError, match=f"^{name} must be one of"):
        make()


@pytest.mark.parametrize("value", ["8", 8.0, float("nan"), True, [8]], ids=str)
def test_what_is_not_a_whole_number(value):
    with pytest.raises(LpxError, match=r"limit must be a whole number"):
        check_at_least("limit", value, 1)


def test_whole_numbers_of_numpy_are_whole_numbers():
    check_at_least("limit", np.int64(8), 1)
    with pytest.raises(LpxError, match="limit must be >= 1"):
        check_at_least("limit", np.int64(0), 1)


@pytest.mark.parametrize(
    ("limits", "value", "text"),
    [
        ({"least": 0}, -1, "x must be >= 0 (got -1)"),
        ({"above": 0}, 0, "x must be > 0 (got 0)"),
        ({"most": 3}, 4, "x must be <= 3 (got 4)"),
        ({"least": 0, "most": 1}, 2, "x must be between 0 and 1 (got 2)"),
        ({"above": 0, "below": 1}, 1.0, "x must be > 0 and < 1 (got 1.0)"),
        ({"above": 0, "most": 1}, 0, "x must be > 0 and <= 1 (got 0)"),
        ({"least": 0, "below": 1}, 1, "x must be >= 0 and < 1 (got 1)"),
        ({}, float("nan"), "x must be a finite number (got nan)"),
        ({}, "1", "x must be a finite number (got '1')"),
        ({}, True, "x must be a finite number (got True)"),
    ],
)
def test_numbers_out_of_range_say_what_they_must_be(limits, value, text):
    with pytest.raises(InvalidArgumentError) as caught:
        check_number("x", value, **limits)
    assert str(caught.value) == text
    assert caught.value.code == "invalid-argument"


def test_numbers_in_range_pass():
    check_number("x", np.float32(0.5), least=0, most=1)
    check_number("x", None, least=0)


@pytest.mark.parametrize("value", [1, None, b"faces", "", "a\0b", ["faces"]], ids=repr)
def test_what_is_not_a_path(value):
    with pytest.raises(InvalidArgumentError, match="path"):
        as_path("faces", value)


def test_paths_come_as_text_or_as_paths():
    assert as_path("faces", "a/b") == as_path("faces", Path("a/b")) == Path("a/b")


def test_errors_of_arguments_are_pickled_whole():
    # Worker processes send their errors back.
    error = InvalidArgumentError("limit", "must be >= 1", 0, "why", "fix")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.argument) == (type(error), str(error), "limit")


def test_long_values_are_cut():
    assert len(str(InvalidArgumentError("x", "must be short", "y" * 10_000))) < 200


@dataclass(frozen=True)
class Typed:
    flag: bool = False
    whole: int | None = 1
    number: float = 0.5
    name: str = ""
    path: Path | None = None
    sizes: tuple[int, ...] = ()
    mean: tuple[float, float, float] | None = None

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flag": 1},
        {"flag": None},
        {"whole": 1.0},
        {"whole": True},
        {"number": "0.5"},
        {"number": False},
        {"name": None},
        {"path": 3},
        {"sizes": 8},
        {"sizes": "8"},
        {"sizes": ("8",)},
        {"mean": (0.5, 0.5)},
        {"mean": (0.5, 0.5, "0.5")},
    ],
    ids=str,
)
def test_fields_of_another_type_are_refused(wrong):
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        Typed(**wrong)


def test_fields_of_their_type_pass():
    Typed(True, np.int64(2), 1, "a", Path("a"), (1, 2), (0, 0.5, np.float32(1)))
    Typed(whole=None, mean=None)


@pytest.mark.parametrize("value", [8, None, [8], [b"int8"]], ids=str)
def test_what_is_no_name_is_refused(value):
    with pytest.raises(InvalidArgumentError, match="a name or several names"):
        several("candidates", value)
