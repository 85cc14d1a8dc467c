"""Stand-ins for TensorRT at the level of calls, on the fake GPU of `cuda_fakes`.

The fake library of a release has the names of that release and no other, so code that touches a
name the release lacks fails here as it would there. What the real library refuses is refused, with
its text in the log: shapes outside the profile, a profile that another context has, addresses that
are not aligned, a run before all is set, a capture before the first run.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np
from cuda_fakes import ALIGNMENT, COMPUTE_MS, FakeDriver, FakeGpu, MisuseError, Stream, Work
from tensorrt_surfaces import surface, version

from lpx.engines.tensorrt.capabilities import TensorRTLibrary, capabilities_of
from lpx.engines.tensorrt.library import Flavour

__all__ = ["FakeDriver", "FakeGpu", "MisuseError"]

SIZE = 4
CELLS = 2


# Arguments that the real object uses later though its bindings do not keep them alive, in one
# release at least: python/src/infer/pyCore.cpp of NVIDIA/TensorRT, tags v8.6.0 to v11.1, where
# these have no `py::keep_alive`. Used after they were released, they end the process.
BORROWS = {
    "EngineInspector.execution_context",
    "IExecutionContext.set_debug_listener",
    "ICudaEngine.create_execution_context",
}


class Spy:
    """An object of a TensorRT class: only that class's members can be got or set.

    Members that are set can be read again. Others answer from `answers`; a member that is not
    there is a call that is written down and returns None. An object that was released although this
    one, or one that it made, still uses it is a `MisuseError`.
    """

    def __init__(self, kind: str, library: FakeLibrary, **answers: Any) -> None:
        members = surface(library.release)[kind] if library.release else frozenset(answers)
        vars(self).update(
            _kind=kind, _library=library, _members=members, _answers=answers, _borrowed=[]
        )

    def _note(self, name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arguments as they are written down: what is borrowed must not be kept alive."""
        if f"{self._kind}.{name}" not in BORROWS:
            return arguments
        references = tuple(weakref.ref(one) for one in arguments if one is not None)
        self._borrowed.extend(references)
        return references

    def _check_borrowed(self, name: str) -> None:
        if any(reference() is None for reference in self._borrowed):
            raise MisuseError(f"{self._kind}.{name} uses an object that was released")

    def __getattr__(self, name: str) -> Any:
        if name not in self._members:
            raise AttributeError(f"{self._library.release}: {self._kind} has no {name}")
        answer = self._answers.get(name)
        if name in self._answers and not callable(answer):
            return answer

        def call(*arguments: Any) -> Any:
            self._check_borrowed(name)
            noted = self._note(name, arguments)
            self._library.calls.append((f"{self._kind}.{name}", *noted))
            made = answer(*arguments) if answer else None
            if isinstance(made, Spy) and noted is not arguments:
                # What is made uses the arguments, not what makes it.
                made._borrowed.extend(noted)
                del self._borrowed[:]
            return made

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._members:
            raise AttributeError(f"{self._library.release}: {self._kind} has no {name}")
        (noted,) = self._note(name, (value,)) or (None,)
        self._library.calls.append((f"{self._kind}.{name} =", noted))
        self._answers[name] = noted


class FakeLibrary(ModuleType):
    """The module of one release. `calls` holds all that was done to its objects, in order."""

    def __init__(self, release: str) -> None:
        kinds = {"rtx": "tensorrt_rtx", "lean": "tensorrt_lean"}
        super().__init__(next((n for kind, n in kinds.items() if kind in release), "tensorrt"))
        self.release = release
        self.calls: list[tuple[Any, ...]] = []
        self.__version__ = version(release)
        self.one_context_a_profile = "tensorrt-8" in release
        for kind, members in surface(release).items():
            setattr(self, kind, _stand_in(kind, members))

    @property
    def opened(self) -> TensorRTLibrary:
        """The library as lpx passes it on."""
        flavour: Flavour = "tensorrt-rtx" if "rtx" in self.release else "tensorrt"
        return TensorRTLibrary(self, capabilities_of(self, flavour))

    def named(self, prefix: str) -> list[tuple[Any, ...]]:
        """The calls whose name begins so."""
        return [call for call in self.calls if call[0].startswith(prefix)]


def _stand_in(kind: str, members: frozenset[str]) -> type:
    if kind.startswith("I") or kind in ("Builder", "Runtime", "OnnxParser", "EngineInspector"):
        return type(kind, (), {name: f"{kind}.{name}" for name in members})
    names = sorted(members - {"name", "value"})
    return IntEnum(kind, {name: index for index, name in enumerate(names)})


