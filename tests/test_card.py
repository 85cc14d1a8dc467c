from __future__ import annotations

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.card import FORMAT, ModelCard, card_from_dict
from lpx.errors import LpxError

CARD = ModelCard("xception", "block3", "mean_prob", 256)

finite = st.floats(allow_nan=False, allow_infinity=False)
three = st.tuples(finite, finite, finite)
sizes = st.integers(1, 4096)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | finite | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
cards = st.builds(
    ModelCard,
    architecture=st.text(),
    cut=st.text(),
    aggregate=st.text(),
    input_size=sizes,
    bottleneck=st.integers(0, 512),
    aggregate_parameter=finite,
    crop=st.text(),
    mean=three,
    std=three,
    channel_order=st.sampled_from(["RGB", "BGR"]),
    classes=st.tuples(st.text(), st.text()),
    fake_class=st.sampled_from([0, 1]),
    outputs=st.sampled_from(["probabilities", "logits"]),
    grid=st.tuples(sizes, sizes),
    receptive_field=st.none() | sizes,
    stride=st.none() | sizes,
    strictly_local=st.booleans(),
    threshold=finite,
    threshold_source=st.text(),
    provenance=st.dictionaries(st.text(max_size=8), values, max_size=3),
    weights_sha256=st.text(),
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
        "architecture", "cut", "aggregate", "input_size", "bottleneck", "aggregate_parameter",
        "crop", "mean", "std", "channel_order", "classes", "fake_class", "outputs", "grid",
        "receptive_field", "stride", "strictly_local", "threshold", "threshold_source",
        "provenance", "weights_sha256",
    }  # fmt: skip


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
    "change", [{"channel_order": "GBR"}, {"fake_class": 2}, {"outputs": "softmax"}], ids=str
)
def test_unknown_choice_is_refused(change):
    with pytest.raises(LpxError, match="it is one of"):
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
