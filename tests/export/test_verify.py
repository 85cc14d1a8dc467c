"""The gate behind an export: sound models pass, however steep; wrong ones do not."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lpx.card import ModelCard
from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.errors import LpxError
from lpx.export.deployed import Deployed
from lpx.export.float64 import graph_in_float64, in_float64
from lpx.export.to_onnx import to_onnx
from lpx.export.verify import TOLERANCE, Outputs, open_in_onnxruntime, verify
from lpx.models.checkpoint import Detector

SIZE = 64
CARD = ModelCard("user:make", "whole", "own", SIZE)


class Picture:
    def __init__(self, seed):
        self.seed = seed

    def read(self):
        return np.random.default_rng(self.seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def faces():
    listed = tuple(
        Face(
            name=f"{i}.png", label=i % 2, method="", video=str(i), identities=(), source=Picture(i)
        )
        for i in range(16)
    )
    return FaceSet("random", "test", "unknown", listed, "")


class Net(nn.Module):
    """A small network whose logits are multiplied by `gain`; then whatever `after` does."""

    def __init__(self, gain=1.0, after=None):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 1, 3),
        )
        self.gain, self.after = gain, after
        pixels = torch.from_numpy(np.stack([Picture(i).read() for i in range(4)]))
        with torch.no_grad():
            normalised = Deployed(self, CARD).normalised(pixels)
            self.middle = float(self.eval().body(normalised).median())

    def forward(self, x):
        z = self.body(x).squeeze(1)
        # Around the middle of noise, so that not every cell is 0 or 1.
        patch_map = (self.gain * (z - self.middle)).sigmoid()
        score = patch_map.mean((1, 2))
        return (score, patch_map) if self.after is None else self.after(score, patch_map)


def detector(module):
    return Detector(module.eval(), CARD)


def perturbed(module, by):
    wrong = copy.deepcopy(module)
    with torch.no_grad():
        wrong.body[3].weight[0] *= 1 + by
    return wrong


def test_ordinary_model_passes_on_eight_faces_without_a_look_at_its_noise(faces):
    made = detector(Net())
    found = verify(to_onnx(made), made, faces)
    assert (found.faces, found.noise) == (8, None)
    assert found.max_map_difference < 1e-5


def test_steep_model_passes_by_its_own_noise(faces):
    made = detector(Net(1e5))
    found = verify(to_onnx(made), made, faces)
    assert found.max_map_difference > TOLERANCE, "not steep enough: nothing is tested"
    assert found.noise.map > TOLERANCE


@pytest.mark.parametrize("gain", [1.0, 30.0, 1e5])
def test_wrong_export_is_refused_however_steep_the_model(faces, gain):
    module = Net(gain)
    wrong = to_onnx(detector(perturbed(module, 0.02)))
    with pytest.raises(LpxError, match="the exported model differs") as caught:
        verify(wrong, detector(module), faces)
    assert "more than float32 rounding" in caught.value.why
    assert "`tolerance=" in caught.value.fix


def noisy_runtime(by):
    """Return an opener of sessions whose maps have noise of standard deviation `by`."""

    def opener(model):
        run = open_in_onnxruntime(model)

        def noisy(pixels):
            score, patch_map = run(pixels)
            noise = by * np.random.default_rng(0).normal(size=patch_map.shape)
            return Outputs(score, patch_map + noise)

        return noisy

    return opener


def test_correct_graph_passes_if_the_runtime_is_coarse(faces):
    made = detector(Net(1e4))
    model = to_onnx(made)
    coarse = noisy_runtime(3e-3)
    found = verify(model, made, faces, opener=coarse)
    assert found.max_map_difference > 5e-3
    assert found.exact.map < found.noise.map
    with pytest.raises(LpxError, match="more than float32 rounding"):
        verify(to_onnx(detector(perturbed(made.module, 1e-3))), made, faces, opener=coarse)


def test_runtime_that_is_grossly_wrong_is_refused_for_a_correct_graph(faces):
    made = detector(Net(1e4))
    with pytest.raises(LpxError, match="more than float32 rounding"):
        verify(to_onnx(made), made, faces, opener=noisy_runtime(0.1))


def test_graph_in_float64_equals_the_model_in_float64():
    made = detector(Net(30.0))
    face = Picture(0).read()[None]
    wanted = in_float64(Deployed(made.module, CARD), torch.from_numpy(face))
    found = graph_in_float64(to_onnx(made), ("score", "patch_map"), {"faces": face})
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other.numpy()).max() < 1e-5
    assert graph_in_float64(b"no model", ("score",), {"faces": face}) is None


def test_tolerance_takes_the_place_of_the_rule(faces):
    module = Net(1e5)
    model = to_onnx(detector(module))
    with pytest.raises(LpxError, match=r"1e-06 is allowed"):
        verify(model, detector(module), faces, tolerance=1e-6)
    wrong = to_onnx(detector(perturbed(module, 0.02)))
    assert verify(wrong, detector(module), faces, tolerance=1.0).tolerance == 1.0


def test_number_of_faces(faces):
    made = detector(Net())
    assert verify(to_onnx(made), made, faces, limit=11).faces == 11


def test_random_model_is_named(faces):
    made = detector(Net(after=lambda s, m: (s * torch.rand_like(s), m)))
    model = to_onnx(detector(Net()))
    with pytest.raises(LpxError, match="a different score each time"):
        verify(model, made, faces)


def test_model_whose_faces_depend_on_each_other_is_named(faces):
    made = detector(Net(after=lambda s, m: ((s - s.mean() + 0.5).clamp(0, 1), m)))
    with pytest.raises(LpxError, match="depends on the other faces"):
        verify(to_onnx(made), made, faces)


def test_graph_of_another_batch_is_named(faces):
    made = detector(Net())
    model = onnx.load_model_from_string(to_onnx(made))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(LpxError, match="ONNX Runtime cannot run the exported model"):
        verify(model.SerializeToString(), made, faces)


def test_probabilities_out_of_range_on_faces_are_named(faces):
    made = detector(Net(after=lambda s, m: (s + 3, m)))
    with pytest.raises(LpxError, match="score takes values from") as caught:
        verify(to_onnx(made), made, faces)
    assert '`outputs="logits"`' in caught.value.fix


def test_weights_that_are_not_finite_are_named(faces):
    made, model = detector(Net()), to_onnx(detector(Net()))
    made.module.body[0].weight.data.fill_(float("nan"))
    with pytest.raises(LpxError, match="score is not finite") as caught:
        verify(model, made, faces)
    assert "outputs" not in caught.value.fix


@pytest.mark.parametrize(
    "function",
    [
        lambda s, m: (torch.stack([u * 1.0 for u in s]), m),
        lambda s, m: (torch.cat([u * 1.0 for u in s.split(1)]), m),
        lambda s, m: (torch.cat([s[i : i + 1] for i in range(len(s))]), m),
        lambda s, m: (s.reshape(int(s.shape[0])), m),
        lambda s, m: (s * 1.0 if s.shape[0] == 2 else s, m),
        lambda s, m: (s + torch.zeros(2), m),
        lambda s, m: (s.view(2, -1).mean(1), m),
        lambda s, m: (s, m + torch.zeros(1, 1, 1).expand(2, 1, 1)),
    ],
    ids=["unbind", "split", "loop", "int", "branch", "zeros", "view", "expand"],
)
def test_batch_size_fixed_in_the_code_is_refused_by_name(function):
    with pytest.raises(LpxError, match="a batch size is fixed in the code") as caught:
        to_onnx(detector(Net(after=function)))
    assert "x.shape[0]" in caught.value.fix


class Explicit(nn.Module):
    """Casts, constants and factories that name float32 or half."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.plain, self.kernel = torch.full((1, 3, 1, 1), 0.1), torch.full((3, 3, 1, 1), 0.1)

    def forward(self, x):
        x = nn.functional.conv2d(x, self.kernel)
        kernel = torch.tensor([[0.125, 0.25], [0.5, 1]], dtype=torch.float32)
        kernel = kernel.repeat(3, 1, 1, 1).to(x.device)
        z = nn.functional.conv2d(self.conv(x).float() + self.plain, kernel, groups=3)
        z = (z + torch.zeros(1, dtype=torch.float32)).half().mean((1, 2, 3))
        return z.sigmoid(), z.reshape(-1, 1, 1)


