from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.card import FORMAT, MIN_STD, ModelCard, card_from_dict, card_from_json
from lpx.errors import LpxError
from lpx.models.aggregates import AGGREGATES

CARD = ModelCard("xception", "block3", "mean_prob", 256)

finite = st.floats(allow_nan=False, allow_infinity=False)
unit = st.floats(0, 1)
deviation = st.floats(MIN_STD, 1)
sizes = st.integers(1, 4096)
texts = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)
plain_texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | plain_texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(plain_texts, inner),
    max_leaves=6,
)
cards = st.builds(
    ModelCard,
    architecture=texts,
    cut=texts,
    aggregate=st.sampled_from([*AGGREGATES, "own"]),
    input_size=st.just(4096),
    bottleneck=st.integers(0, 512),
    aggregate_parameter=st.floats(0, 1e6),
    crop=texts,
    mean=st.tuples(unit, unit, unit),
    std=st.tuples(deviation, deviation, deviation),
    channel_order=st.sampled_from(["RGB", "BGR"]),
    classes=st.just(("real", "fake")),
    fake_class=st.sampled_from([0, 1]),
    outputs=st.sampled_from(["probabilities", "logits"]),
    grid=st.tuples(sizes, sizes),
    receptive_field=st.none() | sizes,
    stride=st.none() | sizes,
    strictly_local=st.booleans(),
    threshold=unit,
    threshold_source=texts,
    provenance=st.dictionaries(plain_texts, values, max_size=3),
    weights_sha256=st.text("0123456789abcdef", min_size=64, max_size=64) | st.just(""),
)


@given(card=cards)
def test_json_round_trip(card):
    text = card.to_json()
    assert "\n" not in text
    assert card_from_dict(json.loads(text), "model.onnx") == card
    assert card_from_dict(card.to_dict(), "model.onnx") == card


def test_json_is_the_same_for_the_same_card():
    other = replace(CARD, provenance={"b": 1, "a": 2})
    again = replace(CARD, provenance={"a": 2, "b": 1})
    assert other.to_json() == again.to_json()
    assert json.loads(CARD.to_json())["format"] == FORMAT


def test_strategy_varies_every_field():
    # A field that is added to the card must be added to the round trip above.
    assert {f.name for f in fields(ModelCard)} == {
        "architecture",
        "cut",
        "aggregate",
        "input_size",
        "bottleneck",
        "aggregate_parameter",
        "crop",
        "mean",
        "std",
        "channel_order",
        "classes",
        "fake_class",
        "outputs",
        "grid",
        "receptive_field",
        "stride",
        "strictly_local",
        "threshold",
        "threshold_source",
        "provenance",
        "weights_sha256",
    }


def test_normalisation_is_that_of_pixels_from_0_to_255():
    card = replace(CARD, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    offset, scale = card.normalisation()
    assert (offset.dtype, scale.dtype) == (np.float32, np.float32)
    assert offset.tolist() == [127.5, 63.75, 0.0]
    assert scale == pytest.approx([1 / 127.5, 1 / 63.75, 1 / 255], rel=1e-6)


@given(
    mean=st.tuples(*[st.floats(0, 1)] * 3),
    std=st.tuples(*[st.floats(0.05, 1)] * 3),
    pixel=st.integers(0, 255),
)
def test_normalisation_equals_the_usual_formula(mean, std, pixel):
    offset, scale = replace(CARD, mean=mean, std=std).normalisation()
    usual = (pixel / 255 - np.array(mean)) / np.array(std)
    assert (np.float32(pixel) - offset) * scale == pytest.approx(usual, rel=1e-5, abs=1e-5)


def test_default_normalisation_is_imagenet():
    offset, scale = CARD.normalisation()
    assert offset == pytest.approx([123.675, 116.28, 103.53], rel=1e-6)
    assert 1 / scale == pytest.approx([58.395, 57.12, 57.375], rel=1e-6)


@pytest.mark.parametrize("found", [None, "lpx-card/2", 1])
def test_another_format_is_refused(found):
    with pytest.raises(LpxError, match=r"ckpt\.pt: the model card has format") as caught:
        card_from_dict(CARD.to_dict() | {"format": found}, "ckpt.pt")
    assert repr(found) in caught.value.what
    assert FORMAT in caught.value.why


def test_no_format_is_refused():
    with pytest.raises(LpxError, match="format None"):
        card_from_dict({}, "ckpt.pt")


def test_unknown_fields_are_named():
    with pytest.raises(LpxError, match="unknown fields: temperature, zoom"):
        card_from_dict(CARD.to_dict() | {"zoom": 1, "temperature": 2.0}, "ckpt.pt")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"channel_order": "GBR"}, "channel_order: expected one of RGB, BGR, found 'GBR'"),
        ({"outputs": "softmax"}, "outputs: expected one of probabilities, logits"),
        ({"aggregate": "median"}, "aggregate: expected one of mean_prob, .*own, found 'median'"),
        ({"fake_class": 2}, "fake_class: 2 is outside 0 to 1"),
    ],
    ids=str,
)
def test_unknown_choice_is_refused(change, said):
    with pytest.raises(LpxError, match=said):
        card_from_dict(CARD.to_dict() | change, "ckpt.pt")


