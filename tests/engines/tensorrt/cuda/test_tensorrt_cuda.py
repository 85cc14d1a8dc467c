"""The CUDA layer against fakes of both bindings, at the level of calls."""

from __future__ import annotations

import ctypes
import importlib
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lpx.engines.tensorrt.cuda import driver as driver_module
from lpx.engines.tensorrt.cuda.choose import available, open_driver
from lpx.engines.tensorrt.cuda.cuda_python import CudaPython
from lpx.engines.tensorrt.cuda.driver import CudaLostError, fix_driver
from lpx.engines.tensorrt.cuda.pycuda import PyCuda
from lpx.errors import LpxError

SUCCESS = {
    "cudaGetDevice": (0,),
    "cudaMemGetInfo": (3, 8),
    "cudaGetDeviceProperties": (SimpleNamespace(name=b"Orin\0\0"),),
    "cudaDriverGetVersion": (12060,),
    "cudaRuntimeGetVersion": (13050,),
    "cudaStreamCreateWithFlags": (41,),
    "cudaEventCreate": (42,),
    "cudaEventElapsedTime": (1.5,),
    "cudaMalloc": (4096,),
    "cudaHostGetDevicePointer": (8192,),
    "cudaStreamEndCapture": ("graph",),
    "cudaGraphInstantiate": ("executable",),
}


class Status(IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815


class FakeCudart(ModuleType):
    """cuda-python: every call returns (status, values...)."""

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.calls: list[tuple[Any, ...]] = []
        self.failing: dict[str, Status] = {}
        self.memory: list[Any] = []
        self.cudaStreamNonBlocking = 1
        self.cudaDeviceAttr = SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor="major",
            cudaDevAttrComputeCapabilityMinor="minor",
            cudaDevAttrIntegrated="integrated",
            cudaDevAttrCanMapHostMemory="maps",
        )
        self.attributes = {"major": 8, "minor": 7, "integrated": 1, "maps": 1}
        self.cudaHostAllocMapped = 2
        self.cudaMemcpyKind = SimpleNamespace(
            cudaMemcpyHostToDevice="H2D", cudaMemcpyDeviceToHost="D2H"
        )
        self.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, *arguments))
            if name in self.failing:
                return (self.failing[name], None)
            if name in ("cudaMallocHost", "cudaHostAlloc"):
                self.memory.append(ctypes.create_string_buffer(arguments[0]))
                return (Status.cudaSuccess, ctypes.addressof(self.memory[-1]))
            if name == "cudaDeviceGetAttribute":
                return (Status.cudaSuccess, self.attributes[arguments[0]])
            return (Status.cudaSuccess, *SUCCESS.get(name, ()))

        return call


@pytest.fixture
def cudart() -> FakeCudart:
    return FakeCudart()


@pytest.fixture
def no_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)


def test_cuda_python_tells_the_device(cudart: FakeCudart) -> None:
    device = CudaPython(cudart).device()
    assert (device.name, device.compute_capability) == ("Orin", (8, 7))
    assert (device.memory_free_bytes, device.memory_total_bytes) == (3, 8)
    assert (device.driver_version, device.runtime_version) == ("12.6", "13.5")
    assert device.binding == "cuda-python"


def test_cuda_python_makes_each_call_with_its_arguments(cudart: FakeCudart) -> None:
    driver = CudaPython(cudart)
    cudart.calls.clear()
    stream, event = driver.stream(), driver.event()
    assert (driver.stream_address(stream), driver.malloc(12)) == (41, 4096)
    driver.record(event, stream)
    assert driver.elapsed_ms(event, event) == 1.5
    driver.synchronize(stream)
    driver.synchronize_device()
    driver.free(4096)
    driver.destroy_event(event)
    driver.destroy_stream(stream)
    assert cudart.calls == [
        ("cudaStreamCreateWithFlags", 1),
        ("cudaEventCreate",),
        ("cudaMalloc", 12),
        ("cudaEventRecord", 42, 41),
        ("cudaEventElapsedTime", 42, 42),
        ("cudaStreamSynchronize", 41),
        ("cudaDeviceSynchronize",),
        ("cudaFree", 4096),
        ("cudaEventDestroy", 42),
        ("cudaStreamDestroy", 41),
    ]


def test_cuda_python_pins_an_array_and_copies_parts_of_it(cudart: FakeCudart) -> None:
    driver = CudaPython(cudart)
    array = driver.pinned((4, 3), np.float32)
    assert array.shape == (4, 3)
    assert array.dtype == np.float32
    array[:] = 7
    address = ctypes.addressof(cudart.memory[0])
    assert bytes(cudart.memory[0]) == array.tobytes()
    driver.to_device(4096, array[:2], 41)
    driver.to_host(array[:1], 4096, 41)
    driver.free_pinned(array)
    assert cudart.calls[-3:] == [
        ("cudaMemcpyAsync", 4096, address, 24, "H2D", 41),
        ("cudaMemcpyAsync", address, 4096, 12, "D2H", 41),
        ("cudaFreeHost", address),
    ]


