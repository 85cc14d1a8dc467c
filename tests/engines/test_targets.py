from __future__ import annotations

from dataclasses import replace

import pytest

from lpx.engines import targets
from lpx.engines.targets import can_build, can_run, choose
from lpx.errors import LpxError
from lpx.machine.machine import Gpu
from tests.support.machines import PC, manifest_for

NO_LIBRARY = "tensorrt: No module named 'tensorrt'; pip install 'lpx[tensorrt]'"


def machine(*capabilities):
    return replace(
        PC,
        gpus=tuple(Gpu("a GPU", capability, 8192, "580") for capability in capabilities),
        no_gpu_reason="" if capabilities else "nvidia-smi not found",
    )


def manifest(target, capabilities=()):
    return manifest_for(target, compute_capabilities=capabilities)


@pytest.fixture
def libraries(monkeypatch):
    """Says which TensorRT flavours import here, whatever is installed."""

    def here(**reasons):
        def available(flavour):
            reason = reasons.get(flavour.replace("-", "_"), "")
            return not reason, reason or f"{flavour} 10.9"

        monkeypatch.setattr(targets, "available", available)
        monkeypatch.setattr(targets, "provider_available", available)

    here()
    return here


def test_auto_is_tensorrt_where_it_can_be_built(libraries):
    assert choose("auto", machine("8.9")) == ("tensorrt", "found tensorrt 10.9")


def test_auto_is_onnxruntime_without_a_gpu_and_says_why(libraries):
    target, reason = choose("auto", machine())
    assert target == "onnxruntime"
    assert "no NVIDIA GPU is seen: nvidia-smi not found" in reason


def test_auto_is_onnxruntime_without_the_library_and_says_what_to_install(libraries):
    libraries(tensorrt=NO_LIBRARY)
    target, reason = choose("auto", machine("8.9"))
    assert target == "onnxruntime"
    assert "pip install 'lpx[tensorrt]'" in reason


@pytest.mark.parametrize("target", targets.TARGETS)
def test_target_asked_for_is_taken_where_it_can_be_built(libraries, target):
    assert choose(target, machine("8.9"))[0] == target


def test_tensorrt_without_a_gpu_is_refused_with_a_way_out(libraries):
    with pytest.raises(LpxError, match="target tensorrt cannot be built on this machine") as caught:
        choose("tensorrt", machine())
    assert caught.value.why == "no NVIDIA GPU is seen: nvidia-smi not found"
    assert "--target onnxruntime" in caught.value.fix


def test_tensorrt_without_its_library_says_what_to_install(libraries):
    libraries(tensorrt=NO_LIBRARY)
    with pytest.raises(LpxError) as caught:
        choose("tensorrt", machine("8.9"))
    assert caught.value.why == NO_LIBRARY


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime-tensorrt-rtx"])
def test_rtx_is_built_without_a_gpu_but_not_run(libraries, target):
    assert can_build(target, machine())[0]
    assert can_run(manifest(target), machine()) == (
        False,
        "no NVIDIA GPU is seen: nvidia-smi not found",
    )


def test_unknown_target_lists_the_known_ones(libraries):
    with pytest.raises(LpxError, match="unknown target 'openvino'") as caught:
        choose("openvino", machine())
    assert caught.value.why == (
        "known targets: auto, onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, "
        "onnxruntime-tensorrt-rtx, tensorrt, tensorrt-rtx"
    )


def test_onnxruntime_runs_everywhere(libraries):
    libraries(tensorrt="no", tensorrt_rtx="no")
    assert can_build("onnxruntime", machine())[0]
    assert can_run(manifest("onnxruntime"), machine())[0]


@pytest.mark.parametrize(
    ("built", "here", "runs"),
    [
        # The default set: 8.0, 8.6, 8.9, and 12.0 and later.
        ((), ["8.9"], True),
        ((), ["12.0"], True),
        ((), ["12.1"], True),
        ((), ["13.0"], True),
        ((), ["7.5"], False),
        ((), ["8.7"], False),
        ((), ["9.0"], False),
        ((), ["10.0"], False),
        ((), ["9.0", "8.6"], True),
        (("8.6", "8.9"), ["8.9"], True),
        (("8.6", "8.9"), ["12.0"], False),
        (("8.6",), ["12.0", "8.6"], True),
        (("7.5",), ["7.5"], True),
        (("8.6",), [None], True),  # a GPU whose capability nothing says: let the library decide
        ((), [None], True),
    ],
)
@pytest.mark.parametrize("builder", ["7.5", "9.0", "12.0", None])
def test_rtx_engine_runs_on_the_gpus_it_was_built_for(libraries, built, here, runs, builder):
    """Which GPU the machine had that built it says nothing: it builds without one."""
    made = replace(
        manifest("tensorrt-rtx", built),
        machine={"gpus": [{"name": "another", "compute_capability": builder}] if builder else []},
    )
    usable, reason = can_run(made, machine(*here))
    assert usable == runs
    assert "slower" not in reason


