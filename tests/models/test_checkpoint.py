from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lpx.errors import LpxError
from lpx.models.checkpoint import (
    FORMAT,
    Detector,
    ForeignModel,
    load_checkpoint,
    load_factory,
    save_checkpoint,
    save_state,
)
from lpx.models.detector import new_detector
from lpx.models.state_dict import digest

SIZE = 48
FOREIGN = ForeignModel("mobilenet_v2", "features.2", input_size=SIZE)


@pytest.fixture(scope="module")
def detector(randomise):
    """(module, card) of a small detector."""
    module, card = new_detector(
        "mobilenet_v2", "features.2", input_size=SIZE, aggregate_name="lse", bottleneck=8
    )
    return randomise(module), replace(card, channel_order="BGR", provenance={"data": "none"})


@pytest.fixture
def saved(detector, tmp_path):
    """(path, stored card) of a checkpoint."""
    path = tmp_path / "detector.pt"
    return path, save_checkpoint(path, *detector)


def content(path):
    return torch.load(path, weights_only=True)


def test_round_trip_is_bit_for_bit(detector, saved):
    module, card = detector
    path, stored = saved
    assert stored == replace(card, weights_sha256=digest(module.state_dict()))
    loaded = load_checkpoint(path)
    assert loaded.card == stored
    assert not any(part.training for part in loaded.module.modules())
    before, after = module.state_dict(), loaded.module.state_dict()
    assert list(before) == list(after)
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert torch.equal(before[name], after[name])
    faces = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(module(faces), loaded.module(faces), strict=True):
            assert torch.equal(ours, theirs)


def test_saving_again_gives_the_same_digest(detector, saved, tmp_path):
    loaded = load_checkpoint(saved[0])
    again = save_checkpoint(tmp_path / "again.pt", loaded.module, loaded.card)
    assert again.weights_sha256 == saved[1].weights_sha256


def test_the_same_weights_give_the_same_bytes(detector, tmp_path):
    module, card = detector
    written = []
    for name in ("one.pt", "two.pt"):
        card = save_checkpoint(tmp_path / name, module, card)
        save_state(tmp_path / f"state-{name}", Detector(module, card))
        written.append([(tmp_path / f).read_bytes() for f in (name, f"state-{name}")])
    assert written[0] == written[1]


def test_missing_file(tmp_path):
    with pytest.raises(LpxError, match=r"nowhere\.pt does not exist"):
        load_checkpoint(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4, 30, 500, 0.2, 0.5, 0.9, -100, -1])
