"""The exported model of a workspace: what stands beside it must be what stands in it."""

from __future__ import annotations

import hashlib
import json

import onnx
import pytest
import torch

from lpx import Workspace
from lpx.artefacts.model import open_faces, read_exported
from lpx.card import METADATA_KEY
from lpx.errors import LpxError
from lpx.workspace import read_sealed, write_sealed


def edit_card(workspace, **changes):
    path = workspace.model.with_suffix(".json")
    values = read_sealed(path, "")
    values["card"] |= changes
    write_sealed(path, values)


def replace_model(workspace, change):
    """Edit the model too, and its SHA-256 beside it: the two fit each other again."""
    proto = onnx.load(workspace.model)
    change(proto)
    workspace.model.write_bytes(proto.SerializeToString())
    path = workspace.model.with_suffix(".json")
    values = read_sealed(path, "")
    values["model_sha256"] = hashlib.sha256(workspace.model.read_bytes()).hexdigest()
    write_sealed(path, values)


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": 0.99},
        {"mean": [0.1, 0.1, 0.1]},
        {"channel_order": "BGR"},
        {"crop": "other"},
        {"provenance": {"data": "all of it"}},
        {"weights_sha256": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
def test_card_beside_the_model_is_the_one_in_it(workspace, change):
    edit_card(workspace, **change)
    with pytest.raises(LpxError, match=f"contain different model cards: {next(iter(change))}"):
        read_exported(workspace)


@pytest.mark.parametrize("value", ["NaN", "-5", "2", "null", "true", "1e999"])
def test_threshold_that_is_no_probability(workspace, lpx, value):
    """NaN made every face real, -5 every face fake, and both with exit code 0."""
    path = workspace.model.with_suffix(".json")
    values = read_sealed(path, "")
    values["card"]["threshold"] = "HERE" if value in ("NaN", "1e999") else json.loads(value)
    write_sealed(path, values)
    path.write_text(path.read_text().replace('"HERE"', value))
    ran = lpx("predict", "lpx-out", "--crops")
    assert ran.code == 2, ran.err
    assert "model.json" in ran.err


@pytest.mark.parametrize(
    ("change", "said"),
    [({"grid": (3, 5)}, "patch_map has the shape"), ({"input_size": 200}, "faces has the shape")],
    ids=lambda value: str(value)[:12],
)
def test_card_says_what_the_model_is(workspace, change, said):
    """Edited alike in both places: the graph itself contradicts it."""

    def edit(proto):
        (entry,) = (p for p in proto.metadata_props if p.key == METADATA_KEY)
        entry.value = json.dumps(json.loads(entry.value) | change)

    replace_model(workspace, edit)
    edit_card(workspace, **change)
    with pytest.raises(LpxError, match=said):
        read_exported(workspace)


def test_model_without_a_card(workspace):
    replace_model(workspace, lambda proto: proto.ClearField("metadata_props"))
    with pytest.raises(LpxError, match="contains no model card"):
        read_exported(workspace)


@pytest.mark.parametrize("place", ["initialiser", "constant"])
def test_weights_in_another_file_are_not_opened(workspace, tmp_path, place):
    (tmp_path / "weights.bin").write_bytes(bytes(1 << 16))

    def edit(proto):
        if place == "initialiser":
            tensor = proto.graph.initializer[0]
        else:
            constant = onnx.helper.make_tensor("c", onnx.TensorProto.FLOAT, [1], [0.0])
            node = onnx.helper.make_node("Constant", [], ["unused"], value=constant)
            proto.graph.node.append(node)
            tensor = proto.graph.node[-1].attribute[0].t
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="weights.bin")

    replace_model(workspace, edit)
    with pytest.raises(LpxError, match="in another file"):
        read_exported(workspace)


@pytest.mark.parametrize(
    "change", [{"opset": "20"}, {"model_sha256": 3}, {"versions": []}, {"more": 1}], ids=str
)
def test_manifest_of_another_shape(workspace, change):
    path = workspace.model.with_suffix(".json")
    write_sealed(path, read_sealed(path, "") | change)
    with pytest.raises(LpxError, match="was not written by this version of lpx"):
        read_exported(workspace)


@pytest.mark.parametrize(
    ("found", "who"), [("lpx-export/0", "an earlier"), ("lpx-export/2", "a newer")]
)
def test_manifest_of_another_version(workspace, found, who):
    path = workspace.model.with_suffix(".json")
    write_sealed(path, read_sealed(path, "") | {"format": found})
    with pytest.raises(LpxError, match=f"was written by {who} version of lpx") as caught:
        read_exported(workspace)
    assert caught.value.code == "unsupported"


def test_checkpoint_whose_card_has_another_grid_is_not_exported(tmp_path, workspace):
    content = torch.load(workspace.reference, weights_only=True)
    content["card"]["grid"] = [3, 5]
    torch.save(content, tmp_path / "edited.pt")
    with pytest.raises(LpxError, match="patch_map has the shape"):
        Workspace(tmp_path / "new").export(tmp_path / "edited.pt")
    assert not (tmp_path / "new/model.onnx").exists()


def test_faces_may_be_named_by_a_path(workspace, crops):
    assert len(open_faces(workspace, crops, "all").faces) == 16
