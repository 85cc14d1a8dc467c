"""Run a plan: uint8 faces in, scores and patch maps out."""

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

    The plan takes "faces", uint8 [N, H, W, 3], and gives "score", float32 [N], and "patch_map",
    float32 [N, h, w]. Memory is allocated once, for the largest batch of any profile; a larger
    batch is cut up. From the second run in a row at one batch size on, a CUDA graph is launched
    in place of the single kernels; where a graph cannot be captured, the kernels are launched
    one by one and `notes` says why. TensorRT for RTX captures graphs by itself.

    Not thread-safe: buffers, streams and contexts are shared between calls. Use one engine a
    thread, in the thread that made it. Where CUDA is lost in the middle, the engine closes itself.

    Args:
        plan: The plan's bytes.
        library: The library that built it; TensorRT's lean runtime for version-compatible plans.
        card: Model card; None if it is not needed.
        driver: CUDA; None opens the binding at hand.
        allow_host_code: Load a version-compatible plan, which carries code that runs on the
            host. Only for plans whose origin you trust.
        cuda_graph: Use CUDA graphs.
        dla_core: DLA core that runs a plan built for DLA.
        in_flight: Batches that the GPU has at once when `infer` is given more faces than one takes:
            the next is copied while one computes. Each has contexts and memory of its own.
        zero_copy: Keep tensors in host memory that the GPU uses in place, where it shares the
            host's memory, as on a Jetson; there the copies take no time.
        kernel_cache: File where TensorRT for RTX keeps the kernels that it compiles here; read
            now, written when the engine is closed. None keeps none; other libraries need none.

    Attributes:
        last_timing: Time of the last call of `infer`; None before the first.
        notes: What differs from what was asked, and why; and what TensorRT warned of.

    Raises:
        LpxError: The library or CUDA is absent, the plan does not load, or its inputs and
            outputs are not those above.
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
        # From here on there is something to release, whatever fails.
        try:
            self._face_shape = _checked_face_shape(self._trt, self._engine)
            self.size = self._face_shape[0]
            self._spans = spans_of(self._engine, FACES)
            shared = Shared(
                trt=self._trt,
                capabilities=self._capabilities,
                # Graphs are captured by lpx only where the library does not do so itself.
                driver=self._driver,
                engine=self._engine,
                spans=self._spans,
                face_shape=self._face_shape,
                graphs=cuda_graph and self._driver.graphs and not builtin,
                builtin_graphs=cuda_graph,
                # Only GPUs that share the host's memory gain by leaving out the copy.
                zero_copy=zero_copy and self._driver.integrated(),
                notes=self.notes,
                kernels=self._kernels,
            )
            with explained() as recorder:
                while len(self._slots) < in_flight:
                    self._slots.append(Slot(shared))
            self.notes += recorder.said("warning")
        # BaseException, as an interrupt would leave memory on the GPU.
        except BaseException:
            self.close()
            raise

    @property
    def face_shape(self) -> tuple[int, int, int]:
        """Return (H, W, 3) of a face."""
        return self._face_shape

    @property
    def batches(self) -> tuple[BatchRange, ...]:
        """Return the batch sizes of each profile."""
        return self._spans

    def _device_memory(self) -> DeviceMemory:
        """Return activations of every context, tensors, and weights by the size of the plan."""
        # TensorRT 10.1 renamed it; both count one context's activations.
        scratch = getattr(self._engine, "device_memory_size_v2", None)
        if scratch is None:
            scratch = getattr(self._engine, "device_memory_size", None)
        if not isinstance(scratch, int):
            return DeviceMemory(None, f"{self._trt.__name__} does not report it")
        tensors = sum(slot.nbytes for slot in self._slots)
        contexts = len(self._slots) * len(self._spans)
        return DeviceMemory(
            scratch * contexts + tensors + self._plan_bytes,
            "weights taken to be as large as the plan; without CUDA's own context",
        )

    def layers(self) -> LayerTable:
        """Return the plan's layers and the precision of each.

        Raises:
            LpxError: The engine is closed, the lean runtime runs it, or the inspector's answer is
                not as expected.
        """
        self._check_open()
        if not self._capabilities.inspector:
            raise LpxError(
                f"{self._trt.__name__} does not report the layers of a plan",
                "the lean runtime holds only what runs one",
                "install the whole TensorRT to look into it",
            )
        context = self._slots[0].context_for_inspection()
        return inspect_engine(self._trt, self._engine, context)

    def _infer(self, faces: Faces) -> Prediction:
        """Score faces; their number may exceed the largest batch, or be 0."""
        count = len(faces)
        score = np.empty(count, np.float32)
        patch_map = np.empty((count, *self._slots[0].cells), np.float32)
        try:
            with explained():
                self.last_timing = self._run(faces, score, patch_map)
        except CudaLostError:
            # A lost GPU answers nothing any more, so that waiting for it would only fail again.
            self.close()
            raise
        except BaseException:
            # Batches in flight would otherwise be taken for the answer to the next call.
            self._abandon()
            raise
        return Prediction(score=score, patch_map=patch_map)

    def _release(self) -> None:
        """Release device memory, pinned memory, events and streams."""
        # Contexts before the engine, the engine before its runtime: TensorRT asks for that. Of
        # several releases that fail none keeps the others from being tried.
        try:
            with ExitStack() as releases:
                while self._slots:
                    releases.callback(self._slots.pop().close)
                if self._capabilities.compiles_at_run and self._kernels is not None:
                    save_kernels(self._kernels)
        finally:
            # In `finally`, as the references alone keep the plan's memory.
            self._engine = None
            self._runtime = None

    def _check_faces(self, faces: Faces) -> None:
        check_faces(faces, self._face_shape, allow_empty=True)

    def _abandon(self) -> None:
        """Wait until the GPU is done with what was begun, and throw it away.

        Raises:
            CudaLostError: What failed took CUDA with it; the engine is closed.
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
        """Run all faces through the slots in turn; each is emptied before it is filled again."""
        timing = Timing(0.0, 0.0, 0.0)
        for index, chunk in enumerate(chunks(len(faces), self._spans)):
            slot = self._slots[index % len(self._slots)]
            # A slot's host memory holds the results until they are read.
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
        allow_host_code: Load a plan that carries code which runs on the host.
        dla_core: DLA core that runs a plan built for DLA.
        notes: Receives TensorRT's warnings; None drops them.

    Raises:
        LpxError: TensorRT cannot start CUDA, the DLA core is not there, or the plan does not load.
    """
    with recording(trt) as (logger, recorder):
        what = f"{trt.__name__} {trt.__version__} cannot start"
        runtime = started(trt.Runtime, logger, recorder, what)
        # Set before the plan is read: it decides whether code inside the plan may be loaded at all.
        runtime.engine_host_code_allowed = allow_host_code
        if dla_core is not None:
            _choose_core(runtime, dla_core)
        engine = runtime.deserialize_cuda_engine(plan)
    # TensorRT returns None instead of raising, and says why only to its logger.
    if engine is None:
        why = recorder.errors()
        raise LpxError(
            "the plan does not load", why, advice(why) or _build_again(trt), code="unsupported"
        )
    if notes is not None:
        notes += recorder.said("warning")
    return LoadedPlan(runtime, engine)


