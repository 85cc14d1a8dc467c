"""Weights in files of every shape: found by what fits the model, named, never chosen silently."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lpx.errors import LpxError
from lpx.models.backbones import build_backbone
from lpx.models.fitting import fit_weights, load_backbone_weights
from lpx.models.state_dict import load_weights


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)


class Wrapper(nn.Module):
    """What a user writes around a published network: normalisation as buffers, the net inside."""

    def __init__(self):
        super().__init__()
        self.net = Net()
        self.register_buffer("mean", torch.full((3,), 0.5))


def weights(seed=0):
    torch.manual_seed(seed)
    return dict(Net().state_dict())


PLAIN, AVERAGED = weights(0), weights(1)


def prefixed(prefix, state=PLAIN):
    return {prefix + name: value for name, value in state.items()}


def inside(name, wrapper):
    return {k.replace(f"{name}.", f"{name}.{wrapper}."): v for k, v in PLAIN.items()}


def fit(content, module=None, key=None):
    module = module or Net()
    names = [name for name, _ in module.named_parameters()]
    return fit_weights(content, module.state_dict(), "x.pt", key=key, parameters=names)


def same(fitted, state=PLAIN):
    return fitted.state.keys() == state.keys() and all(
        torch.equal(value, state[name]) for name, value in fitted.state.items()
    )


@pytest.mark.parametrize(
    ("content", "key", "mapping"),
    [
        (PLAIN, ".", ()),
        ({"params": PLAIN}, "params", ()),
        ({"network": PLAIN, "epoch": 3}, "network", ()),
        ({"model": {"state_dict": PLAIN}}, "model.state_dict", ()),
        ({"a": [{"b": PLAIN}]}, "a.0.b", ()),
        (prefixed("detector."), ".", ("prefix 'detector.' removed",)),
        (prefixed("a.b.c."), ".", ("prefix 'a.b.c.' removed",)),
        ({"state_dict": prefixed("module.")}, "state_dict", ("prefix 'module.' removed",)),
        (inside("conv", "_orig_mod"), ".", ("'_orig_mod' removed from the names",)),
        (inside("head", "module"), ".", ("'module' removed from the names",)),
        (
            prefixed("model.", inside("conv", "module")),
            ".",
            ("'module' removed from the names", "prefix 'model.' removed"),
        ),
        ({"optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}, "net": PLAIN}, "net", ()),
    ],
)
def test_one_set_of_weights_is_found_under_any_name(content, key, mapping):
    fitted = fit(content)
    assert same(fitted)
    assert (fitted.key, fitted.mapping, fitted.others) == (key, mapping, ())
    said = " ".join(fitted.notes("x.pt"))
    assert all(change in said for change in mapping)
    assert (key == ".") or key in said


@pytest.mark.parametrize("extra", ["criterion.pos_weight", "train_acc.total", "teacher.weight"])
def test_what_stands_beside_the_model_is_left_out_and_named(extra):
    fitted = fit({"state_dict": {**prefixed("model."), extra: torch.ones(1)}})
    assert same(fitted)
    assert fitted.left_out == (extra,)
    assert extra in " ".join(fitted.notes("x.pt"))


def test_loss_buffer_beside_unprefixed_weights_is_left_out():
    fitted = fit({**PLAIN, "criterion.pos_weight": torch.ones(1), "n_averaged": torch.tensor(3)})
    assert same(fitted)
    assert fitted.left_out == ("criterion.pos_weight", "n_averaged")


@pytest.mark.parametrize("extra", ["conv2.weight", "norm.extra", "layer5.bias"])
def test_weights_that_the_model_lacks_are_refused(extra):
    with pytest.raises(LpxError, match=f"1 unexpected: {extra}"):
        fit({"model": {**PLAIN, extra: torch.ones(4)}})
    with pytest.raises(LpxError, match=f"1 unexpected: {extra}"):
        fit({"model": prefixed("m.", {**PLAIN, extra: torch.ones(4)})})


@pytest.mark.parametrize(
    ("content", "plain", "averaged"),
    [
        ({"model": PLAIN, "ema": AVERAGED}, "model", "ema"),
        ({"ema": AVERAGED, "model": PLAIN}, "model", "ema"),
        (
            {"state_dict": PLAIN, "state_dict_ema": AVERAGED},
            "state_dict",
            "state_dict_ema",
        ),
        (
            {"callbacks": {"EMA": {"ema_state_dict": AVERAGED}}, "state_dict": PLAIN},
            "state_dict",
            "callbacks.EMA.ema_state_dict",
        ),
        (
            {"state_dict": {**prefixed("teacher.", AVERAGED), **prefixed("student.")}},
            "state_dict.student",
            "state_dict.teacher",
        ),
        (
            {"sd": {**prefixed("m."), **prefixed("ema_model.module.", AVERAGED)}},
            "sd.m",
            "sd.ema_model.module",
        ),
        (prefixed("online.") | prefixed("target.", AVERAGED), "online", "target"),
    ],
)
def test_of_two_sets_one_is_taken_said_and_the_other_can_be_chosen(content, plain, averaged):
    fitted = fit(content)
    assert same(fitted)
    assert (fitted.key, fitted.others) == (plain, (averaged,))
    (warning,) = fitted.warnings("x.pt")
    assert f"Took {plain!r}" in warning
    assert f"`weights_key={averaged!r}`" in warning
    assert fitted.provenance("x.pt")["weights_others"] == [averaged]
    chosen = fit(content, key=averaged)
    assert same(chosen, AVERAGED)
    assert chosen.others == ()
    assert same(fit(content, key=plain))


def test_the_same_weights_twice_are_no_choice():
    fitted = fit({"model": PLAIN, "ema": {k: v.clone() for k, v in PLAIN.items()}})
    assert fitted.others == ()


def test_only_averaged_weights_are_taken_and_said():
    fitted = fit({"state_dict_ema": PLAIN, "epoch": 3})
    assert same(fitted)
    assert "'state_dict_ema' in x.pt" in " ".join(fitted.notes("x.pt"))
    assert fitted.provenance("x.pt") == {
        "converted_from": "x.pt",
        "weights_key": "state_dict_ema",
    }


def test_averaged_weights_that_cannot_be_mapped_are_named():
    fitted = fit({"model": PLAIN, "ema": {"shadow_params": [*AVERAGED.values()]}})
    assert fitted.unused == ("ema.shadow_params",)
    assert "ema.shadow_params" in " ".join(fitted.notes("x.pt"))


def test_key_that_is_not_there_lists_those_that_are():
    with pytest.raises(LpxError, match="no weights under 'emma'") as caught:
        fit({"model": PLAIN, "ema": AVERAGED}, key="emma")
    assert "model, ema" in caught.value.why


def test_key_whose_weights_do_not_fit_is_refused():
    with pytest.raises(LpxError, match=r"\(other\): the weights do not fit"):
        fit({"model": PLAIN, "other": {"a": torch.zeros(1)}}, key="other")


@pytest.mark.parametrize("content", [PLAIN, prefixed("module."), {"model": prefixed("net.")}])
def test_prefix_of_a_wrapper_is_added_and_its_buffers_kept(content):
    module = Wrapper()
    fitted = fit(content, module)
    assert same(fitted, {**prefixed("net."), "mean": module.mean})
    assert fitted.kept == ("mean",)
    assert "mean" in " ".join(fitted.notes("x.pt"))


def test_missing_statistics_of_a_batch_norm_are_not_kept():
    state = {k: v for k, v in PLAIN.items() if k != "norm.running_mean"}
    for module, name in ((Net(), "norm.running_mean"), (Wrapper(), r"net\.norm\.running_mean")):
        with pytest.raises(LpxError, match=f"missing: .*{name}"):
            fit(state, module)


def test_quantised_integers_are_not_taken_for_weights():
    state = {**PLAIN, "conv.weight": torch.ones(4, 3, 3, 3, dtype=torch.int8)}
    with pytest.raises(LpxError, match=r"1 of another type: conv\.weight is torch\.int8"):
        fit(state)


def test_half_precision_weights_fit():
    assert fit({k: v.half() if v.is_floating_point() else v for k, v in PLAIN.items()}).key == "."


@pytest.mark.parametrize(
    "counts",
    [
        {"conv.num_batches_tracked": torch.tensor(3)},
        {"norm.num_batches_tracked": torch.tensor([3])},
        {"norm.num_batches_tracked": torch.tensor(3.0).half()},
        {"norm.num_batches_tracked": torch.tensor(3, device="meta")},
    ],
    ids=["extra", "shape", "half", "meta"],
)
def test_counts_of_batches_never_stand_in_the_way(counts):
    fitted, net = fit({**PLAIN, **counts}), Net()
    load_weights(net, fitted.state)
    assert all(
        torch.equal(value, PLAIN[name])
        for name, value in net.state_dict().items()
        if name != "norm.num_batches_tracked"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.to_sparse(), "is sparse"),
        (lambda w: w.to("meta"), r"is without values \(meta\)"),
        (lambda w: w.to(torch.float8_e4m3fn), r"is torch\.float8_e4m3fn"),
        (lambda w: w.to(torch.complex64), r"is torch\.complex64"),
    ],
    ids=["sparse", "meta", "float8", "complex"],
)
def test_tensors_that_cannot_be_copied_as_they_are_do_not_fit(change, said):
    with pytest.raises(LpxError, match=rf"1 of another type: conv\.weight {said}"):
        fit({**PLAIN, "conv.weight": change(PLAIN["conv.weight"])})


def test_lists_that_repeat_themselves_are_searched_once():
    bomb = []
    bomb.append(bomb)
    for _ in range(12):
        bomb = [bomb] * 50
    assert fit({"state_dict": PLAIN, "history": bomb}).key == "state_dict"


def test_weights_are_found_however_deep():
    content = PLAIN
    for name in "hgfedcba":
        content = {name: content}
    assert fit(content).key == "a.b.c.d.e.f.g.h"


@pytest.mark.parametrize(
    "wrap", [dict, lambda s: {"epoch": 3, "net": {"module." + k: v for k, v in s.items()}}]
)
def test_backbone_starts_from_weights_under_any_name(wrap):
    whole, cut = build_backbone("resnet18", "layer2"), build_backbone("resnet18", "layer1")
    load_backbone_weights(cut, wrap(whole.state_dict()), "tv.pth")
    assert torch.equal(cut.conv1.weight, whole.conv1.weight)
    with pytest.raises(LpxError, match=r"tv\.pth holds no tensors"):
        load_backbone_weights(cut, {"epoch": 3}, "tv.pth")


def test_names_that_would_collide_without_wrappers_are_kept_apart():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.conv = nn.Module(), nn.Conv2d(1, 1, 1)
            self.module.conv = nn.Conv2d(1, 1, 1)

    state = dict(Both().state_dict())
    assert same(fit({"module." + k: v for k, v in state.items()}, Both()), state)
