"""A workspace whose model was trained on squares around the face detector's box."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def squares(made_once):
    """The demo's model with the crop recipe "square-1.3", in FP32, FP16 and INT8; read only."""
    import torch

    from lpx import Workspace
    from lpx.data.face_sets.demo import CHECKPOINT, folder

    def fill(made):
        checkpoint = torch.load(folder() / CHECKPOINT, weights_only=True)
        checkpoint["card"]["crop"] = "square-1.3"
        torch.save(checkpoint, made / "ckpt.pt")
        work = Workspace(made / "lpx-out")
        work.export(made / "ckpt.pt", verify_faces=2)
        work.build(("fp32", "fp16", "int8"), target="onnxruntime", faces="demo", limit=8)

    return Workspace(made_once("squares", fill) / "lpx-out")


@pytest.fixture
def workspace(squares, tmp_path, monkeypatch):
    """A copy of `squares`, in `lpx-out` of a new current folder."""
    from lpx import Workspace

    shutil.copytree(squares.root, tmp_path / "lpx-out")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LPX_WORKSPACE", raising=False)
    return Workspace(Path("lpx-out"))
