from __future__ import annotations

from dataclasses import replace

import pytest
from tensorrt_fakes import FakeLibrary

from lpx.engines import targets
from lpx.engines.targets import Installed, ResolvedTarget, can_build, can_run, resolve_target
from lpx.errors import InvalidArgumentError, LpxError
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
    options = {"tensorrt": {"compute_capabilities": list(capabilities)}}
    return manifest_for(target, options=options)


def installed(**reasons):
    """Say which libraries are here: all but those that are given a reason why not."""

    def available(name):
        reason = reasons.get(name.replace("-", "_"), "")
        return not reason, reason or f"{name} 10.9"

    def lean(name):
        return (True, reasons["lean"]) if "lean" in reasons else available(name)

    return Installed(available, lean, available, open=LIBRARIES.get)


LIBRARIES = {
    "tensorrt": FakeLibrary("tensorrt-10.3.0").opened,
    "tensorrt-rtx": FakeLibrary("tensorrt-rtx-1.7.1.116").opened,
}
ALL = installed()


def test_auto_is_tensorrt_where_it_can_be_built():
    found = resolve_target("auto", machine("8.9"), ALL)
    assert found == ResolvedTarget("tensorrt", "found tensorrt 10.9", LIBRARIES["tensorrt"])


def test_auto_is_onnxruntime_without_a_gpu_and_says_why():
    found = resolve_target("auto", machine(), ALL)
    assert (found.name, found.library) == ("onnxruntime", None)
    assert "no NVIDIA GPU was found: nvidia-smi not found" in found.reason


def test_auto_is_onnxruntime_without_the_library_and_says_what_to_install():
    found = resolve_target("auto", machine("8.9"), installed(tensorrt=NO_LIBRARY))
    assert found.name == "onnxruntime"
    assert "pip install 'lpx[tensorrt]'" in found.reason


@pytest.mark.parametrize("target", targets.TARGETS)
def test_target_asked_for_is_taken_where_it_can_be_built(target):
    found = resolve_target(target, machine("8.9"), ALL)
    assert (found.name, found.library) == (target, LIBRARIES.get(target))


def test_tensorrt_without_a_gpu_is_refused_with_a_way_out():
    with pytest.raises(LpxError, match="target tensorrt cannot be built on this machine") as caught:
        resolve_target("tensorrt", machine(), ALL)
    assert caught.value.why == "no NVIDIA GPU was found: nvidia-smi not found"
    assert '`target="onnxruntime"`' in caught.value.fix


def test_tensorrt_without_its_library_says_what_to_install():
    with pytest.raises(LpxError) as caught:
        resolve_target("tensorrt", machine("8.9"), installed(tensorrt=NO_LIBRARY))
    assert caught.value.why == NO_LIBRARY


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime-tensorrt-rtx"])
def test_rtx_is_built_without_a_gpu_but_not_run(target):
    assert can_build(target, machine(), ALL)[0]
    assert can_run(manifest(target), machine(), ALL) == (
        False,
        "no NVIDIA GPU was found: nvidia-smi not found",
    )


def test_unknown_target_lists_the_known_ones():
    with pytest.raises(InvalidArgumentError) as caught:
        resolve_target("openvino", machine(), ALL)
    assert caught.value.what == (
        "target must be one of auto, onnxruntime, onnxruntime-cuda, onnxruntime-tensorrt, "
        "onnxruntime-tensorrt-rtx, tensorrt, tensorrt-rtx (got 'openvino')"
    )


def test_onnxruntime_runs_everywhere():
    none = installed(tensorrt="no", tensorrt_rtx="no")
    assert can_build("onnxruntime", machine(), none)[0]
    assert can_run(manifest("onnxruntime"), machine(), none)[0]


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
def test_rtx_engine_runs_on_the_gpus_it_was_built_for(built, here, runs, builder):
    """Which GPU the machine had that built it says nothing: it builds without one."""
    made = replace(
        manifest("tensorrt-rtx", built),
        machine={"gpus": [{"name": "another", "compute_capability": builder}] if builder else []},
    )
    usable, reason = can_run(made, machine(*here), ALL)
    assert usable == runs
    assert "slower" not in reason


@pytest.mark.parametrize(
    ("built", "here", "reason"),
    [
        (
            ("8.9", "8.6"),
            "12.0",
            "built for compute capability 8.6, 8.9, here is 12.0; build it again: `lpx build "
            "--int8 --target tensorrt-rtx` builds for all GPUs of the default set",
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
            "RTX does not support it: build for another target",
        ),
    ],
)
def test_rtx_engine_for_other_gpus_says_how_to_build_it(built, here, reason):
    assert can_run(manifest("tensorrt-rtx", built), machine(here), ALL) == (False, reason)


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
def test_a_graph_is_compiled_for_the_gpu_at_hand(target, capability, runs):
    made = replace(
        manifest(target), machine={"gpus": [{"name": "a GPU", "compute_capability": "8.9"}]}
    )
    usable, reason = can_run(made, machine(capability), ALL)
    assert usable == runs
    if not runs:
        assert f"8.6, 8.9, 12.0 and later in ONNX Runtime, here is {capability}" in reason


@pytest.mark.parametrize(("capability", "runs"), [("8.6", False), ("8.9", True)])
def test_tensorrt_engine_runs_on_the_model_of_gpu_that_built_it(capability, runs):
    made = replace(
        manifest("tensorrt"),
        machine={"gpus": [{"name": "a GPU", "compute_capability": "8.9"}]},
    )
    assert can_run(made, machine(capability), ALL)[0] == runs


def test_engine_does_not_run_without_its_library():
    none = installed(tensorrt=NO_LIBRARY)
    assert can_run(manifest("tensorrt"), machine("8.9"), none) == (False, NO_LIBRARY)


@pytest.mark.parametrize("target", ["onnxruntime-cuda", "onnxruntime-tensorrt"])
def test_gpu_providers_need_a_gpu_and_the_provider(target):
    no_gpu = (False, "no NVIDIA GPU was found: nvidia-smi not found")
    assert can_build(target, machine(), ALL) == no_gpu
    assert not can_run(manifest(target), machine(), ALL)[0]
    none = installed(**{target.replace("-", "_"): "has CPUExecutionProvider"})
    with pytest.raises(LpxError, match=f"target {target} cannot be built") as caught:
        resolve_target(target, machine("8.9"), none)
    assert caught.value.why == "has CPUExecutionProvider"
    assert can_run(manifest(target), machine("8.9"), none) == (False, "has CPUExecutionProvider")


@pytest.mark.parametrize(
    ("compatible", "built", "runs"),
    [(True, "10.3.0", True), (True, "11.4.1", False), (False, "11.4.0.106", False)],
)
def test_the_lean_runtime_runs_version_compatible_plans(compatible, built, runs):
    here = installed(tensorrt=NO_LIBRARY, lean="tensorrt_lean 11.4.0.106")
    plan = replace(
        manifest("tensorrt"),
        versions={"tensorrt": built},
        options={"tensorrt": {"version_compatible": compatible}},
    )
    usable, reason = can_run(plan, machine("8.9"), here)
    assert usable == runs
    assert ("here is 11.4.0.106" in reason) == (compatible and not runs)
    assert (NO_LIBRARY in reason) == (not compatible)
