"""The fakes refuse what TensorRT and CUDA refuse: each mistake an engine could make is found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_fakes import GARBAGE, FakeDriver, FakeGpu, MisuseError, Stream
from tensorrt_fakes import SIZE, FakeEngine, FakeLibrary, Hidden, loadable, scores_of

from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.errors import LpxError


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver(FakeGpu())


def engine_on(driver: FakeDriver, **options: Any) -> TensorRTEngine:
    library = loadable(FakeLibrary("tensorrt-10.3.0"), driver.gpu)
    return TensorRTEngine(b"plan", library.opened, driver=driver, **options)


def rightly_scored(engine: TensorRTEngine) -> bool:
    right = True
    for seed in range(6):
        faces = np.random.default_rng(seed).integers(0, 256, (40, SIZE, SIZE, 3), np.uint8)
        right &= bool(np.array_equal(engine.infer(faces).score, scores_of(faces)))
    return right


def no_wait(driver: FakeDriver) -> None:
    driver.synchronize = lambda stream: None


def no_wait_of_the_last(driver: FakeDriver) -> None:
    wait, waited = driver.synchronize, []

    def synchronize(stream: Stream) -> None:
        waited.append(stream)
        if len(waited) % 2:
            wait(stream)

    driver.synchronize = synchronize


def other_streams(driver: FakeDriver) -> None:
    """What the first slot copies goes onto the second one's stream."""
    to_host = driver.to_host

    def elsewhere(array: Any, address: int, stream: Stream) -> None:
        to_host(array, address, driver.gpu.streams[1 + (stream is driver.gpu.streams[1])])

    driver.to_host = elsewhere


@pytest.mark.parametrize("sabotage", [no_wait, no_wait_of_the_last, other_streams])
@pytest.mark.parametrize("cuda_graph", [True, False])
def test_an_engine_that_does_not_wait_is_found(
    driver: FakeDriver,
    sabotage: Callable[..., None],
    cuda_graph: bool,
) -> None:
    engine = engine_on(driver, in_flight=2, cuda_graph=cuda_graph)
    assert rightly_scored(engine)
    sabotage(driver)
    try:
        right = rightly_scored(engine)
    except (LpxError, MisuseError):
        return
    assert not right


def test_nothing_is_there_before_the_wait(driver: FakeDriver) -> None:
    stream = driver.stream()
    there, back = driver.pinned((3,), np.uint8), driver.pinned((3,), np.uint8)
    address = driver.malloc(3)
    there[:] = 7
    driver.to_device(address, there, stream)
    driver.to_host(back, address, stream)
    assert (back == GARBAGE).all()
    driver.synchronize(driver.stream())
    assert (back == GARBAGE).all(), "another stream was waited for"
    there[:] = 8
    driver.synchronize(stream)
    assert (back == 8).all(), "a copy reads the host when it happens"


def test_addresses_are_aligned_and_streams_their_own(driver: FakeDriver) -> None:
    addresses = [driver.malloc(nbytes) for nbytes in (1, 300, 256, 4)]
    mapped = driver.mapped_address(driver.mapped((5,), np.uint8))
    assert all(address % 256 == 0 for address in (*addresses, mapped))
    assert len({driver.stream_address(driver.stream()) for _ in range(3)}) == 3


def used_after_free(driver: FakeDriver) -> None:
    address = driver.malloc(4)
    array = driver.pinned((4,), np.uint8)
    driver.free(address)
    driver.to_device(address, array, driver.stream())


def freed_while_used(driver: FakeDriver) -> None:
    address = driver.malloc(4)
    driver.to_host(driver.pinned((4,), np.uint8), address, driver.stream())
    driver.free(address)


def unpinned_while_used(driver: FakeDriver) -> None:
    array = driver.pinned((4,), np.uint8)
    driver.to_host(array, driver.malloc(4), driver.stream())
    driver.free_pinned(array)


def copied_after_free_pinned(driver: FakeDriver) -> None:
    array = driver.pinned((4,), np.uint8)
    driver.free_pinned(array)
    driver.to_host(array, driver.malloc(4), driver.stream())


def freed_twice(driver: FakeDriver) -> None:
    address = driver.malloc(4)
    driver.free(address)
    driver.free(address)


def past_the_end(driver: FakeDriver) -> None:
    driver.to_device(driver.malloc(3), driver.pinned((4,), np.uint8), driver.stream())


def pageable(driver: FakeDriver) -> None:
    driver.to_device(driver.malloc(4), np.zeros(4, np.uint8), driver.stream())


