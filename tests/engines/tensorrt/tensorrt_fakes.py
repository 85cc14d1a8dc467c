"""Stand-ins for TensorRT and CUDA at the level of calls.

The fake library of a release has the names of that release and no other, so code that touches a
name the release lacks fails here as it would there. The fake GPU keeps memory by address, so a
wrong address, a wrong order or a missing copy gives a wrong score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
from tensorrt_surfaces import surface, version

from lpx.engines.tensorrt.driver import CudaLostError, Device
from lpx.errors import LpxError

SIZE = 4
CELLS = 2
STREAM = 77


class Spy:
    """An object of a TensorRT class: only that class's members can be got or set.

    Members that are set can be read again. Others answer from `answers`; a member that is not
    there is a call that is written down and returns None.
    """

    def __init__(self, kind: str, library: FakeLibrary, **answers: Any) -> None:
        members = surface(library.release)[kind] if library.release else frozenset(answers)
        vars(self).update(_kind=kind, _library=library, _members=members, _answers=answers)

    def __getattr__(self, name: str) -> Any:
        if name not in self._members:
            raise AttributeError(f"{self._library.release}: {self._kind} has no {name}")
        answer = self._answers.get(name)
        if name in self._answers and not callable(answer):
            return answer

        def call(*arguments: Any) -> Any:
            self._library.calls.append((f"{self._kind}.{name}", *arguments))
            return answer(*arguments) if answer else None

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._members:
            raise AttributeError(f"{self._library.release}: {self._kind} has no {name}")
        self._library.calls.append((f"{self._kind}.{name} =", value))
        self._answers[name] = value


class FakeLibrary(ModuleType):
    """The module of one release. `calls` holds all that was done to its objects, in order."""

    def __init__(self, release: str) -> None:
        super().__init__("tensorrt_rtx" if "rtx" in release else "tensorrt")
        self.release = release
        self.calls: list[tuple[Any, ...]] = []
        self.__version__ = version(release)
        for kind, members in surface(release).items():
            setattr(self, kind, _stand_in(kind, members))

    def named(self, prefix: str) -> list[tuple[Any, ...]]:
        """The calls whose name begins so."""
        return [call for call in self.calls if call[0].startswith(prefix)]


def _stand_in(kind: str, members: frozenset[str]) -> type:
    if kind.startswith("I") or kind in ("Builder", "Runtime", "OnnxParser", "EngineInspector"):
        return type(kind, (), {name: f"{kind}.{name}" for name in members})
    names = sorted(members - {"name", "value"})
    return IntEnum(kind, {name: index for index, name in enumerate(names)})


@dataclass
class FakeGpu:
    """Device memory by address, and what was done to it."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    memory: dict[int, np.ndarray] = field(default_factory=dict)
    captured: list[Callable[[], None]] | None = None
    elsewhere: list[Callable[[], None]] = field(default_factory=list)
    """Work on streams that are not lpx's, done when the device is waited for."""
    next_address: int = 1000


class FakeDriver:
    """A CudaDriver whose device memory is NumPy's. `failing` names the calls that fail."""

    def __init__(
        self, gpu: FakeGpu, *, graphs: bool = True, failing: tuple[str, ...] = (),
        shares_memory: bool = False,
    ) -> None:  # fmt: skip
        self.gpu, self.graphs, self.failing = gpu, graphs, failing
        self.shares_memory, self.lost = shares_memory, False
        self.mapped_at: dict[int, int] = {}
        self.live: dict[str, int] = {}

    def _log(self, name: str, *details: Any) -> None:
        self.gpu.calls.append((name, *details))
        if self.lost:
            raise CudaLostError(f"CUDA's {name} failed: cudaErrorIllegalAddress")
        if name in self.failing:
            raise LpxError(f"CUDA's {name} failed: cudaErrorUnknown")

    def _count(self, kind: str, change: int) -> None:
        self.live[kind] = self.live.get(kind, 0) + change

    def device(self) -> Device:
        return Device("fake", (8, 7), 1, 2, "12.6", "12.6", "fake")

    def stream(self) -> Any:
        self._count("stream", 1)
        return "stream"

    def stream_address(self, stream: Any) -> int:
        assert stream == "stream"
        return STREAM

    def synchronize(self, stream: Any) -> None:
        self._log("synchronize")

    def synchronize_device(self) -> None:
        self._log("synchronize_device")
        while self.gpu.elsewhere:
            self.gpu.elsewhere.pop(0)()

    def destroy_stream(self, stream: Any) -> None:
        self._log("destroy_stream")
        self._count("stream", -1)

    def event(self) -> Any:
        self._count("event", 1)
        return self.live["event"]

    def record(self, event: Any, stream: Any) -> None:
        self._log("record", event)

    def elapsed_ms(self, start: Any, end: Any) -> float:
        return 10.0 * start + end

    def destroy_event(self, event: Any) -> None:
        self._log("destroy_event")
        self._count("event", -1)

    def malloc(self, nbytes: int) -> int:
        self._log("malloc", nbytes)
        self._count("device", 1)
        self.gpu.next_address += 1
        self.gpu.memory[self.gpu.next_address] = np.zeros(nbytes, np.uint8)
        return self.gpu.next_address

    def free(self, address: int) -> None:
        self._log("free", address)
        self._count("device", -1)
        del self.gpu.memory[address]

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        self._log("pinned", shape)
        self._count("pinned", 1)
        return np.zeros(shape, dtype)

    def integrated(self) -> bool:
        return self.shares_memory

    def mapped(self, shape: tuple[int, ...], dtype: Any) -> Any:
        array = self.pinned(shape, dtype)
        self.gpu.next_address += 1
        # The same bytes, as the GPU sees them.
        self.gpu.memory[self.gpu.next_address] = array.reshape(-1).view(np.uint8)
        self.mapped_at[array.ctypes.data] = self.gpu.next_address
        return array

    def mapped_address(self, array: Any) -> int:
        return self.mapped_at[array.ctypes.data]

    def free_pinned(self, array: Any) -> None:
        self._log("free_pinned")
        self._count("pinned", -1)
        self.gpu.memory.pop(self.mapped_at.pop(array.ctypes.data, 0), None)

    def to_device(self, address: int, array: Any, stream: Any) -> None:
        self._log("to_device", address, len(array))
        data = np.ascontiguousarray(array).view(np.uint8).ravel()
        self.gpu.memory[address][: data.size] = data

    def to_host(self, array: Any, address: int, stream: Any) -> None:
        self._log("to_host", address, len(array))
        data = self.gpu.memory[address][: array.nbytes]
        array[...] = data.view(array.dtype).reshape(array.shape)

    def begin_capture(self, stream: Any) -> None:
        self._log("begin_capture")
        self.gpu.captured = []

    def end_capture(self, stream: Any) -> Any:
        captured, self.gpu.captured = self.gpu.captured, None
        self._log("end_capture")
        self._count("graph", 1)
        return captured

    def launch(self, graph: Any, stream: Any) -> None:
        self._log("launch")
        for work in graph:
            work()

    def destroy_graph(self, graph: Any) -> None:
        self._log("destroy_graph")
        self._count("graph", -1)