def test_truncated_file(detector, tmp_path, kept, legacy):
    path = tmp_path / "cut.pt"
    torch.save(detector[0].state_dict(), path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    end = int(len(data) * kept) if isinstance(kept, float) else kept
    path.write_bytes(data[:end])
    with pytest.raises(LpxError, match="not a readable PyTorch checkpoint"):
        load_checkpoint(path, FOREIGN)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a checkpoint\n",
        b"import torch\n",
        b"tensor([1.0])\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n",
        b"<!DOCTYPE html>",
        b'{"format": "lpx-checkpoint/1"}',
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        bytes(4096),
        b"\x80\x02.",
        b"PK\x03\x04" + bytes(200),
    ],
    ids=[
        "empty",
        "text",
        "python",
        "repr",
        "git-lfs",
        "html",
        "json",
        "png",
        "zeros",
        "pickle",
        "zip",
    ],
)
def test_file_of_another_kind(tmp_path, data):
    path = tmp_path / "other.pt"
    path.write_bytes(data)
    with pytest.raises(LpxError, match="not a readable PyTorch checkpoint"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes_are_never_an_internal_error(tmp_path):
    path = tmp_path / "noise.pt"
    rng = np.random.default_rng(0)
    for _ in range(150):
        path.write_bytes(rng.bytes(int(rng.integers(1, 60))))
        with pytest.raises(LpxError):
            load_checkpoint(path)


class Payload:
    """Unpickling this creates a file: what loading a hostile checkpoint would do."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def zip_file(payload, path):
    torch.save({"format": FORMAT, "state_dict": {"w": torch.zeros(1)}, "card": payload}, path)


def legacy_file(payload, path):
    torch.save({"state_dict": payload}, path, _use_new_zipfile_serialization=False)


def bare_pickle(payload, path):
    path.write_bytes(pickle.dumps(payload, protocol=2))


@pytest.mark.parametrize("write", [zip_file, legacy_file, bare_pickle])
def test_code_in_a_checkpoint_is_not_run(tmp_path, write):
    path, proof = tmp_path / "hostile.pt", tmp_path / "proof"
    write(Payload(proof), path)
    with pytest.raises(LpxError, match="would run code"):
        load_checkpoint(path, None if write is zip_file else FOREIGN)
    assert not proof.exists()
    # The file is as hostile as it claims to be: a loader without safeguards runs it.
    if write is bare_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert proof.exists()


def test_pickled_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(LpxError, match="would run code") as caught:
        load_checkpoint(tmp_path / "module.pt", FOREIGN)
    assert "model.state_dict()" in caught.value.fix


def test_weights_edited_under_the_card(saved):
    path, _ = saved
    edited = content(path)
    edited["state_dict"]["head.classifier.bias"] += 1e-3
    torch.save(edited, path)
    with pytest.raises(LpxError, match="not those that the model card describes"):
        load_checkpoint(path)


def test_weights_of_another_architecture_under_the_card(saved):
    path, card = saved
    edited = content(path)
    edited["card"] = replace(card, cut="features.3").to_dict()
    torch.save(edited, path)
    with pytest.raises(LpxError, match=r"missing: backbone\.features\.3"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "lpx-card/99"}, "lpx-card/99"),
        ({"format": None}, "format None"),
        ({"temperature": 2.0}, "unknown fields: temperature"),
        ({"aggregate": "median"}, "aggregate: expected one of mean_prob, .*found 'median'"),
        ({"aggregate_parameter": 0.0}, "aggregate_parameter must be > 0"),
        ({"architecture": "vgg16"}, "backbone must be one of .*got 'vgg16'"),
        ({"cut": "block1"}, "cut must be one of .*got 'block1'"),
    ],
    ids=["newer", "no-format", "unknown-field", "aggregate", "parameter", "backbone", "cut"],
)
def test_card_that_does_not_fit(saved, change, said):
    path, _ = saved
    edited = content(path)
    edited["card"] |= change
    torch.save(edited, path)
    with pytest.raises(LpxError, match=said):
        load_checkpoint(path)


def test_incomplete_card(saved):
    path, _ = saved
    edited = content(path)
    del edited["card"]["cut"]
    torch.save(edited, path)
    with pytest.raises(LpxError, match="incomplete"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [{"card": [1]}, {"card": None}, {"state_dict": None}, {"state_dict": [1]}],
    ids=["card-list", "card-none", "state-none", "state-list"],
)
def test_checkpoint_with_a_part_missing(saved, change):
    path, _ = saved
    torch.save(content(path) | change, path)
    with pytest.raises(LpxError, match="card or its weights are missing"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda w: w.to("meta")])
def test_weights_without_plain_values_under_the_card(saved, change):
    path, _ = saved
    edited = content(path)
    edited["state_dict"]["head.classifier.bias"] = change(torch.zeros(1))
    torch.save(edited, path)
    with pytest.raises(LpxError, match=r"of another type: head\.classifier\.bias"):
        load_checkpoint(path)


def test_card_of_weights_without_counts_of_batches(detector, tmp_path):
    state = {k: v for k, v in detector[0].state_dict().items() if not k.endswith("_tracked")}
    card = replace(detector[1], weights_sha256=digest(state)).to_dict()
    torch.save({"format": FORMAT, "card": card, "state_dict": state}, tmp_path / "old.pt")
    loaded = load_checkpoint(tmp_path / "old.pt").module.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize("container", [list, tuple])
def test_state_dict_in_a_list(detector, tmp_path, container):
    torch.save(container([detector[0].state_dict(), 3]), tmp_path / "pair.pt")
    loaded = load_checkpoint(tmp_path / "pair.pt", replace(FOREIGN, bottleneck=8))
    assert loaded.card.weights_sha256 == digest(detector[0].state_dict())


@pytest.mark.parametrize(
    "value",
    [[1, 2], torch.zeros(3), "text", {}, {"state_dict": {"a": 1}}, {1: torch.zeros(1)}],
    ids=["list", "tensor", "text", "empty", "no-tensors", "number-names"],
)
def test_file_without_a_state_dict(tmp_path, value):
    torch.save(value, tmp_path / "other.pt")
    with pytest.raises(LpxError, match=r"other\.pt"):
        load_checkpoint(tmp_path / "other.pt", FOREIGN)


def test_foreign_weights_want_to_be_described(detector, tmp_path):
    torch.save(detector[0].state_dict(), tmp_path / "plain.pt")
    with pytest.raises(LpxError, match="no lpx model card") as caught:
        load_checkpoint(tmp_path / "plain.pt")
    assert "`backbone`" in caught.value.fix
    assert caught.value.code == "no-model-card"


def test_lpx_checkpoint_wants_no_description(saved):
    with pytest.raises(LpxError, match="has a model card of its own"):
        load_checkpoint(saved[0], FOREIGN)


def test_foreign_description_reaches_the_card(detector, tmp_path):
    torch.save(detector[0].state_dict(), tmp_path / "plain.pt")
    foreign = replace(
        FOREIGN,
        aggregate="topk",
        aggregate_parameter=0.25,
        bottleneck=8,
        mean=(0.1, 0.2, 0.3),
        std=(0.5, 0.6, 0.7),
        channel_order="BGR",
    )
    loaded = load_checkpoint(tmp_path / "plain.pt", foreign)
    card = loaded.card
    assert (card.architecture, card.cut, card.bottleneck) == ("mobilenet_v2", "features.2", 8)
    assert (card.aggregate, card.aggregate_parameter) == ("topk", 0.25)
    assert (card.mean, card.std, card.channel_order) == (foreign.mean, foreign.std, "BGR")
    assert (card.grid, card.stride, card.strictly_local) == ((12, 12), 4, True)
    assert card.weights_sha256 == digest(detector[0].state_dict())
    # What was converted once is an lpx checkpoint from then on.
    save_checkpoint(tmp_path / "own.pt", loaded.module, card)
    assert load_checkpoint(tmp_path / "own.pt").card == card


FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.model = nn.Conv2d(3, 1, 4, stride=4)
        self.function = forward

    def forward(self, x):
        return self.function(self.model(x).squeeze(1))

def score(): return Net(lambda s: s.mean((1, 2)).sigmoid())
def both(): return Net(lambda s: (s.sigmoid().mean((1, 2)), s.sigmoid()))
def logits(): return Net(lambda s: 10 * s.mean((1, 2)) - 5)
def unbiased_logits(): return Net(lambda s: 100 * (s - s.detach().mean()).mean((1, 2)))
def logit_map(): return Net(lambda s: (s.sigmoid().mean((1, 2)), 10 * s - 5))
def nan(): return Net(lambda s: s.mean((1, 2)) * float("nan"))
def column(): return Net(lambda s: s.mean((1, 2)).sigmoid()[:, None])
def three_classes(): return Net(lambda s: s.mean(2)[:, :3].softmax(1))
def flat_map(): return Net(lambda s: (s.mean((1, 2)).sigmoid(), s.sigmoid().flatten(1)))
def one_map(): return Net(lambda s: (s.mean((1, 2)).sigmoid(), s.sigmoid()[:1]))
def three(): return Net(lambda s: (s, s, s))
def mapping(): return Net(lambda s: {"score": s.mean((1, 2)).sigmoid(), "map": s})
def nothing(): return Net(lambda s: None)
def fails(): return Net(lambda s: s.reshape(7))
def asserts(): return Net(lambda s: (_ for _ in ()).throw(AssertionError()))
def decision(): return Net(lambda s: (s.mean((1, 2)) > 0).long())
def transform(): return Net(lambda s: torch.fft.fft2(s).mean((1, 2)))
def meta():
    with torch.device("meta"):
        return score()
def lazy(): return nn.Sequential(nn.LazyConv2d(1, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def script(): return torch.jit.trace(nn.Conv2d(3, 1, 4), torch.zeros(1, 3, 8, 8))
class Packed(Net):
    def get_extra_state(self):
        return (1, 2)

def packed(): return Packed(lambda s: s.mean((1, 2)).sigmoid())
def exits(): raise SystemExit(2)
def no_module(): return [1]
def needs(argument): return score()
def breaks(): raise KeyError("weights")
number = 3
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    """The name of an importable module full of factories."""
    (tmp_path / "user_factories.py").write_text(FACTORIES)
    (tmp_path / "user_typo.py").write_text("def score(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_factories", raising=False)
    yield "user_factories"
    sys.modules.pop("user_factories", None)


def call(spec, path=None):
    return load_factory(spec, path, ForeignModel(spec, input_size=SIZE, channel_order="BGR"))


def test_factory_with_score_only(factories):
    made = call(f"{factories}:score")
    score, patch_map = made.module(torch.zeros(3, 3, SIZE, SIZE))
    assert score.shape == (3,)
    assert patch_map.shape == (3, 1, 1)
    assert torch.equal(patch_map.flatten(), score)
    assert (made.card.grid, made.card.strictly_local) == ((1, 1), False)
    assert (made.card.receptive_field, made.card.channel_order) == (None, "BGR")


def test_factory_with_score_and_map(factories):
    made = call(f"{factories}:both")
    score, patch_map = made.module(torch.zeros(3, 3, SIZE, SIZE))
    assert (score.shape, patch_map.shape) == ((3,), (3, 12, 12))
    card = made.card
    assert (card.architecture, card.grid) == ("user_factories:both", (12, 12))
    assert (card.receptive_field, card.stride, card.strictly_local) == (4, 4, True)


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_factory_takes_weights(factories, tmp_path, prefix):
    # Every name of this module starts with "model.", which is also a wrapper's prefix.
    weights = {"model.weight": torch.full((1, 3, 4, 4), 0.25), "model.bias": torch.tensor([1.0])}
    path = tmp_path / "weights.pt"
    torch.save({prefix + name: value for name, value in weights.items()}, path)
    made = call(f"{factories}:both", path)
    assert made.card.weights_sha256 == digest(weights)
    score, _ = made.module(torch.zeros(1, 3, SIZE, SIZE))
    assert score.item() == pytest.approx(torch.tensor(1.0).sigmoid().item())


def test_factory_with_weights_of_another_model(factories, tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(LpxError, match=r"missing: model\.weight"):
        call(f"{factories}:both", tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("logits", "score .* takes values"),
        ("unbiased_logits", "score .* takes values"),
        ("logit_map", "map .* takes values"),
        ("nan", "nan"),
        ("three_classes", r"\(2, 3\)"),
        ("flat_map", r"\(2, 144\)"),
        ("one_map", r"\(1, 12, 12\)"),
        ("three", "fails on faces of 48 px"),
        ("mapping", "not tensors"),
        ("nothing", "fails on faces"),
        ("fails", "fails on faces"),
        ("asserts", "AssertionError"),
        ("decision", "returns torch.int64 values"),
        ("transform", "returns torch.complex64 values"),
        ("meta", r"model\.\w+ is on the meta device"),
        ("lazy", "shape of 0.weight is not known"),
        ("script", "TorchScript program"),
        ("packed", "_extra_state as a tuple"),
        ("exits", "SystemExit"),
        ("no_module", "returned a list"),
        ("needs", "argument"),
        ("breaks", "KeyError"),
        ("number", "not callable"),
        ("absent", "absent"),
        ("", "cannot be called"),
    ],
)
def test_bad_factory(factories, function, said):
    with pytest.raises(LpxError, match=said):
        call(f"{factories}:{function}")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("user_absent:score", "No module named 'user_absent'"),
        ("user_factories.absent:score", "not a package"),
        ("user_typo:score", "SyntaxError"),
        ("user_factories", "cannot be called"),
        (":score", "cannot be called"),
        ("", "cannot be called"),
    ],
)
def test_factory_that_cannot_be_imported(factories, spec, said):
    with pytest.raises(LpxError, match=said) as caught:
        call(spec)
    assert "package.module:function" in caught.value.fix


def test_full_disk_leaves_the_old_checkpoint(tmp_path):
    """A limit on the size of files stands for a full disk: writing fails half-way."""
    module, card = new_detector("resnet18", "layer1", input_size=48, bottleneck=0)
    path = tmp_path / "ckpt.pt"
    save_checkpoint(path, module, card)
    before = path.read_bytes()
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from lpx.errors import LpxError\n"
        "from lpx.models.checkpoint import load_checkpoint, save_checkpoint\n"
        "path = Path(sys.argv[1])\n"
        "detector = load_checkpoint(path)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    save_checkpoint(path, detector.module, detector.card)\n"
        "except LpxError as error:\n"
        "    sys.exit(17 if 'cannot be written' in error.what else 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True)
    assert done.returncode == 17, done.stderr.decode()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


OUTPUTS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, function, dtype=torch.float32):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 4, stride=4)
        with torch.no_grad():
            self.conv.weight.normal_(0, 1, generator=torch.Generator().manual_seed(0))
            self.conv.bias.zero_()
        self.function, self.dtype = function, dtype

    def forward(self, x):
        return self.function(self.conv(x))

class Cast(nn.Module):
    def __init__(self, dtype, inside):
        super().__init__()
        self.net, self.dtype, self.inside = two_logits().to(dtype), dtype, inside

    def forward(self, x):
        return self.net(x.to(self.dtype) if self.inside else x).softmax(1)[:, 1]

def mean(z): return z.mean((2, 3))
def two_logits(): return Net(lambda z: 2 * mean(z))
def two_softmax(): return Net(lambda z: mean(z).softmax(1))
def two_sigmoids(): return Net(lambda z: mean(z).sigmoid())
def logit(): return Net(lambda z: 2 * (mean(z)[:, 1] - mean(z)[:, 0]))
def logit_column(): return Net(lambda z: 2 * (mean(z)[:, 1:] - mean(z)[:, :1]))
def sigmoid(): return Net(lambda z: (2 * (mean(z)[:, 1] - mean(z)[:, 0])).sigmoid())
def column(): return Net(lambda z: (2 * (mean(z)[:, 1:] - mean(z)[:, :1])).sigmoid())
def both_logits(): return Net(lambda z: (2 * mean(z), z))
def logits_and_map(): return Net(lambda z: (3 * mean(z), z.softmax(1)))
def both_sigmoid(): return Net(lambda z: ((2 * mean(z)).softmax(1)[:, 1], z.softmax(1)[:, 1]))
def half_inside(): return Cast(torch.float16, True)
def double_inside(): return Cast(torch.float64, True)
def half(): return Cast(torch.float16, False)
def double(): return Cast(torch.float64, False)
def view(): return Net(lambda z: z.view(z.size(0), -1).mean(1).sigmoid())
def fixed_reshape(): return Net(lambda z: mean(z).reshape(2, 2).softmax(1)[:, 1])
def fixed_view(): return Net(lambda z: mean(z).view(2, -1).softmax(1)[:, 1])
def fixed_expand(): return Net(lambda z: (mean(z) + torch.zeros(1, 2).expand(2, 2))[:, 1].sigmoid())
def fixed_one(): return Net(lambda z: mean(z).view(1, 2).softmax(1)[:, 1])
def fixed_eight(): return Net(lambda z: mean(z).reshape(8, 2).softmax(1)[:, 1])
def loop(): return Net(lambda z: torch.stack([u.mean().sigmoid() for u in z]))
"""


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """A function: score and map, on three faces, of a factory's model as lpx wraps it."""
    (tmp_path / "user_outputs.py").write_text(OUTPUTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "user_outputs", raising=False)
    faces = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))

    def run(name, **options):
        foreign = ForeignModel(name, input_size=SIZE, **options)
        made = load_factory(f"user_outputs:{name}", None, foreign)
        with torch.no_grad():
            return made, *made.module(faces)

    yield run
    sys.modules.pop("user_outputs", None)


