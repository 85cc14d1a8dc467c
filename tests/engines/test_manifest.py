from __future__ import annotations

import json

import pytest

from lpx.card import ModelCard
from lpx.engines.manifest import FILE, EngineManifest, read_manifest, write_manifest
from lpx.errors import LpxError

CARD = ModelCard("resnet18", "layer2", "mean_prob", 64)
MANIFEST = EngineManifest(
    name="tensorrt-rtx-int8", target="tensorrt-rtx", precision="int8", dialect="strongly-typed",
    file="engine.plan", engine_sha256="a" * 64, model_sha256="b" * 64, card=CARD.to_dict(),
    batches=(32,), compute_capabilities=("8.6", "12.0"), calibration={"method": "max"},
    placement=({"node": "conv", "quantised": True, "reason": "wide enough"},),
    convolutions={"int8": 3}, versions={"lpx": "0.1.0"}, machine={"os": "Linux"},
    warnings=("mind this",),
)  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    write_manifest(tmp_path / "engine", MANIFEST)
    return tmp_path / "engine"


def test_round_trip(folder):
    assert read_manifest(folder) == MANIFEST
    assert read_manifest(folder).model_card() == CARD
    assert [path.name for path in folder.iterdir()] == [FILE]


def test_missing(tmp_path):
    with pytest.raises(LpxError, match=r"manifest\.json does not exist") as caught:
        read_manifest(tmp_path)
    assert "`lpx build`" in caught.value.fix


@pytest.mark.parametrize("name", sorted(vars(MANIFEST).keys() - {"multiply_accumulates"}))
def test_field_lost(folder, name):
    values = json.loads((folder / FILE).read_text())
    del values[name]
    (folder / FILE).write_text(json.dumps(values))
    with pytest.raises(LpxError, match=f"lacks {name}") as caught:
        read_manifest(folder)
    assert "`lpx build`" in caught.value.fix


def test_engine_of_before_its_work_was_counted(folder):
    values = json.loads((folder / FILE).read_text())
    del values["multiply_accumulates"]
    (folder / FILE).write_text(json.dumps(values))
    assert read_manifest(folder).multiply_accumulates == {}
    assert read_manifest(folder).int8_share is None


def test_field_unknown(folder):
    values = json.loads((folder / FILE).read_text()) | {"sparsity": "2:4"}
    (folder / FILE).write_text(json.dumps(values))
    with pytest.raises(LpxError, match="unknown fields: sparsity"):
        read_manifest(folder)


@pytest.mark.parametrize("given", ["lpx-engine/0", None, 1])
def test_another_format(folder, given):
    values = json.loads((folder / FILE).read_text()) | {"format": given}
    (folder / FILE).write_text(json.dumps(values))
    with pytest.raises(LpxError, match="is of another format"):
        read_manifest(folder)
