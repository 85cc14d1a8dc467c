"""`lpx build --target tensorrt` as a user types it, against a fake TensorRT of a Jetson."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorrt_workshop import Workshop, kernels_in

from lpx.api.build import BuildHost
from lpx.engines.manifest import EngineManifest
from lpx.engines.targets import Installed
from lpx.machine.machine import Gpu
from tests.support.machines import BOARD

ORIN = replace(BOARD, gpus=(Gpu("Orin (nvgpu)", "8.7", None, None),))


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """TensorRT 10.3 of an Orin whose plans are built, and not run."""
    shop = Workshop("tensorrt-10.3.0")
    installed = Installed(
        tensorrt=lambda flavour: (True, "tensorrt 10.3.0"),
        open=lambda flavour: shop.library.opened,
    )

    class Orin(BuildHost):
        def can_run(self, manifest: EngineManifest) -> bool:
            return False

    monkeypatch.setattr("lpx.api.build.BuildHost", lambda: Orin(ORIN, installed))
    return shop


Lpx = Callable[..., Any]
BUILD = ("build", "--target", "tensorrt", "--faces", "demo", "--limit", "16")


def test_dla_builds_what_it_takes_unless_told_otherwise(
    lpx: Lpx, workspace: Any, board: Workshop
) -> None:
    ran = lpx(*BUILD, "--dla", "0", "--json")
    assert ran.code == 0, ran.err
    engines = json.loads(ran.out)["engines"]
    assert [engine["name"] for engine in engines] == ["tensorrt-fp16-dla0", "tensorrt-int8-dla0"]
    for engine in engines:
        batches = engine["options"]["tensorrt"]["batches"]
        assert batches == {"minimum": 1, "optimum": 1, "maximum": 1}
        assert engine["options"]["gpu_fallback"] == []


def test_every_build_leaves_kernel_times_that_the_next_one_takes(
    lpx: Lpx, workspace: Any, board: Workshop
) -> None:
    first = lpx(*BUILD, "--fp16", "--json")
    assert first.code == 0, first.err
    (path,) = Path("lpx-out/timing-caches").iterdir()
    assert kernels_in(path.read_bytes()) == ["conv"]
    frozen = lpx(*BUILD, "--fp16", "--frozen-timing-cache", "--json")
    assert frozen.code == 0, frozen.err
    (engine,) = json.loads(frozen.out)["engines"]
    assert engine["options"]["timing_cache"]["used_sha256"]
    path.write_bytes(b"damaged")
    refused = lpx(*BUILD, "--fp16", "--frozen-timing-cache")
    assert refused.code == 2
    assert "Failed to deserialize timing cache" in refused.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--int8", "--dla", "0", "--batch-range", "1:4:8"), "batch sizes 1 to 8 in one profile"),
        (("--fp32", "--dla", "0"), "a DLA core cannot run FP32"),
        (
            ("--int8", "--hardware-compatible"),
            "hardware-compatible plans are not supported on a Jetson",
        ),
        (("--hardware-compatible",), "hardware-compatible plans are not supported on a Jetson"),
    ],
)
def test_what_a_board_cannot_do_is_refused_before_faces_are_calibrated_on(
    lpx: Lpx,
    workspace: Any,
    board: Workshop,
    tree: Any,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    said: str,
) -> None:
    def calibrated(*arguments: Any, **named: Any) -> None:
        raise AssertionError("faces were calibrated on")

    monkeypatch.setattr("lpx.api.build.scales_for", calibrated)
    before = tree(workspace.root)
    ran = lpx(*BUILD, *options)
    assert ran.code == 2
    assert said in ran.err
    assert tree(workspace.root) == before


def test_of_several_precisions_those_that_a_dla_core_takes_are_built(
    lpx: Lpx, workspace: Any, board: Workshop
) -> None:
    ran = lpx(*BUILD, "--fp32", "--fp16", "--dla", "0")
    assert ran.code == 1
    assert "FP32 was not built, FP16 was: a DLA core cannot run FP32" in ran.err


def test_tensorrt_that_cannot_start_cuda_says_why(
    lpx: Lpx, workspace: Any, board: Workshop
) -> None:
    board.cuda = False
    ran = lpx(*BUILD, "--fp16")
    assert ran.code == 2
    assert "CUDA initialization failure with error: 35" in ran.err
    assert "lpx doctor" in ran.err


def test_plan_that_was_built_is_packaged_with_its_options(
    lpx: Lpx, workspace: Any, board: Workshop
) -> None:
    built = lpx(*BUILD, "--int8", "--dla", "0", "--version-compatible", "--json")
    assert built.code == 0, built.err
    ran = lpx("package", "--for", "cpp", "-o", "project", "--json")
    assert ran.code == 0, ran.err
    packaged = json.loads(ran.out)
    assert (packaged["engine"], packaged["plan"]) == ("tensorrt-int8-dla0", True)
    assert packaged["options"] == ["--allow-host-code", "--dla", "0"]
    plan = workspace.engines / "tensorrt-int8-dla0/engine.plan"
    assert Path("project/engine.plan").read_bytes() == plan.read_bytes()
    text = Path("project/README.md").read_text()
    assert "the engine tensorrt-int8-dla0, built by TensorRT 10.3.0 on Orin (nvgpu)." in text


def test_plan_that_was_built_is_packed_with_its_graph_and_cache(
    lpx: Lpx, workspace: Any, board: Workshop
) -> None:
    built = lpx(*BUILD, "--int8", "--dla", "0", "--json")
    assert built.code == 0, built.err
    folder = workspace.engines / "tensorrt-int8-dla0"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert files.keys() == {"manifest.json", "engine.plan", "graph.onnx", "calibration.cache"}
    assert lpx("pack", "-o", "out.lpx").code == 0
    assert lpx("unpack", "out.lpx", "-w", "board").code == 0
    unpacked = Path("board/engines/tensorrt-int8-dla0")
    assert {path.name: path.read_bytes() for path in unpacked.iterdir()} == files
    (folder / "graph.onnx").write_bytes(b"another graph")
    ran = lpx("pack", "-o", "out.lpx")
    assert ran.code == 2
    assert "graph.onnx is not the file that its manifest describes" in ran.err