@pytest.fixture
def fake_score(outputs):
    """Probability that each of three faces belongs to class 1."""
    score = outputs("sigmoid")[1]
    assert score.std() > 0.05, "all faces score alike: nothing is tested"
    return score


@pytest.mark.parametrize("fake_class", [0, 1])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("two_logits", None),
        ("logit", "logits"),
        ("logit_column", "logits"),
        ("sigmoid", None),
        ("column", None),
        ("both_sigmoid", None),
    ],
)
def test_every_kind_of_output_becomes_the_probability_of_fake(
    outputs, fake_score, name, said, fake_class
):
    made, score, patch_map = outputs(name, fake_class=fake_class, outputs=said)
    wanted = fake_score if fake_class else 1 - fake_score
    assert torch.allclose(score, wanted, atol=1e-6)
    assert made.card.fake_class == fake_class
    assert made.card.outputs == ("logits" if "logit" in name else "probabilities")
    if name != "both_sigmoid":
        assert torch.equal(patch_map.flatten(), score)


@pytest.mark.parametrize("fake_class", [0, 1])
def test_map_of_two_classes_is_reversed_with_the_score(outputs, fake_class):
    _, score, patch_map = outputs("both_logits", fake_class=fake_class)
    _, wanted_score, wanted_map = outputs("both_sigmoid", fake_class=fake_class)
    assert torch.allclose(score, wanted_score, atol=1e-6)
    assert torch.allclose(patch_map, wanted_map, atol=1e-6)


