"""Capabilities of a TensorRT release, read once from its version and its names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from lpx.engines.tensorrt.library import Flavour, load, load_runtime

# The form of ONNX graph a library takes; made from one calibration by lpx.graph's passes.
Dialect = Literal["strongly-typed", "weakly-typed", "calibration-cache", "dla-explicit"]

_STRONGLY_TYPED_FROM = (10, 3)
_KNOWN_BAD: tuple[tuple[tuple[int, ...], str], ...] = (
    ((10, 2, 0), "10.2.0: refused by a major exporter"),
    ((10, 3), "10.3: numeric drift reported on JetPack 6.2"),
    ((10, 4), "10.4: accuracy loss reported on vision transformers"),
    ((10, 13, 3, 9), "10.13.3.9: plans with a maximum batch of 1 reported broken on Thor"),
    ((10, 16, 2), "10.16.2: 'cannot infer DQ output type' around Reshape reported on Orin"),
    ((11, 2, 1), "11.2.1: FP16 miscompile of conv + activation + residual with a strided concat"),
)


@dataclass(frozen=True)
class Capabilities:
    """Capabilities of one release. Every use of a name that some release lacks asks here first.

    It has many fields because each stands for a difference between releases.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Version numbers, as (10, 13, 3, 9).
        strongly_typed_only: Networks are always strongly typed; precision flags are gone.
        strongly_typed_flag: Networks can be asked to be strongly typed.
        explicit_batch_flag: `NetworkDefinitionCreationFlag.EXPLICIT_BATCH` exists.
        fp16_flag: `BuilderFlag.FP16` exists.
        int8_flag: `BuilderFlag.INT8` exists.
        calibrators: The INT8 calibrator classes exist.
        dla: The release can build for a DLA core; whether the board has one, the builder says.
        debug_tensors: `INetworkDefinition.mark_debug` exists.
        progress_monitor: A build reports its progress and can be cancelled.
        timing_cache: A timing cache saves work; TensorRT for RTX ignores it.
        error_on_timing_cache_miss: A build can be made to fail on a miss, and so be repeatable.
        version_compatible: Plans that run on later releases can be built.
        hardware_compatibility: Plans that run on other GPU models can be built.
        set_compute_capability: Plans can be built for GPUs that are not in this machine.
        parser_node_name: Parser errors name the node, not only its index.
        builtin_cuda_graphs: The library captures CUDA graphs by itself.
        compiles_at_run: Kernels are compiled where a plan runs, and can be kept in a cache.
        profile_sharing: Several contexts can use one profile at once.
        inspector: Plans can be asked for their layers; the lean runtime cannot.
        dialect: The graph to give to the library for the GPU.
        known_bad: Why this release is known to give wrong or no plans; None where it is not.
    """

    flavour: Flavour
    version: tuple[int, ...]
    strongly_typed_only: bool
    strongly_typed_flag: bool
    explicit_batch_flag: bool
    fp16_flag: bool
    int8_flag: bool
    calibrators: bool
    dla: bool
    debug_tensors: bool
    progress_monitor: bool
    timing_cache: bool
    error_on_timing_cache_miss: bool
    version_compatible: bool
    hardware_compatibility: bool
    set_compute_capability: bool
    parser_node_name: bool
    builtin_cuda_graphs: bool
    compiles_at_run: bool
    profile_sharing: bool
    inspector: bool
    dialect: Dialect
    known_bad: str | None

    @property
    def dla_dialect(self) -> Dialect | None:
        """Return the INT8 graph to give to the library for a DLA core; None without DLA."""
        if not self.dla:
            return None
        return "calibration-cache" if self.calibrators else "dla-explicit"


@dataclass(frozen=True)
class TensorRTLibrary:
    """A TensorRT library that was found on this machine, and what it can do.

    Found once and passed on, so that all steps of a build speak of the same release.

    Attributes:
        trt: The Python module of the bindings.
        capabilities: Read from the module.
    """

    trt: Any
    capabilities: Capabilities

    @property
    def flavour(self) -> Flavour:
        """Return the flavour, which is also the name of the target."""
        return self.capabilities.flavour

    @property
    def version(self) -> str:
        """Return the version as the library writes it, such as "10.13.3.9"."""
        return str(self.trt.__version__)


def open_library(flavour: Flavour) -> TensorRTLibrary:
    """Import the library that builds and runs plans of a flavour.

    Raises:
        LpxError: The library is absent or does not import.
    """
    trt = load(flavour)
    return TensorRTLibrary(trt, capabilities_of(trt, flavour))


def open_runtime(flavour: Flavour, *, version_compatible: bool) -> TensorRTLibrary:
    """Import what runs plans of a flavour: TensorRT's lean runtime may do for compatible ones.

    Args:
        flavour: The library that built the plan.
        version_compatible: The plan was built to be loaded by later releases.

    Raises:
        LpxError: Neither is there or imports.
    """
    if not version_compatible:
        return open_library(flavour)
    trt = load_runtime(flavour)
    return TensorRTLibrary(trt, capabilities_of(trt, flavour))


def capabilities_of(trt: Any, flavour: Flavour) -> Capabilities:
    """Read the capabilities of an imported library; nothing native is called.

    Args:
        trt: The module that `library.load` returned.
        flavour: Its flavour.
    """
    version = parse_version(trt.__version__)
    rtx = flavour == "tensorrt-rtx"
    strongly_typed_only = not hasattr(trt.BuilderFlag, "FP16")
    # RTX still has the names of the next three, but refuses or ignores the setting.
    return Capabilities(
        flavour=flavour,
        version=version,
        strongly_typed_only=strongly_typed_only,
        strongly_typed_flag=_has(trt, "NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        explicit_batch_flag=_has(trt, "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
        fp16_flag=not strongly_typed_only,
        int8_flag=hasattr(trt.BuilderFlag, "INT8"),
        calibrators=hasattr(trt, "IInt8EntropyCalibrator2"),
        dla=not rtx and not (10, 8) <= version < (11, 4, 1),
        debug_tensors=_has(trt, "INetworkDefinition", "mark_debug"),
        progress_monitor=hasattr(trt, "IProgressMonitor"),
        timing_cache=not rtx,
        error_on_timing_cache_miss=(
            not rtx and hasattr(trt.BuilderFlag, "ERROR_ON_TIMING_CACHE_MISS")
        ),
        version_compatible=not rtx and hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"),
        hardware_compatibility=not rtx and hasattr(trt, "HardwareCompatibilityLevel"),
        set_compute_capability=hasattr(trt, "ComputeCapability"),
        parser_node_name=_has(trt, "ParserError", "node_name"),
        builtin_cuda_graphs=hasattr(trt, "CudaGraphStrategy"),
        compiles_at_run=hasattr(trt, "IRuntimeCache"),
        profile_sharing=rtx or version >= (10,),
        inspector=hasattr(trt, "EngineInspector"),
        dialect="strongly-typed" if rtx or version >= _STRONGLY_TYPED_FROM else "weakly-typed",
        known_bad=None if rtx else known_bad(version),
    )


def _has(trt: Any, kind: str, member: str) -> bool:
    """Return whether a class has a member: the lean runtime lacks the classes that build."""
    return hasattr(getattr(trt, kind, None), member)


def parse_version(text: str) -> tuple[int, ...]:
    """Numbers of a version: "10.13.3.9" -> (10, 13, 3, 9); a suffix as in "8.6.2-1" is cut."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(number) for number in match.group().split(".")) if match else ()


def known_bad(version: tuple[int, ...]) -> str | None:
    """Return why a TensorRT release is known to be bad; None if nothing is known.

    A short entry stands for all its patch releases: (10, 4) covers 10.4.0.26.
    """
    for prefix, reason in _KNOWN_BAD:
        if version[: len(prefix)] == prefix:
            return f"TensorRT {reason}"
    return None
