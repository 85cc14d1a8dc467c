"""Tensors between the layers of a plan, on fakes: marked at the build, copied while it runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from tensorrt_fakes import (
    SIZE,
    TENSORS,
    FakeDriver,
    FakeGpu,
    FakeLibrary,
    Hidden,
    Spy,
    loadable,
    patch_maps_of,
    scores_of,
)
from tensorrt_surfaces import RELEASES
from tensorrt_workshop import Workshop

from lpx.engines.tensorrt.cuda.driver import CudaLostError
from lpx.engines.tensorrt.tensors import TensorRTTensors
from lpx.errors import LpxError, NotAsAskedError

WITH_DEBUG_TENSORS = tuple(release for release in RELEASES if "8.6" not in release)


@dataclass
class Bench:
    """A watched plan with the fakes around it."""

    release: str = "tensorrt-10.3.0"
    hidden: dict[str, Hidden] = field(default_factory=lambda: {"relu": Hidden()})
    names: tuple[str, ...] = ("relu", "fused")
    spans: tuple[tuple[int, int, int], ...] = ((1, 4, 8),)
    before: Callable[[str], None] = lambda name: None
    """Called before each tensor that is handed out."""
    refuses: dict[str, str] = field(default_factory=dict)
    seed: int | None = None

    def __post_init__(self) -> None:
        self.gpu = FakeGpu(self.seed)
        self.driver = FakeDriver(self.gpu)
        self.library = FakeLibrary(self.release)
        tensors = dict(TENSORS)
        if self.release not in WITH_DEBUG_TENSORS:
            shape = (-1, SIZE, SIZE, 3)
            tensors |= {name: ("OUTPUT", h.kind, shape) for name, h in self.hidden.items()}
        loadable(
            self.library,
            self.gpu,
            self.spans,
            tensors=tensors,
            hidden=self.hidden,
            refuses=self.refuses,
            before=lambda name: self.before(name),
        )

    def load(self) -> TensorRTTensors:
        library = self.library.opened
        return TensorRTTensors(b"plan", library, names=self.names, driver=self.driver)


def faces_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("spans", [((1, 4, 8),), ((4, 4, 4),), ((1, 1, 1), (8, 8, 8))])
def test_every_release_hands_tensors_out(release: str, spans: Any) -> None:
    bench = Bench(release, spans=spans)
    with closing(bench.load()) as tensors:
        for seed, count in enumerate((3, 1, 8, 21)):
            faces = faces_of(count, seed)
            found = tensors.run(faces)
            assert set(found) == {"score", "patch_map", "relu"}, "what was fused away is not there"
            np.testing.assert_array_equal(found["relu"], np.float32(0.5) * faces)
            np.testing.assert_array_equal(found["score"], scores_of(faces))
            np.testing.assert_array_equal(found["patch_map"], patch_maps_of(faces))
    assert set(bench.driver.live.values()) == {0}
    assert bench.gpu.memory == {}
    tensors.close()


@pytest.mark.parametrize("release", ["tensorrt-8.6.1", "tensorrt-11.4.0.106"])
@pytest.mark.parametrize("seed", range(4))
def test_tensors_are_right_however_streams_get_ahead(release: str, seed: int) -> None:
    hidden = {"relu": Hidden(), "fused": Hidden("HALF", 0.25)}
    bench = Bench(release, hidden, spans=((1, 2, 3), (5, 5, 5)), seed=seed)
    with closing(bench.load()) as tensors:
        for count in (1, 7, 7, 12):
            faces = faces_of(count, count)
            found = tensors.run(faces)
            np.testing.assert_array_equal(found["relu"], np.float32(0.5) * faces)
            np.testing.assert_array_equal(found["fused"], np.float32(0.25) * faces)
            np.testing.assert_array_equal(found["score"], scores_of(faces))
    assert set(bench.driver.live.values()) == {0}


@pytest.mark.parametrize("call", ["malloc", "pinned", "to_device", "to_host", "synchronize"])
@pytest.mark.parametrize("release", ["tensorrt-8.6.1", "tensorrt-11.4.0.106"])
def test_a_failure_releases_nothing_that_is_in_use(release: str, call: str) -> None:
    bench = Bench(release)
    tensors = bench.load()
    calls = [0]
    log = bench.driver._log

    def failing_later(name: str, *details: Any) -> None:
        calls[0] += name == call
        bench.driver.failing = (call,) if calls[0] == 2 else ()
        log(name, *details)

    bench.driver._log = failing_later
    with pytest.raises(LpxError, match=call):
        tensors.run(faces_of(20))
    faces = faces_of(3)
    np.testing.assert_array_equal(tensors.run(faces)["score"], scores_of(faces))
    tensors.close()
    assert set(bench.driver.live.values()) == {0}


@pytest.mark.parametrize(
    "call", ["set_optimization_profile_async", "set_input_shape", "execute_async_v3"]
)
def test_a_refused_run_gives_tensorrts_reason(call: str) -> None:
    bench = Bench()
    tensors = bench.load()
    bench.refuses[call] = "Error Code 2: OutOfMemory"
    with pytest.raises(LpxError, match="TensorRT refused") as caught:
        tensors.run(faces_of(2))
    assert caught.value.why == "Error Code 2: OutOfMemory"
    assert "smaller batches" in caught.value.fix
    assert bench.gpu.memory == {}


@pytest.mark.parametrize("release", ["tensorrt-8.6.1", "tensorrt-11.4.0.106"])
def test_float16_becomes_float32(release: str) -> None:
    bench = Bench(release, {"relu": Hidden("HALF", 0.1)})
    faces = faces_of(4)
    found = bench.load().run(faces)["relu"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (faces * 0.1).astype(np.float16))


def test_a_tensor_in_host_memory_is_read_there() -> None:
    bench = Bench(hidden={"relu": Hidden("HALF", host=True)})
    faces = faces_of(2)
    np.testing.assert_array_equal(bench.load().run(faces)["relu"], np.float32(0.5) * faces)


def test_what_was_not_asked_for_or_holds_no_values_is_left_out() -> None:
    hidden = {"other": Hidden(), "relu": Hidden("INT8", 0.1), "fused": Hidden()}
    found = Bench(hidden=hidden).load().run(faces_of(2))
    assert set(found) == {"score", "patch_map", "fused"}


def test_tensors_of_the_run_before_do_not_come_back() -> None:
    bench = Bench(hidden={"relu": Hidden(), "fused": Hidden()})
    tensors = bench.load()
    assert {"relu", "fused"} <= set(tensors.run(faces_of(2)))
    del bench.hidden["fused"]
    assert "fused" not in tensors.run(faces_of(2))


@pytest.mark.parametrize("struck", [KeyboardInterrupt(), MemoryError("host"), LpxError("said")])
def test_what_strikes_in_the_callback_is_raised_behind_the_run(struck: BaseException) -> None:
    bench = Bench(hidden={"relu": Hidden(), "fused": Hidden()})
    tensors, copied = bench.load(), []

    def synchronize_device() -> None:
        copied.append(1)
        raise struck

    bench.driver.synchronize_device = synchronize_device
    with pytest.raises(type(struck)) as caught:
        tensors.run(faces_of(2))
    assert caught.value is struck
    assert copied == [1], "none is tried behind it"
    tensors.close()
    assert set(bench.driver.live.values()) == {0}


def test_cuda_lost_in_the_callback_is_said_and_every_release_tried() -> None:
    bench = Bench()
    tensors = bench.load()
    bench.before = lambda name: setattr(bench.driver, "lost", True)
    with pytest.raises(CudaLostError, match="synchronize_device failed: cudaErrorIllegalAddress"):
        tensors.run(faces_of(2))
    tensors.close()
    tried = [call[0] for call in bench.gpu.calls]
    assert tried.count("free") == tried.count("free_pinned") == 3
    assert tried.count("destroy_stream") == 1


def test_a_failed_run_leaves_nothing_held_and_the_next_one_runs() -> None:
    bench = Bench()
    tensors = bench.load()
    bench.driver.failing = ("to_host",)
    with pytest.raises(LpxError, match="to_host"):
        tensors.run(faces_of(2))
    assert bench.gpu.memory == {}
    bench.driver.failing = ()
    assert "relu" in tensors.run(faces_of(2))


def test_a_refused_listener_is_an_error_that_releases_the_stream() -> None:
    bench = Bench(refuses={"set_debug_listener": "said so"})
    with pytest.raises(LpxError, match="refused a listener for debug tensors") as caught:
        bench.load()
    assert caught.value.why == "said so"
    assert set(bench.driver.live.values()) == {0}


def test_an_output_of_a_type_without_values_is_refused() -> None:
    bench = Bench("tensorrt-8.6.1", {"relu": Hidden("INT8", 0.1)})
    with pytest.raises(LpxError, match="tensor relu of the plan is"):
        bench.load().run(faces_of(2))
    assert bench.gpu.memory == {}


def watching(release: str, precision: str = "fp16") -> Workshop:
    workshop = Workshop(release, precision)
    workshop.tensors = [
        Spy("ITensor", workshop.library, name=name, is_network_output=name == "score")
        for name in ("relu", "other", "score", "relu_1")
    ]
    return workshop


@pytest.mark.parametrize("release", RELEASES)
def test_a_build_marks_the_tensors_that_it_is_asked_for(release: str) -> None:
    workshop = watching(release)
    workshop.build(watch=("relu", "relu_1", "score", "nowhere"))
    debug = workshop.library.named("INetworkDefinition.mark_debug")
    outputs = workshop.library.named("INetworkDefinition.mark_output")
    marked, none = (debug, outputs) if release in WITH_DEBUG_TENSORS else (outputs, debug)
    assert [call[1].name for call in marked] == ["relu", "relu_1"]
    assert none == []


def test_a_build_that_is_not_watched_marks_nothing() -> None:
    workshop = watching("tensorrt-10.3.0")
    workshop.build()
    assert workshop.library.named("INetworkDefinition.mark_") == []


def test_a_watched_plan_may_have_lost_its_precision() -> None:
    workshop = watching("tensorrt-10.3.0", "fp32")
    with pytest.raises(NotAsAskedError):
        workshop.build(precision="fp16")
    layers = workshop.build(precision="fp16", watch=("relu",)).layers
    assert layers is not None
    assert set(layers.count_convolutions()) == {"fp32"}
