"""Every backbone's FP32, FP16 and INT8 graph is parsed and built by TensorRT for RTX.

Its builder needs no GPU, so this runs in any CI; whether the engines give the right answers needs
a GPU, and is not tested here.
"""

from __future__ import annotations

from itertools import product

import onnx
import pytest

from lpx.calibration.observe import calibrate
from lpx.data.face_sets.sets import open_set
from lpx.engines.build import build_engine
from lpx.engines.request import BuildRequest
from lpx.engines.targets import resolve_target
from lpx.engines.tensorrt import available
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.export.to_onnx import to_onnx
from lpx.machine.machine import read_machine
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

USABLE, REASON = available("tensorrt-rtx")
pytestmark = pytest.mark.skipif(not USABLE, reason=REASON)

CUTS = {
    "xception": "block3",
    "resnet18": "layer2",
    "resnet50": "layer2",
    "mobilenet_v2": "features.8",
    "efficientnet_lite0": "stage4",
    "tf_efficientnet_lite0": "stage3",
}
BATCHES = (BatchRange(1, 8, 32), (8,), (1, 8))
CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


@pytest.mark.parametrize("backbone", CUTS)
def test_builds_in_every_precision(backbone, tmp_path):
    module, card = new_detector(backbone, CUTS[backbone], input_size=128)
    detector = Detector(module.eval(), card)
    model = to_onnx(detector)
    scales = calibrate(model, open_set("demo", "train").first(8), card.input_size)
    machine = read_machine()
    target = resolve_target("tensorrt-rtx", machine)
    total = sum(node.op_type == "Conv" for node in onnx.load_from_string(model).graph.node)
    found = {}
    for precision, batches in product(("fp32", "fp16", "int8"), BATCHES):
        request = BuildRequest(
            target="tensorrt-rtx",
            precision=precision,
            scales=scales,
            method="max",
            tensorrt=TensorRTOptions(batches=batches, compute_capabilities=CAPABILITIES),
        )
        folder = tmp_path / request.name
        counts = build_engine(model, card, request, target, folder, machine).convolutions
        assert (folder / "engine.plan").stat().st_size > 0
        # All are recognised, those that became matrix products too, and each counts once.
        assert sum(counts.values()) == total
        assert found.setdefault(precision, counts) == counts
    assert set(found["fp32"]) == {"fp32"}
    assert set(found["fp16"]) == {"fp16"}
    # What is not in INT8 is in FP16: the stem, the classifier, depthwise convolutions.
    assert set(found["int8"]) == {"fp16", "int8"}
    depthwise = sum("depthwise" in d["reason"] for d in _decisions(tmp_path))
    assert found["int8"]["int8"] == total - 2 - depthwise


def _decisions(tmp_path):
    from lpx.engines.manifest import read_manifest

    return read_manifest(tmp_path / "tensorrt-rtx-int8").placement