def scores_of(faces: np.ndarray) -> np.ndarray:
    """What the fake engine computes: the mean of a face, in [0, 1]."""
    return (faces.mean(axis=(1, 2, 3)) / 255).astype(np.float32)


def patch_maps_of(faces: np.ndarray) -> np.ndarray:
    """What the fake engine computes: the top left red values, in [0, 1]."""
    return (faces[:, :CELLS, :CELLS, 0] / 255).astype(np.float32)


class FakeContext:
    """What an execution context does: it reads and writes the addresses it was given."""

    def __init__(self, library: FakeLibrary, gpu: FakeGpu, *, refuse_capture: bool) -> None:
        self.gpu, self.refuse_capture = gpu, refuse_capture
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.spy = Spy(
            "IExecutionContext",
            library,
            set_optimization_profile_async=lambda index, stream: stream == STREAM,
            set_input_shape=self.set_input_shape,
            set_tensor_address=self.set_tensor_address,
            get_tensor_shape=self.get_tensor_shape,
            execute_async_v3=self.execute,
        )

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return name == "faces"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return address in self.gpu.memory

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = self.shape[0]
        return {"faces": self.shape, "score": (batch,), "patch_map": (batch, CELLS, CELLS)}[name]

    def execute(self, stream: int) -> bool:
        assert stream == STREAM
        if self.gpu.captured is None:
            self.compute()
        elif self.refuse_capture:
            return False
        else:
            self.gpu.captured.append(self.compute)
        return True

    def compute(self) -> None:
        memory = self.gpu.memory
        size = int(np.prod(self.shape))
        faces = memory[self.addresses["faces"]][:size].reshape(self.shape)
        for name, values in (("score", scores_of(faces)), ("patch_map", patch_maps_of(faces))):
            data = values.view(np.uint8).ravel()
            memory[self.addresses[name]][: data.size] = data


REFUSALS = {
    b"foreign": "the plan was built by another release",
    # As TensorRT's libraries have it.
    b"host code": "Cannot deserialize engine with lean runtime since "
    "IRuntime::getEngineHostCodeAllowed() is false.",
    # As TensorRT for RTX 1.7.1 said on an H200.
    b"rtx": "IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine cannot run "
    "on this GPU, which has compute capability 9.0. Supported compute capabilities: 8.0. "
    "TensorRT-RTX does not support this compute capability, so the engine cannot be rebuilt for "
    "it. In throwUnlessComputeCapSupported at /_src/runtime/dispatch/runtime.cpp:84)",
}


def loadable(
    library: FakeLibrary,
    gpu: FakeGpu,
    spans: tuple[tuple[int, int, int], ...] = ((1, 4, 8),),
    *,
    refuse_capture: bool = False,
    tensors: dict[str, tuple[str, str, tuple[int, ...]]] | None = None,
) -> FakeLibrary:
    """Give a fake library a runtime that loads any plan as an engine with these profiles."""
    modes, types = library.TensorIOMode, library.DataType
    tensors = tensors or {
        "faces": ("INPUT", "UINT8", (-1, SIZE, SIZE, 3)),
        "score": ("OUTPUT", "FLOAT", (-1,)),
        "patch_map": ("OUTPUT", "FLOAT", (-1, CELLS, CELLS)),
    }
    names = list(tensors)

    def context(*arguments: Any) -> Spy:
        return FakeContext(library, gpu, refuse_capture=refuse_capture).spy

    def engine(plan: bytes) -> Spy | None:
        if plan in REFUSALS:
            library.logger.log("ILogger.ERROR", REFUSALS[plan])
            return None
        return Spy(
            "ICudaEngine",
            library,
            num_io_tensors=len(names),
            num_optimization_profiles=len(spans),
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=lambda name: modes[tensors[name][0]],
            get_tensor_dtype=lambda name: types[tensors[name][1]],
            get_tensor_shape=lambda name: tensors[name][2],
            get_tensor_profile_shape=lambda name, index: [
                (size, *tensors[name][2][1:]) for size in spans[index]
            ],
            create_execution_context=context,
            create_runtime_config=lambda: Spy("IRuntimeConfig", library),
        )

    def runtime(logger: Any) -> Spy:
        library.logger = logger
        return Spy("Runtime", library, deserialize_cuda_engine=engine)

    library.Runtime = runtime
    return library
