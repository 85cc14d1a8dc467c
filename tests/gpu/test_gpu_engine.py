"""lpx's runtime for TensorRT on CUDA as it is, with one kernel in place of a plan."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_kernel import expected, faces_of
from gpu_losing import lose
from gpu_rigs import BINDINGS, REHEARSALS, Rig, open_rig
from gpu_standin import Span, StandIn

from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.errors import LpxError

PROFILES: dict[str, tuple[Span, ...]] = {
    "a range": ((1, 4, 8),),
    "single sizes": ((1, 1, 1), (8, 8, 8)),
    "two ranges": ((1, 4, 8), (16, 16, 32)),
}
COUNTS = (1, 8, 8, 8, 8, 3, 5, 61, 61, 61, 0)


def assert_right(engine: TensorRTEngine, count: int, seed: int = 0) -> None:
    """The scores of random faces are those of the host, to the bit."""
    faces = faces_of(count, seed)
    found, (score, patch_map) = engine.infer(faces), expected(faces)
    np.testing.assert_array_equal(found.score, score)
    np.testing.assert_array_equal(found.patch_map, patch_map)


@pytest.mark.parametrize("zero_copy", [False, True], ids=["copies", "zero copy"])
@pytest.mark.parametrize("cuda_graph", [False, True], ids=["kernels", "graphs"])
@pytest.mark.parametrize("in_flight", [1, 3])
@pytest.mark.parametrize("profiles", PROFILES)
def test_scores_are_those_of_the_host(
    rig: Rig,
    profiles: str,
    in_flight: int,
    cuda_graph: bool,
    zero_copy: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Every GPU can use mapped memory; lpx only does so where it is the GPU's own.
    monkeypatch.setattr(rig.driver, "integrated", lambda: zero_copy)
    standin = StandIn(rig.kernel, PROFILES[profiles])
    with standin.load(driver=rig.driver, in_flight=in_flight, cuda_graph=cuda_graph) as engine:
        for seed, count in enumerate(COUNTS):
            assert_right(engine, count, seed)
        if rig.driver.graphs:
            assert engine.notes == []


def test_each_batch_in_flight_has_its_stream(rig: Rig) -> None:
    standin = StandIn(rig.kernel, PROFILES["two ranges"])
    with standin.load(driver=rig.driver, in_flight=3) as engine:
        for _ in range(3):
            assert_right(engine, 61)
    used = [context.streams for context in standin.contexts]
    assert all(len(streams) == 1 for streams in used), "a context ran on two streams"
    assert len(set().union(*used)) == 3


def test_a_graph_is_launched_in_place_of_the_kernels(rig: Rig) -> None:
    standin = StandIn(rig.kernel)
    with standin.load(driver=rig.driver) as engine:
        for seed in range(20):
            assert_right(engine, 8, seed)
        if rig.driver.graphs:
            assert standin.runs == 2, "one run, and one that is captured"
            assert_right(engine, 5)  # another batch: the graph is dropped
            for seed in range(20):
                assert_right(engine, 8, seed)
            assert standin.runs == 5
        else:
            assert standin.runs == 20
            assert "no CUDA graphs" in engine.notes[0]


@pytest.mark.parametrize("how", ["it waits, and refuses", "it refuses"])
def test_where_a_capture_fails_the_kernels_are_launched(rig: Rig, how: str) -> None:
    """Some layers wait for the GPU as they run, which spoils a capture."""
    refused = []

    def wait(run: int) -> bool:
        try:
            rig.driver.synchronize_device()
        except LpxError:
            return False
        return True

    def refuse_once(run: int) -> bool:
        if run == 2 and not refused:
            refused.append(run)
            return False
        return True

    standin = StandIn(rig.kernel, before=wait if "waits" in how else refuse_once)
    with standin.load(driver=rig.driver) as engine:
        if not rig.driver.graphs:
            pytest.skip("this binding has no CUDA graphs")
        for seed in range(5):
            assert_right(engine, 61, seed)
        assert [note[: len("no CUDA graphs")] for note in engine.notes] == ["no CUDA graphs"]


def test_an_engine_that_is_interrupted_scores_the_next_faces(rig: Rig) -> None:
    def interrupt(run: int) -> None:
        if run == 6:
            raise KeyboardInterrupt

    standin = StandIn(rig.kernel, before=interrupt)
    with standin.load(driver=rig.driver, in_flight=2, cuda_graph=False) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.infer(faces_of(61))
        standin.before = lambda run: None
        for seed in range(3):
            assert_right(engine, 61, seed)


@pytest.mark.parametrize(
    "faces",
    [faces_of(2).astype(np.float32), faces_of(2)[:, 1:], faces_of(1)[0]],
    ids=["dtype", "size", "no batch"],
)
def test_wrong_faces_are_refused_and_the_next_are_scored(rig: Rig, faces: Any) -> None:
    with StandIn(rig.kernel).load(driver=rig.driver) as engine:
        with pytest.raises(LpxError, match="this engine takes"):
            engine.infer(faces)
        assert_right(engine, 3)


def test_the_gpu_keeps_time(rig: Rig) -> None:
    with StandIn(rig.kernel).load(driver=rig.driver) as engine:
        for cuda_graph in (False, True):
            began = time.perf_counter()
            assert_right(engine, 8)
            wall_ms = (time.perf_counter() - began) * 1e3
            timing = engine.last_timing
            assert timing is not None
            assert min(timing.h2d_ms, timing.compute_ms, timing.d2h_ms) > 0, cuda_graph
            assert timing.enqueue_ms > 0
            if rig.on_gpu:
                assert timing.total_ms < wall_ms


def test_an_engine_that_does_not_fit_is_refused_and_keeps_nothing(rig: Rig) -> None:
    before = rig.driver.device().memory_free_bytes
    with pytest.raises(LpxError):
        StandIn(rig.kernel, ((1, 1, 1 << 40),)).load(driver=rig.driver, in_flight=2)
    assert before - rig.driver.device().memory_free_bytes < 1 << 22
    with StandIn(rig.kernel).load(driver=rig.driver) as engine:
        assert_right(engine, 8)


def test_memory_comes_back_on_close(rig: Rig) -> None:
    def turn() -> None:
        with StandIn(rig.kernel, ((1, 8, 256),)).load(driver=rig.driver, in_flight=2) as engine:
            for _ in range(3):
                engine.infer(faces_of(256))

    turn()
    before = rig.driver.device().memory_free_bytes
    for _ in range(4):
        turn()
    # An engine that kept its tensors would take 6 MiB.
    assert before - rig.driver.device().memory_free_bytes < 1 << 20


def test_nothing_is_allocated_while_it_runs(rig: Rig) -> None:
    with StandIn(rig.kernel).load(driver=rig.driver) as engine:
        for count in (8, 8, 8, 5, 21):
            engine.infer(faces_of(count))
        before = rig.driver.device().memory_free_bytes
        for _ in range(200 if rig.on_gpu else 20):
            engine.infer(faces_of(21))
        assert before - rig.driver.device().memory_free_bytes < 1 << 20


def test_each_thread_may_have_an_engine(rig: Rig) -> None:
    if rig.name == "pycuda":
        pytest.skip("pycuda's context is current in one thread")
    standin = StandIn(rig.kernel)

    def work(thread: int) -> None:
        with standin.load(driver=rig.driver) as engine:
            for seed in range(30):
                assert_right(engine, 8, 100 * thread + seed)
            assert engine.notes == [], "what one thread does spoiled a capture of another"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(name, marks=pytest.mark.gpu) for name in BINDINGS), *REHEARSALS],
)
def test_a_lost_gpu_is_told_apart_and_all_is_released(name: str) -> None:
    rig = open_rig(name)
    if rig.on_gpu:  # in a process of its own: the GPU does not come back to one that lost it
        here = Path(__file__).parent
        done = subprocess.run(
            [sys.executable, here / "gpu_losing.py", name],
            capture_output=True,
            text=True,
            cwd=here.parents[1],
            timeout=120,
        )
        found, problems = done.stdout.splitlines(), done.stderr
    else:
        found, problems = lose(rig), ""
    assert found == [
        "infer: lost",
        "infer again: the engine is closed",
        "infer with the other: lost",
        "allocate: lost",
        "close: done",
        "close the other: done",
    ], problems


@pytest.mark.gpu
def test_calls_of_the_host_are_cheap(gpu: Rig, record_property: Any) -> None:
    """Not a benchmark: a thread that waits, or copies by the byte, takes milliseconds."""
    with StandIn(gpu.kernel).load(driver=gpu.driver) as engine:
        faces = faces_of(8)
        enqueued = []
        for _ in range(200):
            engine.infer(faces)
            assert engine.last_timing is not None
            enqueued.append(engine.last_timing.enqueue_ms)
    record_property("enqueue_ms", statistics.median(enqueued))
    assert statistics.median(enqueued) < 1