def scores_of(faces: np.ndarray) -> np.ndarray:
    """What the fake engine computes: the mean of a face, in [0, 1]."""
    return (faces.mean(axis=(1, 2, 3)) / 255).astype(np.float32)


def patch_maps_of(faces: np.ndarray) -> np.ndarray:
    """What the fake engine computes: the top left red values, in [0, 1]."""
    return (faces[:, :CELLS, :CELLS, 0] / 255).astype(np.float32)


class Dims:
    """A shape as the bindings give it: a sequence that is not a tuple, and equals none."""

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> int:
        return self._sizes[index]


@dataclass
class Hidden:
    """A tensor between the layers of the fake engine: `scale` times the faces."""

    kind: str = "FLOAT"
    scale: float = 0.5
    host: bool = False

    def values(self, faces: np.ndarray) -> np.ndarray:
        types = {"FLOAT": np.float32, "HALF": np.float16, "INT8": np.int8}
        return np.ascontiguousarray(faces * self.scale).astype(types[self.kind])


Tensor = tuple[str, str, tuple[int, ...]]
"""("INPUT" or "OUTPUT", data type, shape with -1 for the batch)."""

TENSORS: dict[str, Tensor] = {
    "faces": ("INPUT", "UINT8", (-1, SIZE, SIZE, 3)),
    "score": ("OUTPUT", "FLOAT", (-1,)),
    "patch_map": ("OUTPUT", "FLOAT", (-1, CELLS, CELLS)),
}


@dataclass(eq=False)
class FakeEngine:
    """What a plan deserializes to.

    Attributes:
        spans: (minimum, optimum, maximum) batch of each profile.
        tensors: Inputs and outputs.
        implied: Whether `get_tensor_shape` gives the batch of the first profile where that takes
            one size only, as TensorRT is documented to, and not -1.
        refuse_capture: Whether a run may not be captured.
        spoils: Whether the run that is refused has spoilt the capture.
        refuses: Text to log by the name of the call of a context that is refused.
        memory_for: Execution contexts that there is memory for.
        hidden: Tensors between its layers, marked to be handed out.
        before: Called before each tensor that is handed out.
    """

    library: FakeLibrary
    gpu: FakeGpu
    spans: tuple[tuple[int, int, int], ...] = ((1, 4, 8),)
    tensors: dict[str, Tensor] = field(default_factory=lambda: dict(TENSORS))
    implied: bool = True
    refuse_capture: bool = False
    spoils: bool = True
    refuses: dict[str, str] = field(default_factory=dict)
    memory_for: int = 1 << 10
    hidden: dict[str, Hidden] = field(default_factory=dict)
    before: Callable[[str], None] = lambda name: None
    contexts: list[FakeContext] = field(default_factory=list)

    def spy(self) -> Spy:
        modes, types = self.library.TensorIOMode, self.library.DataType
        names = list(self.tensors)
        return Spy(
            "ICudaEngine",
            self.library,
            num_io_tensors=len(names),
            num_optimization_profiles=len(self.spans),
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=lambda name: modes[self.tensors[name][0]],
            get_tensor_dtype=lambda name: types[self.tensors[name][1]],
            get_tensor_shape=self.get_tensor_shape,
            get_tensor_profile_shape=self.get_tensor_profile_shape,
            create_execution_context=self.create_execution_context,
            create_runtime_config=lambda: Spy("IRuntimeConfig", self.library),
        )

    @property
    def dynamic(self) -> bool:
        """Whether the network has a dynamic batch, whatever the profiles make of it."""
        return self.tensors["faces"][2][0] == -1

    def say(self, text: str, severity: str = "ERROR") -> None:
        self.library.logger.log(f"ILogger.{severity}", text)

    def get_tensor_shape(self, name: str) -> Dims:
        shape = self.tensors[name][2]
        low, _, high = self.spans[0]
        if shape[0] == -1 and self.implied and low == high:
            shape = (low, *shape[1:])
        return Dims(*shape)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[Dims]:
        if not self.dynamic:
            return [Dims()] * 3
        return [Dims(size, *self.tensors[name][2][1:]) for size in self.spans[index]]

    def create_execution_context(self, config: Any = None) -> Spy | None:
        if len(self.contexts) >= self.memory_for:
            self.say("Requested amount of GPU memory (1024 bytes) could not be allocated.")
            return None
        self.contexts.append(FakeContext(self))
        return self.contexts[-1].spy