def test_cuda_python_maps_an_array(cudart: FakeCudart) -> None:
    driver = CudaPython(cudart)
    array = driver.mapped((4, 3), np.float32)
    array[:] = 7
    address = ctypes.addressof(cudart.memory[0])
    assert bytes(cudart.memory[0]) == array.tobytes()
    assert driver.mapped_address(array) == 8192
    driver.free_pinned(array)
    assert cudart.calls[-3:] == [
        ("cudaHostAlloc", 48, 2),
        ("cudaHostGetDevicePointer", address, 0),
        ("cudaFreeHost", address),
    ]


@pytest.mark.parametrize("lacking", [None, "integrated", "maps"])
def test_cuda_python_tells_whether_memory_is_shared(
    cudart: FakeCudart, lacking: str | None
) -> None:
    if lacking:
        cudart.attributes[lacking] = 0
    assert CudaPython(cudart).integrated() is (lacking is None)


def test_an_error_that_stays_is_told_apart(cudart: FakeCudart) -> None:
    driver = CudaPython(cudart)
    cudart.failing["cudaStreamSynchronize"] = Status.cudaErrorIllegalAddress
    with pytest.raises(CudaLostError) as caught:
        driver.synchronize(41)
    assert "cudaStreamSynchronize failed: cudaErrorIllegalAddress" in caught.value.what
    assert "new process" in caught.value.fix


