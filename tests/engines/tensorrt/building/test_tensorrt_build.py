"""What build_plan asks of each release, against fakes that have that release's names only."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from tensorrt_fakes import FakeLibrary, Spy
from tensorrt_surfaces import RELEASES
from tensorrt_workshop import MIB, NO_CUDA, Workshop, cache_of, kernels_in

from lpx.engines.tensorrt.capabilities import capabilities_of
from lpx.engines.tensorrt.logger import recording
from lpx.engines.tensorrt.slot import create_context
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import LpxError
from lpx.interrupts import Interrupted, handled

DLA_RELEASES = ["tensorrt-8.6.1", "tensorrt-10.3.0", "tensorrt-10.7.0"]
STRONG = [r for r in RELEASES if r != "tensorrt-8.6.1"]


@pytest.fixture
def workshop() -> Callable[..., Workshop]:
    return Workshop


Make = Callable[..., Workshop]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_release_builds_with_its_own_names(
    workshop: Make, release: str, precision: str
) -> None:
    shop = workshop(release, precision)
    plan = shop.build(workspace_mib=256, optimisation_level=4, timing_cache=cache_of("old"))
    assert plan.data == b"plan"
    assert (plan.flavour, plan.version) == (shop.flavour, shop.library.__version__)
    assert plan.layers is not None
    assert set(plan.layers.count_convolutions()) == {precision}
    if "rtx" in release:
        assert plan.timing_cache is None
    else:
        assert kernels_in(plan.timing_cache) == ["old", "conv"]
    assert shop.set("builder_optimization_level") == [4]
    assert shop.set("profiling_verbosity") == [shop.library.ProfilingVerbosity.DETAILED]
    assert shop.library.named("IBuilderConfig.set_memory_pool_limit")[0][2] == 256 * MIB


@pytest.mark.parametrize("release", STRONG)
def test_strongly_typed_releases_get_no_precision_flags(workshop: Make, release: str) -> None:
    shop = workshop(release, "int8")
    shop.build()
    assert "STRONGLY_TYPED" in shop.network_flags()
    assert shop.flags() == set()


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", set()), ("fp16", {"FP16"}), ("int8", {"FP16", "INT8"})]
)
def test_8_6_gets_explicit_batch_and_precision_flags(
    workshop: Make, precision: str, flags: set[str]
) -> None:
    shop = workshop("tensorrt-8.6.1", precision)
    shop.build()
    assert shop.network_flags() == {"EXPLICIT_BATCH"}
    assert shop.flags() == flags


def test_a_range_is_one_profile(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.build(batches=BatchRange(1, 4, 8))
    assert shop.profiles() == [("faces", (1, 8, 8, 3), (4, 8, 8, 3), (8, 8, 8, 3))]


def test_static_batches_are_a_profile_each(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.build(batches=(8, 1, 8))
    assert shop.profiles() == [
        ("faces", *[(1, 8, 8, 3)] * 3),
        ("faces", *[(8, 8, 8, 3)] * 3),
    ]
    assert len(shop.library.named("IBuilderConfig.add_optimization_profile")) == 2


def test_a_profile_that_tensorrt_refuses_is_an_error(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.refuses_shapes = True
    with pytest.raises(LpxError, match="refused batch sizes") as caught:
        shop.build()
    assert caught.value.why == "Shape provided for min is inconsistent with other shapes."
    shop.refuses_shapes, shop.refuses_profiles = False, True
    with pytest.raises(LpxError, match="refused batch sizes"):
        shop.build()


def test_a_build_that_fails_with_a_warning_alone_gives_it_as_the_reason(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.outcomes = [lambda made: made.say("WARNING", "the model is too deep")]
    with pytest.raises(LpxError, match="did not build") as caught:
        shop.build()
    assert caught.value.why == "the model is too deep"


@pytest.mark.parametrize(
    ("said", "advised"),
    [
        # As TensorRT 8 and 11 have it.
        (
            "Could not find any implementation for node conv due to insufficient workspace.",
            "larger",
        ),
        ("Try increasing the workspace size with IBuilderConfig::setMemoryPoolLimit().", "larger"),
        ("CUDA driver version is insufficient for CUDA runtime version", "lpx doctor"),
    ],
)
def test_a_build_that_fails_for_a_known_reason_says_what_to_do(
    workshop: Make, said: str, advised: str
) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.outcomes = [lambda made: made.say("ERROR", said)]
    with pytest.raises(LpxError, match="did not build") as caught:
        shop.build()
    assert advised in caught.value.fix


def test_a_fixed_batch_takes_no_profile_and_no_other_batch(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.shape = (4, 8, 8, 3)
    shop.build(batches=(4,))
    assert shop.profiles() == []
    with pytest.raises(LpxError, match="fixed batch of 4"):
        shop.build(batches=(1, 4))


def test_only_the_batch_may_be_dynamic(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.shape = (-1, -1, 8, 3)
    with pytest.raises(LpxError, match="has shape"):
        shop.build()


def test_an_input_that_is_not_there_is_named_with_those_that_are(workshop: Make) -> None:
    with pytest.raises(LpxError, match="no input 'images'") as caught:
        workshop("tensorrt-10.3.0").build(input_name="images")
    assert "'faces'" in caught.value.why


def test_a_parse_error_names_the_node_and_the_message(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.errors = [
        Spy(
            "ParserError",
            shop.library,
            node_name=lambda: "conv_7",
            node_operator=lambda: "Conv",
            desc=lambda: "input is of type Half but bias is of type Float\n[catchCudaError] noise",
        )
    ] * 2
    with pytest.raises(LpxError) as caught:
        shop.build()
    assert caught.value.what == "TensorRT refused node 'conv_7' (Conv) (and 1 more nodes)"
    assert caught.value.why == "input is of type Half but bias is of type Float"


def test_8_6_names_no_node_so_the_model_is_asked(workshop: Make) -> None:
    from onnx import parser

    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Exp (x) }'
    )
    model.graph.node[0].name = "exp_0"
    shop = workshop("tensorrt-8.6.1")
    answers = {"node": lambda: 0, "desc": lambda: "no"}
    shop.errors = [Spy("ParserError", shop.library, **answers)]
    shop.model = b"onnx"
    with pytest.raises(LpxError, match="node 0"):
        shop.build()
    shop.model = model.SerializeToString()
    with pytest.raises(LpxError, match=r"node 'exp_0' \(Exp\)"):
        shop.build()


def out_of_memory(shop: Workshop) -> None:
    shop.say("WARNING", "Skipping tactic due to insufficient memory on requested size of 9")


def broken(shop: Workshop) -> None:
    shop.say("ERROR", "Could not find any implementation for node conv")


def test_out_of_memory_halves_the_workspace_and_lowers_the_level(workshop: Make) -> None:
    shop = workshop("tensorrt-10.7.0")
    shop.outcomes = [out_of_memory, out_of_memory]
    plan = shop.build(workspace_mib=256, optimisation_level=3)
    limits = shop.library.named("IBuilderConfig.set_memory_pool_limit")
    assert [limit[2] // MIB for limit in limits] == [256, 128, 64]
    assert shop.set("builder_optimization_level") == [3, 2, 1]
    assert plan.log == (
        "warning: Skipping tactic due to insufficient memory on requested size of 9 (2 times)",
        "note: out of memory with a workspace of 256 MiB and optimisation level 3; "
        "trying a workspace of 128 MiB and optimisation level 2",
        "note: out of memory with a workspace of 128 MiB and optimisation level 2; "
        "trying a workspace of 64 MiB and optimisation level 1",
    )


def test_the_ladder_starts_from_the_defaults_of_the_library(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.outcomes = [out_of_memory]
    shop.build()
    assert shop.library.named("IBuilderConfig.set_memory_pool_limit")[0][2] == 32 * MIB
    assert shop.set("builder_optimization_level") == [2]


def test_the_ladder_ends(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.outcomes = [out_of_memory] * 9
    with pytest.raises(LpxError, match="ran out of memory, last with a workspace of 4 MiB"):
        shop.build()
    assert len(shop.outcomes) == 4


def test_another_failure_is_not_tried_again(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.outcomes = [broken, broken]
    with pytest.raises(LpxError, match="did not build") as caught:
        shop.build()
    assert caught.value.why == "Could not find any implementation for node conv"
    assert len(shop.outcomes) == 1


def test_a_plan_of_another_precision_is_an_error(workshop: Make) -> None:
    with pytest.raises(LpxError, match="INT8 was requested, but the plan computes in FP16"):
        workshop("tensorrt-11.4.0.106", "fp16").build(precision="int8")


def test_a_plan_that_does_not_load_here_is_kept_unverified(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.loads = False
    plan = shop.build()
    assert plan.layers is None
    assert "not verified" in plan.log[-1]


def test_a_known_bad_release_is_noted(workshop: Make) -> None:
    plan = workshop("tensorrt-10.13.3.9").build()
    assert plan.log[0].startswith("note: known-bad release: TensorRT 10.13.3.9")


KEEPS_TIMES = [r for r in RELEASES if "rtx" not in r]


@pytest.mark.parametrize("release", KEEPS_TIMES)
def test_the_first_build_leaves_a_timing_cache_and_the_next_takes_it(
    workshop: Make, release: str
) -> None:
    shop = workshop(release)
    first = shop.build()
    assert kernels_in(first.timing_cache) == ["conv"]
    assert not first.timing_cache_used
    shop.kernels = ["conv", "another"]
    second = shop.build(timing_cache=first.timing_cache)
    assert kernels_in(second.timing_cache) == ["conv", "another"]
    assert second.timing_cache_used
    assert not any("timing cache" in line for line in (*first.log, *second.log))


@pytest.mark.parametrize("release", KEEPS_TIMES)
@pytest.mark.parametrize(
    "useless",
    [cache_of("conv", device="another GPU"), b"garbage", b"{}", b"[1]", cache_of("conv")[:-9]],
)
def test_a_timing_cache_that_tensorrt_does_not_take_is_replaced(
    workshop: Make, release: str, useless: bytes
) -> None:
    plan = workshop(release).build(timing_cache=useless)
    assert kernels_in(plan.timing_cache) == ["conv"]
    assert not plan.timing_cache_used
    note = (
        "note: the timing cache is damaged or belongs to another GPU: all kernels are timed again"
    )
    assert note in plan.log


@pytest.mark.parametrize("release", [r for r in KEEPS_TIMES if r != "tensorrt-8.6.1"])
@pytest.mark.parametrize(
    ("useless", "why"),
    [
        (cache_of("conv", device="another GPU"), "it belongs to another GPU"),
        (b"garbage", "Failed to deserialize timing cache"),
        (b"", "it is empty"),
        (None, "it is empty"),
    ],
)
def test_a_frozen_timing_cache_that_is_not_taken_is_an_error(
    workshop: Make, release: str, useless: bytes | None, why: str
) -> None:
    with pytest.raises(LpxError, match="does not use the timing cache") as caught:
        workshop(release).build(timing_cache=useless, frozen_timing_cache=True)
    assert why in caught.value.why
    assert "without `frozen_timing_cache`" in caught.value.fix


def test_a_kernel_that_a_frozen_timing_cache_lacks_is_an_error(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    assert shop.build(timing_cache=cache_of("conv"), frozen_timing_cache=True).timing_cache_used
    shop.kernels = ["conv", "another"]
    with pytest.raises(LpxError, match="did not build") as caught:
        shop.build(timing_cache=cache_of("conv"), frozen_timing_cache=True)
    assert "Adding new entry to timing cache is not allowed" in caught.value.why
    assert "without `frozen_timing_cache`" in caught.value.fix


def test_a_library_that_makes_no_timing_cache_still_builds(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.makes_caches = False
    plan = shop.build(timing_cache=cache_of("conv"))
    assert (plan.data, plan.timing_cache, plan.timing_cache_used) == (b"plan", None, False)
    assert any("accepts no timing cache" in line for line in plan.log)


def test_a_release_without_progress_builds_in_silence(workshop: Make) -> None:
    steps: list[Any] = []
    workshop("tensorrt-8.6.1").build(progress=lambda *step: steps.append(step))
    assert steps == []


def test_progress_comes_through_the_monitor(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")

    def build(made: Workshop) -> bytes:
        monitor = made.configs[-1].progress_monitor
        monitor.phase_start("tactics", None, 2)
        assert monitor.step_complete("tactics", 0)
        monitor.phase_finish("tactics")
        return b"plan"

    shop.outcomes = [build]
    steps: list[Any] = []
    shop.build(progress=lambda *step: steps.append(step))
    assert steps == [("tactics", 0, 2), ("tactics", 1, 2), ("tactics", 2, 2)]


@pytest.mark.parametrize("release", RELEASES)
def test_a_signal_waits_until_tensorrt_has_returned(workshop: Make, release: str) -> None:
    """Raised in a callback it would be printed and lost: seen with TensorRT 8.6 on an H200."""
    shop = workshop(release)
    stopped: list[bool] = []

    def build(made: Workshop) -> bytes | None:
        os.kill(os.getpid(), signal.SIGTERM)
        # Handlers run between two instructions of Python: were it raised, it would be in here.
        for _ in range(100):
            made.say("WARNING", "a kernel takes long")
        if made.library.opened.capabilities.progress_monitor:
            stopped.append(not made.configs[-1].progress_monitor.step_complete("tactics", 0))
            return None
        stopped.append(True)
        return b"plan"

    shop.outcomes = [build]
    with handled(), pytest.raises(Interrupted):
        shop.build()
    assert stopped == [True]


@pytest.mark.parametrize("struck", ["progress", "logger"])
def test_an_interrupt_in_a_callback_cancels_the_build_and_comes_out(
    workshop: Make, monkeypatch: pytest.MonkeyPatch, struck: str
) -> None:
    shop = workshop("tensorrt-10.3.0")

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def build(made: Workshop) -> bytes | None:
        if struck == "logger":
            monkeypatch.setattr("lpx.engines.tensorrt.logger._keep", interrupt)
            made.say("VERBOSE", "anything")
        goes_on = made.configs[-1].progress_monitor.step_complete("tactics", 0)
        return b"plan" if goes_on else None

    shop.outcomes = [build]
    with pytest.raises(KeyboardInterrupt):
        shop.build(progress=interrupt if struck == "progress" else None)


@pytest.mark.parametrize("release", RELEASES)
def test_a_builder_that_does_not_start_says_why(workshop: Make, release: str) -> None:
    shop = workshop(release)
    shop.cuda = False
    with pytest.raises(LpxError, match="did not start") as caught:
        shop.build()
    assert caught.value.why == NO_CUDA
    assert "lpx doctor" in caught.value.fix


def test_a_builder_that_does_not_start_and_says_nothing(workshop: Make) -> None:
    shop = workshop("tensorrt-10.13.3.9")  # lpx notes that the release is known to be bad
    shop.library.Builder = lambda logger: shop.no_object()
    with pytest.raises(LpxError, match="did not start") as caught:
        shop.build()
    assert caught.value.why == "pybind11::init(): factory function returned nullptr"


def test_a_builder_that_logs_an_error_is_not_touched(workshop: Make) -> None:
    """Where bindings give an object without anything in it, each use ends the process."""
    shop = workshop("tensorrt-11.4.0.106")
    released: list[Any] = []

    class Broken:
        def __getattr__(self, name: str) -> None:
            pytest.fail(f"{name} would be a segmentation fault")

        def __del__(self) -> None:
            released.append(self)

    def builder(logger: Any) -> Broken:
        logger.log(shop.library.ILogger.ERROR, f"createInferBuilder: {NO_CUDA}")
        return Broken()

    shop.library.Builder = builder
    with pytest.raises(LpxError, match="did not start") as caught:
        shop.build()
    assert NO_CUDA in caught.value.why
    del caught
    gc.collect()
    assert released == []


@pytest.mark.parametrize("release", KEEPS_TIMES)
def test_a_runtime_that_does_not_start_leaves_the_plan_unverified(
    workshop: Make, release: str
) -> None:
    shop = workshop(release)

    def lose_cuda(made: Workshop) -> bytes:
        made.cuda = False
        return b"plan"

    shop.outcomes = [lose_cuda]
    plan = shop.build()
    assert (plan.data, plan.layers) == (b"plan", None)
    assert "not verified" in plan.log[-1]
    assert NO_CUDA in plan.log[-1]


@pytest.mark.parametrize("release", RELEASES)
def test_contexts_mark_no_layers_for_profilers(release: str) -> None:
    library = FakeLibrary(release)
    engine = Spy(
        "ICudaEngine",
        library,
        create_execution_context=lambda *options: Spy("IExecutionContext", library),
        create_runtime_config=lambda: Spy("IRuntimeConfig", library),
    )
    flavour = "tensorrt-rtx" if "rtx" in release else "tensorrt"
    created = create_context(library, capabilities_of(library, flavour), engine, graphs=True)
    assert created.context.nvtx_verbosity is library.ProfilingVerbosity.NONE


@pytest.mark.parametrize("release", KEEPS_TIMES)
def test_a_plan_without_memory_for_a_context_is_an_error(workshop: Make, release: str) -> None:
    shop = workshop(release)
    shop.memory = False
    with pytest.raises(LpxError, match="no execution context") as caught:
        shop.build()
    assert "memory" in caught.value.why


def test_reach_is_asked_of_releases_that_have_it(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0")
    shop.build(version_compatible=True, hardware_compatible=True)
    assert shop.flags() == {"VERSION_COMPATIBLE"}
    (level,) = shop.set("hardware_compatibility_level")
    assert level.name == "AMPERE_PLUS"
    assert ("Runtime.engine_host_code_allowed =", True) in shop.library.calls


@pytest.mark.parametrize("release", ["tensorrt-8.6.1", "tensorrt-10.3.0", "tensorrt-10.7.0"])
def test_dla_takes_a_weakly_typed_network_up_to_10_7(workshop: Make, release: str) -> None:
    shop = workshop(release, "int8")
    shop.build(dla_core=1, batches=(1,), calibration_cache=b"TRT\nfaces: 3c010a14\n")
    assert "STRONGLY_TYPED" not in shop.network_flags()
    assert shop.flags() == {"FP16", "INT8", "GPU_FALLBACK"}
    assert shop.set("DLA_core") == [1]
    assert shop.set("default_device_type") == [shop.library.DeviceType.DLA]
    (calibrator,) = shop.set("int8_calibrator")
    assert calibrator.read_calibration_cache() == b"TRT\nfaces: 3c010a14\n"
    assert (calibrator.get_batch_size(), calibrator.get_batch(["faces"])) == (1, None)


def test_a_dla_core_that_is_not_there_is_an_error(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0", "int8")
    shop.dla_cores = 0
    with pytest.raises(LpxError, match="DLA core 0") as caught:
        shop.build(dla_core=0, batches=(1,))
    assert "0 DLA cores" in caught.value.why


@pytest.mark.parametrize("release", DLA_RELEASES)
@pytest.mark.parametrize(
    ("batches", "named"),
    [
        (BatchRange(1, 8, 32), "`batches=(1, 8)`"),
        (BatchRange(1, 1, 4), "`batches=(1,)`"),
        (BatchRange(2, 4, 4), "`batches=(2, 4)`"),
    ],
)
def test_a_range_of_batches_on_a_dla_core_is_refused(
    workshop: Make, release: str, batches: BatchRange, named: str
) -> None:
    shop = workshop(release, "int8")
    with pytest.raises(LpxError, match="for DLA core 0") as caught:
        shop.build(dla_core=0, batches=batches)
    assert "all layers on the GPU" in caught.value.why
    assert caught.value.fix.endswith(named)
    assert shop.library.calls == []


@pytest.mark.parametrize("release", DLA_RELEASES)
@pytest.mark.parametrize("batches", [(1,), (1, 8), BatchRange(4, 4, 4)])
def test_static_batches_run_on_a_dla_core(workshop: Make, release: str, batches: Any) -> None:
    plan = workshop(release, "int8").build(dla_core=0, batches=batches)
    assert plan.layers is not None
    assert [row.dla for row in plan.layers.rows] == [True]


def test_a_profile_that_leaves_the_dla_core_nothing_is_an_error(workshop: Make) -> None:
    shop = workshop("tensorrt-10.3.0", "int8")
    second = {"Name": "conv [profile 1]", "LayerType": "CaskConvolution", "Inputs": []}
    shop.layers = [second]
    with pytest.raises(LpxError, match="all of profile 1 runs on the GPU") as caught:
        shop.build(dla_core=0, batches=(1, 8))
    assert "conv [profile 1]" in caught.value.why
    shop.layers = [second, {"Name": "{ForeignNode[a...b]} [profile 1]", "LayerType": "DLA"}]
    assert shop.build(dla_core=0, batches=(1, 8)).layers is not None


def test_a_batch_that_a_dla_core_does_not_take_is_refused(workshop: Make) -> None:
    with pytest.raises(LpxError, match="batch 5000 is too large for DLA core 0") as caught:
        workshop("tensorrt-10.3.0").build(dla_core=0, batches=(1, 5000))
    assert "largest batch is 4096" in caught.value.why


@pytest.mark.parametrize("release", RELEASES)
def test_tf32_is_on_unless_it_is_switched_off(workshop: Make, release: str) -> None:
    for asked, flags in ((True, {"TF32"}), (False, set())):
        shop = workshop(release, "fp32")
        shop.build(tf32=asked)
        assert shop.configurations[-1].flags & {"TF32"} == flags


RTX = "tensorrt-rtx-1.7.1.116"


def test_rtx_is_told_its_gpus(workshop: Make) -> None:
    shop = workshop(RTX)
    shop.build(compute_capabilities=("8.9", "12.0"))
    assert shop.set("num_compute_capabilities") == [2]
    chosen = shop.library.named("IBuilderConfig.set_compute_capability")
    assert [(call[1].name, call[2]) for call in chosen] == [("SM89", 0), ("SM120", 1)]


def test_a_gpu_that_cannot_be_set_is_an_error(workshop: Make) -> None:
    shop = workshop(RTX)
    shop.refused_gpus = {"SM120"}
    with pytest.raises(LpxError, match=r"does not build for compute capability 12\.0"):
        shop.build(compute_capabilities=("8.9", "12.0"))


def test_an_unknown_gpu_is_an_error_with_the_known_ones(workshop: Make) -> None:
    with pytest.raises(LpxError, match=r"compute capability 9\.0") as caught:
        workshop(RTX).build(compute_capabilities=("8.9", "9.0"))
    assert "7.5, 8.0, 8.6, 8.9, 12.0, 12.1" in caught.value.why


@pytest.mark.parametrize(
    ("release", "options", "what"),
    [
        (
            "tensorrt-10.3.0",
            {"compute_capabilities": ("8.9",)},
            "cannot build for compute capability 8.9",
        ),
        (RTX, {"version_compatible": True}, "no version-compatible plans"),
        (RTX, {"hardware_compatible": True}, "no hardware-compatible plans"),
        (RTX, {"dla_core": 0}, "DLA core 0"),
        ("tensorrt-10.16.1.11", {"dla_core": 0}, "DLA core 0"),
        ("tensorrt-11.4.0.106", {"calibration_cache": b""}, "calibration caches"),
        ("tensorrt-10.3.0", {"dla_core": 0, "precision": "fp32"}, "a DLA core cannot run FP32"),
        ("tensorrt-10.3.0", {"precision": "fp8"}, "(got 'fp8')"),
        ("tensorrt-10.3.0", {"batches": ()}, "batches must have at least one size"),
        ("tensorrt-10.3.0", {"batches": (0, 4)}, "batches must be >= 1 (got 0)"),
        ("tensorrt-10.3.0", {"batches": (1, 1 << 63)}, "batches must be between 1 and"),
        (
            "tensorrt-10.3.0",
            {"batches": BatchRange(1, 8, (1 << 20) + 1)},
            "batches must be between",
        ),
        ("tensorrt-10.3.0", {"batches": BatchRange(8, 4, 1)}, "batches must be in ascending"),
        ("tensorrt-10.3.0", {"workspace_mib": 0}, "workspace_mib must be >= 1 (got 0)"),
        (
            "tensorrt-10.3.0",
            {"optimisation_level": 6},
            "must be between 0 and 5 (got 6)",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_built(
    workshop: Make, release: str, options: dict[str, Any], what: str
) -> None:
    shop = workshop(release)
    with pytest.raises(LpxError) as caught:
        shop.build(**options)
    assert what in caught.value.what
    assert shop.library.calls == []


def test_messages_go_to_the_innermost_recorder_and_nowhere_without_one() -> None:
    library = FakeLibrary("tensorrt-10.3.0")
    with recording(library) as (logger, outer):
        logger.log(library.ILogger.WARNING, "one")
        with recording(library) as (same, inner):
            same.log(library.ILogger.ERROR, "two")
            same.log(library.ILogger.INFO, "three")
        assert same is logger
    logger.log(library.ILogger.ERROR, "four")
    assert (outer.lines(), inner.lines()) == (("warning: one",), ("error: two",))


def test_a_convolution_that_no_layer_names_is_noted(workshop: Make) -> None:
    shop = workshop("tensorrt-10.7.0")
    fused = "{ForeignNode[conv...sigmoid]}"
    shop.layers = [
        {"Name": "other", "LayerType": "CaskConvolution", "Inputs": [{"Datatype": "Half"}]},
        {"Name": fused, "LayerType": "Myelin", "Inputs": [], "Outputs": [{"Datatype": "Half"}]},
    ]
    plan = shop.build()
    assert plan.layers is not None
    assert plan.layers.count_convolutions() == {"unknown": 1}
    (note,) = plan.log
    assert note.startswith("note: the precision of 1 of 1 convolutions is not verified")
    assert "(conv)" in note
    assert not workshop("tensorrt-10.7.0").build().log


def test_a_plan_without_a_table_of_layers_says_that_it_is_not_verified(workshop: Make) -> None:
    shop = workshop(RTX)
    shop.build_log = "Layers:"
    plan = shop.build()
    assert plan.layers is None
    assert any("precision is not verified" in line for line in plan.log)


def test_without_memory_for_a_context_the_layers_are_not_read(workshop: Make) -> None:
    shop = workshop("tensorrt-10.7.0")
    shop.library.Runtime = lambda logger: _runtime_without_memory(shop)
    with pytest.raises(LpxError, match="created no execution context") as caught:
        shop.build()
    assert "memory" in caught.value.why


def _runtime_without_memory(shop: Workshop) -> Spy:
    library = shop.library
    engine = Spy(
        "ICudaEngine",
        library,
        num_io_tensors=0,
        create_execution_context=lambda: None,
        create_engine_inspector=lambda: Spy("EngineInspector", library),
    )
    return Spy("Runtime", library, deserialize_cuda_engine=lambda data: engine)
