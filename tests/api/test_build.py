from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest

from lpx.api import ranges
from lpx.engines import load
from lpx.errors import LpxError
from lpx.graph.qdq.weights import WeightOptions
from lpx.workspace import read_sealed, write_sealed
from tests.support.reporting import RecordingReporter


@pytest.fixture
def build(workspace):
    """Builds INT8 for ONNX Runtime; returns its manifest and what was said."""

    def run(**options):
        told = RecordingReporter()
        (manifest,) = workspace.build(("int8",), target="onnxruntime", reporter=told, **options)
        return manifest, told.said

    return run


def reused(said):
    return any(text.startswith("reusing ") for text in said)


def test_scales_of_the_same_faces_are_used_again(build, workspace):
    before = workspace.scales.read_bytes()
    manifest, said = build(faces="demo", limit=16)
    assert reused(said)
    assert workspace.scales.read_bytes() == before
    assert manifest.calibration["face_count"] == 16


@pytest.mark.parametrize(
    "change",
    [
        lambda crops: (crops / "real/0.png").unlink(),
        lambda crops: shutil.copy(crops / "real/0.png", crops / "real/new.png"),
        lambda crops: shutil.copy(crops / "real/0.png", crops / "real/1.png"),
    ],
    ids=["one less", "one more", "another picture under an old name"],
)
def test_scales_of_other_faces_are_made_anew(build, crops, change):
    build(faces="crops")
    assert reused(build(faces="crops")[1])
    change(crops)
    assert not reused(build(faces="crops")[1])


def test_scales_of_another_set_or_count_are_made_anew(build):
    assert not reused(build(faces="demo", limit=4)[1])
    assert reused(build(faces="demo", limit=4)[1])


def flipped(text):
    """The same with one digit of a range changed."""
    at = text.index('"max":') + 10
    return text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :]


