"""What `lpx export` says of files that it cannot export."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx
import pytest
import torch

from lpx.data.face_sets.demo import CHECKPOINT, folder
from lpx.models.backbones import build_backbone

DEMO = folder() / CHECKPOINT


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def refused(lpx, tree, tmp_path, monkeypatch):
    """Runs a command that must fail as a user's error does, and returns what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        before = tree(tmp_path)
        ran = lpx(*arguments)
        assert ran.code == 2, ran.err
        assert ran.out == ""
        assert "Traceback" not in ran.err
        assert "error: " in ran.err.lower()
        assert tree(tmp_path) == before, "something was left behind"
        return ran.err

    return run


def resnet18(path):
    torch.save(build_backbone("resnet18", "whole").state_dict(), path)


@pytest.mark.parametrize(
    ("write", "what", "why"),
    [
        (lambda path: None, "ckpt.pt does not exist", ""),
        (lambda path: path.mkdir(), "ckpt.pt is a folder, not a file", ""),
        (lambda path: path.write_bytes(b""), "not a readable PyTorch checkpoint", "it is empty"),
        (
            lambda path: path.write_bytes(DEMO.read_bytes()[:50_000]),
            "not a readable PyTorch checkpoint",
            "its end is missing",
        ),
        (
            lambda path: path.write_text("hello"),
            "not a readable PyTorch checkpoint",
            "its bytes are not those of a PyTorch file",
        ),
        (lambda path: torch.save([1], path), "not a readable PyTorch checkpoint", "holds a list"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no tensors", "its keys: epoch"),
        (
            lambda path: torch.save(torch.nn.Linear(2, 2), path),
            "holds pickled Python objects, not only weights",
            "loading it would run code from the file",
        ),
        (
            lambda path: torch.save({"state_dict": {}, "extra": RunsCode()}, path),
            "holds pickled Python objects, not only weights",
            "loading it would run code from the file",
        ),
        (resnet18, "holds weights but no lpx model card", "lpx cannot guess the architecture"),
    ],
    ids=[
        "missing",
        "folder",
        "empty",
        "cut-short",
        "text",
        "list",
        "no-tensors",
        "module",
        "code",
        "no-card",
    ],
)
def test_unusable_file(refused, write, what, why):
    write(Path("ckpt.pt"))
    said = refused("export", "ckpt.pt")
    assert what in said
    assert why in said
    assert "fix: " in said or " must be " in said
    assert not Path("ran").exists()


def test_no_checkpoint(refused):
    assert "lpx export ckpt.pt" in refused("export")


def test_another_architecture_names_the_first_keys_that_do_not_fit(refused, tmp_path):
    resnet18(tmp_path / "ckpt.pt")
    said = refused("export", "ckpt.pt", "--backbone", "mobilenet_v2")
    assert "ckpt.pt: the weights do not fit the model" in said
    assert "missing: backbone.features.0.0.weight, " in said
    assert "unexpected: backbone.conv1.weight, " in said
    assert "--backbone" in said


def test_cut_that_does_not_fit_says_what_is_too_much(refused, tmp_path):
    resnet18(tmp_path / "ckpt.pt")
    said = refused("export", "ckpt.pt", "--backbone", "resnet18", "--cut", "layer2")
    assert "unexpected: backbone.layer3.0.conv1.weight, " in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cut", "stage3"], "--cut without --backbone or --factory"),
        (["--input-size", "128"], "--input-size without --backbone or --factory"),
        (["--backbone", "resnet18"], "brings its own model card"),
        (["--backbone", "nothing"], "brings its own model card"),
        (["--opset", "16"], "lpx exports opsets 17 to 20"),
        (["--opset", "21"], "lpx exports opsets 17 to 20"),
        (["--mean", "0.5,0.5"], "three numbers, as 0.5,0.5,0.5"),
        (["--mean", "a,b,c"], "three numbers, as 0.5,0.5,0.5"),
        (["--mean", "123.7,116.3,103.5"], "divide values for pixels of 0..255 by 255"),
        (["--std", "0,0,0"], "must not be 0"),
        (["--std", "nan,1,1"], "numbers from 0 to 1"),
        (["--channel-order", "GBR"], "'GBR' is not one of"),
        (["--input-size", "0"], "0 is not in the range"),
        (["--weights-key", "ema"], "brings its own model card"),
        (["--fake-class", "0"], "--fake-class without --backbone or --factory"),
        (["--fake-class", "2"], "2 is not in the range"),
        (["--outputs", "logits"], "--outputs without --backbone or --factory"),
        (["--outputs", "logits", "--backbone", "resnet18"], "--outputs without --factory"),
        (["--factory", "nowhere:make"], "ModuleNotFoundError: No module named 'nowhere'"),
        (["--factory", "os:getcwd"], "returned a str"),
        (["--factory", "os:getcwd", "--backbone", "resnet18"], "--backbone with --factory"),
        (["--factory", "os:getcwd", "--cut", "layer1"], "--cut with --factory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_contradict_the_checkpoint(refused, options, said):
    assert said in refused("export", DEMO, *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backbone", "nothing"], "known backbones: xception, resnet18"),
        (["--backbone", "resnet18", "--cut", "x"], "its stages: layer1, layer2"),
        (["--backbone", "resnet18", "--aggregate", "x"], "known aggregates: mean_prob, lse"),
    ],
    ids=lambda value: value[-2] if isinstance(value, list) else "",
)
def test_unknown_names_list_the_known_ones(refused, tmp_path, options, said):
    resnet18(tmp_path / "ckpt.pt")
    assert said in refused("export", "ckpt.pt", *options)


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_workspace_that_cannot_be_made(refused, monkeypatch, place):
    # Root may write anywhere, but not below a file.
    Path("file").write_text("in the way")
    monkeypatch.setattr("lpx.api.export.to_onnx", lambda detector, opset: b"")
    for name in ("verify", "check_card_inside"):
        monkeypatch.setattr(f"lpx.api.export.{name}", lambda *arguments, **options: None)
    said = refused("export", DEMO, "-w", place)
    assert f"{place} cannot be written" in said
    assert "there is a file where a folder is needed" in said
    assert "-w DIR" in said


@pytest.fixture
def wrong_export(built, monkeypatch):
    """The exporter makes a model whose first filter is off by a hundredth."""
    model = onnx.load_model(built.model)
    weights = next(w for w in model.graph.initializer if len(w.dims) == 4)
    values = onnx.numpy_helper.to_array(weights).copy()
    values[0] *= 1.01
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    data = model.SerializeToString()
    monkeypatch.setattr("lpx.api.export.to_onnx", lambda detector, opset: data)


def test_export_that_differs_from_its_checkpoint_is_refused(refused, wrong_export):
    said = refused("export", DEMO)
    assert "the exported model differs from the checkpoint by" in said
    assert "on face test/" in said
    assert "more than float32 rounding" in said
    assert "--tolerance" in said


def test_tolerance_lets_a_known_difference_pass(lpx, refused, wrong_export, tmp_path):
    assert "the exported model differs" in refused("export", DEMO, "--tolerance", "1e-5")
    ran = lpx("export", DEMO, "--tolerance", "0.5", "-w", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    check = json.loads(ran.out)["verification"]
    assert check["tolerance"] == 0.5
    assert check["max_map_difference"] > 1e-4


@pytest.mark.parametrize("value", ["0", "-1", "2", "nan"])
def test_tolerance_that_is_none_is_refused(refused, value):
    assert "--tolerance must be " in refused("export", DEMO, "--tolerance", value)


def test_eight_faces_verify_an_export_unless_more_are_asked_for(lpx, refused, tmp_path):
    assert "--verify-faces must be >= 2 (got 1)" in refused("export", DEMO, "--verify-faces", "1")
    for options, faces in (((), 8), (("--verify-faces", "10"), 10)):
        ran = lpx("export", DEMO, "-w", tmp_path / "out", "--json", *options)
        assert json.loads(ran.out)["verification"]["faces"] == faces
