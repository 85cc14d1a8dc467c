"""TensorRT and TensorRT for RTX: build and verify plans, and run them.

The only package of lpx that imports TensorRT, and only when something is built, loaded or looked
up, so that importing the package needs neither TensorRT nor CUDA.

- `library` finds TensorRT's bindings, `capabilities` describes their release.
- `building` builds a plan, `inspect` and `layer_table` show the precision of its layers.
- `runtime` is the engine, `slot` the memory of one batch in flight, `cuda` the CUDA calls that they
  need. `tensors` reads the tensors between the layers of a plan.
- `logger` collects TensorRT's messages, and `refusals` has advice on them.
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