def test_a_driver_too_old_is_named_with_both_versions(cudart: FakeCudart) -> None:
    cudart.failing["cudaFree"] = Status.cudaErrorInsufficientDriver
    with pytest.raises(LpxError) as caught:
        CudaPython(cudart)
    assert caught.value.why == "the driver supports CUDA 12.6, and cuda-python is for CUDA 13.5"
    assert caught.value.fix == (
        'pip install "cuda-python<13", or install an NVIDIA driver for CUDA 13.5 or later'
    )


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Jetson with JetPack 6, as the root of the file system."""
    release = tmp_path / "etc/nv_tegra_release"
    release.parent.mkdir()
    release.write_text("# R36 (release), REVISION: 4.3, GCID: 0, BOARD: generic\n")
    monkeypatch.setattr(driver_module, "_ROOT", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("jetson")
def test_a_jetson_is_advised_another_binding_not_another_driver(cudart: FakeCudart) -> None:
    cudart.failing["cudaFree"] = Status.cudaErrorInsufficientDriver
    with pytest.raises(LpxError) as caught:
        CudaPython(cudart)
    assert caught.value.fix == (
        'pip install "cuda-python<13": on a Jetson the driver comes with JetPack'
    )


@pytest.mark.usefixtures("jetson", "no_bindings")
def test_a_jetson_without_a_binding_gets_one_for_its_cuda() -> None:
    with pytest.raises(LpxError) as caught:
        open_driver()
    assert caught.value.fix == 'pip install "cuda-python<13", or pip install pycuda'


@pytest.mark.usefixtures("jetson")
def test_a_jetson_without_a_driver_is_a_container() -> None:
    assert "--runtime nvidia" in fix_driver(0, 13050)


def test_a_binding_of_the_drivers_own_cuda_may_still_be_too_new() -> None:
    assert 'pip install "cuda-python<13.1"' in fix_driver(13000, 13050)


def test_no_driver_at_all_is_not_called_an_old_one(
    cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudart.failing["cudaFree"] = Status.cudaErrorInsufficientDriver
    monkeypatch.setitem(SUCCESS, "cudaDriverGetVersion", (0,))
    with pytest.raises(LpxError) as caught:
        CudaPython(cudart)
    assert caught.value.why == "there is no driver, and cuda-python is for CUDA 13.5"


def test_cuda_python_captures_a_graph(cudart: FakeCudart) -> None:
    driver = CudaPython(cudart)
    cudart.calls.clear()
    driver.begin_capture(41)
    graph = driver.end_capture(41)
    driver.launch(graph, 41)
    driver.destroy_graph(graph)
    assert driver.graphs
    assert cudart.calls == [
        ("cudaStreamBeginCapture", 41, "thread"),
        ("cudaStreamEndCapture", 41),
        ("cudaGraphInstantiate", "graph", 0),
        ("cudaGraphDestroy", "graph"),
        ("cudaGraphLaunch", "executable", 41),
        ("cudaGraphExecDestroy", "executable"),
    ]


def test_a_graph_that_cannot_be_instantiated_is_still_released(cudart: FakeCudart) -> None:
    driver = CudaPython(cudart)
    cudart.failing["cudaGraphInstantiate"] = Status.cudaErrorMemoryAllocation
    with pytest.raises(LpxError, match="cudaGraphInstantiate"):
        driver.end_capture(41)
    assert cudart.calls[-1] == ("cudaGraphDestroy", "graph")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda driver: driver.malloc(1), "cudaMalloc"),
        (lambda driver: driver.pinned((1,), np.uint8), "cudaMallocHost"),
        (lambda driver: driver.stream(), "cudaStreamCreateWithFlags"),
        (lambda driver: driver.synchronize(1), "cudaStreamSynchronize"),
        (lambda driver: driver.launch(1, 1), "cudaGraphLaunch"),
        (lambda driver: driver.device(), "cudaMemGetInfo"),
    ],
)
def test_a_failing_call_raises_with_cudas_name_for_it(
    cudart: FakeCudart, call: Any, name: str
) -> None:
    driver = CudaPython(cudart)
    cudart.failing[name] = Status.cudaErrorMemoryAllocation
    with pytest.raises(LpxError) as caught:
        call(driver)
    assert caught.value.what == f"CUDA's {name} failed: cudaErrorMemoryAllocation"
    assert "smaller batches" in caught.value.fix


def test_a_missing_gpu_is_found_on_opening(
    cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    cudart.failing["cudaFree"] = Status.cudaErrorNoDevice
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cudart)
    usable, reason = available()
    assert not usable
    assert "cudaErrorNoDevice" in reason
    assert "nvidia-smi" in reason


def test_a_missing_driver_library_is_an_lpx_error(cudart: FakeCudart) -> None:
    def no_driver(*arguments: Any) -> Any:
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    cudart.cudaFree = no_driver
    with pytest.raises(LpxError, match="could not run") as caught:
        CudaPython(cudart)
    assert caught.value.why == "Failed to dlopen libcuda.so.1"


@pytest.mark.parametrize("name", ["cuda.bindings.runtime", "cuda.cudart"])
@pytest.mark.usefixtures("no_bindings")
def test_cuda_python_is_found_under_its_new_and_its_old_name(
    cudart: FakeCudart, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, cudart)
    assert isinstance(open_driver(), CudaPython)
    assert available() == (True, "Orin through cuda-python")


@pytest.mark.usefixtures("no_bindings")
def test_without_a_binding_it_says_what_to_install() -> None:
    with pytest.raises(LpxError) as caught:
        open_driver()
    assert "cuda-python" in caught.value.fix
    assert available()[0] is False


class FakeAllocation:
    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def __int__(self) -> int:
        return 4096

    def free(self) -> None:
        self.calls.append(("free",))

    def get_device_pointer(self) -> int:
        return 8192


class PinnedArray(np.ndarray):
    """An array whose base is an allocation that can be freed, as pycuda's are."""

    owner: Any = None

    @property
    def base(self) -> Any:
        return self.owner


@pytest.fixture
def pycuda(monkeypatch: pytest.MonkeyPatch, no_bindings: None) -> Iterator[ModuleType]:
    """pycuda: every call raises on failure."""
    driver = ModuleType("pycuda.driver")
    calls: list[Any] = []

    class Error(Exception):
        pass

    class OutOfMemoryError(Error, MemoryError):
        pass

    class Stream:
        handle = 41

        def __init__(self, flags: int) -> None:
            calls.append(("Stream", flags))

        def synchronize(self) -> None:
            calls.append(("synchronize",))

    class Event:
        def record(self, stream: Any) -> None:
            calls.append(("record",))

        def time_till(self, other: Any) -> float:
            return 1.5

    def pagelocked_empty(shape: Any, dtype: Any, mem_flags: int = 0) -> Any:
        if mem_flags:
            calls.append(("pagelocked_empty", mem_flags))
        array = np.zeros(shape, dtype).view(PinnedArray)
        array.owner = FakeAllocation(calls)
        return array

    driver.calls = calls
    driver.device_attribute = SimpleNamespace(INTEGRATED="integrated", CAN_MAP_HOST_MEMORY="maps")
    driver.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)
    driver.attributes = {"integrated": 1, "maps": 1}
    driver.Error, driver.MemoryError = Error, OutOfMemoryError
    driver.Stream, driver.Event = Stream, Event
    driver.mem_alloc = lambda nbytes: FakeAllocation(calls)
    driver.pagelocked_empty = pagelocked_empty
    driver.memcpy_htod_async = lambda *arguments: calls.append(("h2d", *arguments))
    driver.memcpy_dtoh_async = lambda *arguments: calls.append(("d2h", *arguments))
    driver.mem_get_info = lambda: (3, 8)
    driver.Context = SimpleNamespace(synchronize=lambda: calls.append(("synchronize_device",)))
    driver.get_version = lambda: (12, 2, 0)
    driver.get_driver_version = lambda: 12060
    primary = ModuleType("pycuda.autoprimaryctx")
    primary.device = SimpleNamespace(
        name=lambda: "Orin",
        compute_capability=lambda: (8, 7),
        get_attribute=lambda name: driver.attributes[name],
    )
    package = ModuleType("pycuda")
    for name, module in (("", package), (".driver", driver), (".autoprimaryctx", primary)):
        monkeypatch.setitem(sys.modules, f"pycuda{name}", module)
    return driver


