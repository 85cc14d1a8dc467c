"""TensorRT and TensorRT for RTX: ONNX to a verified plan, a plan to predictions.

The only package of lpx that names TensorRT. Importing it imports neither TensorRT nor CUDA:
that happens when something is built, loaded or asked for. `library` finds the bindings,
`capabilities` holds what their release can do, `build` makes a plan, `inspect` says which
precision its layers got, `driver` names the few CUDA calls that `cuda` opens, `runtime` is the
engine and `slot` what one batch in flight needs; `tensors` looks into a plan while it runs.
`logger` keeps what TensorRT says, and `refusals` knows what to do about it.
"""

from __future__ import annotations

from lpx.engines.tensorrt.building.plan import Plan, build_plan
from lpx.engines.tensorrt.building.plan_request import PlanRequest, check_dla, check_supported
from lpx.engines.tensorrt.building.progress import PhaseProgress
from lpx.engines.tensorrt.capabilities import (
    Capabilities,
    Dialect,
    TensorRTLibrary,
    capabilities_of,
    open_library,
    open_runtime,
)
from lpx.engines.tensorrt.cuda.choose import open_driver
from lpx.engines.tensorrt.cuda.driver import CudaDriver, CudaLostError, Device
from lpx.engines.tensorrt.inspect import parse_build_log, parse_inspector
from lpx.engines.tensorrt.layer_table import LayerTable, PlanLayer, assert_precision
from lpx.engines.tensorrt.library import Flavour, available, runtime_available
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.engines.tensorrt.slot import Timing
from lpx.engines.tensorrt.tensors import TensorRTTensors

__all__ = [
    "Capabilities",
    "CudaDriver",
    "CudaLostError",
    "Device",
    "Dialect",
    "Flavour",
    "LayerTable",
    "PhaseProgress",
    "Plan",
    "PlanLayer",
    "PlanRequest",
    "TensorRTEngine",
    "TensorRTLibrary",
    "TensorRTTensors",
    "Timing",
    "assert_precision",
    "available",
    "build_plan",
    "capabilities_of",
    "check_dla",
    "check_supported",
    "open_driver",
    "open_library",
    "open_runtime",
    "parse_build_log",
    "parse_inspector",
    "runtime_available",
]
