"""Workspaces with plans, which are text, and repositories made of them."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import pytest

from lpx import TensorRTOptions, Workspace
from lpx.engines.load import GRAPH
from lpx.engines.manifest import read_manifest, write_manifest


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


@pytest.fixture
def add_plan(workspace):
    """Adds a plan to the workspace, see `write_plan`."""

    def add(*names, **options):
        return write_plan(workspace, *names, **options)

    return add


@pytest.fixture
def board(workspace, tmp_path):
    """Makes another workspace of the same model, as of a board: its name, and what it holds."""

    def make(name, **options):
        root = tmp_path / name
        shutil.copytree(workspace.root, root)
        other = Workspace(root)
        for folder in other.engines.iterdir():
            if folder.name.startswith("tensorrt"):
                shutil.rmtree(folder)
        write_plan(other, **options)
        return other

    return make


@pytest.fixture(scope="session")
def packaged(built, tmp_path_factory):
    """A package of three models: of a plan, and of two graphs."""
    root = tmp_path_factory.mktemp("packaged")
    shutil.copytree(built.root, root / "lpx-out")
    work = Workspace(root / "lpx-out")
    write_plan(work)
    return work.package("triton", root / "served").folder


@pytest.fixture
def package(packaged, tmp_path):
    """A copy of that package, to alter."""
    return shutil.copytree(packaged, tmp_path / "a package")
