"""Python callers get the same checks as the command line's choices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest

from lpx.choices import check_choice, check_fields, several
from lpx.data.face_sets.face_set import FaceSet, assert_disjoint
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
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
    assert several(given) == ("int8",)


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
        (lambda: assert_disjoint(*[FaceSet("a", "all", "", ())] * 2, by="face"), "by"),
    ],
)
def test_every_literal_is_checked_where_it_comes_in(make, name):
    with pytest.raises(LpxError, match=f"^{name} must be one of"):
        make()