def _choose_core(runtime: Any, core: int) -> None:
    """Choose a DLA core. One that is not there, TensorRT does not take, and says nothing.

    Raises:
        LpxError: The core is not there.
    """
    runtime.DLA_core = core
    if runtime.DLA_core != core:
        raise LpxError(
            f"DLA core {core} is not on this machine",
            f"TensorRT finds {runtime.num_DLA_cores} DLA cores here, and the plan was built for "
            f"core {core}",
            "build the engine again here, with a `dla_core` that is there, or without",
        )


def _build_again(trt: Any) -> str:
    return (
        "a plan runs on the release and the GPU model it was built for; this is "
        f"{trt.__name__} {trt.__version__}: build it again here"
    )


def _checked_face_shape(trt: Any, engine: Any) -> tuple[int, int, int]:
    """Make sure of the tensors' names, directions and types; returns (H, W, 3)."""
    inward, outward = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
    expected = {
        FACES: (inward, trt.DataType.UINT8, 4),
        SCORE: (outward, trt.DataType.FLOAT, 1),
        PATCH_MAP: (outward, trt.DataType.FLOAT, 3),
    }
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (
            engine.get_tensor_mode(name),
            engine.get_tensor_dtype(name),
            len(tuple(engine.get_tensor_shape(name))),
        )
        for name in names
    }
    # The names, directions and types together, as a plan of another program may agree in some.
    if found != expected:
        listed = "; ".join(
            f"{name}: {dtype} {tuple(engine.get_tensor_shape(name))}"
            for name, (_, dtype, _) in found.items()
        )
        raise LpxError(
            f"the plan's tensors are {listed}",
            why="lpx runs plans with faces uint8 [N, H, W, 3] in, and score float32 [N] and "
            "patch_map float32 [N, h, w] out",
            fix="build the plan from an ONNX model that lpx exported",
        )
    _, height, width, channels = tuple(engine.get_tensor_shape(FACES))
    return height, width, channels
