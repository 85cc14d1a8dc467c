"""TensorRT and TensorRT for RTX: ONNX to a verified plan, a plan to predictions.

The only package of lpx that names TensorRT. Importing it imports neither TensorRT nor CUDA:
that happens when something is built, loaded or asked for. `library` finds the bindings,
`capabilities` holds what their release can do, `build` makes a plan, `inspect` says which
precision its layers got, `driver` names the few CUDA calls that `cuda` opens, `runtime` is the
engine and `slot` what one batch in flight needs; `tensors` looks into a plan while it runs.
`logger` keeps what TensorRT says, and `refusals` knows what to do about it.
"""

from __future__ import annotations

from lpx.engines.tensorrt.building.build import Plan, build_plan
from lpx.engines.tensorrt.building.progress import Progress
from lpx.engines.tensorrt.capabilities import Capabilities, Dialect, capabilities_of
from lpx.engines.tensorrt.cuda.choose import open_driver
from lpx.engines.tensorrt.cuda.driver import CudaDriver, CudaLostError, Device
from lpx.engines.tensorrt.inspect import parse_build_log, parse_inspector
from lpx.engines.tensorrt.layer_table import (
    Layer,
    LayerTable,
    assert_precision,
)
from lpx.engines.tensorrt.library import (
    Flavour,
    available,
    load,
    load_runtime,
    runtime_available,
)
from lpx.engines.tensorrt.request import (
    Batches,
    BatchRange,
    Precision,
    Request,
    check,
    check_batches,
    check_dla,
    spans_of_batches,
)
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.engines.tensorrt.slot import Timing
from lpx.engines.tensorrt.tensors import TensorRTTensors

__all__ = [
    "BatchRange",
    "Batches",
    "Capabilities",
    "CudaDriver",
    "CudaLostError",
    "Device",
    "Dialect",
    "Flavour",
    "Layer",
    "LayerTable",
    "Plan",
    "Precision",
    "Progress",
    "Request",
    "TensorRTEngine",
    "TensorRTTensors",
    "Timing",
    "assert_precision",
    "available",
    "build_plan",
    "capabilities_of",
    "check",
    "check_batches",
    "check_dla",
    "load",
    "load_runtime",
    "open_driver",
    "parse_build_log",
    "parse_inspector",
    "runtime_available",
    "spans_of_batches",
]