def stream_destroyed(driver: FakeDriver) -> None:
    stream = driver.stream()
    driver.destroy_stream(stream)
    driver.record(driver.event(), stream)


def graph_destroyed(driver: FakeDriver) -> None:
    stream = driver.stream()
    driver.begin_capture(stream)
    graph = driver.end_capture(stream)
    driver.destroy_graph(graph)
    driver.launch(graph, stream)


@pytest.mark.parametrize(
    "mistake",
    [
        used_after_free,
        freed_while_used,
        unpinned_while_used,
        copied_after_free_pinned,
        freed_twice,
        past_the_end,
        pageable,
        stream_destroyed,
        graph_destroyed,
    ],
)
def test_what_cuda_leaves_undefined_is_found(
    driver: FakeDriver, mistake: Callable[[FakeDriver], None]
) -> None:
    with pytest.raises(MisuseError):
        mistake(driver)


def test_released_memory_does_not_keep_its_values(driver: FakeDriver) -> None:
    array = driver.pinned((4,), np.uint8)
    array[:] = 1
    driver.free_pinned(array)
    assert not (array == 1).any()


def test_an_event_tells_a_time_once_it_has_passed(driver: FakeDriver) -> None:
    start, end, stream = driver.event(), driver.event(), driver.stream()
    with pytest.raises(LpxError, match="InvalidResourceHandle"):
        driver.elapsed_ms(start, end)
    for event in (start, end):
        driver.record(event, stream)
    with pytest.raises(LpxError, match="NotReady"):
        driver.elapsed_ms(start, end)
    driver.synchronize(stream)
    assert driver.elapsed_ms(start, end) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda driver, stream: driver.synchronize(stream),
        lambda driver, stream: driver.synchronize_device(),
        lambda driver, stream: driver.malloc(4),
        lambda driver, stream: driver.pinned((4,), np.uint8),
        lambda driver, stream: driver.record(driver.event(), stream),
    ],
)
def test_what_cannot_be_captured_spoils_the_capture(driver: FakeDriver, call: Any) -> None:
    stream = driver.stream()
    driver.begin_capture(stream)
    with pytest.raises(LpxError, match="StreamCaptureUnsupported"):
        call(driver, stream)
    with pytest.raises(LpxError, match="StreamCaptureInvalidated"):
        driver.end_capture(stream)
    call(driver, stream)


def test_captured_copies_run_at_each_launch(driver: FakeDriver) -> None:
    stream, address = driver.stream(), driver.malloc(4)
    there, back = driver.pinned((4,), np.uint8), driver.pinned((4,), np.uint8)
    driver.begin_capture(stream)
    driver.to_device(address, there, stream)
    driver.to_host(back, address, stream)
    graph = driver.end_capture(stream)
    for value in (1, 2):
        there[:] = value
        driver.launch(graph, stream)
        driver.synchronize(stream)
        assert (back == value).all()


class Context:
    """An execution context with memory for 8 faces, on a stream of its own."""

    def __init__(
        self, driver: FakeDriver, release: str = "tensorrt-10.3.0", **options: Any
    ) -> None:
        self.said: list[str] = []
        library = FakeLibrary(release)
        library.logger = self
        self.driver = driver
        self.engine = FakeEngine(library, driver.gpu, **options)
        self.spy: Any = self.engine.create_execution_context()
        self.stream = driver.stream()
        self.address = driver.stream_address(self.stream)

    def log(self, severity: str, text: str) -> None:
        self.said.append(text)

    def give_memory(self) -> None:
        for name, nbytes in (("faces", 8 * SIZE * SIZE * 3), ("score", 32), ("patch_map", 256)):
            assert self.spy.set_tensor_address(name, self.driver.malloc(nbytes))

    def give_shape(self, batch: int = 2) -> bool:
        return bool(self.spy.set_input_shape("faces", (batch, SIZE, SIZE, 3)))

    def run(self) -> bool:
        return bool(self.spy.execute_async_v3(self.address))