@pytest.mark.parametrize(
    ("built", "here", "reason"),
    [
        (
            ("8.9", "8.6"),
            "12.0",
            "built for compute capability 8.6, 8.9, here is 12.0; build it again: `lpx build "
            "--int8 --target tensorrt-rtx` builds for all of the default set",
        ),
        (
            (),
            "7.5",
            "built for compute capability 8.0, 8.6, 8.9, 12.0 and later, here is 7.5; build it "
            "again: `lpx build --int8 --target tensorrt-rtx --compute-capability 7.5`",
        ),
        (
            (),
            "9.0",
            "built for compute capability 8.0, 8.6, 8.9, 12.0 and later, here is 9.0; TensorRT for "
            "RTX does not serve it: build for another --target",
        ),
    ],
)
def test_rtx_engine_for_other_gpus_says_how_to_build_it(libraries, built, here, reason):
    assert can_run(manifest("tensorrt-rtx", built), machine(here)) == (False, reason)


@pytest.mark.parametrize(
    ("target", "capability", "runs"),
    [
        ("onnxruntime-cuda", "8.6", True),
        ("onnxruntime-tensorrt", "8.6", True),
        ("onnxruntime-tensorrt-rtx", "8.6", True),
        ("onnxruntime-tensorrt-rtx", "12.1", True),
        ("onnxruntime-tensorrt-rtx", "8.0", False),
        ("onnxruntime-tensorrt-rtx", "9.0", False),
        ("onnxruntime-tensorrt-rtx", None, True),
    ],
)
def test_a_graph_is_compiled_for_the_gpu_at_hand(libraries, target, capability, runs):
    made = replace(
        manifest(target), machine={"gpus": [{"name": "a GPU", "compute_capability": "8.9"}]}
    )
    usable, reason = can_run(made, machine(capability))
    assert usable == runs
    if not runs:
        assert f"8.6, 8.9, 12.0 and later through ONNX Runtime, here is {capability}" in reason


@pytest.mark.parametrize(("capability", "runs"), [("8.6", False), ("8.9", True)])
def test_tensorrt_engine_runs_on_the_model_of_gpu_that_built_it(libraries, capability, runs):
    made = replace(
        manifest("tensorrt"),
        machine={"gpus": [{"name": "a GPU", "compute_capability": "8.9"}]},
    )
    assert can_run(made, machine(capability))[0] == runs


def test_engine_does_not_run_without_its_library(libraries):
    libraries(tensorrt=NO_LIBRARY)
    assert can_run(manifest("tensorrt"), machine("8.9")) == (False, NO_LIBRARY)


@pytest.mark.parametrize("target", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_gpu_providers_need_a_gpu_and_the_provider(libraries, target):
    assert can_build(target, machine()) == (False, "no NVIDIA GPU is seen: nvidia-smi not found")
    assert not can_run(manifest(target), machine())[0]
    libraries(**{target.replace("-", "_"): "has CPUExecutionProvider"})
    with pytest.raises(LpxError, match=f"target {target} cannot be built") as caught:
        choose(target, machine("8.9"))
    assert caught.value.why == "has CPUExecutionProvider"
    assert can_run(manifest(target), machine("8.9")) == (False, "has CPUExecutionProvider")


@pytest.mark.parametrize(
    ("compatible", "built", "runs"),
    [(True, "10.3.0", True), (True, "11.4.1", False), (False, "11.4.0.106", False)],
)
def test_the_lean_runtime_runs_version_compatible_plans(
    libraries, monkeypatch, compatible, built, runs
):
    libraries(tensorrt=NO_LIBRARY)
    monkeypatch.setattr(
        targets, "runtime_available", lambda flavour: (True, "tensorrt_lean 11.4.0.106")
    )
    plan = replace(
        manifest("tensorrt"),
        versions={"tensorrt": built},
        options={"version_compatible": compatible},
    )
    usable, reason = can_run(plan, machine("8.9"))
    assert usable == runs
    assert ("here is 11.4.0.106" in reason) == (compatible and not runs)
    assert (NO_LIBRARY in reason) == (not compatible)