@pytest.mark.parametrize("faces", [None, "demo"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: "{}",
        lambda text: text[: len(text) // 2],
        lambda text: json.dumps({**json.loads(text), "format": "lpx-scales/1"}),
        lambda text: text.replace('  "checksum"', '  "other"'),
        flipped,
    ],
    ids=["empty", "nothing in it", "cut off", "old format", "no checksum", "a digit"],
)
def test_damaged_scales_are_not_replaced(build, workspace, damage, faces):
    damaged = damage(workspace.scales.read_text())
    workspace.scales.write_text(damaged)
    with pytest.raises(LpxError, match=r"scales\.json") as error:
        build(faces=faces, limit=4)
    assert "remove the file" in error.value.fix
    assert workspace.scales.read_text() == damaged
    workspace.scales.unlink()
    assert not reused(build(faces="demo", limit=4)[1])


def test_scales_that_cannot_be_read_are_not_replaced(build, workspace):
    workspace.scales.unlink()
    workspace.scales.symlink_to("scales.json")
    with pytest.raises(LpxError, match=r"scales\.json cannot be read"):
        build(faces="demo", limit=4)


def test_scales_of_another_export_are_made_again(build, workspace):
    values = read_sealed(workspace.scales, "")
    write_sealed(workspace.scales, values | {"model_sha256": "0" * 64})
    _, said = build(faces="demo", limit=16)
    assert not reused(said)
    assert any("is written again: it is of another export" in text for text in said)


def test_faces_that_somebody_chose_do_not_give_way_to_the_demo_faces(build, crops, workspace):
    build(faces="crops")
    values = read_sealed(workspace.scales, "")
    write_sealed(workspace.scales, values | {"model_sha256": "0" * 64})
    before = workspace.scales.read_bytes()
    with pytest.raises(LpxError, match="was calibrated on another model"):
        build()
    assert workspace.scales.read_bytes() == before
    assert not reused(build(faces="crops")[1])


@pytest.mark.parametrize("then", ["build", "emit"])
def test_ranges_of_named_faces_are_kept_if_none_are_named_later(build, crops, workspace, then):
    build(faces="crops")
    before = workspace.scales.read_bytes()
    told = RecordingReporter()
    if then == "build":
        workspace.build("int8", target="onnxruntime", limit=4, reporter=told)
    else:
        workspace.emit("int8", reporter=told)
    assert reused(told.said)
    assert ranges.DEMO_CALIBRATION not in " ".join(told.said)
    assert workspace.scales.read_bytes() == before


def test_ranges_that_lack_a_tensor_do_not_give_way_to_the_demo_faces(build, crops, workspace):
    build(faces="crops")
    values = read_sealed(workspace.scales, "")
    tensors = dict(values["tensors"])
    tensors.popitem()
    write_sealed(workspace.scales, values | {"tensors": tensors})
    before = workspace.scales.read_bytes()
    with pytest.raises(LpxError, match="lacks tensors of the model") as caught:
        build()
    assert "`faces`" in caught.value.fix
    assert workspace.scales.read_bytes() == before
    assert not reused(build(faces="crops")[1])


def test_warning_is_that_of_this_build_not_of_the_one_that_calibrated(build):
    """The ranges are kept; whether the user named faces is not a property of ranges."""
    unnamed, said = build(limit=4)
    assert unnamed.warnings == (ranges.DEMO_CALIBRATION,)
    assert f"warning: {ranges.DEMO_CALIBRATION}" in said
    named, said = build(faces="demo", limit=4)
    assert reused(said)
    assert named.warnings == ()
    assert build(limit=4)[0].warnings == (ranges.DEMO_CALIBRATION,)


def test_methods_share_one_calibration(build):
    """Every method's range is kept side by side: only the first build looks at faces."""
    engines = {}
    for method in ("max", "percentile-99.9"):
        manifest, said = build(faces="demo", limit=16, method=method)
        assert reused(said)
        assert manifest.calibration["method"] == method
        engines[method] = manifest.engine_sha256
    assert len(set(engines.values())) == 2


def test_same_request_gives_the_same_engine(build):
    first, second = (build(faces="demo", limit=16)[0] for _ in range(2))
    assert first == second


def test_manifest_says_how_each_node_is_computed(build):
    manifest, _ = build(faces="demo", limit=16)
    assert all(decision["reason"] for decision in manifest.placement)
    convolutions = [d for d in manifest.placement if d["op_type"] == "Conv"]
    assert sum(manifest.convolutions.values()) == len(convolutions)
    # What is asked for; ONNX Runtime takes fewer, where a float node reads what one makes.
    quantised = sum(decision["quantised"] for decision in convolutions)
    assert quantised - 1 <= manifest.convolutions["int8"] <= quantised


def test_float_engines_need_no_faces(workspace):
    with pytest.raises(LpxError, match="nowhere"):
        workspace.build(("int8",), target="onnxruntime", faces="nowhere")
    made = workspace.build(("fp32", "fp16"), target="onnxruntime", faces="nowhere")
    assert [manifest.precision for manifest in made] == ["fp32", "fp16"]
    assert all(manifest.calibration is None for manifest in made)


def test_fp32_engine_is_the_exported_model(workspace):
    workspace.build(("fp32",), target="onnxruntime")
    engine = workspace.engines / "onnxruntime-fp32/engine.onnx"
    assert engine.read_bytes() == workspace.model.read_bytes()


def test_interrupted_build_leaves_the_old_engine_usable(build, workspace, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("lpx.engines.build.make_graph", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build(faces="demo", limit=16)
    faces = np.zeros((1, 160, 160, 3), np.uint8)
    assert load(workspace.engines / "onnxruntime-int8").infer(faces).score.shape == (1,)


def test_faces_of_a_folder_within_the_workspaces_folder(build, crops):
    """The workspace lies beside real/ and fake/, as the README has it."""
    manifest, _ = build(faces=str(crops.parent / "crops"))
    assert manifest.calibration["face_count"] == 16


def test_python_errors_are_lpx_errors(workspace):
    with pytest.raises(LpxError, match="target must be one of"):
        workspace.build(("fp32",), target="x")
    with pytest.raises(LpxError, match="limit must be >= 1"):
        workspace.build(("int8",), target="onnxruntime", limit=0)


def test_equalised_engines_are_of_ranges_of_the_equalised_model(build, workspace):
    """Equalisation changes activations: other ranges are needed, and kept apart by their model."""
    plain, _ = build(faces="demo", limit=4)
    plain_model = read_sealed(workspace.scales, "")["model_sha256"]
    equalised, said = build(faces="demo", limit=4, weights=WeightOptions(equalise=True))
    assert not reused(said)
    assert any(text.startswith("equalised channels between ") for text in said)
    assert read_sealed(workspace.scales, "")["model_sha256"] != plain_model
    assert equalised.calibration["weights"]["equalise"]
    assert equalised.model_sha256 == plain.model_sha256 == plain_model
    assert equalised.engine_sha256 != plain.engine_sha256
    assert reused(build(faces="demo", limit=4, weights=WeightOptions(equalise=True))[1])
    assert not reused(build(faces="demo", limit=4)[1])


@pytest.mark.parametrize(
    "weights",
    [
        WeightOptions(clip="mse"),
        WeightOptions(rounding="nearest"),
        WeightOptions(bias_correction=False),
    ],
)
def test_weight_options_change_the_engine_but_not_the_ranges(build, weights):
    plain, _ = build(faces="demo", limit=16)
    other, said = build(faces="demo", limit=16, weights=weights)
    assert reused(said)
    assert other.engine_sha256 != plain.engine_sha256
    assert other.calibration["weights"] == asdict(weights)


def test_evidence_of_other_weights_is_not_that_of_this_engine(build, workspace):
    workspace.calibrate("demo", limit=4, method="mse")
    kept, _ = build()
    assert kept.calibration["candidates"]
    assert ranges.OTHER_WEIGHTS not in " ".join(kept.warnings)
    other, said = build(weights=WeightOptions(clip="mse"))
    assert reused(said)
    assert other.calibration["method"] == "mse"
    assert other.calibration["candidates"] == ()
    assert ranges.OTHER_WEIGHTS in " ".join(other.warnings)


def test_quantised_model_is_refused_or_stripped(build, workspace):
    """A model that was exported with Q/DQ pairs: a checkpoint trained with them, say."""
    before, _ = build(faces="demo", limit=4, weights=WeightOptions(rounding="nearest"))
    quantised = (workspace.engines / "onnxruntime-int8/engine.onnx").read_bytes()
    workspace.model.write_bytes(quantised)
    path = workspace.model.with_suffix(".json")
    values = read_sealed(path, "") | {"model_sha256": hashlib.sha256(quantised).hexdigest()}
    write_sealed(path, values)
    for precision in ("fp32", "int8"):
        with pytest.raises(LpxError, match="is quantised already"):
            workspace.build((precision,), target="onnxruntime", faces="demo", limit=4)
    after, said = build(faces="demo", limit=4, weights=WeightOptions(requantise=True))
    assert not reused(said)
    assert after.convolutions == before.convolutions
    assert reused(build(faces="demo", limit=4, weights=WeightOptions(requantise=True))[1])


@pytest.mark.parametrize("given", ["fp32", ["fp32"]])
def test_emit_takes_one_precision_or_several(workspace, given):
    folder = workspace.emit(given)
    graphs = read_sealed(folder / "manifest.json", "")["graphs"]
    assert graphs
    assert not any("int8" in graph["file"] or "fp16" in graph["file"] for graph in graphs)


@pytest.mark.parametrize("given", [(), ("fp8",), "int4"])
def test_emit_writes_nothing_for_precisions_that_there_are_not(workspace, given):
    with pytest.raises(LpxError, match="precision"):
        workspace.emit(given)
    with pytest.raises(LpxError, match="precision"):
        workspace.build(given)
    assert not (workspace.root / "trtexec").exists()
