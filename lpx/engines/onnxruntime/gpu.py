"""ONNX Runtime's providers for NVIDIA GPUs: CUDA, TensorRT, and TensorRT for RTX.

If a provider does not start, ONNX Runtime runs the model on the CPU instead, without an error, and
every measurement is of the wrong processor. Here it is an error.

TensorRT for RTX comes as a plugin: a package of its own, beside ONNX Runtime's plain wheel. Its
library is registered with ONNX Runtime, and then offers the GPUs that it supports as devices.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from lpx.card import ModelCard
from lpx.engines.base import Availability, DeviceMemory, Engine, Faces, Prediction
from lpx.engines.manifest import Precision, Target
from lpx.engines.onnxruntime.failure import ort_errors
from lpx.engines.rtx_gpus import RTX_PROVIDER_GPUS
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.errors import LpxError, first_line

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS: dict[Target, str] = {
    "onnxruntime-cuda": "CUDAExecutionProvider",
    "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    "onnxruntime-tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
# Module of the plugin.
PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
# Packages that contain this module, one for each major version of CUDA.
PLUGIN_PACKAGES = tuple(f"onnxruntime-ep-nv-tensorrt-rtx{cuda}" for cuda in ("-cu13", "-cu12"))
_CUDA = PROVIDERS["onnxruntime-cuda"]
_INSTALL = (
    "replace onnxruntime by the wheel onnxruntime-gpu (pip uninstall onnxruntime; pip install "
    "onnxruntime-gpu); on a Jetson, NVIDIA's own wheel for its JetPack"
)


def provider_available(target: Target) -> Availability:
    """Return whether the installed ONNX Runtime has a target's provider.

    The provider may still fail to start, if libraries of CUDA or TensorRT are missing.
    """
    import onnxruntime

    # ONNX Runtime lists the providers in its own wheel, not those of plugins.
    if target == "onnxruntime-tensorrt-rtx":
        return _plugin_available()
    names = onnxruntime.get_available_providers()
    if PROVIDERS[target] in names:
        return Availability(True, f"onnxruntime {onnxruntime.__version__} with {PROVIDERS[target]}")
    return Availability(
        False,
        f"onnxruntime {onnxruntime.__version__} has {', '.join(names)}, but no "
        f"{PROVIDERS[target]}: {_INSTALL}",
    )


def _plugin_available() -> Availability:
    """Return whether the plugin is installed."""
    import onnxruntime

    version = onnxruntime.__version__
    # The function, not the version number, shows whether plugins are supported: vendors' builds
    # have numbers of their own.
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        return Availability(
            False,
            f"onnxruntime {version} does not support plugins: pip install 'onnxruntime>=1.24'; the "
            "plain wheel is enough",
        )
    # Searched for, but not imported, as only a session needs its libraries.
    if find_spec(PLUGIN) is None:
        return Availability(
            False,
            f"{PLUGIN} is not installed: pip install onnxruntime-ep-nv-tensorrt-rtx, in addition "
            "to onnxruntime",
        )
    return Availability(True, f"onnxruntime {version} with {PLUGIN}")


def check_int8(target: Target) -> None:
    """Refuse INT8 for a provider that does not compute in integers.

    Raises:
        LpxError: The target is onnxruntime-cuda.
    """
    if target == "onnxruntime-cuda":
        raise LpxError(
            "INT8 is not supported with target onnxruntime-cuda",
            "ONNX Runtime's CUDA provider has no integer convolutions: it would compute in floats "
            "between Q/DQ pairs, slower than FP16",
            "build FP16 for this target, or INT8 for onnxruntime-tensorrt, tensorrt or onnxruntime",
        )


# Options that `provider_options` may set. Other options in a manifest are refused: they could load
# code.
PROVIDER_OPTIONS = frozenset(
    {
        "cudnn_conv_algo_search",
        "use_tf32",
        "trt_engine_cache_enable",
        "trt_timing_cache_enable",
        "trt_fp16_enable",
        "trt_int8_enable",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_profile_max_shapes",
        "trt_max_workspace_size",
        "trt_builder_optimization_level",
        "nv_profile_min_shapes",
        "nv_profile_opt_shapes",
        "nv_profile_max_shapes",
        "nv_max_workspace_size",
    }
)


def provider_options(
    target: Target,
    precision: Precision,
    span: BatchRange,
    size: int,
    tensorrt: TensorRTOptions,
) -> dict[str, str]:
    """Return the options of a target's provider, except the folder of its engine cache.

    Args:
        target: One of `PROVIDERS`.
        precision: Precision of the convolutions.
        span: Batch sizes of TensorRT's profile. Without a profile the provider would build a new
            engine whenever a batch is outside the range that it has seen so far.
        size: Side of a face, pixels.
        tensorrt: Limit of scratch memory and, except for TensorRT for RTX, optimisation level.
    """
    if target == "onnxruntime-cuda":
        # By default the provider computes FP32 convolutions in TF32, which has 10 bits of mantissa,
        # as FP16 has: on an H200 the demo's scores changed by up to 0.0014. FP32 should mean FP32.
        return {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "0"}
    ends = (("min", span.minimum), ("opt", span.optimum), ("max", span.maximum))
    shapes = {end: f"faces:{batch}x{size}x{size}x3" for end, batch in ends}
    if target == "onnxruntime-tensorrt-rtx":
        options = {f"nv_profile_{end}_shapes": shape for end, shape in shapes.items()}
        if tensorrt.workspace_mib is not None:
            options["nv_max_workspace_size"] = str(tensorrt.workspace_mib << 20)
        return options
    options = {
        "trt_engine_cache_enable": "1",
        "trt_timing_cache_enable": "1",
        # Flags permit a precision; they do not require it.
        "trt_fp16_enable": str(int(precision != "fp32")),
        "trt_int8_enable": str(int(precision == "int8")),
    }
    options |= {f"trt_profile_{end}_shapes": shape for end, shape in shapes.items()}
    if tensorrt.workspace_mib is not None:
        options["trt_max_workspace_size"] = str(tensorrt.workspace_mib << 20)
    if tensorrt.optimisation_level is not None:
        options["trt_builder_optimization_level"] = str(tensorrt.optimisation_level)
    return options


class OnnxRuntimeGpuEngine(Engine):
    """Run an ONNX model with a GPU provider, with inputs and outputs in GPU memory.

    The plugin of TensorRT for RTX is used with ONNX Runtime's plain wheel, which cannot allocate
    tensors on a GPU: they are in host memory then, and the plugin copies them.

    Not thread-safe: the tensors are shared between calls.

    Args:
        model: ONNX.
        size: Side of a face, pixels.
        target: One of `PROVIDERS`.
        options: Provider options, as `provider_options` returns them.
        cache: Folder for TensorRT's engines, or for the kernels of TensorRT for RTX. The first
            time an engine is loaded they are built, and from then on read from here.
        largest: Largest batch to run at once; more faces are split into batches.
        card: Model card; None if it is not needed.

    Raises:
        LpxError: The provider is missing, does not start, or leaves nodes to the CPU.
    """

    def __init__(
        self,
        model: bytes,
        size: int,
        target: Target,
        options: dict[str, str],
        cache: Path,
        largest: int,
        card: ModelCard | None = None,
    ) -> None:
        super().__init__(size, card)
        self.largest = largest
        self.on_gpu = target != "onnxruntime-tensorrt-rtx"
        self.session = _session(model, target, options, cache)
        self.tensors: dict[int, dict[str, Any]] = {}

    def _device_memory(self) -> DeviceMemory:
        return DeviceMemory(None, "ONNX Runtime does not report the memory of its GPU providers")

    def _infer(self, faces: Faces) -> Prediction:
        with ort_errors(
            f"ONNX Runtime failed on {len(faces)} faces",
            "try smaller batches; if one face fails too, build for another precision",
        ):
            parts = []
            # Split, as TensorRT refuses a batch that is larger than its profile.
            for start in range(0, len(faces), self.largest):
                batch = np.ascontiguousarray(faces[start : start + self.largest])
                parts.append(self._run(batch))
        return Prediction(
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.patch_map for part in parts]),
        )

    def _release(self) -> None:
        # Tensors and session both hold GPU memory.
        self.tensors.clear()
        del self.session

    def _run(self, faces: Faces) -> Prediction:
        # If tensors cannot be allocated on the GPU, the session copies them.
        if not self.on_gpu:
            score, patch_map = self.session.run(["score", "patch_map"], {"faces": faces})
            return Prediction(score, patch_map)
        # Kept per batch size, so that a call does not allocate.
        held = self.tensors.get(len(faces))
        if held is None:
            held = self.tensors[len(faces)] = self._allocate(len(faces))
        held["faces"].update_inplace(faces)
        binding = self.session.io_binding()
        binding.bind_ortvalue_input("faces", held["faces"])
        binding.bind_ortvalue_output("score", held["score"])
        binding.bind_ortvalue_output("patch_map", held["patch_map"])
        self.session.run_with_iobinding(binding)
        return Prediction(held["score"].numpy(), held["patch_map"].numpy())

    def _allocate(self, batch: int) -> dict[str, Any]:
        """Allocate the tensors of one batch size on the GPU."""
        import onnxruntime

        def allocated(shape: tuple[int, ...], dtype: DTypeLike) -> Any:
            # Device 0 is the first GPU that CUDA_VISIBLE_DEVICES allows.
            return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, "cuda", 0)

        # The batch is dynamic: only the other dimensions are known from the graph.
        cells = tuple(self.session.get_outputs()[1].shape[1:])
        return {
            "faces": allocated((batch, self.size, self.size, 3), np.uint8),
            "score": allocated((batch,), np.float32),
            "patch_map": allocated((batch, *cells), np.float32),
        }


def _session(
    model: bytes, target: Target, options: dict[str, str], cache: Path
) -> onnxruntime.InferenceSession:
    import onnxruntime

    usable, reason = provider_available(target)
    if not usable:
        raise LpxError(
            f"{target} cannot be used here",
            reason,
            "or build for another target",
            code="unsupported",
        )
    settings = onnxruntime.SessionOptions()
    # Level 3 is "error": lpx checks below what warnings would say.
    settings.log_severity_level = 3
    # Nodes that silently run on the CPU would falsify the latency.
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers: list[tuple[str, dict[str, str]]] = [(_CUDA, {})]
    if target != "onnxruntime-cuda":
        # ONNX Runtime applies its basic optimisations before a provider gets the graph. They break
        # FP16 graphs with Q/DQ pairs: scores of the demo model were off by 0.83 with them, and by
        # 0.03 without.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if target == "onnxruntime-tensorrt-rtx":
        cache.mkdir(parents=True, exist_ok=True)
        options = {**options, "nv_runtime_cache_path": str(cache)}
        settings.add_provider_for_devices([_rtx_device()], options)
        # The device determines the provider, so that none is named.
        providers = []
    elif target == "onnxruntime-tensorrt":
        cache.mkdir(parents=True, exist_ok=True)
        paths = ("trt_engine_cache_path", "trt_timing_cache_path")
        options = {**options, **dict.fromkeys(paths, str(cache))}
        providers.insert(0, (PROVIDERS[target], options))
    else:
        providers = [(_CUDA, options)]
    # Older releases lack the function.
    if providers and hasattr(onnxruntime, "preload_dlls"):
        # Finds CUDA and cuDNN in pip's wheels, if the system has none.
        onnxruntime.preload_dlls()
    with ort_errors(
        f"ONNX Runtime cannot load the model for {target}",
        "`lpx doctor` shows what this machine has; ONNX Runtime's documentation says which CUDA, "
        "cuDNN and TensorRT its release needs",
    ):
        # enable_fallback=0: otherwise ONNX Runtime replaces a provider that fails by others.
        session = onnxruntime.InferenceSession(
            model, settings, providers=providers or None, enable_fallback=0
        )
    # A session may start without the requested provider.
    if session.get_providers()[:1] != [PROVIDERS[target]]:
        raise LpxError(
            f"ONNX Runtime does not run the model with {PROVIDERS[target]}",
            f"it fell back to {', '.join(session.get_providers())}: a library that the provider "
            "needs is missing",
            "install the CUDA, cuDNN and TensorRT that this release of ONNX Runtime needs",
        )
    return session


def _rtx_device() -> Any:
    """Return the first GPU that TensorRT for RTX offers to ONNX Runtime, an `OrtEpDevice`.

    Raises:
        LpxError: The plugin does not load, for example because NVIDIA's driver is missing, or it
            supports no GPU of this machine.
    """
    import onnxruntime

    name = PROVIDERS["onnxruntime-tensorrt-rtx"]

    def offered() -> list[Any]:
        return [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]

    # Checked first, as a process can register a library only once.
    if not (devices := offered()):
        try:
            plugin = importlib.import_module(PLUGIN)
            onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:
            # ONNX Runtime's errors have no base class other than Exception, and no code. Only the
            # text says that this process has registered the library before.
            if "already registered" not in str(error):
                raise LpxError(
                    "TensorRT for RTX does not start in ONNX Runtime",
                    first_line(error),
                    "it needs an RTX GPU, and NVIDIA's driver for CUDA 13 or later; `lpx doctor` "
                    "shows what this machine has",
                ) from error
        devices = offered()
    if not devices:
        raise LpxError(
            "TensorRT for RTX supports no GPU of this machine in ONNX Runtime",
            "it supports GPUs of compute capability "
            f"{', '.join(RTX_PROVIDER_GPUS)} and later, with NVIDIA's driver for CUDA 13 or later",
            "build for target tensorrt-rtx, onnxruntime-cuda or onnxruntime",
        )
    return devices[0]
