"""Run a plan that was built to be inspected, and read the tensors between its layers."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Collection
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.engines.base import Faces
from lpx.engines.tensorrt.capabilities import TensorRTLibrary
from lpx.engines.tensorrt.cuda.choose import open_driver
from lpx.engines.tensorrt.cuda.driver import CudaDriver, Handle
from lpx.engines.tensorrt.logger import explained
from lpx.engines.tensorrt.profiles import Chunk, chunks, spans_of
from lpx.engines.tensorrt.runtime import deserialize
from lpx.engines.tensorrt.slot import FACES, create_context, refused, unless_lost
from lpx.errors import LpxError

Tensors = dict[str, NDArray[np.float32]]


class TensorRTTensors:
    """Tensors between the layers of a plan that was built with `PlanRequest.watch`.

    It is slow, since it allocates memory for each run and waits for each tensor. Not thread-safe.

    Args:
        plan: The plan's bytes.
        library: Library that built it.
        names: Tensors to read. Outputs, such as "score", are returned in any case.
        driver: Access to CUDA; None for the installed binding.
        allow_host_code: Load a version-compatible plan, which contains code that runs on the host.
        dla_core: DLA core that runs a plan built for DLA.

    Attributes:
        notes: TensorRT's warnings from loading the plan.

    Raises:
        LpxError: The library or CUDA is missing, or the plan does not load.
    """

    def __init__(
        self,
        plan: bytes,
        library: TensorRTLibrary,
        *,
        names: Collection[str],
        driver: CudaDriver | None = None,
        allow_host_code: bool = False,
        dla_core: int | None = None,
    ) -> None:
        self.notes: list[str] = []
        self._trt = library.trt
        self._capabilities = library.capabilities
        self._names = frozenset(names)
        self._driver = open_driver() if driver is None else driver
        self._held = ExitStack()
        self._context: Any = None
        self._runtime_config: Any = None
        self._listener: Any = None
        self._runtime, self._engine = deserialize(
            self._trt, plan, allow_host_code=allow_host_code, dla_core=dla_core, notes=self.notes
        )
        try:
            with explained():
                self._prepare()
        except BaseException:
            self.close()
            raise

    def run(self, pixels: Faces) -> Tensors:
        """Return the tensors of a batch, by name.

        Args:
            pixels: uint8 RGB [N, H, W, 3], N >= 1.

        Returns:
            New arrays, float32 [N, ...] each: first the network's outputs, then the other tensors
            in the order of computation. Tensors that TensorRT has fused away are missing.

        Raises:
            LpxError: TensorRT refuses, or CUDA fails.
            BaseException: A callback raised it, such as for Ctrl-C.
        """
        parts = []
        with explained():
            for chunk in chunks(len(pixels), self._spans):
                parts.append(self._run(chunk, pixels[chunk.start : chunk.start + chunk.faces]))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def close(self) -> None:
        """Release the context, the engine and the stream; a second call does nothing."""
        self._context = self._runtime_config = self._engine = self._runtime = None
        self._held.close()

    def _prepare(self) -> None:
        trt, driver, engine = self._trt, self._driver, self._engine
        capabilities = self._capabilities
        self._face_shape = tuple(engine.get_tensor_shape(FACES))[1:]
        self._spans = spans_of(engine, FACES)
        self._stream = driver.stream()
        self._held.callback(unless_lost, driver.destroy_stream, self._stream)
        context, self._runtime_config = create_context(trt, capabilities, engine, graphs=False)
        self._context = context
        if capabilities.debug_tensors:
            # Referenced here, as TensorRT does not keep it alive.
            self._listener = _listener(trt, driver, self._stream, self._names)
            if not context.set_debug_listener(self._listener):
                raise refused("a listener for debug tensors")
            if not context.set_all_tensors_debug_state(True):
                raise refused("debug tensors")

    def _run(self, chunk: Chunk, faces: Faces) -> Tensors:
        driver, stream, context = self._driver, self._stream, self._context
        address = driver.stream_address(stream)
        if not context.set_optimization_profile_async(chunk.profile, address):
            raise refused(f"profile {chunk.profile}")
        shape = (chunk.batch, *self._face_shape)
        if not context.set_input_shape(FACES, shape):
            raise refused(f"input shape {shape}")
        with ExitStack() as held:
            try:
                found = self._computed(address, faces, held)
            except BaseException:
                # The memory is released after this, so the GPU must have finished.
                with suppress(LpxError):
                    driver.synchronize(stream)
                raise
        return {name: tensor[: chunk.faces] for name, tensor in found.items()}

    def _computed(self, address: int, faces: Faces, held: ExitStack) -> Tensors:
        """Run the batch that is set, in memory that `held` releases."""
        driver, stream, context = self._driver, self._stream, self._context
        outputs: dict[str, tuple[NDArray[Any], int]] = {}
        for name in self._io_names():
            host, device = self._allocate(name, held)
            if not context.set_tensor_address(name, device):
                raise refused(f"address of {name}")
            if name == FACES:
                host[: len(faces)], host[len(faces) :] = faces, 0
                driver.to_device(device, host, stream)
            else:
                outputs[name] = host, device
        debug = self._execute(address)
        for host, device in outputs.values():
            driver.to_host(host, device, stream)
        driver.synchronize(stream)
        return {name: host.astype(np.float32) for name, (host, _) in outputs.items()} | debug

    def _io_names(self) -> list[str]:
        engine = self._engine
        return [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]

    def _allocate(self, name: str, held: ExitStack) -> tuple[NDArray[Any], int]:
        """Allocate memory for an input or output in its current shape, on host and device."""
        kind = self._engine.get_tensor_dtype(name)
        dtype = _numpy_types(self._trt).get(kind)
        if dtype is None:
            raise LpxError(f"tensor {name} of the plan is {kind}", "lpx reads float32 and float16")
        host = self._driver.pinned(tuple(self._context.get_tensor_shape(name)), dtype)
        held.callback(unless_lost, self._driver.free_pinned, host)
        device = self._driver.malloc(host.nbytes)
        held.callback(unless_lost, self._driver.free, device)
        return host, device

    def _execute(self, address: int) -> Tensors:
        """Run the batch that is set, and return its debug tensors."""
        listener = self._listener
        if listener is not None:
            listener.start()
        accepted = self._context.execute_async_v3(address)
        try:
            # The memory is released after this, so the GPU must have finished.
            self._driver.synchronize(self._stream)
        finally:
            # An exception in a callback is the cause of other errors.
            if listener is not None and listener.struck is not None:
                raise listener.struck
        if not accepted:
            raise refused("the run")
        if listener is None:
            return {}
        return dict(listener.found)


def _numpy_types(trt: Any) -> dict[Any, Any]:
    types = trt.DataType
    return {types.UINT8: np.uint8, types.FLOAT: np.float32, types.HALF: np.float16}


def _listener(trt: Any, driver: CudaDriver, stream: Handle, names: Collection[str]) -> Any:
    """Create a debug listener that copies the named tensors to the host, as float32.

    TensorRT's bindings print exceptions of callbacks and continue, so `struck` keeps the first one.
    """
    types = _numpy_types(trt)
    on_the_host = trt.TensorLocation.HOST

    class Listener(trt.IDebugListener):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IDebugListener.__init__(self)
            self.start()

        def start(self) -> None:
            self.found: Tensors = {}
            self.struck: BaseException | None = None

        def process_debug_tensor(
            self, address: int, location: Any, kind: Any, shape: Any, name: str, on_stream: int
        ) -> bool:
            # Tensors of other types, such as INT8, have no values without their scales.
            if self.struck is None and name in names and kind in types:
                try:
                    host = location == on_the_host
                    self.found[name] = self._copied(address, tuple(shape), types[kind], host=host)
                except BaseException as struck:
                    self.struck = struck
            return True

        def _copied(
            self, address: int, shape: tuple[int, ...], dtype: Any, *, host: bool
        ) -> NDArray[np.float32]:
            """Copy memory that is valid only during the callback, whichever stream wrote it."""
            driver.synchronize_device()
            if host:
                nbytes = math.prod(shape) * np.dtype(dtype).itemsize
                memory = (ctypes.c_uint8 * nbytes).from_address(address)
                return np.frombuffer(memory, dtype).reshape(shape).astype(np.float32)
            with ExitStack() as held:
                copy = driver.pinned(shape, dtype)
                held.callback(unless_lost, driver.free_pinned, copy)
                driver.to_host(copy, address, stream)
                driver.synchronize(stream)
                single = copy.astype(np.float32)
            return single

    return Listener()