def test_pycuda_is_the_second_choice(pycuda: ModuleType) -> None:
    driver = open_driver()
    assert isinstance(driver, PyCuda)
    device = driver.device()
    assert (device.name, device.compute_capability) == ("Orin", (8, 7))
    assert (device.driver_version, device.runtime_version) == ("12.6", "12.2")
    assert (device.memory_free_bytes, device.memory_total_bytes) == (3, 8)
    assert device.binding == "pycuda"


def test_pycuda_makes_each_call(pycuda: ModuleType) -> None:
    driver = PyCuda()
    stream, event = driver.stream(), driver.event()
    address = driver.malloc(12)
    array = driver.pinned((4, 3), np.float32)
    assert (driver.stream_address(stream), address) == (41, 4096)
    driver.to_device(address, array, stream)
    driver.to_host(array, address, stream)
    driver.record(event, stream)
    driver.synchronize(stream)
    driver.synchronize_device()
    assert driver.elapsed_ms(event, event) == 1.5
    driver.free(address)
    driver.free_pinned(array)
    driver.destroy_event(event)
    driver.destroy_stream(stream)
    assert [call[0] for call in pycuda.calls] == [
        "Stream",
        "h2d",
        "d2h",
        "record",
        "synchronize",
        "synchronize_device",
        "free",
        "free",
    ]
    assert pycuda.calls[0] == ("Stream", 1)
    assert pycuda.calls[1][1:] == (address, array, stream)
    assert pycuda.calls[2][1:] == (array, address, stream)


def test_pycuda_maps_an_array(pycuda: ModuleType) -> None:
    driver = PyCuda()
    assert driver.integrated() is True
    array = driver.mapped((4, 3), np.float32)
    assert driver.mapped_address(array) == 8192
    driver.free_pinned(array)
    assert pycuda.calls == [("pagelocked_empty", 2), ("free",)]
    pycuda.attributes["maps"] = 0
    assert driver.integrated() is False


def test_pycuda_tells_an_error_that_stays(pycuda: ModuleType) -> None:
    def broken(*arguments: Any) -> Any:
        raise pycuda.Error("cuStreamSynchronize failed: an illegal memory access was encountered")

    driver = PyCuda()
    pycuda.memcpy_dtoh_async = broken
    with pytest.raises(CudaLostError, match="illegal memory access"):
        driver.to_host(np.zeros(1), 4096, None)


def test_pycudas_exceptions_become_lpx_errors(pycuda: ModuleType) -> None:
    driver = PyCuda()

    def out_of_memory(nbytes: int) -> Any:
        raise pycuda.MemoryError("cuMemAlloc failed: out of memory")

    def broken(*arguments: Any) -> Any:
        raise pycuda.Error("cuMemcpyHtoDAsync failed: invalid argument")

    pycuda.mem_alloc = out_of_memory
    pycuda.memcpy_htod_async = broken
    with pytest.raises(LpxError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        driver.malloc(1)
    with pytest.raises(LpxError, match="cuMemcpyHtoDAsync failed: invalid argument"):
        driver.to_device(4096, np.zeros(1), None)


@pytest.mark.usefixtures("pycuda")
def test_pycuda_without_a_gpu_is_an_lpx_error() -> None:
    def import_module(name: str) -> Any:
        if name == "pycuda.autoprimaryctx":
            raise RuntimeError("make_default_context() wasn't able to create a context")
        return importlib.import_module(name)

    with pytest.raises(LpxError, match="wasn't able to create a context"):
        PyCuda(import_module)


def test_pycuda_has_no_graphs(pycuda: ModuleType) -> None:
    driver = PyCuda()
    assert not driver.graphs
    calls = (
        lambda: driver.begin_capture(1),
        lambda: driver.end_capture(1),
        lambda: driver.launch(1, 1),
        lambda: driver.destroy_graph(1),
    )
    for call in calls:
        with pytest.raises(LpxError, match="no CUDA graphs"):
            call()
