"""Capabilities of a TensorRT release, read once from its version and the names in its module."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from lpx.engines.tensorrt.library import Flavour, load, load_runtime

# Forms of ONNX graph that libraries expect; the passes of lpx.graph make all of them from one
# calibration.
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
    """Capabilities of one release.

    Code checks a field before it uses a name that some release lacks; a test compares all such uses
    with the names of the releases. There are as many fields as there are differences.

    Attributes:
        flavour: "tensorrt" or "tensorrt-rtx".
        version: Version numbers, as (10, 13, 3, 9).
        strongly_typed_only: Networks are always strongly typed, and there are no precision flags.
        strongly_typed_flag: `NetworkDefinitionCreationFlag.STRONGLY_TYPED` exists.
        explicit_batch_flag: `NetworkDefinitionCreationFlag.EXPLICIT_BATCH` exists.
        fp16_flag: `BuilderFlag.FP16` exists.
        int8_flag: `BuilderFlag.INT8` exists.
        calibrators: The INT8 calibrator classes exist.
        dla: The release can build for a DLA core, if the board has one.
        debug_tensors: `INetworkDefinition.mark_debug` exists.
        progress_monitor: A build reports its progress and can be cancelled.
        timing_cache: A timing cache saves work; TensorRT for RTX ignores it.
        error_on_timing_cache_miss: A build can fail if the timing cache lacks a kernel, which makes
            builds repeatable.
        version_compatible: Plans that run on later releases can be built.
        hardware_compatibility: Plans that run on other GPU models can be built.
        set_compute_capability: Plans can be built for GPUs that are not in this machine.
        parser_node_name: Parser errors name the node, not only its index.
        builtin_cuda_graphs: The library captures CUDA graphs by itself.
        compiles_at_run: Kernels are compiled where a plan runs, and can be cached.
        profile_sharing: Several contexts can use one profile at the same time.
        inspector: `EngineInspector` exists, which shows the layers of a plan; the lean runtime has
            none.
        dialect: Form of graph for the GPU.
        known_bad: Known fault of this release; None if none is known.
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
        """Form of INT8 graph for a DLA core; None without DLA."""
        if not self.dla:
            return None
        if self.calibrators:
            return "calibration-cache"
        return "dla-explicit"


@dataclass(frozen=True)
class TensorRTLibrary:
    """A TensorRT library of this machine, with its capabilities.

    It is looked for once and passed on, so that all steps of a build use the same release.

    Attributes:
        trt: The Python module of the bindings.
        capabilities: Capabilities of its release.
    """

    trt: Any
    capabilities: Capabilities

    @property
    def flavour(self) -> Flavour:
        """Flavour, which is also the name of the target."""
        return self.capabilities.flavour

    @property
    def version(self) -> str:
        """Version as the library writes it, such as "10.13.3.9"."""
        return str(self.trt.__version__)


def open_library(flavour: Flavour) -> TensorRTLibrary:
    """Import the library that builds and runs plans of a flavour.

    Raises:
        LpxError: The library is absent or does not import.
    """
    trt = load(flavour)
    return TensorRTLibrary(trt, capabilities_of(trt, flavour))


def open_runtime(flavour: Flavour, *, version_compatible: bool) -> TensorRTLibrary:
    """Import a library that runs plans of a flavour.

    For version-compatible plans this may be TensorRT's lean runtime.

    Args:
        flavour: Library that built the plan.
        version_compatible: The plan was built to be loaded by later releases.

    Raises:
        LpxError: No such library is installed and imports.
    """
    if not version_compatible:
        return open_library(flavour)
    trt = load_runtime(flavour)
    return TensorRTLibrary(trt, capabilities_of(trt, flavour))


def capabilities_of(trt: Any, flavour: Flavour) -> Capabilities:
    """Read the capabilities of an imported library, without calling into it.

    Args:
        trt: The module that `library.load` returned.
        flavour: Flavour of the library.
    """
    version = parse_version(trt.__version__)
    rtx = flavour == "tensorrt-rtx"
    strongly_typed_only = not hasattr(trt.BuilderFlag, "FP16")
    # `not rtx`: TensorRT for RTX has these names, too, but refuses or ignores the setting.
    dialect: Dialect = "weakly-typed"
    if rtx or version >= _STRONGLY_TYPED_FROM:
        dialect = "strongly-typed"
    bad = None
    if not rtx:
        bad = known_bad(version)
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
        dialect=dialect,
        known_bad=bad,
    )


def _has(trt: Any, kind: str, member: str) -> bool:
    """Return True if a class exists and has a member."""
    # The lean runtime lacks the classes for building.
    return hasattr(getattr(trt, kind, None), member)


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a version: "10.13.3.9" -> (10, 13, 3, 9), "8.6.2-1" -> (8, 6, 2)."""
    match = re.match(r"\d+(?:\.\d+)*", text)
    if match is None:
        return ()
    return tuple(map(int, match.group().split(".")))


def known_bad(version: tuple[int, ...]) -> str | None:
    """Return the known fault of a TensorRT release; None if none is known.

    A short entry of the list covers all its patch releases: (10, 4) includes 10.4.0.26.
    """
    for prefix, reason in _KNOWN_BAD:
        if version[: len(prefix)] == prefix:
            return f"TensorRT {reason}"
    return None