def test_a_context_refuses_and_says_why(driver: FakeDriver) -> None:
    context = Context(driver, spans=((1, 4, 8), (16, 16, 16)))
    spy = context.spy
    refused = [
        (lambda: context.run(), "dimensions are not specified"),
        (lambda: context.give_shape(9), "does not satisfy any optimization profiles"),
        (lambda: spy.set_input_shape("faces", (2, 5, SIZE, 3)), "Static dimension mismatch"),
        (lambda: spy.set_input_shape("score", (2,)), "not an input"),
        (lambda: spy.set_optimization_profile_async(2, context.address), "out of range"),
        (lambda: spy.set_tensor_address("faces", driver.malloc(8) + 4), "must be aligned"),
        (lambda: spy.set_tensor_address("other", driver.malloc(8)), "neither input nor output"),
        (lambda: context.give_shape() and context.run(), "Address is not set"),
    ]
    for count, (call, said) in enumerate(refused, 1):
        assert not call()
        assert said in context.said[-1]
        assert len(context.said) >= count


@pytest.mark.parametrize(
    ("release", "taken"), [("tensorrt-8.6.1", False), ("tensorrt-10.3.0", True)]
)
def test_before_10_a_profile_serves_one_context(
    driver: FakeDriver, release: str, taken: bool
) -> None:
    context = Context(driver, release)
    second: Any = context.engine.create_execution_context()
    assert not second.set_input_shape("faces", (2, SIZE, SIZE, 3)), "it has no profile yet"
    assert second.set_optimization_profile_async(0, context.address) is taken


def test_a_change_of_profile_forgets_the_shape(driver: FakeDriver) -> None:
    context = Context(driver, spans=((1, 1, 1), (2, 4, 8)))
    context.give_memory()
    assert context.give_shape(1)
    assert context.spy.set_optimization_profile_async(1, context.address)
    assert not context.run()
    assert context.give_shape(2)
    assert context.run()


def test_a_run_on_another_stream_than_the_change_of_profile_is_found(driver: FakeDriver) -> None:
    context = Context(driver)
    context.give_memory()
    context.spy.set_optimization_profile_async(0, context.address)
    context.give_shape()
    with pytest.raises(MisuseError, match="on another"):
        context.spy.execute_async_v3(driver.stream_address(driver.stream()))


def test_a_context_on_two_streams_is_found(driver: FakeDriver) -> None:
    context = Context(driver)
    context.give_memory()
    context.give_shape()
    assert context.run()
    with pytest.raises(MisuseError, match="two streams"):
        context.spy.execute_async_v3(driver.stream_address(driver.stream()))


def test_the_first_run_of_a_shape_cannot_be_captured(driver: FakeDriver) -> None:
    context = Context(driver)
    context.give_memory()
    context.give_shape()
    driver.begin_capture(context.stream)
    assert not context.run()
    with pytest.raises(LpxError, match="Invalidated"):
        driver.end_capture(context.stream)


def test_a_graph_of_another_shape_is_found(driver: FakeDriver) -> None:
    context = Context(driver)
    context.give_memory()
    context.give_shape()
    context.run()
    driver.begin_capture(context.stream)
    assert context.run()
    graph = driver.end_capture(context.stream)
    driver.launch(graph, context.stream)
    context.give_shape(3)
    with pytest.raises(MisuseError, match="another state"):
        driver.launch(graph, context.stream)


def test_a_debug_tensor_is_there_for_the_time_of_the_call(driver: FakeDriver) -> None:
    context = Context(driver, hidden={"relu": Hidden()})
    context.give_memory()
    context.give_shape()
    kept: list[Any] = []

    class Listener:
        def process_debug_tensor(self, address: int, *rest: Any) -> bool:
            before = driver.gpu.bytes_at(address, 4).copy()
            driver.synchronize_device()
            kept.append((address, before, driver.gpu.bytes_at(address, 4).copy(), rest))
            return True

    context.spy.set_debug_listener(Listener())
    assert context.run()
    assert kept == [], "it is not turned on"
    context.spy.set_all_tensors_debug_state(True)
    assert context.run()
    ((address, before, after, (_, _, shape, name, stream)),) = kept
    assert (before == GARBAGE).all()
    assert not (after == GARBAGE).all(), "it is computed once the device was waited for"
    assert (name, stream) == ("relu", context.address)
    assert not isinstance(shape, tuple)
    assert tuple(shape) == (2, SIZE, SIZE, 3)
    with pytest.raises(MisuseError):
        driver.gpu.bytes_at(address, 4)


def test_what_a_listener_raises_is_not_raised(driver: FakeDriver) -> None:
    context = Context(driver, hidden={"relu": Hidden()})
    context.give_memory()
    context.give_shape()

    class Listener:
        def process_debug_tensor(self, *arguments: Any) -> bool:
            raise KeyboardInterrupt

    context.spy.set_debug_listener(Listener())
    context.spy.set_all_tensors_debug_state(True)
    assert not context.run()
