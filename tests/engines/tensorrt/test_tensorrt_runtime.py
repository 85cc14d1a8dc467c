"""The engine against a fake library and a fake GPU: order of calls, addresses, graphs, release."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from cuda_fakes import COMPUTE_MS, COPY_MS
from tensorrt_fakes import (
    SIZE,
    FakeContext,
    FakeDriver,
    FakeEngine,
    FakeGpu,
    FakeLibrary,
    loadable,
    patch_maps_of,
    scores_of,
)
from tensorrt_surfaces import LEAN, RELEASES

from lpx.engines.base import Engine
from lpx.engines.tensorrt.cuda.driver import CudaLostError
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import LpxError


def faces_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


class Bench:
    """An engine with the fakes around it."""

    def __init__(self, release: str, **options: Any) -> None:
        self.gpu = FakeGpu(options.pop("seed", None))
        driver = {
            key: options.pop(key)
            for key in ("graphs", "failing", "shares_memory")
            if key in options
        }
        loading = {
            key: options.pop(key)
            for key in (
                *("spans", "refuse_capture", "tensors", "implied", "refuses", "warnings"),
                *("dla_cores", "memory_for", "spoils"),
            )
            if key in options
        }
        self.library = loadable(FakeLibrary(release), self.gpu, **loading)
        self.driver = FakeDriver(self.gpu, **driver)
        self.options = options

    def load(self, plan: bytes = b"plan") -> TensorRTEngine:
        return TensorRTEngine(plan, self.library.opened, driver=self.driver, **self.options)

    def since(self, start: int) -> list[str]:
        return [call[0] for call in self.gpu.calls[start:]]


def assert_right(engine: TensorRTEngine, faces: np.ndarray) -> None:
    prediction = engine.infer(faces)
    np.testing.assert_array_equal(prediction.score, scores_of(faces))
    np.testing.assert_array_equal(prediction.patch_map, patch_maps_of(faces))
    assert prediction.score.dtype == prediction.patch_map.dtype == np.float32


@pytest.mark.parametrize("release", [*RELEASES, *LEAN])
def test_every_release_infers_with_its_own_names(release: str) -> None:
    engine: Engine = Bench(release).load()
    for seed, count in enumerate((1, 8, 8, 3, 3, 3, 20, 0)):
        assert_right(engine, faces_of(count, seed))
    engine.close()


def test_calls_come_in_order_with_the_events_between() -> None:
    bench = Bench("tensorrt-10.3.0", graphs=False)
    engine = bench.load()
    start = len(bench.gpu.calls)
    engine.infer(faces_of(2))
    assert bench.since(start) == [
        "record",
        "to_device",
        "record",
        "record",
        "to_host",
        "to_host",
        "record",
        "synchronize",
    ]
    timing = engine.last_timing
    assert timing is not None
    assert (timing.h2d_ms, timing.compute_ms, timing.d2h_ms) == (COPY_MS, COMPUTE_MS, 2 * COPY_MS)
    assert timing.total_ms == 3 * COPY_MS + COMPUTE_MS
    assert timing.enqueue_ms > 0.0, "time on the host, by its own clock"


def test_memory_is_allocated_once_for_the_largest_batch() -> None:
    bench = Bench("tensorrt-10.3.0", spans=((1, 1, 1), (8, 8, 8), (2, 3, 4)))
    engine = bench.load()
    allocated = [call for call in bench.gpu.calls if call[0] in ("malloc", "pinned")]
    assert allocated == [
        ("pinned", (8, SIZE, SIZE, 3)),
        ("malloc", 8 * SIZE * SIZE * 3),
        ("pinned", (8,)),
        ("malloc", 8 * 4),
        ("pinned", (8, 2, 2)),
        ("malloc", 8 * 2 * 2 * 4),
    ]
    set_addresses = bench.library.named("IExecutionContext.set_tensor_address")
    assert len(set_addresses) == 3 * 3
    assert {call[2] for call in set_addresses} == set(bench.gpu.memory)
    for count in (1, 5, 30, 3):
        assert_right(engine, faces_of(count, count))
    assert [c for c in bench.gpu.calls if c[0] in ("malloc", "pinned")] == allocated


def test_each_context_gets_its_profile() -> None:
    bench = Bench("tensorrt-11.4.0.106", spans=((1, 1, 1), (8, 8, 8)))
    engine = bench.load()
    chosen = bench.library.named("IExecutionContext.set_optimization_profile_async")
    assert [call[1] for call in chosen] == [0, 1]
    assert engine.batches == (BatchRange(1, 1, 1), BatchRange(8, 8, 8))
    assert engine.face_shape == (SIZE, SIZE, 3)


def test_a_static_plan_pads_and_cuts() -> None:
    tensors = {
        "faces": ("INPUT", "UINT8", (4, SIZE, SIZE, 3)),
        "score": ("OUTPUT", "FLOAT", (4,)),
        "patch_map": ("OUTPUT", "FLOAT", (4, 2, 2)),
    }
    bench = Bench("tensorrt-10.3.0", tensors=tensors)
    engine = bench.load()
    for count in (4, 2, 9):
        assert_right(engine, faces_of(count, count))
    assert bench.library.named("IExecutionContext.set_input_shape") == [
        ("IExecutionContext.set_input_shape", "faces", (4, SIZE, SIZE, 3))
    ]


def test_a_graph_is_captured_at_the_second_run_of_a_shape() -> None:
    bench = Bench("tensorrt-10.3.0")
    engine = bench.load()
    names = ("begin_capture", "end_capture", "launch", "destroy_graph")

    def run(count: int, seed: int) -> list[str]:
        start = len(bench.gpu.calls)
        assert_right(engine, faces_of(count, seed))
        return [name for name in bench.since(start) if name in names]

    assert run(8, 1) == []
    assert run(8, 2) == ["begin_capture", "end_capture", "launch"]
    assert run(8, 3) == ["launch"]
    # A graph dies with the shape it was captured at.
    assert run(5, 4) == ["destroy_graph"]
    assert run(5, 5) == ["begin_capture", "end_capture", "launch"]
    assert engine.notes == []


def test_capture_stands_outside_the_timed_part() -> None:
    bench = Bench("tensorrt-10.3.0")
    engine = bench.load()
    engine.infer(faces_of(1))
    start = len(bench.gpu.calls)
    engine.infer(faces_of(1))
    assert bench.since(start)[:3] == ["begin_capture", "end_capture", "record"]


@pytest.mark.parametrize(
    ("options", "note"),
    [
        (
            {"refuse_capture": True},
            "end_capture failed: cudaErrorStreamCaptureInvalidated; The CUDA",
        ),
        ({"refuse_capture": True, "spoils": False}, "to run while captured; The CUDA stream is"),
        ({"failing": ("end_capture",)}, "CUDA's end_capture failed"),
        ({"failing": ("begin_capture",)}, "CUDA's begin_capture failed"),
        ({"graphs": False}, "this CUDA binding has none"),
    ],
)
def test_without_graphs_the_kernels_run_one_by_one_and_a_note_says_why(
    options: dict[str, Any], note: str
) -> None:
    bench = Bench("tensorrt-10.3.0", **options)
    engine = bench.load()
    for seed in range(4):
        assert_right(engine, faces_of(8, seed))
    (found,) = engine.notes
    assert note in found
    assert "launch" not in bench.since(0)
    assert bench.since(0).count("begin_capture") <= 1
    engine.close()
    assert bench.driver.live.get("graph", 0) == 0


@pytest.mark.parametrize("in_flight", [2, 3])
def test_the_next_batch_is_handed_over_while_one_computes(in_flight: int) -> None:
    bench = Bench("tensorrt-10.3.0", graphs=False, in_flight=in_flight)
    engine = bench.load()
    start = len(bench.gpu.calls)
    faces = faces_of(40)
    assert_right(engine, faces)
    names = [name for name in bench.since(start) if name in ("to_device", "synchronize")]
    waited_at = names.index("synchronize")
    assert names[:waited_at] == ["to_device"] * in_flight
    assert names.count("to_device") == names.count("synchronize") == 5
    assert engine.last_timing is not None
    for seed, count in enumerate((1, 8, 17, 40, 0, 40)):
        assert_right(engine, faces_of(count, seed))
    engine.close()
    assert set(bench.driver.live.values()) == {0}
    assert bench.gpu.memory == {}


def test_each_batch_in_flight_captures_a_graph_of_its_own() -> None:
    bench = Bench("tensorrt-10.3.0", in_flight=2)
    engine = bench.load()
    for seed in range(3):
        assert_right(engine, faces_of(32, seed))
    assert bench.since(0).count("begin_capture") == 2
    engine.close()
    assert bench.driver.live["graph"] == 0


def test_before_10_one_batch_is_in_flight_and_a_note_says_why() -> None:
    bench = Bench("tensorrt-8.6.1", in_flight=2)
    engine = bench.load()
    assert_right(engine, faces_of(40))
    assert bench.driver.live["stream"] == 1
    assert engine.notes == ["one batch in flight: before TensorRT 10 a profile serves one"]


def test_a_failed_batch_does_not_come_back_as_the_next_ones_result() -> None:
    bench = Bench("tensorrt-10.3.0", in_flight=2, graphs=False)
    engine = bench.load()
    bench.driver.failing = ("to_host",)
    with pytest.raises(LpxError, match="to_host"):
        engine.infer(faces_of(40))
    bench.driver.failing = ()
    assert_right(engine, faces_of(20, 1))


def test_a_gpu_that_shares_memory_gets_no_copies() -> None:
    bench = Bench("tensorrt-10.3.0", shares_memory=True)
    engine = bench.load()
    for seed, count in enumerate((1, 8, 8, 8, 20)):
        assert_right(engine, faces_of(count, seed))
    assert not {"malloc", "to_device", "to_host"} & set(bench.since(0))
    engine.close()
    assert set(bench.driver.live.values()) == {0}
    assert bench.gpu.memory == {}


def test_zero_copy_can_be_left_out() -> None:
    bench = Bench("tensorrt-10.3.0", shares_memory=True, zero_copy=False)
    assert_right(bench.load(), faces_of(8))
    assert "to_device" in bench.since(0)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_cuda_lost_in_the_middle_closes_the_engine_and_says_so(in_flight: int) -> None:
    bench = Bench("tensorrt-10.3.0", in_flight=in_flight)
    engine = bench.load()
    for _ in range(2):
        engine.infer(faces_of(20))
    bench.driver.lost = True
    start = len(bench.gpu.calls)
    with pytest.raises(CudaLostError, match=r"CUDA was lost: .*cudaErrorIllegalAddress") as caught:
        engine.infer(faces_of(20))
    assert "new process" in caught.value.fix
    # Every release was tried, though the lost GPU refuses each.
    tried = bench.since(start)
    assert tried.count("free") == tried.count("free_pinned") == 3 * in_flight
    assert tried.count("destroy_stream") == in_flight
    with pytest.raises(LpxError, match="the engine is closed"):
        engine.infer(faces_of(1))
    engine.close()


def test_one_release_that_fails_does_not_keep_the_others() -> None:
    bench = Bench("tensorrt-10.3.0", failing=("destroy_event",))
    engine = bench.load()
    with pytest.raises(LpxError, match="destroy_event"):
        engine.close()
    assert bench.gpu.memory == {}
    assert bench.driver.live["pinned"] == bench.driver.live["stream"] == 0


def test_graphs_can_be_left_out() -> None:
    bench = Bench("tensorrt-10.3.0", cuda_graph=False)
    engine = bench.load()
    for seed in range(3):
        assert_right(engine, faces_of(8, seed))
    assert engine.notes == []
    assert "begin_capture" not in bench.since(0)


@pytest.mark.parametrize(
    ("wanted", "strategy"), [(True, "WHOLE_GRAPH_CAPTURE"), (False, "DISABLED")]
)
def test_rtx_captures_its_graphs_itself(wanted: bool, strategy: str) -> None:
    bench = Bench("tensorrt-rtx-1.7.1.116", cuda_graph=wanted)
    engine = bench.load()
    for seed in range(3):
        assert_right(engine, faces_of(8, seed))
    (call,) = bench.library.named("IRuntimeConfig.cuda_graph_strategy")
    assert call[1].name == strategy
    assert "begin_capture" not in bench.since(0)


def test_close_releases_all_and_can_come_twice() -> None:
    bench = Bench("tensorrt-10.3.0", spans=((1, 1, 1), (8, 8, 8)))
    with bench.load() as engine:
        for count in (1, 1, 8, 8):
            engine.infer(faces_of(count))
        assert bench.driver.live["graph"] == 2
    engine.close()
    assert set(bench.driver.live.values()) == {0}
    assert bench.gpu.memory == {}
    with pytest.raises(LpxError, match="closed"):
        engine.infer(faces_of(1))
    with pytest.raises(LpxError, match="closed"):
        engine.layers()


def test_a_failure_on_the_way_up_releases_what_was_held() -> None:
    bench = Bench("tensorrt-10.3.0", failing=("malloc",))
    with pytest.raises(LpxError, match="malloc"):
        bench.load()
    assert set(bench.driver.live.values()) == {0}


@pytest.mark.parametrize(
    ("faces", "found"),
    [
        (np.zeros((2, SIZE, SIZE, 3), np.float32), "float32"),
        (np.zeros((2, 3, SIZE, SIZE), np.uint8), "[2, 3, 4, 4]"),
        (np.zeros((SIZE, SIZE, 3), np.uint8), "[4, 4, 3]"),
        ([[1]], "list"),
    ],
)
def test_wrong_faces_are_refused(faces: Any, found: str) -> None:
    engine = Bench("tensorrt-10.3.0").load()
    with pytest.raises(LpxError) as caught:
        engine.infer(faces)
    assert found in caught.value.what
    assert "uint8 RGB [N, 4, 4, 3]" in caught.value.why


def test_faces_need_not_be_contiguous() -> None:
    engine = Bench("tensorrt-10.3.0").load()
    assert_right(engine, faces_of(10)[::2, ::-1])


def test_a_foreign_plan_tells_why_it_does_not_load() -> None:
    with pytest.raises(LpxError) as caught:
        Bench("tensorrt-10.3.0").load(b"foreign")
    assert caught.value.why == "the plan was built by another release"
    assert "10.3.0" in caught.value.fix


@pytest.mark.parametrize(
    ("plan", "advice", "not_advised"),
    [
        (b"host code", "pass `allow_host_code=True`", "build it again"),
        (b"rtx", "target on this GPU: tensorrt, onnxruntime-cuda or onnxruntime", "build it again"),
        (b"foreign", "build it again here", "allow_host_code"),
    ],
)
def test_advice_follows_what_tensorrt_says(plan: bytes, advice: str, not_advised: str) -> None:
    with pytest.raises(LpxError, match="the plan does not load") as caught:
        Bench("tensorrt-10.3.0").load(plan)
    assert advice in caught.value.fix
    assert not_advised not in caught.value.fix


def test_tensorrt_that_cannot_start_cuda_gives_the_reason() -> None:
    bench = Bench("tensorrt-10.3.0")

    def runtime(logger: Any) -> None:
        logger.log("ILogger.WARNING", "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    bench.library.Runtime = runtime
    with pytest.raises(LpxError, match="cannot start") as caught:
        bench.load()
    assert caught.value.why == "CUDA initialization failure with error: 35"


@pytest.mark.parametrize("release", LEAN)
def test_the_lean_runtime_tells_no_layers(release: str) -> None:
    engine = Bench(release).load()
    with pytest.raises(LpxError, match="tensorrt_lean does not report the layers"):
        engine.layers()


def test_a_runtime_that_logs_an_error_is_not_touched() -> None:
    """The lean runtime without CUDA: each call of it ends the process."""
    bench = Bench("tensorrt-lean-11.4.0.106")

    class Broken:
        def __getattr__(self, name: str) -> None:
            pytest.fail(f"{name} would be a segmentation fault")

        def __setattr__(self, name: str, value: Any) -> None:
            pytest.fail(f"{name} would be a segmentation fault")

        def __del__(self) -> None:
            released.append(self)

    released: list[Broken] = []

    def runtime(logger: Any) -> Broken:
        logger.log(
            "ILogger.ERROR",
            "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with "
            "error: 35 In checkCudaInstallation at /_src/runtime/dispatch/runtime.cpp:960)",
        )
        return Broken()

    bench.library.Runtime = runtime
    with pytest.raises(LpxError, match="cannot start") as caught:
        bench.load()
    assert "error: 35" in caught.value.why
    assert "driver" in caught.value.fix
    del caught
    gc.collect()
    assert released == [], "its release would be one too"


@pytest.mark.parametrize("core", [1, 2, 5])
def test_a_dla_core_that_is_not_there_is_said(core: int) -> None:
    bench = Bench("tensorrt-10.3.0", dla_core=core, dla_cores=1)
    with pytest.raises(LpxError, match=f"DLA core {core} does not exist on this machine") as caught:
        bench.load()
    assert "finds 1 DLA core" in caught.value.why


def test_what_tensorrt_warns_of_at_load_is_noted() -> None:
    said = (
        "Using an engine plan file across different models of devices is not supported and is "
        "likely to affect performance or even cause errors or deadlock."
    )
    engine = Bench("tensorrt-10.3.0", warnings=(said, said)).load()
    assert engine.notes == [said]


@pytest.mark.parametrize("implied", [True, False])
@pytest.mark.parametrize(
    "spans", [((1, 1, 1), (8, 8, 8)), ((8, 8, 8), (1, 1, 1)), ((4, 4, 4), (1, 2, 3)), ((2, 2, 2),)]
)
@pytest.mark.parametrize("release", [*RELEASES, *LEAN])
def test_every_profile_is_seen(release: str, spans: Any, implied: bool) -> None:
    """Whether or not TensorRT tells the batch of a static profile in place of -1."""
    engine = Bench(release, spans=spans, implied=implied).load()
    assert engine.batches == tuple(BatchRange(*span) for span in spans)
    for seed, count in enumerate((1, 8, 3, 17)):
        assert_right(engine, faces_of(count, seed))


def test_a_batch_in_the_network_itself_needs_no_profile() -> None:
    tensors = {
        "faces": ("INPUT", "UINT8", (4, SIZE, SIZE, 3)),
        "score": ("OUTPUT", "FLOAT", (4,)),
        "patch_map": ("OUTPUT", "FLOAT", (4, 2, 2)),
    }
    spans = ((4, 4, 4), (4, 4, 4))
    engine = Bench("tensorrt-10.3.0", tensors=tensors, spans=spans).load()
    assert engine.batches == (BatchRange(4, 4, 4), BatchRange(4, 4, 4))
    assert_right(engine, faces_of(9))


@pytest.mark.parametrize(
    ("call", "while_loading"),
    [
        ("set_optimization_profile_async", True),
        ("set_input_shape", True),
        ("set_tensor_address", True),
        ("execute_async_v3", False),
    ],
)
@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Error Code 1: Cuda Driver (invalid resource handle)", "build the plan again here"),
        ("Error Code 2: OutOfMemory (Requested size was 1024 bytes.)", "smaller batches"),
    ],
)
def test_a_refusal_gives_tensorrts_reason(
    call: str, while_loading: bool, said: str, advice: str
) -> None:
    refuses: dict[str, str] = {}
    bench = Bench("tensorrt-10.3.0", refuses=refuses)
    if while_loading:
        refuses[call] = said
        with pytest.raises(LpxError, match="TensorRT refused") as caught:
            bench.load()
    else:
        engine = bench.load()
        refuses[call] = said
        with pytest.raises(LpxError, match="TensorRT refused") as caught:
            engine.infer(faces_of(3))
        del refuses[call]
        assert_right(engine, faces_of(3))
        engine.close()
    assert said in caught.value.why
    assert advice in caught.value.fix
    assert set(bench.driver.live.values()) == {0}


@pytest.mark.parametrize("in_flight", [1, 2, 3])
@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("shares_memory", [True, False])
def test_scores_are_right_however_streams_get_ahead(
    in_flight: int, graphs: bool, shares_memory: bool
) -> None:
    for seed in (None, *range(6)):
        bench = Bench(
            "tensorrt-10.3.0",
            spans=((1, 2, 3), (5, 5, 5)),
            graphs=graphs,
            shares_memory=shares_memory,
            in_flight=in_flight,
            seed=seed,
        )
        with bench.load() as engine:
            for number, count in enumerate((3, 20, 20, 20, 1, 0, 7)):
                assert_right(engine, faces_of(count, number))
        assert set(bench.driver.live.values()) == {0}


@pytest.mark.parametrize("call", ["record", "to_device", "to_host", "synchronize"])
def test_an_engine_can_be_closed_after_any_failure(call: str) -> None:
    """What was handed to the GPU before the failure is waited for before memory is released."""
    bench = Bench("tensorrt-10.3.0", in_flight=2, graphs=False)
    engine = bench.load()
    for _ in range(2):
        bench.driver.failing = (call,)
        with pytest.raises(LpxError, match=call):
            engine.infer(faces_of(40))
        bench.driver.failing = ()
        assert_right(engine, faces_of(20, 1))
    bench.driver.failing = ("to_host",)
    with pytest.raises(LpxError, match="to_host"):
        engine.infer(faces_of(40))
    engine.close()
    assert set(bench.driver.live.values()) == {0}


def test_a_slot_is_waited_for_before_it_is_released() -> None:
    """A wait that failed may have left work behind, in a slot that later batches do not need."""
    bench = Bench("tensorrt-10.3.0", in_flight=3, graphs=False)
    engine = bench.load()
    bench.driver.failing = ("synchronize",)
    with pytest.raises(LpxError, match="synchronize"):
        engine.infer(faces_of(40))
    bench.driver.failing = ()
    assert_right(engine, faces_of(8))
    engine.close()
    assert set(bench.driver.live.values()) == {0}


def test_an_interrupt_in_a_run_leaves_the_engine_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench("tensorrt-10.3.0", in_flight=2)
    engine = bench.load()
    engine.infer(faces_of(16))
    execute, struck = FakeContext.execute_async_v3, []

    def interrupted(context: FakeContext, address: int) -> bool:
        if not struck:
            struck.append(bench.gpu.capturing is not None)
            raise KeyboardInterrupt
        return execute(context, address)

    monkeypatch.setattr(FakeContext, "execute_async_v3", interrupted)
    # Contexts hold the method from when they were made.
    for context in bench.library.engine.contexts:
        vars(context.spy)["_answers"]["execute_async_v3"] = context.execute_async_v3
    with pytest.raises(KeyboardInterrupt):
        engine.infer(faces_of(16))
    assert struck == [True], "it strikes while the run is captured"
    assert bench.gpu.capturing is None
    for seed in range(3):
        assert_right(engine, faces_of(16, seed))
    engine.close()
    assert set(bench.driver.live.values()) == {0}


def test_cuda_that_a_refused_run_took_with_it_closes_the_engine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TensorRT sees the lost GPU first, and says no more than that it refuses."""
    refuses: dict[str, str] = {}
    bench = Bench("tensorrt-10.3.0", refuses=refuses)
    engine = bench.load()
    refuses["execute_async_v3"] = "Cuda Runtime (an illegal memory access was encountered)"
    say = FakeEngine.say

    def lost(fake: FakeEngine, text: str, severity: str = "ERROR") -> None:
        bench.driver.lost = True
        say(fake, text, severity)

    monkeypatch.setattr(FakeEngine, "say", lost)
    with pytest.raises(CudaLostError, match="CUDA was lost"):
        engine.infer(faces_of(2))
    with pytest.raises(LpxError, match="the engine is closed"):
        engine.infer(faces_of(2))


