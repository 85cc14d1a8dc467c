from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.card import ModelCard
from lpx.engines.manifest import FILE, EngineManifest, read_manifest, write_manifest
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.errors import LpxError
from lpx.graph.qdq.plan import NO_PLAN, LayerPlan, PrecisionPlan
from lpx.workspace import read_sealed, write_sealed

CARD = ModelCard("resnet18", "layer2", "mean_prob", 64)
OPTIONS = TensorRTOptions(batches=(1, 32), compute_capabilities=("8.6", "12.0"), tf32=False)
MANIFEST = EngineManifest(
    name="tensorrt-rtx-int8",
    target="tensorrt-rtx",
    precision="int8",
    dialect="strongly-typed",
    file="engine.plan",
    engine_sha256="a" * 64,
    model_sha256="b" * 64,
    card=CARD.to_dict(),
    calibration={"method": "max"},
    placement=({"node": "conv", "quantised": True, "reason": "wide enough"},),
    convolutions={"int8": 3},
    versions={"lpx": "0.1.0"},
    machine={"os": "Linux"},
    warnings=("mind this",),
    options={"tensorrt": OPTIONS.to_dict(), "tf32": False},
)


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path / "engine", MANIFEST)
    return tmp_path / "engine"


def test_round_trip(folder):
    # Its name is that of its folder, which may be a copy.
    read = read_manifest(folder)
    assert replace(read, options=MANIFEST.options) == replace(MANIFEST, name="engine")
    assert read.tensorrt == MANIFEST.tensorrt == OPTIONS
    assert (read.batches, read.compute_capabilities) == ((1, 32), ("8.6", "12.0"))
    assert read_manifest(folder).model_card() == CARD
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_missing(tmp_path):
    with pytest.raises(LpxError, match=r"manifest\.json does not exist") as caught:
        read_manifest(tmp_path)
    assert "`lpx build`" in caught.value.fix


# Engines without a plan have no such field.
@pytest.mark.parametrize("name", sorted(vars(MANIFEST).keys() - {"plan"}))
def test_field_lost(folder, name):
    values = read_sealed(folder / FILE, "")
    del values[name]
    write_sealed(folder / FILE, values)
    with pytest.raises(LpxError, match=f"lacks {name}") as caught:
        read_manifest(folder)
    assert "`lpx build`" in caught.value.fix


PLAN = PrecisionPlan({"conv": LayerPlan("float", "sensitive")}, "b" * 64)


def test_plan(folder):
    assert read_manifest(folder).precision_plan == NO_PLAN
    assert "plan" not in read_sealed(folder / FILE, "")
    write_manifest(folder, replace(MANIFEST, plan=PLAN.to_dict()))
    assert read_manifest(folder).precision_plan == PLAN


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "lpx-plan/2"}, "plan: expected format lpx-plan/1"),
        ({"layers": {"conv": {"precision": "int4"}}}, "plan: layers.conv.precision"),
        ({"layers": {"conv": {"precision": "int8", "method": "x"}}}, "plan: layers.conv: unknown"),
        ({"origin": {"faces": [1]}}, "plan: origin is damaged"),
    ],
)
def test_damaged_plan(folder, changes, said):
    write_manifest(folder, replace(MANIFEST, plan=PLAN.to_dict() | changes))
    with pytest.raises(LpxError, match="is damaged") as caught:
        read_manifest(folder)
    assert said in caught.value.why


def test_field_unknown(folder):
    values = read_sealed(folder / FILE, "") | {"sparsity": "2:4"}
    write_sealed(folder / FILE, values)
    with pytest.raises(LpxError, match="unknown fields: sparsity"):
        read_manifest(folder)


@pytest.mark.parametrize("given", ["lpx-engine/1", None, 1])
def test_another_format(folder, given):
    values = read_sealed(folder / FILE, "") | {"format": given}
    write_sealed(folder / FILE, values)
    with pytest.raises(LpxError, match="is of another format") as caught:
        read_manifest(folder)
    assert "built by an earlier lpx" in caught.value.why
    assert "run `lpx build` again" in caught.value.fix