def test_float64_reaches_what_names_a_type_of_its_own():
    module, x = Explicit().eval(), torch.randn(2, 3, 8, 8)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    score, _ = in_float64(module, x)
    doubled = copy.deepcopy(module).double()
    kernel = torch.tensor([[0.125, 0.25], [0.5, 1]]).double().repeat(3, 1, 1, 1)
    z = nn.functional.conv2d(x.double(), module.kernel.double())
    z = doubled.conv(z) + module.plain.double()
    wanted = nn.functional.conv2d(z, kernel, groups=3).mean((1, 2, 3)).sigmoid()
    assert torch.allclose(score, wanted, rtol=0, atol=1e-14)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_float64_equals_a_model_in_double():
    module = Deployed(Net(30.0).eval(), CARD)
    pixels = torch.from_numpy(np.stack([Picture(i).read() for i in range(3)]))
    normalised = (pixels.double().permute(0, 3, 1, 2) - module.offset) * module.scale
    with torch.no_grad():
        wanted = copy.deepcopy(module.detector).double()(normalised)
    for found, expected in zip(in_float64(module, pixels), wanted, strict=True):
        assert (found - expected).abs().max() < 1e-12


def test_module_that_cannot_run_in_float64_has_no_truth():
    class Bits(nn.Module):
        def forward(self, x):
            return x.view(torch.int32).view(torch.float32).mean((1, 2, 3))

    assert in_float64(Bits(), torch.zeros(1, 3, 4, 4)) is None
