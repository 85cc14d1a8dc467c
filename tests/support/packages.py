"""Workspaces for the tests of `lpx package`: TensorRT engines, and faults that are refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from lpx import TensorRTOptions
from lpx.engines.load import GRAPH
from lpx.engines.manifest import read_manifest, write_manifest
from lpx.errors import LpxError


def write_plan(
    workspace, name="tensorrt-fp16", precision="fp16", capability="8.6", release="10.3.0", **changed
):
    """Add a TensorRT engine whose plan is text; returns its manifest.

    Options of TensorRT are in `options`, other keywords change the manifest.
    """
    folder = workspace.engines / name
    folder.mkdir(parents=True)
    model = workspace.engine("onnxruntime-int8" if precision == "int8" else "onnxruntime-fp32")
    graph = (model / "engine.onnx").read_bytes()
    plan = changed.pop("plan", f"plan {name} {capability}".encode())
    options = TensorRTOptions(**changed.pop("options", {}))
    (folder / GRAPH).write_bytes(graph)
    (folder / "engine.plan").write_bytes(plan)
    gpus = [{"name": f"GPU {capability}", "compute_capability": capability}]
    manifest = replace(
        read_manifest(model),
        name=name,
        target="tensorrt",
        precision=precision,
        dialect="strongly-typed",
        file="engine.plan",
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        versions={"tensorrt": release},
        machine={"gpus": gpus},
        options={
            "graph_sha256": hashlib.sha256(graph).hexdigest(),
            "tensorrt": options.to_dict(),
        },
    )
    manifest = replace(manifest, **changed)
    write_manifest(folder, manifest)
    return manifest


def _other_model(workspace):
    folder = workspace.engine("onnxruntime-fp32")
    write_manifest(folder, replace(read_manifest(folder), model_sha256="0" * 64))


def _busy_folder(workspace):
    Path("out").mkdir()
    Path("out/mine").touch()


# Faults that packages of one engine share: what spoils the workspace, arguments, code, and words.
BAD = {
    "no model": (lambda w: w.model.unlink(), {}, "not-found", "holds no exported model"),
    "unknown": (
        lambda w: None,
        {"engine": "tensorrt-int4"},
        "not-found",
        "tensorrt-int4 does not exist",
    ),
    "no name": (lambda w: None, {"engine": 3}, "invalid-argument", "engine must be str"),
    "another model": (
        _other_model,
        {"engine": "onnxruntime-fp32"},
        "invalid-input",
        "was built from another model",
    ),
    "not empty": (_busy_folder, {}, "unwritable", "out is not empty"),
    "file": (lambda w: Path("out").touch(), {}, "unwritable", "out cannot be written"),
}


def check_refusal(workspace, kind, fault, tree):
    """Check that a package of a kind is refused in Python's terms, and leaves nothing."""
    spoil, options, code, message = fault
    spoil(workspace)
    before = tree(".")
    with pytest.raises(LpxError) as caught:
        workspace.package(kind, "out", **options)
    assert caught.value.code == code
    assert message in str(caught.value)
    assert "--" not in caught.value.what
    assert tree(".") == before