def test_map_of_probabilities_beside_logits_wants_to_be_named(outputs):
    with pytest.raises(LpxError, match="looks like logits, and its map like probabilities"):
        outputs("logits_and_map", fake_class=1)
    assert outputs("logits_and_map", fake_class=1, outputs="logits")[0].card.outputs == "logits"


def test_softmax_is_not_applied_twice(outputs):
    _, score, _ = outputs("two_softmax", fake_class=0)
    _, other, _ = outputs("two_softmax", fake_class=1)
    assert torch.allclose(score + other, torch.ones(3))
    assert (score - other).abs().max() > 0.05


@pytest.mark.parametrize("name", ["two_logits", "two_softmax", "both_logits"])
def test_two_classes_want_to_know_which_is_fake(outputs, name):
    with pytest.raises(LpxError, match="cannot know which is fake") as caught:
        outputs(name)
    assert "`fake_class=0` or `fake_class=1`" in caught.value.fix


def test_two_sigmoids_want_to_be_named(outputs):
    with pytest.raises(LpxError, match="do not add up to 1"):
        outputs("two_sigmoids", fake_class=1)
    made, _, _ = outputs("two_sigmoids", fake_class=1, outputs="probabilities")
    assert made.card.outputs == "probabilities"


def test_one_logit_wants_to_be_named(outputs):
    with pytest.raises(LpxError, match="takes values from") as caught:
        outputs("logit")
    assert '`outputs="logits"`' in caught.value.fix