class FakeContext:
    """What an execution context does: it reads and writes the addresses it was given."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.gpu = engine, engine.gpu
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] | None = None if engine.dynamic else engine.tensors["faces"][2]
        # The first context has the first profile from the start; another has none.
        self.profile: int | None = None if engine.contexts else 0
        self.switching: Stream | None = None
        """The stream on which the change of profile has not happened yet."""
        self.warm = False
        self.state = 0
        """Counts the changes after which a captured graph is stale."""
        self.listener: Any = None
        self.debug = False
        calls = {
            name: self._refusable(name, getattr(self, name))
            for name in (
                "set_optimization_profile_async",
                "set_input_shape",
                "set_tensor_address",
                "get_tensor_shape",
                "execute_async_v3",
                "set_debug_listener",
                "set_all_tensors_debug_state",
            )
        }
        self.spy = Spy("IExecutionContext", engine.library, **calls)

    def _refusable(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*arguments: Any) -> Any:
            if name not in self.engine.refuses:
                return call(*arguments)
            self.engine.say(self.engine.refuses[name])
            return False

        return refusing

    def _changed(self) -> None:
        self.state += 1
        self.warm = False

    def set_optimization_profile_async(self, index: int, address: int) -> bool:
        stream = self.gpu.stream_at(address)
        if not 0 <= index < len(self.engine.spans):
            self.engine.say(f"Optimization profile {index} is out of range")
            return False
        others = [c for c in self.engine.contexts if c is not self]
        if self.engine.library.one_context_a_profile and any(c.profile == index for c in others):
            self.engine.say(f"Profile {index} has been chosen by another IExecutionContext.")
            return False
        if stream.capture is not None:
            stream.spoilt = True
            return False
        self.profile, self.switching = index, stream
        if self.engine.dynamic:
            self.shape = None
        self._changed()
        stream.put(Work("a change of profile", self._switched))
        return True

    def _switched(self) -> None:
        self.switching = None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        say = self.engine.say
        if self.engine.tensors.get(name, ("",))[0] != "INPUT":
            say(f"Tensor {name} is not an input tensor.")
            return False
        if self.profile is None:
            say("No optimization profile has been set.")
            return False
        known = self.engine.tensors[name][2]
        if len(shape) != len(known) or any(
            k not in (-1, s) for k, s in zip(known, shape, strict=True)
        ):
            say(f"Static dimension mismatch while setting input shape for {name}.")
            return False
        low, _, high = self.engine.spans[self.profile]
        if self.engine.dynamic and not low <= shape[0] <= high:
            say(
                f"Set dimension {list(shape)} for tensor {name} does not satisfy any optimization "
                f"profiles. Valid range for profile {self.profile}: [{low}, ...]..[{high}, ...]."
            )
            return False
        self.shape = tuple(shape)
        self._changed()
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        if name not in self.engine.tensors:
            self.engine.say(f"{name} is neither input nor output, cannot set address for it.")
            return False
        if address % ALIGNMENT:
            self.engine.say(f"{name}: data must be aligned on {ALIGNMENT} byte boundary")
            return False
        self.gpu.base_of(address)
        self.addresses[name] = address
        self.state += 1
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        batch = -1 if self.shape is None else self.shape[0]
        return Dims(batch, *self.engine.tensors[name][2][1:])

    def set_debug_listener(self, listener: Any) -> bool:
        self.listener = listener
        return True

    def set_all_tensors_debug_state(self, on: bool) -> bool:
        self.debug = on
        return True

    def execute_async_v3(self, address: int) -> bool:
        stream = self.gpu.stream_at(address)
        if not self._is_set():
            return False
        self._check_streams(stream)
        if stream.capture is not None and (self.engine.refuse_capture or not self.warm):
            # What TensorRT does in the first run of a shape cannot be captured.
            stream.spoilt = self.engine.spoils or not self.warm
            self.engine.say(
                "The CUDA stream is in capturing mode, but this TRT engine is not stream "
                "capturable."
            )
            return False
        stream.put(self._work())
        if stream.capture is not None:
            return True
        self.warm = True
        return all(
            self._hand_out(name, hidden, stream)
            for name, hidden in self.engine.hidden.items()
            if self.listener is not None and self.debug and name not in self.engine.tensors
        )

    def _is_set(self) -> bool:
        if self.profile is None or self.shape is None:
            self.engine.say("Following input tensors' dimensions are not specified: faces")
            return False
        for name in self.engine.tensors.keys() - self.addresses.keys():
            self.engine.say(
                f"Address is not set for input tensor {name}. Call setInputTensorAddress or "
                "setTensorAddress before enqueue/execute."
            )
            return False
        return True

    def _check_streams(self, stream: Stream) -> None:
        if self.switching is not None and self.switching is not stream:
            raise MisuseError("the profile changes on one stream, and the run is on another")
        for other in self.gpu.streams:
            if other is not stream and any(work.owner is self for work in other.pending):
                raise MisuseError("a context runs on two streams at once")

    def _work(self) -> Work:
        """One run, of the shape and at the addresses of now."""
        gpu, shape, addresses = self.gpu, self.shape, dict(self.addresses)
        assert shape is not None

        def bytes_of(name: str, values: np.ndarray | None = None) -> np.ndarray:
            nbytes = int(np.prod(shape)) if values is None else values.nbytes
            return gpu.bytes_at(addresses[name], nbytes)

        def run() -> None:
            faces = bytes_of("faces").reshape(shape)
            outputs = {"score": scores_of(faces), "patch_map": patch_maps_of(faces)}
            for name, hidden in self.engine.hidden.items():
                if name in self.engine.tensors:
                    outputs[name] = hidden.values(faces)
            for name, values in outputs.items():
                bytes_of(name, values)[...] = np.ascontiguousarray(values).reshape(-1).view("u1")

        state = self.state

        def still_valid() -> None:
            if self.state != state:
                raise MisuseError("a graph is launched in another state than it was captured in")

        touches = frozenset(gpu.base_of(address) for address in addresses.values())
        return Work("a run", run, touches, COMPUTE_MS, self, still_valid)

    def _hand_out(self, name: str, hidden: Hidden, stream: Stream) -> bool:
        """Call the listener from within the run, as the bindings do.

        The tensor is computed on a stream of TensorRT's own, behind all that is on the caller's.
        Its memory is there for the time of the call. What the listener raises is printed.
        """
        gpu, shape = self.gpu, self.shape
        assert shape is not None
        self.engine.before(name)
        values = hidden.values(np.empty(shape, np.uint8))
        memory = np.full(values.nbytes, 0xA5, np.uint8)
        address = memory.ctypes.data if hidden.host else gpu.allocate(memory)
        faces = gpu.bytes_at(self.addresses["faces"], int(np.prod(shape))).reshape(shape)

        def compute() -> None:
            stream.drain()
            memory[...] = hidden.values(faces).reshape(-1).view(np.uint8)

        gpu.auxiliary.put(Work("a tensor between layers", compute, frozenset({address})))
        trt = self.engine.library
        location = trt.TensorLocation.HOST if hidden.host else trt.TensorLocation.DEVICE
        kind = trt.DataType[hidden.kind]
        try:
            # By position, as the binding does it.
            accepted = self.listener.process_debug_tensor(
                address, location, kind, Dims(*shape), name, stream.number
            )
        except BaseException as struck:  # TensorRT's binding prints it, and goes on
            self.engine.say(f"Exception caught in processDebugTensor(): {struck}")
            accepted = False
        gpu.auxiliary.pending.clear()
        if hidden.host:
            memory[...] = 0xDB
        else:
            gpu.release(address)
        return bool(accepted)


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
"""What the library logs of a plan of these bytes that it does not load."""


def loadable(
    library: FakeLibrary,
    gpu: FakeGpu,
    spans: tuple[tuple[int, int, int], ...] = ((1, 4, 8),),
    *,
    warnings: tuple[str, ...] = (),
    dla_cores: int = 2,
    **options: Any,
) -> FakeLibrary:
    """Give a fake library a runtime that loads any plan as an engine with these profiles.

    Args:
        library: The library; `library.engine` will be what it loaded last.
        gpu: Where the engine runs.
        spans: (minimum, optimum, maximum) batch of each profile.
        warnings: What it warns of as it loads a plan.
        dla_cores: DLA cores of the machine.
        options: As `FakeEngine` takes them.
    """

    def engine(plan: bytes) -> Spy | None:
        if plan in REFUSALS:
            library.logger.log("ILogger.ERROR", REFUSALS[plan])
            return None
        for warning in warnings:
            library.logger.log("ILogger.WARNING", warning)
        library.engine = FakeEngine(library, gpu, spans, **options)
        return library.engine.spy()

    def runtime(logger: Any) -> Spy:
        library.logger = logger
        return FakeRuntime(
            "Runtime", library, deserialize_cuda_engine=engine, num_DLA_cores=dla_cores, DLA_core=-1
        )

    library.Runtime = runtime
    return library


class FakeRuntime(Spy):
    """A runtime. A DLA core that is not there, it does not take, and says nothing."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "DLA_core" or value < self.num_DLA_cores:
            super().__setattr__(name, value)