@pytest.mark.parametrize("allow", [True, False])
def test_host_code_is_a_choice(allow: bool) -> None:
    bench = Bench("tensorrt-10.3.0", allow_host_code=allow)
    bench.load()
    assert ("Runtime.engine_host_code_allowed =", allow) in bench.library.calls


def test_a_dla_plan_is_told_its_core() -> None:
    bench = Bench("tensorrt-10.3.0", dla_core=1)
    bench.load()
    assert ("Runtime.DLA_core =", 1) in bench.library.calls


@pytest.mark.parametrize(
    "change",
    [
        {"score": ("OUTPUT", "HALF", (-1,))},
        {"faces": ("INPUT", "FLOAT", (-1, SIZE, SIZE, 3))},
        {"score": ("OUTPUT", "FLOAT", (-1, 1))},
        {"logits": ("OUTPUT", "FLOAT", (-1,))},
    ],
)
def test_a_plan_with_other_tensors_is_refused(change: dict[str, Any]) -> None:
    tensors = {
        "faces": ("INPUT", "UINT8", (-1, SIZE, SIZE, 3)),
        "score": ("OUTPUT", "FLOAT", (-1,)),
        "patch_map": ("OUTPUT", "FLOAT", (-1, 2, 2)),
    } | change
    bench = Bench("tensorrt-10.3.0", tensors=tensors)
    with pytest.raises(LpxError, match="the plan's tensors are") as caught:
        bench.load()
    assert next(iter(change)) in caught.value.what
    assert set(bench.driver.live.values()) <= {0}


def test_a_context_that_is_not_made_gives_tensorrts_reason() -> None:
    bench = Bench("tensorrt-10.3.0", spans=((1, 1, 1), (8, 8, 8)), memory_for=1)
    with pytest.raises(LpxError, match="no execution context") as caught:
        bench.load()
    assert "1024 bytes) could not be allocated" in caught.value.why
    assert "smaller batches" in caught.value.fix
    assert set(bench.driver.live.values()) == {0}


@pytest.mark.parametrize("name", ["device_memory_size_v2", "device_memory_size"])
def test_device_memory_counts_every_context_the_tensors_and_the_plan(name: str) -> None:
    bench = Bench("tensorrt-10.3.0", spans=((1, 1, 1), (2, 3, 4)))
    engine = bench.load(b"plan" * 25)

    class Tells:
        pass

    setattr(Tells, name, 1000)
    engine._engine = Tells()
    tensors = 4 * (SIZE * SIZE * 3 + 4 + 2 * 2 * 4)
    assert engine.device_memory.bytes == 2 * 1000 + tensors + 100
    engine._engine = object()
    assert engine.device_memory.bytes is None
    assert "does not report" in engine.device_memory.reason
    engine.close()
    assert engine.device_memory.reason == "the engine is closed"