def test_direction_that_was_not_said_is_noted(outputs):
    assert "`fake_class=0`" in " ".join(outputs("sigmoid")[0].notes)
    assert outputs("sigmoid", fake_class=1)[0].notes == ()


@pytest.mark.parametrize("name", ["half_inside", "double_inside", "half", "double"])
def test_outputs_in_half_or_double_become_float32(outputs, fake_score, name):
    _, score, patch_map = outputs(name)
    assert (score.dtype, patch_map.dtype) == (torch.float32, torch.float32)
    assert torch.allclose(score, fake_score, atol=5e-3)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fixed_reshape", "line"),
        ("fixed_view", "for 3 faces"),
        ("fixed_expand", "line"),
        ("fixed_one", "line"),
        ("fixed_eight", "line"),
    ],
)
def test_batch_size_fixed_in_the_code_is_named(outputs, name, why):
    with pytest.raises(LpxError, match="a batch size is fixed in its code") as caught:
        outputs(name)
    assert why in caught.value.why
    assert "x.shape[0]" in caught.value.fix


def test_faces_with_channels_last_in_memory_reach_the_model_as_usual(outputs):
    made, _, _ = outputs("view")
    faces = torch.zeros(2, SIZE, SIZE, 3).permute(0, 3, 1, 2)
    assert not faces.is_contiguous()
    assert made.module(faces)[0].shape == (2,)


def test_weights_of_a_reversed_backbone_are_turned_round(detector, tmp_path):
    torch.save(detector[0].state_dict(), tmp_path / "plain.pt")
    foreign = replace(FOREIGN, bottleneck=8)
    plain = load_checkpoint(tmp_path / "plain.pt", foreign)
    turned = load_checkpoint(tmp_path / "plain.pt", replace(foreign, fake_class=0))
    assert (plain.card.fake_class, turned.card.fake_class) == (1, 0)
    faces = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(plain.module(faces)[1], 1 - turned.module(faces)[1], atol=1e-6)
    assert "`fake_class=0`" in " ".join(plain.notes)
