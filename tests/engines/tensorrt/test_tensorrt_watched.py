"""An engine built again to be watched: the request of its manifest, and real plans."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lpx import Workspace
from lpx.calibration.scales import load_scales
from lpx.engines.build import build_engine
from lpx.engines.manifest import EngineManifest, read_manifest
from lpx.engines.request import BuildRequest
from lpx.engines.targets import ResolvedTarget
from lpx.engines.tensorrt import PlanRequest, build_plan, open_library
from lpx.engines.tensorrt.building import plan as builder
from lpx.engines.tensorrt.library import available
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.layerwise.rebuild import build_watched, watched_request
from lpx.machine.machine import Machine, read_machine

USABLE, REASON = available("tensorrt-rtx")
rtx = pytest.mark.skipif(not USABLE, reason=REASON)
NAMES = ("hardtanh", "add_228")


def engine(
    built: Workspace, request: BuildRequest, folder: Path, caches: Path | None = None
) -> EngineManifest:
    from lpx.artefacts.model import read_exported

    model = read_exported(built)
    scales = load_scales(built.scales, hashlib.sha256(model.data).hexdigest())
    request = replace(request, scales=scales, method=scales.method or "max")
    machine: Machine = read_machine()
    target = ResolvedTarget(request.target, library=open_library("tensorrt-rtx"))
    return build_engine(
        model.data, model.card, request, target, folder, machine, timing_caches=caches
    )


@rtx
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batches": BatchRange(2, 3, 4), "workspace_mib": 64, "optimisation_level": 1},
        {"batches": (8, 1), "compute_capabilities": ("8.6", "8.9")},
        {"batches": (4,)},
    ],
)
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_is_asked_again_and_the_tensors(
    built: Workspace, tmp_path: Path, options: dict[str, Any], precision: Any
) -> None:
    request = BuildRequest("tensorrt-rtx", precision, tensorrt=TensorRTOptions(**options))
    manifest = engine(built, request, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = watched_request(tmp_path, read_manifest(tmp_path), NAMES, tmp_path / "nowhere")
    assert again.onnx_model == (tmp_path / "graph.onnx").read_bytes()
    assert (again.precision, again.watch) == (manifest.precision, NAMES)
    # One static batch is the range of just that batch.
    assert again.options.profiles == request.tensorrt.profiles
    assert replace(again.options, batches=request.tensorrt.batches) == request.tensorrt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("there", [True, False])
def test_the_timing_cache_and_the_calibration_cache_are_taken(
    built: Workspace, tmp_path: Path, there: bool
) -> None:
    graph = (built.engines / "onnxruntime-int8" / "engine.onnx").read_bytes()
    (tmp_path / "graph.onnx").write_bytes(graph)
    (tmp_path / "calibration.cache").write_bytes(b"scales")
    caches = tmp_path / "timing-caches"
    caches.mkdir()
    if there:
        (caches / "a.timing").write_bytes(b"times")
    asked = TensorRTOptions(
        batches=(1, 8),
        workspace_mib=32,
        optimisation_level=4,
        version_compatible=True,
        dla_core=0,
        frozen_timing_cache=True,
        builds=3,
    )
    manifest = EngineManifest(
        name="tensorrt-int8-dla0",
        target="tensorrt",
        precision="int8",
        file="engine.plan",
        dialect="calibration-cache",
        engine_sha256="",
        model_sha256="",
        card={},
        options={
            "tensorrt": asked.to_dict(),
            "timing_cache": {"file": "a.timing"},
            "tf32": False,
        },
    )
    request = watched_request(tmp_path, manifest, NAMES, caches)
    assert request.onnx_model == graph
    assert request.calibration_cache == b"scales"
    assert request.timing_cache == (b"times" if there else None)
    # A watched plan has other layers, and TF32 is as it was used.
    assert request.options == replace(asked, frozen_timing_cache=False, builds=1, tf32=False)
    assert [path.name for path in caches.iterdir()] == ["a.timing"] * there


@rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_layer_of_the_demo_model_is_marked_and_no_fusion_lost(
    built: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    """A real build: the parser keeps the tensors' names, and the plan keeps its layers."""
    from lpx.layerwise.compare import tensors_to_watch

    manifest = engine(built, BuildRequest("tensorrt-rtx", precision), tmp_path)
    model, graph = built.model.read_bytes(), (tmp_path / "graph.onnx").read_bytes()
    names = tensors_to_watch(graph, model)
    marked: set[str] = set()
    mark = builder.watch_tensors

    def noting(network: Any, capabilities: Any, watch: Any) -> None:
        mark(network, capabilities, watch)
        for index in range(network.num_layers):
            layer = network.get_layer(index)
            tensors = [layer.get_output(output) for output in range(layer.num_outputs)]
            marked.update(t.name for t in tensors if network.is_debug_tensor(t))

    monkeypatch.setattr(builder, "watch_tensors", noting)
    plan = build_watched(tmp_path, manifest, names, tmp_path / "nowhere")
    outputs = {"score", "patch_map"}
    assert marked | outputs == {*names} | outputs
    assert len(marked) > 20
    unwatched = build_plan(PlanRequest(graph, precision), open_library("tensorrt-rtx"))
    assert plan.layers is not None
    assert unwatched.layers is not None
    assert len(plan.layers.rows) == len(unwatched.layers.rows)
    assert plan.layers.count_convolutions() == unwatched.layers.count_convolutions()
    assert plan.data != unwatched.data


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_debug_looks_inside_on_a_gpu(
    request: pytest.FixtureRequest, tmp_path: Path, flavour: Any, precision: Any
) -> None:
    """The whole: build, build again watched, run both, compare with ONNX Runtime."""
    import shutil

    from lpx.engines.targets import can_run

    machine = read_machine()
    usable, reason = available(flavour)
    if not machine.gpus or not usable:
        pytest.skip(reason if machine.gpus else machine.no_gpu_reason)
    if flavour == "tensorrt-rtx" and machine.gpus[0].compute_capability not in RTX_GPUS:
        pytest.skip("TensorRT for RTX does not run on this GPU")
    built: Workspace = request.getfixturevalue("built")  # not for a test that is skipped
    shutil.copytree(built.root, tmp_path / "lpx-out")
    workspace = Workspace(tmp_path / "lpx-out")
    (manifest,) = workspace.build((precision,), target=flavour, faces="demo", limit=16)
    assert can_run(manifest, machine)[0]
    done = workspace.debug(manifest.name, limit=8, runtime="tensorrt")
    assert done.runtime == "tensorrt"
    found = done.comparison
    assert len(found.layers) > 10, "most tensors come out"
    assert done.verdict.first is None, done.notes
    for error in found.layers:
        assert error.runtime is not None
        assert error.runtime.relative <= done.tolerance
    # It ran for real: no other library rounds to the last bit as TensorRT does.
    assert any(e.runtime and e.runtime.relative > 0 for e in found.layers)
    assert found.watched.score_difference < 0.05
    assert np.isfinite(found.score_max)


RTX_GPUS = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
