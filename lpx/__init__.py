"""lpx: from a deepfake detector's checkpoint to verified edge engines.

    work = lpx.Workspace("lpx-out")
    work.export("ckpt.pt")
    work.build("int8", faces="faces")
    report = work.bench("ffpp-c23")

Names are imported when they are first used: PyTorch takes seconds to import.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace
    from lpx.artefacts.plan_file import read_plan, write_plan
    from lpx.bench.performance.cost_plan import CostPlan
    from lpx.bench.report.compare import compare
    from lpx.bench.report.document.report import Report, read_report
    from lpx.bundle.unpack import unpack
    from lpx.card import ModelCard
    from lpx.cluster.options import RayOptions
    from lpx.engines.base import Engine, Prediction
    from lpx.engines.manifest import EngineManifest
    from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
    from lpx.errors import InvalidArgumentError, LpxError, NotAsAskedError, OutOfMemoryError
    from lpx.graph.qdq.plan import LayerPlan, PrecisionPlan
    from lpx.graph.qdq.weights import WeightOptions
    from lpx.healing.load import load
    from lpx.models.checkpoint import ForeignModel
    from lpx.remote.board import Board
    from lpx.reporter import Progress, Reporter
    from lpx.streams.capacity.plan import CapacityOptions
    from lpx.streams.live.results import LiveEvent, ScoredFrame
    from lpx.streams.live.watch import LiveOptions
    from lpx.training.ablation.ablating import ablate
    from lpx.training.ablation.grid import AblationGrid
    from lpx.training.fit import train
    from lpx.training.recipe import Recipe

_MODULES = {
    "AblationGrid": "lpx.training.ablation.grid",
    "BatchRange": "lpx.engines.tensorrt_options",
    "Board": "lpx.remote.board",
    "CapacityOptions": "lpx.streams.capacity.plan",
    "CostPlan": "lpx.bench.performance.cost_plan",
    "Engine": "lpx.engines.base",
    "EngineManifest": "lpx.engines.manifest",
    "ForeignModel": "lpx.models.checkpoint",
    "InvalidArgumentError": "lpx.errors",
    "LayerPlan": "lpx.graph.qdq.plan",
    "LiveEvent": "lpx.streams.live.results",
    "LiveOptions": "lpx.streams.live.watch",
    "LpxError": "lpx.errors",
    "ModelCard": "lpx.card",
    "NotAsAskedError": "lpx.errors",
    "OutOfMemoryError": "lpx.errors",
    "PrecisionPlan": "lpx.graph.qdq.plan",
    "Prediction": "lpx.engines.base",
    "Progress": "lpx.reporter",
    "RayOptions": "lpx.cluster.options",
    "Recipe": "lpx.training.recipe",
    "Report": "lpx.bench.report.document.report",
    "Reporter": "lpx.reporter",
    "ScoredFrame": "lpx.streams.live.results",
    "TensorRTOptions": "lpx.engines.tensorrt_options",
    "WeightOptions": "lpx.graph.qdq.weights",
    "Workspace": "lpx.api.workspace",
    "ablate": "lpx.training.ablation.ablating",
    "compare": "lpx.bench.report.compare",
    "load": "lpx.healing.load",
    "read_plan": "lpx.artefacts.plan_file",
    "read_report": "lpx.bench.report.document.report",
    "train": "lpx.training.fit",
    "unpack": "lpx.bundle.unpack",
    "write_plan": "lpx.artefacts.plan_file",
}
__all__ = [
    "AblationGrid",
    "BatchRange",
    "Board",
    "CapacityOptions",
    "CostPlan",
    "Engine",
    "EngineManifest",
    "ForeignModel",
    "InvalidArgumentError",
    "LayerPlan",
    "LiveEvent",
    "LiveOptions",
    "LpxError",
    "ModelCard",
    "NotAsAskedError",
    "OutOfMemoryError",
    "PrecisionPlan",
    "Prediction",
    "Progress",
    "RayOptions",
    "Recipe",
    "Report",
    "Reporter",
    "ScoredFrame",
    "TensorRTOptions",
    "WeightOptions",
    "Workspace",
    "__version__",
    "ablate",
    "compare",
    "load",
    "read_plan",
    "read_report",
    "train",
    "unpack",
    "write_plan",
]

__version__ = "0.1.0"

# From 1.29 on ONNX Runtime's official builds send what models are loaded, and a number that stands
# for this machine, to Microsoft. It reads this when it is first imported; whoever wants it sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
if "onnxruntime" in sys.modules:
    # Imported before lpx: what is left to do.
    sys.modules["onnxruntime"].disable_telemetry_events()


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