@pytest.mark.parametrize("name", ["architecture", "cut", "aggregate", "input_size"])
def test_what_cannot_be_guessed_must_be_there(name):
    given = CARD.to_dict()
    del given[name]
    with pytest.raises(LpxError, match=f"incomplete.*{name}"):
        card_from_dict(given, "ckpt.pt")


def test_what_can_be_guessed_may_be_missing():
    given = {
        name: value
        for name, value in CARD.to_dict().items()
        if name in ("format", "architecture", "cut", "aggregate", "input_size")
    }
    assert card_from_dict(given, "ckpt.pt") == CARD


SENSELESS = {
    "architecture": [None, 3, "", "a\0b", "\ud800", "a\x1b[2J", "x" * 10_000, ["xception"]],
    "cut": [None, "", 1],
    "aggregate": ["median", "", None, 0],
    "input_size": [0, -1, 10**9, 10**40, 256.0, "256", True, None, [256]],
    "bottleneck": [-1, 10**9, True, 0.5, None],
    "aggregate_parameter": [float("nan"), float("inf"), -1.0, "2", None, True],
    "mean": [
        [0.5],
        [0.5] * 4,
        [float("nan")] * 3,
        [127.5] * 3,
        ["0.5"] * 3,
        "0.5",
        None,
        [True] * 3,
        {"0": 0.5},
    ],
    "std": [
        [0.0] * 3,
        [-0.2] * 3,
        [float("nan")] * 3,
        [float("inf")] * 3,
        [58.4] * 3,
        [1e-300] * 3,
        [0.2, 0.2],
        None,
    ],
    "channel_order": ["GBR", "rgb", None, 0, ["RGB"]],
    "classes": [["fake", "real"], ["real"], ["real", "real"], "realfake", [0, 1]],
    "fake_class": [2, -1, True, 1.0, "1", None],
    "outputs": ["softmax", None],
    "grid": [[0, 1], [-1, -1], [257, 1], [1], [1, 1, 1], [10**9, 10**9], [1.0, 1.0], [True, True]],
    "receptive_field": [0, -3, 10**12, 3.5, "11", False],
    "stride": [0, -1, 2.0, True],
    "strictly_local": [1, 0, "true", None],
    "threshold": [float("nan"), float("inf"), -5, 1.5, "0.5", None, True, [0.5]],
    "threshold_source": [None, "", 5],
    "provenance": [None, [], "x", {"a": float("nan")}, {"a": object()}, {1: 2}],
    "weights_sha256": ["xyz", "A" * 64, "0" * 63, None, 0],
    "crop": ["", None, 3],
}


def test_senseless_values_are_tried_of_every_field():
    assert SENSELESS.keys() == {f.name for f in fields(ModelCard)}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, found in SENSELESS.items() for value in found]
)
def test_senseless_value_is_refused(name, value):
    with pytest.raises(LpxError, match=name if name != "provenance" else "model card is wrong"):
        card_from_dict(CARD.to_dict() | {name: value}, "model.json")


def test_nesting_has_a_limit():
    inner: dict[str, object] = {}
    for _ in range(100_000):
        inner = {"a": inner}
    with pytest.raises(LpxError, match="nested deeper than 32"):
        card_from_dict(CARD.to_dict() | {"provenance": inner}, "model.json")
    while inner:  # taken apart step by step: freeing it at once recurses too
        inner = inner.pop("a")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(name=st.sampled_from([f.name for f in fields(ModelCard)]), value=anything)
def test_any_value_is_accepted_as_it_is_or_refused(name, value):
    try:
        card = card_from_dict(CARD.to_dict() | {name: value}, "model.json")
    except LpxError:
        return
    offset, scale = card.normalisation()
    assert np.isfinite(offset).all()
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    assert 0 <= card.threshold <= 1
    assert card_from_json(card.to_json(), "model.onnx") == card


@given(values=anything)
def test_anything_in_place_of_a_card_is_refused(values):
    with pytest.raises(LpxError):
        card_from_dict(values, "model.json")


def test_aggregates_are_those_that_there_are():
    for name in (*AGGREGATES, "own"):
        assert card_from_dict(CARD.to_dict() | {"aggregate": name}, "x").aggregate == name