def test_a_newer_format(folder):
    values = read_sealed(folder / FILE, "") | {"format": "lpx-engine/9"}
    write_sealed(folder / FILE, values)
    with pytest.raises(LpxError, match="is of another format") as caught:
        read_manifest(folder)
    assert "built by a newer lpx" in caught.value.why
    assert "update lpx" in caught.value.fix
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": "../other/engine.onnx"}, "file"),
        ({"file": "/etc/passwd"}, "file"),
        ({"file": ".."}, "file"),
        ({"file": ""}, "file"),
        ({"file": "a\x1b[2Jb"}, "file"),
        ({"file": 3}, "file: expected a text"),
        ({"name": "../../other"}, "name"),
        ({"name": "a\u202eb"}, "name"),
        ({"engine_sha256": "x"}, "engine_sha256"),
        ({"model_sha256": None}, "model_sha256"),
        ({"target": "coreml"}, "target"),
        ({"precision": "int4"}, "precision"),
        ({"convolutions": {"int8": -1}}, "convolutions"),
        ({"multiply_accumulates": {"int8": "many"}}, "multiply_accumulates"),
        ({"warnings": "abc"}, "warnings"),
        ({"warnings": [1]}, "warnings"),
        ({"placement": [1]}, "placement"),
        ({"calibration": []}, "calibration"),
        ({"calibration": {"identities": 5}}, r"calibration\.identities"),
        ({"calibration": {"face_count": "12"}}, r"calibration\.face_count"),
        ({"batches": [32]}, "unknown fields: batches"),
        ({"options": {"tensorrt": []}}, r"options\.tensorrt"),
        ({"options": {"tensorrt": {"dla_core": "0"}}}, r"options\.tensorrt\.dla_core"),
        ({"options": {"tensorrt": {"tf32": 1}}}, r"options\.tensorrt\.tf32"),
        ({"options": {"tensorrt": {"fp8": True}}}, "unknown fields: fp8"),
        ({"options": {"tensorrt": {"optimisation_level": 9}}}, "optimisation_level must be"),
        ({"options": {"tensorrt": {"batches": [0]}}}, "batches must be >= 1"),
        ({"options": {"tensorrt": {"batches": [10**12]}}}, "batches must be between"),
        ({"options": {"tensorrt": {"batches": "32"}}}, r"options\.tensorrt\.batches"),
        ({"options": {"tensorrt": {"batches": [True]}}}, r"options\.tensorrt\.batches"),
        ({"options": {"tensorrt": {"batches": {"minimum": 1}}}}, r"options\.tensorrt\.batches"),
        ({"options": {"tensorrt": {"compute_capabilities": "8.6"}}}, "compute_capabilities"),
        ({"options": {"tensorrt": {"compute_capabilities": ["x"]}}}, "compute_capabilities"),
        ({"options": {"provider": {"use_tf32": 0}}}, r"options\.provider"),
        ({"card": {}}, "model card"),
        ({"card": CARD.to_dict() | {"threshold": -5}}, "threshold"),
        ({"card": CARD.to_dict() | {"std": [0, 0, 0]}}, "std"),
    ],
    ids=str,
)
def test_values_that_no_engine_has(folder, change, said):
    values = read_sealed(folder / FILE, "") | change
    write_sealed(folder / FILE, values)
    with pytest.raises(LpxError, match=said):
        read_manifest(folder)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(-1e9, 1e9)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)


@given(name=st.sampled_from(sorted(vars(MANIFEST))), value=values)
def test_any_value_is_accepted_as_it_is_or_refused(tmp_path_factory, name, value):
    folder = tmp_path_factory.mktemp("any") / "engine"
    write_manifest(folder, replace(MANIFEST, **{name: value}))
    try:
        read = read_manifest(folder)
    except LpxError:
        return
    assert isinstance(getattr(read, name), type(getattr(MANIFEST, name)) | type(None))
    assert (folder / read.file).parent == folder
    assert read.model_card() == CARD


def test_folder_name_that_cannot_be_printed(tmp_path):
    write_manifest(tmp_path / "a\x1b[2Jb", MANIFEST)
    with pytest.raises(LpxError, match="is not a name that an engine can have"):
        read_manifest(tmp_path / "a\x1b[2Jb")
