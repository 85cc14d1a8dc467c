"""`plan.json`: what it must not hold, and that it comes back as it was written."""

from __future__ import annotations

import json
import os

import pytest

from lpx.artefacts.plan_file import read_plan, write_plan
from lpx.errors import InvalidArgumentError, LpxError
from lpx.graph.qdq.plan import LayerPlan, PrecisionPlan

FACES = {
    "faces": "ffpp-c23",
    "split": "val",
    "face_count": 64,
    "faces_digest": "d" * 64,
    "set_digest": "",
    "identities": ["Ada"],
    "videos": ["003"],
    "contents": ["0123456789abcdef"],
    "used_for": "search",
}
PLAN = PrecisionPlan(
    {
        "conv1": LayerPlan("int8", method="mse", clip="mse", rounding="nearest"),
        "conv2": LayerPlan("float", "costs 0.01 AUC"),
        "head": LayerPlan("fp32"),
    },
    "a" * 64,
    {"faces": [FACES], "budget": 0.002},
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "plan.json"


def written(**changes):
    """The text of a plan with other values."""
    values = {"format": "lpx-plan/1", "layers": {"conv1": {"precision": "float"}}}
    return json.dumps(values | changes)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[]", "not a JSON object"),
        ("{", "Expecting property name"),
        ("\xff", ""),
        ('{"format": "lpx-plan/1", "layers": {}, "layers": {}}', "'layers' occurs twice"),
        ("{}", 'it has no "format"'),
        (written(format="lpx-scales/3"), "expected format lpx-plan/1"),
        (written(format=1), "expected format lpx-plan/1"),
        ('{"format": "lpx-plan/1"}', "missing fields: layers"),
        (written(layer={}), "unknown fields: layer"),
        (written(layers=[]), "layers: expected an object"),
        (written(layers={"a": "int8"}), "layers.a: expected an object"),
        (written(layers={"a": {}}), "layers.a: missing fields: precision"),
        (written(layers={"a": {"precision": "int4"}}), "layers.a.precision: expected one of int8"),
        (written(layers={"a": {"precision": "int8", "x": 1}}), "layers.a: unknown fields: x"),
        (
            written(layers={"a": {"precision": "int8", "method": "best"}}),
            "layers.a: unknown calibration method 'best'; known: max",
        ),
        (written(layers={"a": {"precision": "int8", "clip": "min"}}), "layers.a.clip"),
        (written(layers={"a": {"precision": "int8", "rounding": 1}}), "layers.a.rounding"),
        (written(layers={"a": {"precision": "int8", "reason": 1}}), "layers.a.reason"),
        (written(model_sha256="abc"), "model_sha256 must be a SHA-256"),
        (written(model_sha256="A" * 64), "model_sha256 must be a SHA-256"),
        (written(origin=[]), "origin: expected an object"),
        (written(origin={"faces": {}}), "origin.faces: expected a list"),
        (written(origin={"faces": [{}]}), "origin.faces[0]: missing fields: faces, split"),
        (written(origin={"faces": [FACES | {"used_for": "fun"}]}), "origin.faces[0].used_for"),
        (written(origin={"faces": [FACES | {"videos": "003"}]}), "origin.faces[0].videos"),
        (written(origin={"budget": 1}).replace(": 1}", ": NaN}"), "NaN is not a number"),
    ],
)
def test_damage_is_named(path, text, why):
    path.write_text(text, encoding="latin-1")
    with pytest.raises(LpxError, match=r"plan\.json is not a precision plan") as caught:
        read_plan(path)
    assert why in caught.value.why


def test_newer_format_says_so(path):
    path.write_text(written(format="lpx-plan/2"))
    with pytest.raises(LpxError, match="by a newer version of lpx") as caught:
        read_plan(path)
    assert caught.value.code == "unsupported"


def test_missing_file(path):
    with pytest.raises(LpxError, match="does not exist") as caught:
        read_plan(path)
    assert caught.value.code == "not-found"


def test_what_is_not_a_file(path):
    path.mkdir()
    with pytest.raises(LpxError, match="cannot be read"):
        read_plan(path)
    path.rmdir()
    os.mkfifo(path)
    with pytest.raises(LpxError, match="cannot be read"):
        read_plan(path)


def test_size_is_bounded(path):
    with path.open("wb") as stream:
        stream.truncate((16 << 20) + 1)
    with pytest.raises(LpxError, match="cannot be read") as caught:
        read_plan(path)
    assert "the limit is" in caught.value.why


@pytest.mark.parametrize(
    "wrong",
    [
        {"layers": {"a": "int8"}},
        {"layers": [("a", LayerPlan("int8"))]},
        {"layers": {1: LayerPlan("int8")}},
        {"origin": {"faces": [{"faces": "demo"}]}},
        {"origin": {"x": object()}},
        {"model_sha256": None},
    ],
)
def test_plans_in_python_are_checked_too(wrong):
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        PrecisionPlan(**wrong)
    with pytest.raises(InvalidArgumentError, match="precision"):
        LayerPlan("INT8")


@pytest.mark.parametrize("plan", [PLAN, PrecisionPlan()])
def test_round_trip(path, plan):
    write_plan(path, plan)
    read = read_plan(str(path))
    assert (read.layers, read.model_sha256, read.origin) == (
        plan.layers,
        plan.model_sha256,
        plan.origin,
    )


def test_each_layer_has_a_line_for_people(path):
    write_plan(path, PLAN)
    lines = path.read_text().splitlines()
    assert '    "conv2": {"precision": "float", "reason": "costs 0.01 AUC"},' in lines
    assert '    "head": {"precision": "fp32"}' in lines


def test_summary():
    assert PLAN.summary() == "precision plan: 1 in INT8, 1 in float, 1 in float32"
    assert PLAN.float32_layers == {"head"}
    assert PLAN.faces[0].identities == ("Ada",)
