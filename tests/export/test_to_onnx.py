"""An export against the deployed module in torch, on random weights and random pixels."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from lpx.card import METADATA_KEY, ModelCard, card_from_dict
from lpx.errors import InvalidArgumentError, LpxError
from lpx.export.deployed import Deployed
from lpx.export.to_onnx import to_onnx, trace
from lpx.models.checkpoint import Detector
from lpx.models.detector import new_detector

SIZE = 96
# Each backbone with another aggregate; one of them wants its channels the other way round.
CASES = {
    "xception": ("block1", "mean_prob", "RGB"),
    "resnet18": ("layer1", "lse", "BGR"),
    "mobilenet_v2": ("features.3", "topk", "RGB"),
    "tf_efficientnet_lite0": ("stage2", "mean_logit", "RGB"),
}


@dataclass(frozen=True)
class Export:
    detector: Detector
    opset: int
    data: bytes

    @property
    def proto(self):
        return onnx.load_model_from_string(self.data)

    def operators(self):
        return Counter(node.op_type for node in self.proto.graph.node)

    def run(self, faces):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(self.data, options, providers=["CPUExecutionProvider"])
        return session.run(["score", "patch_map"], {"faces": faces})

    def run_torch(self, faces):
        with torch.no_grad():
            outputs = Deployed(self.detector.module, self.detector.card)(torch.from_numpy(faces))
        return [value.numpy() for value in outputs]


@pytest.fixture(scope="module")
def detectors(randomise):
    def build(seed, backbone):
        cut, aggregate, order = CASES[backbone]
        module, card = new_detector(
            backbone, cut, input_size=SIZE, aggregate_name=aggregate, bottleneck=16
        )
        randomise(module, seed)
        # Logits of a few, so that the sigmoid is not flat where they are compared.
        pixels = torch.from_numpy(faces(4)).permute(0, 3, 1, 2) / 127.5 - 1
        with torch.no_grad():
            module.head.classifier.weight /= module.logits(pixels).std()
        card = replace(
            card,
            channel_order=order,
            mean=(0.5, 0.4, 0.3),
            std=(0.2, 0.25, 0.3),
            threshold=0.37,
            provenance={"data": ["a", "b"], "note": "Grüße"},
        )
        return Detector(module, card)

    return {backbone: build(seed, backbone) for seed, backbone in enumerate(CASES)}


@pytest.fixture(scope="module")
def traced_once():
    """A tracer that traces each detector once: tracing is slow, and the same for every opset."""
    traced = {}

    def tracer(detector):
        if id(detector) not in traced:
            # The detector is kept with it, so that no other can get its id.
            traced[id(detector)] = detector, trace(detector)
        return traced[id(detector)][1]

    return tracer


@pytest.fixture(
    scope="module",
    params=[(backbone, opset) for backbone in CASES for opset in (20, 17)],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def export(request, detectors, traced_once):
    backbone, opset = request.param
    model = to_onnx(detectors[backbone], opset, tracer=traced_once)
    return Export(detectors[backbone], opset, model)


def faces(count, size=SIZE):
    """Smooth faces with noise on them, uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(count)
    coarse = torch.from_numpy(rng.uniform(0, 255, (count, 3, 6, 6)))
    smooth = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear").numpy()
    noisy = smooth.transpose(0, 2, 3, 1) + rng.normal(0, 20, (count, size, size, 3))
    return np.ascontiguousarray(np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_deployed_module(export, batch):
    pixels = faces(batch)
    score, patch_map = export.run(pixels)
    wanted_score, wanted_map = export.run_torch(pixels)
    assert (score.dtype, patch_map.dtype) == (np.float32, np.float32)
    assert (score.shape, patch_map.shape) == (wanted_score.shape, wanted_map.shape)
    assert patch_map.shape == (batch, *export.detector.card.grid)
    assert wanted_map.std() > 0.05, "the map is flat: nothing is compared"
    assert np.abs(score - wanted_score).max() < 1e-5
    assert np.abs(patch_map - wanted_map).max() < 1e-5


def test_extreme_pixels(export):
    pixels = np.stack([np.zeros((SIZE, SIZE, 3)), np.full((SIZE, SIZE, 3), 255)]).astype(np.uint8)
    for found, wanted in zip(export.run(pixels), export.run_torch(pixels), strict=True):
        assert np.abs(found - wanted).max() < 1e-5


def test_inputs_and_outputs(export):
    graph = export.proto.graph
    (given,) = graph.input
    assert given.name == "faces"
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    batch, *rest = given.type.tensor_type.shape.dim
    assert batch.dim_param
    assert [d.dim_value for d in rest] == [SIZE, SIZE, 3]
    assert [value.name for value in graph.output] == ["score", "patch_map"]
    for value in graph.output:
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert value.type.tensor_type.shape.dim[0].dim_param == batch.dim_param
    assert [d.dim_value for d in graph.output[1].type.tensor_type.shape.dim[1:]] == list(
        export.detector.card.grid
    )


def test_opset(export):
    assert [(o.domain, o.version) for o in export.proto.opset_import] == [("", export.opset)]
    onnx.checker.check_model(export.proto, full_check=True)


def test_first_node_is_a_cast_of_the_faces(export):
    first = export.proto.graph.node[0]
    assert first.op_type == "Cast"
    assert list(first.input) == ["faces"]
    assert export.operators()["Cast"] == 1


def test_graph_is_folded(export):
    found = export.operators()
    convolutions = [p for p in export.detector.module.modules() if isinstance(p, nn.Conv2d)]
    assert found["Conv"] == len(convolutions)
    # Batch norms and padding are part of their convolutions, scaling of pixels of the first.
    for gone in ("BatchNormalization", "Pad", "Constant", "Identity", "Dropout", "Mul"):
        if gone == "Mul" and export.detector.card.aggregate == "lse":
            continue
        assert found[gone] == 0, gone


def test_nodes_have_unique_names(export):
    names = [node.name for node in export.proto.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    paths = {name for name, _ in export.detector.module.named_modules()}
    scoped = [name.partition(":")[2] for name in names if ":" in name]
    assert scoped
    assert set(scoped) <= paths


def test_types_of_all_tensors_are_known(export):
    # Passes read them, and a tensor without a type would be left out of a half graph.
    graph = export.proto.graph
    typed = {value.name for value in (*graph.value_info, *graph.input, *graph.output)}
    made = {name for node in graph.node for name in node.output}
    assert made <= typed


def test_card_travels_in_the_metadata(export):
    stored = {entry.key: entry.value for entry in export.proto.metadata_props}
    card = card_from_dict(json.loads(stored[METADATA_KEY]), "model.onnx")
    assert card == export.detector.card
    assert export.proto.producer_name == "lpx"


def test_bgr_card_flips_the_channels(detectors):
    """A network that wants BGR sees, of RGB faces, what its twin for RGB sees of flipped ones."""
    backwards = detectors["resnet18"]
    assert backwards.card.channel_order == "BGR"
    forwards = Detector(backwards.module, replace(backwards.card, channel_order="RGB"))
    pixels = faces(2)
    flipped = np.ascontiguousarray(pixels[..., ::-1])
    found = Export(backwards, 20, to_onnx(backwards)).run(pixels)
    expected = Export(forwards, 20, b"").run_torch(flipped)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() < 1e-5
    unflipped = Export(forwards, 20, b"").run_torch(pixels)
    assert np.abs(found[1] - unflipped[1]).max() > 1e-2


def test_deployed_preprocesses_by_the_card():
    class Pass(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3)), x[:, 0]

    card = ModelCard("m:f", "whole", "own", 2, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    pixels = torch.arange(24, dtype=torch.uint8).reshape(2, 2, 2, 3)
    _, first = Deployed(Pass(), card)(pixels)
    assert torch.allclose(first, (pixels[..., 0] / 255 - 0.5) / 0.1)
    _, first = Deployed(Pass(), replace(card, channel_order="BGR"))(pixels)
    assert torch.allclose(first, (pixels[..., 2] / 255 - 0.5) / 0.1)


@pytest.mark.parametrize("opset", [16, 7, 21, 0])
def test_opset_out_of_range_is_refused(detectors, opset):
    with pytest.raises(InvalidArgumentError, match=f"opset must be .*17.*20.*{opset}"):
        to_onnx(detectors["xception"], opset)


def custom(module, size=16):
    card = ModelCard("user:factory", "whole", "own", size)
    return Detector(module.eval(), card)


class Custom(nn.Module):
    """A user's module: a convolution, then whatever it does."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm, self.vectors = nn.BatchNorm2d(4), nn.BatchNorm1d(4)
        self.after = nn.Conv2d(4, 4, 3, padding=1)
        self.function = function

    def forward(self, x):
        patch_map = self.function(self, x)
        return patch_map.mean((1, 2)), patch_map


NORMS = {
    "behind an activation": lambda net, x: net.norm(net.conv(x).relu()),
    "before a convolution": lambda net, x: net.after(net.norm(net.conv(x).relu())),
    "behind a pool": lambda net, x: net.norm(nn.functional.max_pool2d(net.conv(x), 2)),
    "behind a concat": lambda net, x: net.norm(torch.cat([x[:, :1], x.sin()], 1)),
    "on what others read": lambda net, x: (lambda y: net.norm(y) + y)(net.conv(x)),
    "of vectors": lambda net, x: net.vectors(net.conv(x).mean((2, 3)))[..., None, None],
}


@pytest.mark.parametrize("function", NORMS.values(), ids=NORMS)
def test_batch_norm_that_no_convolution_takes_up(randomise, function):
    module = randomise(Custom(lambda net, x: function(net, x).mean(1).sigmoid()))
    module.vectors.running_mean.uniform_(-1, 1)
    exported = Export(custom(module), 20, to_onnx(custom(module)))
    assert "BatchNormalization" not in exported.operators()
    assert exported.operators()["Mul"] >= 1
    pixels = faces(2, 16)
    for found, wanted in zip(exported.run(pixels), exported.run_torch(pixels), strict=True):
        assert np.abs(found - wanted).max() < 1e-6


def test_nodes_of_such_a_norm_say_its_module(randomise):
    module = randomise(Custom(lambda net, x: net.norm(net.conv(x).relu()).mean(1).sigmoid()))
    data = to_onnx(custom(module))
    names = [node.name.partition(":")[2] for node in onnx.load_model_from_string(data).graph.node]
    assert names.count("norm") == 2


def test_batch_norm_by_the_statistics_of_the_batch_is_refused():
    module = Custom(lambda net, x: net.norm(net.conv(x).relu()).mean(1).sigmoid())
    module.norm = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(LpxError, match="from the current batch"):
        to_onnx(custom(module))


def test_model_that_cannot_be_exported_is_refused():
    def branch(net, x):
        y = net.conv(x).mean(1)
        return y.sigmoid() if float(y.sum()) > 0 else y.cos().sigmoid()

    with pytest.raises(LpxError, match="torch cannot export user:factory"):
        to_onnx(custom(Custom(branch)))


def test_model_that_fails_without_a_message_is_refused():
    def refuse(net, x):
        raise AssertionError

    with pytest.raises(LpxError, match="torch cannot export"):
        to_onnx(custom(Custom(refuse)))


OPSET_17 = {
    "gelu": lambda y: nn.functional.gelu(y),
    "prelu": lambda y: nn.functional.prelu(y, torch.full((4,), 0.2)),
    "instance norm": lambda y: nn.functional.instance_norm(y),
    "resize": lambda y: nn.functional.interpolate(y, scale_factor=2.0),
    "norm": lambda y: nn.functional.normalize(y, dim=1),
    "pad": lambda y: nn.functional.pad(y, (1, 1, 1, 1), mode="reflect"),
}


@pytest.mark.parametrize("function", OPSET_17.values(), ids=OPSET_17)
def test_what_opset_17_can_say_passes(function):
    detector = custom(Custom(lambda net, x: function(net.conv(x)).mean(1).sigmoid()))
    exported = Export(detector, 17, to_onnx(detector, 17))
    assert exported.proto.opset_import[0].version == 17
    pixels = faces(2, 16)
    for found, wanted in zip(exported.run(pixels), exported.run_torch(pixels), strict=True):
        assert np.abs(found - wanted).max() < 1e-5


def test_operator_that_opset_17_lacks_is_refused():
    def folded(net, x):
        patches = nn.functional.unfold(net.conv(x), 2, stride=2)
        return nn.functional.fold(patches, 14, 2, stride=2).mean(1).sigmoid()

    detector = custom(Custom(folded))
    to_onnx(detector)
    with pytest.raises(LpxError, match="Col2Im in a form that opset 17 does not have"):
        to_onnx(detector, 17)


def test_export_changes_nothing_and_says_nothing(detectors, capfd):
    # Another object, which has not been traced before.
    detector = replace(detectors["xception"])
    before = {name: value.clone() for name, value in detector.module.state_dict().items()}
    to_onnx(detector)
    assert not any(part.training for part in detector.module.modules())
    after = detector.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
