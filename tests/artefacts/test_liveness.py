"""Engines that give every face one score are named when they are built."""

from __future__ import annotations

import numpy as np
import pytest

from lpx.api.build import DeadEngineError
from lpx.artefacts.liveness import Probe, make_probe, symptom
from lpx.artefacts.model import read_exported
from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.sets import open_set
from lpx.engines.manifest import read_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import InvalidArgumentError, LpxError
from lpx.workspace import read_sealed, write_sealed

INT8 = ("build", "--int8", "--fp32", "--target", "onnxruntime", "--faces", "demo", "--limit", 16)


def shrink(workspace):
    """Make every range so small that all activations saturate."""
    values = read_sealed(workspace.scales, "")
    for tensor in values["tensors"].values():
        tensor["peaks"] = {method: peak * 1e-6 for method, peak in tensor["peaks"].items()}
    write_sealed(workspace.scales, values)


def test_dead_engine_is_named_and_kept(workspace):
    shrink(workspace)
    with pytest.raises(DeadEngineError, match="onnxruntime-int8 is dead: it gives all") as caught:
        workspace.build(("fp32", "int8"), target="onnxruntime", faces="demo", limit=16)
    assert caught.value.exit_code == 1
    assert [m.precision for m in caught.value.built] == ["fp32", "int8"]
    kept = read_manifest(workspace.engines / "onnxruntime-int8")
    assert any(text.startswith("dead: ") for text in kept.warnings)
    assert not any("dead" in text for text in caught.value.built[0].warnings)


def test_dead_engine_ends_the_command_with_1(lpx, workspace):
    shrink(workspace)
    ran = lpx(*INT8)
    assert ran.code == 1
    assert "onnxruntime-int8 is dead" in ran.err
    assert "note: dead: it gives all" in ran.out


def test_engine_that_does_not_run_is_named(lpx, workspace, monkeypatch):
    """ONNX Runtime loads some graphs that it then cannot run."""

    def fails(*_, **__):
        raise LpxError("ONNX Runtime failed on 32 faces", "Resize: not supported")

    monkeypatch.setattr("lpx.api.build.symptom", fails)
    ran = lpx(*INT8)
    assert ran.code == 1
    assert "onnxruntime-int8 is dead: it does not run: ONNX Runtime failed on 32 faces" in ran.err


def test_engine_that_lives_is_not_accused(workspace):
    (made,) = workspace.build("int8", target="onnxruntime", faces="demo", limit=16)
    assert not any("dead" in text for text in made.warnings)


def test_scores_that_are_no_numbers_are_a_symptom(workspace):
    class Broken(OnnxRuntimeEngine):
        def infer(self, faces):
            found = super().infer(faces)
            found.score[::2] = np.nan
            return found

    model = read_exported(workspace)
    size = model.card.input_size
    data = (workspace.engines / "onnxruntime-fp32/engine.onnx").read_bytes()
    probe = make_probe(demo_set("train").first(4), model)
    folder = workspace.engines / "onnxruntime-int8"
    sign = symptom(
        folder, probe, allow_host_code=False, open_engine=lambda *_, **__: Broken(data, size)
    )
    assert sign == "its score is not a finite number on 2 of 4 faces"
    assert probe.scores is not None
    alike = Probe(probe.faces[:1].repeat(4, axis=0), probe.scores[:1].repeat(4))
    assert symptom(folder, alike, allow_host_code=False) == ""
    single = Probe(probe.faces[:1], probe.scores[:1])
    assert symptom(folder, single, allow_host_code=False) == ""


def test_faces_that_cannot_be_read_accuse_no_engine(workspace, tmp_path):
    folder = tmp_path / "torn" / "real"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"not a picture")
    probe = make_probe(open_set(str(folder.parent), "train", ()), read_exported(workspace))
    assert (len(probe.faces), probe.scores) == (0, None)
    assert symptom(workspace.engines / "onnxruntime-int8", probe, allow_host_code=False) == ""


def test_an_empty_name_of_faces_is_refused(workspace):
    """The engine was once tried on the current folder, and called dead."""
    with pytest.raises(InvalidArgumentError, match="faces must be the path"):
        workspace.build("int8", target="onnxruntime", faces="")


@pytest.mark.parametrize("wrong", ["int4", "INT8", ("fp32", "bf16")])
def test_unknown_precisions_are_refused(workspace, wrong):
    with pytest.raises(LpxError, match="precision must be one of fp32, fp16, int8"):
        workspace.build(wrong, target="onnxruntime")


def test_next_step_is_a_set_that_was_not_calibrated_on(lpx, workspace, crops):
    ran = lpx("build", "--int8", "--target", "onnxruntime", "--faces", "crops")
    assert "next: lpx bench --dataset OTHER-FACES" in ran.out
    assert "not calibrated on" in ran.out
    assert "next: lpx bench --dataset demo" in lpx(*INT8).out
