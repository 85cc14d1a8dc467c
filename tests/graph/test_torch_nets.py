"""Detectors of many kinds, from torch to the graph of every precision.

TensorRT for RTX parses and builds on any machine, ONNX Runtime runs its graph as it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lpx.calibration.observe import calibrate
from lpx.calibration.scales import Scales
from lpx.card import ModelCard
from lpx.data.face_sets.sets import open_set
from lpx.engines.build import build_engine, make_graph
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.engines.targets import ResolvedTarget
from lpx.engines.tensorrt import available, open_library
from lpx.engines.tensorrt_options import TensorRTOptions
from lpx.export.deployed import Deployed
from lpx.export.to_onnx import to_onnx
from lpx.graph.lower_opset import lower_opset
from lpx.graph.model_io import parse, serialise
from lpx.layerwise.compare import batch_size, compare_layers
from lpx.machine.machine import read_machine
from lpx.models.checkpoint import Detector
from tests.graph.torch_nets import NETS, SIZE, make

USABLE, REASON = available("tensorrt-rtx")
# Their convolutions have under 16 channels, which ONNX Runtime's placement leaves in float.
NARROW = ("meso",)


@dataclass(frozen=True)
class Case:
    """A net that was exported and calibrated, and what torch makes of some faces."""

    name: str
    card: ModelCard
    model: bytes
    scales: Scales
    pixels: np.ndarray
    truth: np.ndarray

    def request(self, target, precision):
        devices = ("8.9",) if target == "tensorrt-rtx" else ()
        return BuildRequest(
            target=target,
            precision=precision,
            scales=self.scales,
            method="max",
            tensorrt=TensorRTOptions(compute_capabilities=devices),
        )

    def error(self, graph, *, as_written):
        """Largest difference of the map from torch's."""
        engine = OnnxRuntimeEngine(graph, SIZE, as_written=as_written)
        return float(np.abs(engine.infer(self.pixels).patch_map - self.truth).max())


@pytest.fixture(scope="module", params=NETS)
def case(request):
    module = make(request.param)
    with torch.no_grad():
        grid = tuple(module(torch.zeros(2, 3, SIZE, SIZE))[1].shape[1:])
    card = ModelCard("nets:make", "whole", "own", SIZE, grid=grid)
    faces = open_set("demo", "train").first(5)
    (batch,) = faces.stream(5, SIZE, [])
    with torch.no_grad():
        truth = Deployed(module, card)(torch.from_numpy(batch.pixels))[1].numpy()
    assert np.ptp(truth) > 0.05, "the map is flat: nothing is compared"
    model = to_onnx(Detector(module, card))
    scales = calibrate(model, faces, SIZE)
    return Case(request.param, card, model, scales, batch.pixels, truth)


# A gate opens or not: a value at its threshold may do either in half precision.
TOLERANCE = {"fp32": 1e-5, "fp16": 0.02, "int8": 0.25}


def test_export_is_the_module_and_in_an_older_opset_too(case):
    assert case.error(case.model, as_written=False) < TOLERANCE["fp32"]
    older = parse(case.model, "the model")
    lower_opset(older, 17)
    data = serialise(older)
    assert parse(data, "the model").graph.opset_imports[""] == 17
    assert case.error(data, as_written=True) < TOLERANCE["fp32"]


GRAPHS = (
    ("onnxruntime", "int8"),
    ("strongly-typed", "fp16"),
    ("strongly-typed", "int8"),
    ("weakly-typed", "int8"),
)


@pytest.mark.parametrize(("dialect", "precision"), GRAPHS, ids=map("-".join, GRAPHS))
def test_graph_of_every_dialect_computes_the_same(case, dialect, precision):
    target = "onnxruntime" if dialect == "onnxruntime" else "tensorrt"
    graph, _ = make_graph(case.model, case.request(target, precision), dialect)
    as_written = dialect != "onnxruntime"
    error = case.error(graph, as_written=as_written)
    assert 0 < error < TOLERANCE[precision] * (4 if case.name == "gated" else 1)
    if dialect == "strongly-typed" and precision == "int8":
        assert batch_size(case.model) >= 5
        found = compare_layers(graph, case.model, [case.pixels], SIZE, as_written=True)
        assert found.layers


@pytest.mark.skipif(not USABLE, reason=REASON)
def test_tensorrt_builds_it(case, tmp_path):
    request = case.request("tensorrt-rtx", "int8")
    target = ResolvedTarget(request.target, library=open_library("tensorrt-rtx"))
    made = build_engine(case.model, case.card, request, target, tmp_path, read_machine())
    assert set(made.convolutions) == {"fp16", "int8"}


def test_onnxruntime_computes_in_integers(case, tmp_path):
    if case.name in NARROW:
        pytest.skip("its convolutions have under 16 channels")
    request = case.request("onnxruntime", "int8")
    target = ResolvedTarget(request.target, library=open_library("tensorrt-rtx"))
    made = build_engine(case.model, case.card, request, target, tmp_path, read_machine())
    assert made.convolutions["int8"] > 0
