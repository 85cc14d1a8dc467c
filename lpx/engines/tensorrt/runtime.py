"""Engine that runs a plan of TensorRT."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.card import ModelCard
from lpx.engines.base import DeviceMemory, Engine, Faces, Prediction, check_faces
from lpx.engines.tensorrt.capabilities import TensorRTLibrary
from lpx.engines.tensorrt.cuda.choose import open_driver
from lpx.engines.tensorrt.cuda.driver import CudaDriver, CudaLostError
from lpx.engines.tensorrt.inspect import inspect_engine
from lpx.engines.tensorrt.kernel_cache import KernelCache, save_kernels
from lpx.engines.tensorrt.layer_table import LayerTable
from lpx.engines.tensorrt.logger import explained, recording, started
from lpx.engines.tensorrt.profiles import chunks, spans_of
from lpx.engines.tensorrt.refusals import advice
from lpx.engines.tensorrt.slot import FACES, PATCH_MAP, SCORE, Shared, Slot, Timing
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import LpxError


class TensorRTEngine(Engine):
    """A loaded plan of TensorRT or TensorRT for RTX, with the memory it runs in.

    The input of the plan is "faces", uint8 [N, H, W, 3]; its outputs are "score", float32 [N], and
    "patch_map", float32 [N, h, w]. Memory is allocated once, for the largest batch of all profiles;
    a larger batch is split. From the second consecutive run at one batch size on, a CUDA graph is
    launched instead of single kernels; if no graph can be captured, `notes` says why. TensorRT for
    RTX captures graphs by itself.

    Not thread-safe: buffers, streams and contexts are shared between calls. Use one engine per
    thread, in the thread that created it. If CUDA is lost, the engine closes itself.

    Args:
        plan: The plan's bytes.
        library: Library that built it; for version-compatible plans also TensorRT's lean runtime.
        card: Model card; None if it is not needed.
        driver: Access to CUDA; None for the installed binding.
        allow_host_code: Load a version-compatible plan, which contains code that runs on the host.
            Only for plans from a source you trust.
        cuda_graph: Use CUDA graphs.
        dla_core: DLA core that runs a plan built for DLA.
        in_flight: Number of batches on the GPU at the same time, if `infer` gets several: one is
            copied while another is computed. Each has contexts and memory of its own.
        zero_copy: If the GPU shares the host's memory, as on a Jetson, let it use tensors in host
            memory without a copy.
        kernel_cache: File for the kernels that TensorRT for RTX compiles on this machine. It is
            read here, and written when the engine is closed. None for no file; other libraries
            need none.

    Attributes:
        last_timing: Time of the last call of `infer`; None before the first.
        notes: Differences from the request, with their reasons, and TensorRT's warnings.

    Raises:
        LpxError: The library or CUDA is missing, the plan does not load, or its inputs and outputs
            are not those above.
    """

    def __init__(
        self,
        plan: bytes,
        library: TensorRTLibrary,
        *,
        card: ModelCard | None = None,
        driver: CudaDriver | None = None,
        allow_host_code: bool = False,
        cuda_graph: bool = True,
        dla_core: int | None = None,
        in_flight: int = 1,
        zero_copy: bool = True,
        kernel_cache: Path | None = None,
    ) -> None:
        super().__init__(0, card)  # the plan says the size
        self.last_timing: Timing | None = None
        self.notes: list[str] = []
        self._plan_bytes = len(plan)
        self._trt, self._capabilities = library.trt, library.capabilities
        self._driver = open_driver() if driver is None else driver
        builtin = self._capabilities.builtin_cuda_graphs
        if cuda_graph and not self._driver.graphs and not builtin:
            self.notes.append("no CUDA graphs: this CUDA binding has none; install cuda-python")
        if in_flight > 1 and not self._capabilities.profile_sharing:
            # Contexts of the same profile cannot run side by side before TensorRT 10.
            self.notes.append("one batch in flight: before TensorRT 10 a profile serves one")
            in_flight = 1
        self._slots: list[Slot] = []
        self._kernels = KernelCache(kernel_cache, self.notes) if kernel_cache else None
        self._runtime, self._engine = deserialize(
            self._trt, plan, allow_host_code=allow_host_code, dla_core=dla_core, notes=self.notes
        )
        # If anything fails from here on, the runtime and the engine have to be released.
        try:
            self._face_shape = _checked_face_shape(self._trt, self._engine)
            self.size = self._face_shape[0]
            self._spans = spans_of(self._engine, FACES)
            shared = Shared(
                trt=self._trt,
                capabilities=self._capabilities,
                driver=self._driver,
                engine=self._engine,
                spans=self._spans,
                face_shape=self._face_shape,
                # lpx captures graphs only if the library does not do so itself.
                graphs=cuda_graph and self._driver.graphs and not builtin,
                builtin_graphs=cuda_graph,
                # Only faster if the GPU shares the host's memory.
                zero_copy=zero_copy and self._driver.integrated(),
                notes=self.notes,
                kernels=self._kernels,
            )
            with explained() as recorder:
                while len(self._slots) < in_flight:
                    self._slots.append(Slot(shared))
            self.notes += recorder.said("warning")
        # BaseException, since Ctrl-C would leave memory allocated on the GPU.
        except BaseException:
            self.close()
            raise

    @property
    def face_shape(self) -> tuple[int, int, int]:
        """(H, W, 3) of a face."""
        return self._face_shape

    @property
    def batches(self) -> tuple[BatchRange, ...]:
        """Batch sizes of each profile."""
        return self._spans

    def _device_memory(self) -> DeviceMemory:
        """Return the memory of activations, tensors and weights."""
        # The activations of one context, by a name that TensorRT 10.1 changed.
        scratch = getattr(self._engine, "device_memory_size_v2", None)
        if scratch is None:
            scratch = getattr(self._engine, "device_memory_size", None)
        if not isinstance(scratch, int):
            return DeviceMemory(None, f"{self._trt.__name__} does not report it")
        tensors = sum(slot.nbytes for slot in self._slots)
        contexts = len(self._slots) * len(self._spans)
        return DeviceMemory(
            scratch * contexts + tensors + self._plan_bytes,
            "weights counted by the size of the plan; without CUDA's own context",
        )

    def layers(self) -> LayerTable:
        """Return the plan's layers and the precision of each.

        Raises:
            LpxError: The engine is closed, the lean runtime runs it, or the output of the inspector
                is not as expected.
        """
        self._check_open()
        if not self._capabilities.inspector:
            raise LpxError(
                f"{self._trt.__name__} does not report the layers of a plan",
                "the lean runtime can only run plans",
                "install the full TensorRT to inspect it",
            )
        context = self._slots[0].context_for_inspection()
        return inspect_engine(self._trt, self._engine, context)

    def _infer(self, faces: Faces) -> Prediction:
        """Score any number of faces: more than the largest batch, or none."""
        count = len(faces)
        score = np.empty(count, np.float32)
        patch_map = np.empty((count, *self._slots[0].cells), np.float32)
        try:
            with explained():
                self.last_timing = self._run(faces, score, patch_map)
        except CudaLostError:
            # Waiting for the GPU would only fail again.
            self.close()
            raise
        except BaseException:
            # Otherwise the next call would return the results of batches that are still in flight.
            self._abandon()
            raise
        return Prediction(score=score, patch_map=patch_map)

    def _release(self) -> None:
        """Release device memory, pinned memory, events and streams."""
        # TensorRT requires contexts to be released before their engine, and an engine before its
        # runtime. ExitStack releases the others if one fails.
        try:
            with ExitStack() as releases:
                while self._slots:
                    releases.callback(self._slots.pop().close)
                if self._capabilities.compiles_at_run and self._kernels is not None:
                    save_kernels(self._kernels)
        finally:
            # In `finally`, since these references keep the plan's memory allocated.
            self._engine = None
            self._runtime = None

    def _check_faces(self, faces: Faces) -> None:
        check_faces(faces, self._face_shape, allow_empty=True)

    def _abandon(self) -> None:
        """Wait until the GPU has finished the batches in flight, and discard their results.

        Raises:
            CudaLostError: CUDA is lost; the engine is closed.
        """
        try:
            for slot in self._slots:
                slot.abandon()
        except CudaLostError:
            self.close()
            raise

    def _run(
        self, faces: Faces, score: NDArray[np.float32], patch_map: NDArray[np.float32]
    ) -> Timing:
        """Run all faces through the slots in turn."""
        timing = Timing(0.0, 0.0, 0.0)
        for index, chunk in enumerate(chunks(len(faces), self._spans)):
            slot = self._slots[index % len(self._slots)]
            # First, since the slot's host memory still holds the results of its last batch.
            timing += slot.finish(score, patch_map)
            slot.start(chunk, faces[chunk.start : chunk.start + chunk.faces])
        for slot in self._slots:
            timing += slot.finish(score, patch_map)
        return timing


class LoadedPlan(NamedTuple):
    """TensorRT's objects for a plan.

    Attributes:
        runtime: An `IRuntime`. It must outlive the engine.
        engine: An `ICudaEngine`.
    """

    runtime: Any
    engine: Any


def deserialize(
    trt: Any,
    plan: bytes,
    *,
    allow_host_code: bool,
    dla_core: int | None,
    notes: list[str] | None = None,
) -> LoadedPlan:
    """Load a plan.

    Args:
        trt: The library.
        plan: The plan's bytes.
        allow_host_code: Load a plan that contains code which runs on the host.
        dla_core: DLA core that runs a plan built for DLA.
        notes: Receives TensorRT's warnings; None drops them.

    Raises:
        LpxError: TensorRT cannot start CUDA, the DLA core does not exist, or the plan does not
            load.
    """
    with recording(trt) as (logger, recorder):
        what = f"{trt.__name__} {trt.__version__} cannot start"
        runtime = started(trt.Runtime, logger, recorder, what)
        # Before the plan is read, since it decides whether code in the plan may be loaded.
        runtime.engine_host_code_allowed = allow_host_code
        if dla_core is not None:
            _choose_core(runtime, dla_core)
        engine = runtime.deserialize_cuda_engine(plan)
    # TensorRT returns None instead of raising, and logs the reason.
    if engine is None:
        why = recorder.errors()
        raise LpxError(
            "the plan does not load", why, advice(why) or _build_again(trt), code="unsupported"
        )
    if notes is not None:
        notes += recorder.said("warning")
    return LoadedPlan(runtime, engine)


def _choose_core(runtime: Any, core: int) -> None:
    """Choose a DLA core.

    Raises:
        LpxError: The core does not exist.
    """
    runtime.DLA_core = core
    # TensorRT silently ignores a core that does not exist.
    if runtime.DLA_core != core:
        raise LpxError(
            f"DLA core {core} does not exist on this machine",
            f"TensorRT finds {runtime.num_DLA_cores} DLA cores here, and the plan was built for "
            f"core {core}",
            "build the engine again here, with an existing `dla_core` or without",
        )


def _build_again(trt: Any) -> str:
    return (
        "a plan runs on the release and the GPU model that it was built for, and this is "
        f"{trt.__name__} {trt.__version__}: build it again here"
    )


def _checked_face_shape(trt: Any, engine: Any) -> tuple[int, int, int]:
    """Check names, directions and types of the inputs and outputs, and return (H, W, 3)."""
    inward, outward = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
    expected = {
        FACES: (inward, trt.DataType.UINT8, 4),
        SCORE: (outward, trt.DataType.FLOAT, 1),
        PATCH_MAP: (outward, trt.DataType.FLOAT, 3),
    }
    present = {}
    described = []
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(engine.get_tensor_shape(name))
        dtype = engine.get_tensor_dtype(name)
        present[name] = (engine.get_tensor_mode(name), dtype, len(shape))
        described.append(f"{name}: {dtype} {shape}")
    if present != expected:
        raise LpxError(
            f"the plan's tensors are {'; '.join(described)}",
            why="lpx runs plans with the input faces, uint8 [N, H, W, 3], and the outputs score, "
            "float32 [N], and patch_map, float32 [N, h, w]",
            fix="build the plan from an ONNX model that lpx exported",
        )
    _, height, width, channels = tuple(engine.get_tensor_shape(FACES))
    return height, width, channels
