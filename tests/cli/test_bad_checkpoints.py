"""Errors of `lpx export` about files that it cannot export."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from lpx.data.face_sets.demo import CHECKPOINT, folder
from lpx.models.backbones import build_backbone
from tests.support.networks import network, write_small_checkpoint

DEMO = folder() / CHECKPOINT


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def refused(lpx, tree, tmp_path, monkeypatch):
    """A function that runs a command, checks that it is a user error, and returns the message."""
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
        (["--backbone", "resnet18"], "has a model card of its own"),
        (["--backbone", "nothing"], "has a model card of its own"),
        (["--opset", "16"], "--opset must be one of 17, 18, 19, 20 (got 16)"),
        (["--opset", "21"], "--opset must be one of 17, 18, 19, 20 (got 21)"),
        (["--mean", "0.5,0.5"], "three numbers, such as 0.5,0.5,0.5"),
        (["--mean", "a,b,c"], "three numbers, such as 0.5,0.5,0.5"),
        (["--mean", "123.7,116.3,103.5"], "divide values for 0..255 by 255"),
        (["--std", "0,0,0"], "must not be 0"),
        (["--std", "nan,1,1"], "numbers from 0 to 1"),
        (["--channel-order", "GBR"], "'GBR' is not one of"),
        (["--input-size", "0"], "0 is not in the range"),
        (["--weights-key", "ema"], "has a model card of its own"),
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
        (["--backbone", "nothing"], "--backbone must be one of xception, resnet18"),
        (["--backbone", "resnet18", "--cut", "x"], "--cut must be one of layer1, layer2"),
        (
            ["--backbone", "resnet18", "--aggregate", "x"],
            "--aggregate must be one of mean_prob, lse",
        ),
    ],
    ids=lambda value: value[-2] if isinstance(value, list) else "",
)
def test_unknown_names_list_the_known_ones(refused, tmp_path, options, said):
    resnet18(tmp_path / "ckpt.pt")
    assert said in refused("export", "ckpt.pt", *options)


def test_a_workspace_that_is_another_file(refused):
    Path("file").write_text("in the way")
    write_small_checkpoint(Path("ckpt.pt"))
    said = refused("export", "ckpt.pt", "-w", "file")
    assert "file is a file, and not a bundle" in said


def test_workspace_that_cannot_be_created(refused):
    # Root may write anywhere, but not below a file.
    Path("file").write_text("in the way")
    write_small_checkpoint(Path("ckpt.pt"))
    said = refused("export", "ckpt.pt", "-w", "file/below")
    assert "file/below cannot be written" in said
    assert "there is a file where a folder is needed" in said
    assert "-w DIR" in said


# A model that computes something else when it is traced: its export cannot be right.
CHANGING = network(
    "Changing()",
    """
from torch import nn, onnx, compiler

class Changing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 4, 4)

    def forward(self, x):
        y = self.conv(x)
        return y * 1.01 if onnx.is_in_onnx_export() or compiler.is_compiling() else y
""",
)


@pytest.fixture
def changing(tmp_path):
    """Arguments of `lpx export` for a model whose export differs from it."""
    (tmp_path / "changing_network.py").write_text(CHANGING)
    yield "--factory", "changing_network:make", "--input-size", 16
    sys.modules.pop("changing_network", None)


def test_export_that_differs_from_its_checkpoint_is_refused(refused, changing):
    said = refused("export", *changing)
    assert "the exported model differs from the checkpoint by" in said
    assert "on face test/" in said
    assert "more than float32 rounding" in said
    assert "--tolerance" in said


def test_tolerance_lets_a_known_difference_pass(lpx, refused, changing, tmp_path):
    assert "the exported model differs" in refused("export", *changing, "--tolerance", "1e-5")
    ran = lpx("export", *changing, "--tolerance", "0.5", "-w", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    check = json.loads(ran.out)["verification"]
    assert check["tolerance"] == 0.5
    assert check["max_map_difference"] > 1e-4


@pytest.mark.parametrize("value", ["0", "-1", "2", "nan"])
def test_tolerance_out_of_range_is_refused(refused, value):
    assert "--tolerance must be " in refused("export", DEMO, "--tolerance", value)


def test_eight_faces_verify_an_export_unless_more_are_asked_for(lpx, refused, tmp_path):
    write_small_checkpoint(Path("ckpt.pt"))
    said = refused("export", "ckpt.pt", "--verify-faces", "1")
    assert "--verify-faces must be >= 2 (got 1)" in said
    for options, faces in (((), 8), (("--verify-faces", "10"), 10)):
        ran = lpx("export", "ckpt.pt", "-w", tmp_path / "out", "--json", *options)
        assert json.loads(ran.out)["verification"]["faces"] == faces
