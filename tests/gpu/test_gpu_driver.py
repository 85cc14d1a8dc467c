"""lpx's CUDA driver on CUDA as it is: copies, events, streams, graphs, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from gpu_kernel import CELLS, SIZE, expected, faces_of
from gpu_rigs import Rig

from lpx.engines.tensorrt.cuda.driver import CudaDriver
from lpx.errors import LpxError

TOO_MUCH = 1 << 50


@pytest.fixture
def driver(rig: Rig) -> CudaDriver:
    return rig.driver


class Desk:
    """What a test makes of a driver, released in the end."""

    def __init__(self, driver: CudaDriver, held: ExitStack) -> None:
        self.driver, self._held = driver, held

    def stream(self) -> Any:
        return self._kept(self.driver.stream(), self.driver.destroy_stream)

    def event(self) -> Any:
        return self._kept(self.driver.event(), self.driver.destroy_event)

    def malloc(self, nbytes: int) -> int:
        return self._kept(self.driver.malloc(nbytes), self.driver.free)

    def pinned(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
        return self._kept(self.driver.pinned(shape, dtype), self.driver.free_pinned)

    def mapped(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
        return self._kept(self.driver.mapped(shape, dtype), self.driver.free_pinned)

    def graph(self, stream: Any) -> Any:
        return self._kept(self.driver.end_capture(stream), self.driver.destroy_graph)

    def _kept(self, made: Any, release: Any) -> Any:
        self._held.callback(release, made)
        return made


@contextmanager
def desk_of(driver: CudaDriver) -> Iterator[Desk]:
    with ExitStack() as held:
        yield Desk(driver, held)


@pytest.fixture
def desk(driver: CudaDriver) -> Iterator[Desk]:
    with desk_of(driver) as made:
        yield made


def random_bytes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, count, np.uint8)


def test_the_device_tells_of_itself(rig: Rig) -> None:
    device = rig.driver.device()
    assert device.name.strip()
    assert device.compute_capability >= (5, 0)
    assert 0 < device.memory_free_bytes <= device.memory_total_bytes
    assert all(int(part) >= 0 for part in device.driver_version.split("."))
    assert int(device.runtime_version.split(".")[0]) >= 11
    if rig.on_gpu:
        assert device.binding == rig.name


def test_bytes_come_back_as_they_went(rig: Rig, desk: Desk) -> None:
    nbytes = 1 << (26 if rig.on_gpu else 16)
    there, back = desk.pinned((nbytes,)), desk.pinned((nbytes,))
    stream, address = desk.stream(), desk.malloc(nbytes)
    there[:], back[:] = random_bytes(nbytes), 0
    rig.driver.to_device(address, there, stream)
    rig.driver.to_host(back, address, stream)
    rig.driver.synchronize(stream)
    np.testing.assert_array_equal(back, there)


def test_parts_of_an_array_are_copied_and_no_byte_more(driver: CudaDriver, desk: Desk) -> None:
    there, back = desk.pinned((4, 6), np.float32), desk.pinned((4, 6), np.float32)
    stream, address = desk.stream(), desk.malloc(there.nbytes)
    there[:] = np.arange(24).reshape(4, 6)
    driver.to_device(address, there, stream)
    driver.synchronize(stream)
    back[:] = -1
    driver.to_host(back[1:3], address + there[:2].nbytes, stream)
    driver.synchronize(stream)
    np.testing.assert_array_equal(back[1:3], there[2:])
    np.testing.assert_array_equal(back[[0, 3]], -1)


def test_device_memory_begins_where_tensorrt_wants_it(desk: Desk) -> None:
    assert [desk.malloc(nbytes) % 256 for nbytes in (1, 3, 100, 4097)] == [0] * 4


def test_every_stream_has_an_address_of_its_own(driver: CudaDriver, desk: Desk) -> None:
    addresses = {driver.stream_address(desk.stream()) for _ in range(4)}
    assert len(addresses) == 4
    assert 0 not in addresses, "the default stream"


def test_events_time_the_work_between_them(rig: Rig, desk: Desk) -> None:
    nbytes = 1 << (26 if rig.on_gpu else 16)
    host, address, stream = desk.pinned((nbytes,)), desk.malloc(nbytes), desk.stream()
    start, between, end = desk.event(), desk.event(), desk.event()
    for turn in range(2):  # events are used again and again
        rig.driver.record(start, stream)
        rig.driver.to_device(address, host, stream)
        rig.driver.record(between, stream)
        for _ in range(3):
            rig.driver.to_host(host, address, stream)
        rig.driver.record(end, stream)
        rig.driver.synchronize(stream)
        first = rig.driver.elapsed_ms(start, between)
        second = rig.driver.elapsed_ms(between, end)
        assert 0 < first < second, turn
        assert rig.driver.elapsed_ms(start, end) == pytest.approx(first + second, abs=0.01)


def test_events_that_were_never_recorded_give_no_time(driver: CudaDriver, desk: Desk) -> None:
    with pytest.raises(LpxError, match="CUDA's"):
        driver.elapsed_ms(desk.event(), desk.event())


def test_the_kernel_runs_behind_the_copy_in_and_ahead_of_the_copy_out(rig: Rig, desk: Desk) -> None:
    driver, stream, faces = rig.driver, desk.stream(), faces_of(8)
    source = desk.pinned(faces.shape)
    score, patch_map = desk.pinned((8,), np.float32), desk.pinned((8, CELLS, CELLS), np.float32)
    given, scored, mapped = (desk.malloc(x.nbytes) for x in (source, score, patch_map))
    source[:], score[:], patch_map[:] = faces, -1, -1
    driver.to_device(given, source, stream)
    rig.kernel.launch(given, scored, mapped, 8, driver.stream_address(stream))
    driver.to_host(score, scored, stream)
    driver.to_host(patch_map, mapped, stream)
    driver.synchronize_device()
    wanted = expected(faces)
    np.testing.assert_array_equal(score, wanted[0])
    np.testing.assert_array_equal(patch_map, wanted[1])


def test_the_gpu_uses_mapped_memory_in_place(rig: Rig, desk: Desk) -> None:
    driver, stream, faces = rig.driver, desk.stream(), faces_of(8)
    source, score = desk.mapped(faces.shape), desk.mapped((8,), np.float32)
    patch_map = desk.mapped((8, CELLS, CELLS), np.float32)
    addresses = [driver.mapped_address(array) for array in (source, score, patch_map)]
    assert [address % 256 for address in addresses] == [0] * 3
    source[:], score[:], patch_map[:] = faces, -1, -1
    rig.kernel.launch(*addresses, 8, driver.stream_address(stream))
    driver.synchronize(stream)
    wanted = expected(faces)
    np.testing.assert_array_equal(score, wanted[0])
    np.testing.assert_array_equal(patch_map, wanted[1])


@pytest.fixture
def graphs(driver: CudaDriver) -> None:
    if not driver.graphs:
        pytest.skip("this binding has no CUDA graphs")


@pytest.mark.usefixtures("graphs")
def test_a_graph_does_again_what_was_captured(rig: Rig, desk: Desk) -> None:
    driver, stream = rig.driver, desk.stream()
    source = desk.pinned((2, SIZE, SIZE, 3))
    score, patch_map = desk.pinned((2,), np.float32), desk.pinned((2, CELLS, CELLS), np.float32)
    given, scored, mapped = (desk.malloc(x.nbytes) for x in (source, score, patch_map))
    on = driver.stream_address(stream)
    rig.kernel.launch(given, scored, mapped, 2, on)  # loads the kernel: not to be captured
    driver.synchronize(stream)
    driver.begin_capture(stream)
    driver.to_device(given, source, stream)
    rig.kernel.launch(given, scored, mapped, 2, on)
    driver.to_host(score, scored, stream)
    graph = desk.graph(stream)
    score[:] = -1
    driver.synchronize(stream)
    np.testing.assert_array_equal(score, -1)  # what is captured does not run
    for seed in range(3):
        source[:] = faces_of(2, seed)
        driver.launch(graph, stream)
        driver.synchronize(stream)
        np.testing.assert_array_equal(score, expected(source)[0])


@pytest.mark.usefixtures("graphs")
def test_waiting_while_captured_fails_and_the_stream_works_afterwards(rig: Rig, desk: Desk) -> None:
    driver, stream = rig.driver, desk.stream()
    host, address = desk.pinned((256,)), desk.malloc(256)
    driver.begin_capture(stream)
    driver.to_device(address, host, stream)
    with pytest.raises(LpxError, match="cudaErrorStreamCaptureUnsupported"):
        driver.synchronize(stream)
    with pytest.raises(LpxError, match="cudaErrorStreamCaptureInvalidated"):
        driver.end_capture(stream)
    assert_sound(rig.driver, desk, stream)


@pytest.mark.usefixtures("graphs")
def test_allocating_while_captured_fails_and_the_stream_works_afterwards(
    rig: Rig, desk: Desk
) -> None:
    driver, stream = rig.driver, desk.stream()
    driver.begin_capture(stream)
    with pytest.raises(LpxError, match="CUDA's cudaMalloc failed"):
        driver.malloc(256)
    with pytest.raises(LpxError, match="CUDA's cudaStreamEndCapture failed"):
        driver.end_capture(stream)
    assert_sound(rig.driver, desk, stream)


def assert_sound(driver: CudaDriver, desk: Desk, stream: Any) -> None:
    """A stream copies there and back, also as a graph."""
    there, back, address = desk.pinned((256,)), desk.pinned((256,)), desk.malloc(256)
    there[:], back[:] = 7, 0
    driver.to_device(address, there, stream)
    driver.synchronize(stream)
    driver.begin_capture(stream)
    driver.to_host(back, address, stream)
    driver.launch(desk.graph(stream), stream)
    driver.synchronize(stream)
    np.testing.assert_array_equal(back, 7)


def test_too_much_memory_is_refused_and_less_is_given(driver: CudaDriver, desk: Desk) -> None:
    with pytest.raises(LpxError, match=r"MemoryAllocation|OUT_OF_MEMORY") as caught:
        driver.malloc(TOO_MUCH)
    assert "smaller batches" in caught.value.fix
    with pytest.raises(LpxError, match="CUDA's"):
        driver.pinned((TOO_MUCH,), np.uint8)
    assert desk.malloc(1 << 20)
    assert desk.pinned((1 << 20,)).nbytes == 1 << 20


def test_what_is_released_comes_back(rig: Rig) -> None:
    driver = rig.driver

    def turn() -> None:
        with desk_of(driver) as desk:
            desk.stream(), desk.event(), desk.pinned((1 << 20,)), desk.mapped((1 << 20,))
            desk.malloc(1 << 24)

    turn()  # whatever CUDA keeps for good it takes now
    before = driver.device().memory_free_bytes
    for _ in range(50):
        turn()
    # 50 turns that kept their memory would take 800 MiB.
    assert before - driver.device().memory_free_bytes < 1 << 22


@pytest.mark.usefixtures("graphs")
def test_graphs_give_back_what_they_took(rig: Rig, desk: Desk) -> None:
    driver, stream = rig.driver, desk.stream()
    host, address = desk.pinned((1 << 16,)), desk.malloc(1 << 16)

    def turn() -> None:
        driver.begin_capture(stream)
        for _ in range(200):
            driver.to_device(address, host, stream)
        graph = driver.end_capture(stream)
        driver.launch(graph, stream)
        driver.synchronize(stream)
        driver.destroy_graph(graph)

    for _ in range(3):
        turn()
    before = driver.device().memory_free_bytes
    for _ in range(100):
        turn()
    assert before - driver.device().memory_free_bytes < 1 << 22
