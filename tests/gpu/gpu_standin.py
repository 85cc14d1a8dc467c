"""A TensorRT whose only plan is one kernel: all of lpx's runtime runs, on CUDA as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu_kernel import CELLS, SIZE, Kernel
from tensorrt_fakes import FakeLibrary, Spy

from lpx.engines.tensorrt.runtime import TensorRTEngine

Span = tuple[int, int, int]
"""(minimum, optimum, maximum) batch of a profile."""
ALIGNMENT = 256
_SHAPES = {"faces": (SIZE, SIZE, 3), "score": (), "patch_map": (CELLS, CELLS)}


class StandIn:
    """The library, and what its plan is.

    Args:
        kernel: What the plan computes.
        spans: Of each profile.
        before: Called with the number of the run, from 1, before each; a run where it raises is
            not put on the stream, and one where it returns False is refused.
        faces_at: Where the kernel looks for the faces; None for where lpx put them.

    Attributes:
        contexts: Every execution context that was made.
        runs: Number of runs that were put on a stream, captured ones among them.
    """

    def __init__(
        self,
        kernel: Kernel,
        spans: tuple[Span, ...] = ((1, 4, 8),),
        *,
        before: Callable[[int], bool | None] = lambda run: None,
        faces_at: int | None = None,
    ) -> None:
        self.kernel, self.spans = kernel, spans
        self.before, self.faces_at = before, faces_at
        self.contexts: list[_Context] = []
        self.runs = 0
        self.library = FakeLibrary("tensorrt-10.3.0")
        self.library.Runtime = lambda logger: Spy(
            "Runtime", self.library, deserialize_cuda_engine=lambda plan: self._engine()
        )

    def load(self, **options: Any) -> TensorRTEngine:
        """The plan as lpx's engine; options as `TensorRTEngine` takes them."""
        return TensorRTEngine(b"plan", self.library.opened, **options)

    def _engine(self) -> Spy:
        trt, names = self.library, tuple(_SHAPES)
        return Spy(
            "ICudaEngine",
            trt,
            num_io_tensors=len(names),
            num_optimization_profiles=len(self.spans),
            device_memory_size_v2=0,
            get_tensor_name=lambda index: names[index],
            get_tensor_mode=lambda name: (
                trt.TensorIOMode.INPUT if name == "faces" else trt.TensorIOMode.OUTPUT
            ),
            get_tensor_dtype=lambda name: (
                trt.DataType.UINT8 if name == "faces" else trt.DataType.FLOAT
            ),
            get_tensor_shape=lambda name: (-1, *_SHAPES[name]),
            get_tensor_profile_shape=lambda name, index: [
                (batch, *_SHAPES[name]) for batch in self.spans[index]
            ],
            create_execution_context=self._context,
        )

    def _context(self, *arguments: Any) -> Spy:
        self.contexts.append(_Context(self))
        return self.contexts[-1].spy


class _Context:
    """An execution context: what it refuses, TensorRT refuses."""

    def __init__(self, standin: StandIn) -> None:
        self._standin = standin
        self._profile: int | None = None
        self._batch: int | None = None
        self._addresses: dict[str, int] = {}
        self.streams: set[int] = set()
        """Addresses of the streams that it was given."""
        self.spy = Spy(
            "IExecutionContext",
            standin.library,
            set_optimization_profile_async=self._set_profile,
            set_input_shape=self._set_input_shape,
            set_tensor_address=self._set_address,
            get_tensor_shape=lambda name: (
                -1 if self._batch is None else self._batch,
                *_SHAPES[name],
            ),
            execute_async_v3=self._execute,
        )

    def _set_profile(self, index: int, stream: int) -> bool:
        self.streams.add(stream)
        self._profile, self._batch = index, None
        return 0 <= index < len(self._standin.spans)

    def _set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._profile is None or name != "faces" or tuple(shape[1:]) != _SHAPES[name]:
            return False
        least, _, most = self._standin.spans[self._profile]
        self._batch = shape[0]
        return least <= self._batch <= most

    def _set_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return name in _SHAPES and address % ALIGNMENT == 0

    def _execute(self, stream: int) -> bool:
        standin, addresses = self._standin, self._addresses
        self.streams.add(stream)
        if self._batch is None or addresses.keys() != _SHAPES.keys():
            return False
        if standin.before(standin.runs + 1) is False:
            return False
        faces = addresses["faces"] if standin.faces_at is None else standin.faces_at
        standin.kernel.launch(
            faces, addresses["score"], addresses["patch_map"], self._batch, stream
        )
        standin.runs += 1
        return True
