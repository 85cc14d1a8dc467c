from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lpx[train]")

from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.data.pseudo_fakes.training_pairs import TrainingData, open_training_data
from lpx.errors import InvalidArgumentError, LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.models.detector import new_detector
from lpx.training.fit import train
from lpx.training.keeper import Keeper
from lpx.training.lightning_loop import run_lightning
from lpx.training.local_diversity import LocalDiversity
from lpx.training.module import LocalPrediction, update
from lpx.training.operating_point import apply_temperature, fit_temperature, score_loss
from lpx.training.recipe import Recipe
from lpx.training.run import Run, RunOptions
from lpx.training.state import Store
from tests.training.callbacks import At, quiet
from tests.training.small import SMALL, write_faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    identities = [f"person{i % 12}" for i in range(24)]
    return write_faces(tmp_path_factory.mktemp("data") / "faces", identities)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "ckpt.pt"
    return train(SMALL, str(faces), str(out), command="lpx train --data FACES", options=quiet())


def test_checkpoint_brings_everything(trained):
    detector = load_checkpoint(trained.checkpoint)
    card = detector.card
    assert card == trained.card
    assert card.threshold_source.startswith("false-positive rate 0.1")
    assert set(card.provenance["held_out_auc"]) == {"sbi", "alpha", "poisson"}
    assert card.provenance["counts"] == {
        "identities_train": 7,
        "identities_val": 1,
        "identities_test": 4,
    }
    assert card.provenance["command"] == "lpx train --data FACES"
    assert card.provenance["recipe"] == SMALL.to_dict()
    log = (trained.checkpoint.parent / "ckpt.pt.run" / "log" / "metrics.csv").read_text()
    assert "val_auc" in log
    assert "similarity" in log


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"<!DOCTYPE html>"), "it is a web page"),
        (lambda path: torch.save({"epoch": 3}, path), "holds no tensors"),
        (lambda path: torch.save({"net": {"a.weight": torch.zeros(1)}}, path), "do not fit"),
    ],
    ids=["page", "empty", "other"],
)
def test_weights_to_start_from_that_are_none(faces, tmp_path, write, said):
    write(tmp_path / "weights.pt")
    with pytest.raises(LpxError, match=said):
        train(SMALL, faces, tmp_path / "ckpt.pt", weights=tmp_path / "weights.pt", options=quiet())


def test_other_settings_do_not_resume(faces, trained):
    with pytest.raises(LpxError, match=r"learning_rate is 0\.1, was 0\.0005"):
        train(replace(SMALL, learning_rate=0.1), faces, trained.checkpoint, options=quiet())


def test_nan_loss_stops_and_names_the_step(faces, tmp_path):
    poison = At(3, lambda batch: batch[0].fill_(float("nan")))
    out = tmp_path / "ckpt.pt"
    with pytest.raises(LpxError, match="nan at step 3"):
        train(SMALL, faces, out, options=quiet(poison))
    good = torch.load(tmp_path / "ckpt.pt.run" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(v).all() for v in good.values() if v.is_floating_point())
    assert not out.exists()


def test_real_faces_alone_are_refused(faces, tmp_path):
    with pytest.raises(LpxError, match="real faces only"):
        open_training_data(faces, (), 0)
    for split in ("train", "val"):
        (tmp_path / "plain" / split / "real").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / "plain" / split / "real" / "a.png"), np.zeros((8, 8, 3)))
    with pytest.raises(LpxError, match="1 real and 0 fake"):
        open_training_data(tmp_path / "plain", (), 0)


def test_identity_in_two_splits_is_refused_by_name(tmp_path):
    folder = write_faces(
        tmp_path / "f", ["ann", "bob", "ann", "cid"], ["train", "train", "val", "val"]
    )
    with pytest.raises(LpxError, match="identity ann is in train and in val"):
        open_training_data(folder, ("sbi",), 0)


def test_too_few_units_for_the_regions(faces, tmp_path):
    recipe = replace(SMALL, cut="stage7", diversity=LocalDiversity(grid=4))
    with pytest.raises(LpxError, match="cannot be pooled"):
        train(recipe, faces, tmp_path / "ckpt.pt", options=quiet())


def test_unwritable_place(faces, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LpxError, match="cannot be written"):
        train(SMALL, faces, tmp_path / "file" / "ckpt.pt", options=quiet())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"pseudo_fakes": ("gan",)}, "pseudo_fakes must be one of sbi, alpha, poisson"),
        ({"backbone": "vgg16"}, "backbone must be one of xception"),
        ({"aggregate": "max"}, "aggregate must be one of mean_prob"),
        (
            {"aggregate": "topk", "aggregate_parameter": 2},
            "aggregate_parameter must be > 0 and <= 1",
        ),
        ({"aggregate": "lse", "aggregate_parameter": 0}, "aggregate_parameter must be > 0"),
        ({"steps": 0}, "steps must be >= 1"),
        ({"pairs": 2.5}, "pairs must be a whole number"),
        ({"seed": -1}, "seed must be >= 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"fpr": 1}, "fpr must be > 0 and < 1"),
        ({"ema": 1.5}, "ema must be between 0 and 1"),
    ],
)
def test_recipes_are_checked(settings, text):
    with pytest.raises(InvalidArgumentError) as caught:
        Recipe(**settings)
    assert str(caught.value).startswith(text)


def test_one_kind_of_pseudo_fake_may_come_as_text():
    assert Recipe(pseudo_fakes="sbi") == Recipe(pseudo_fakes=("sbi",))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"workers": -1}, "workers must be >= 0"),
        ({"devices": "two"}, 'devices must be "auto"'),
        ({"save_every_s": -1}, "save_every_s must be >= 0"),
    ],
)
def test_options_of_a_run_are_checked(options, text):
    with pytest.raises(InvalidArgumentError) as caught:
        RunOptions(**options)
    assert str(caught.value).startswith(text)


def test_unknown_strategy(faces, tmp_path):
    with pytest.raises(LpxError, match="strategy 'carrier pigeon'") as caught:
        train(SMALL, faces, tmp_path / "x.pt", options=quiet(strategy="carrier pigeon"))
    assert caught.value.code == "invalid-argument"


@pytest.mark.parametrize("argument", ["faces", "out"])
def test_what_is_not_a_path(tmp_path, argument):
    arguments = {"faces": tmp_path, "out": tmp_path / "x.pt", argument: 3}
    with pytest.raises(InvalidArgumentError, match=f"{argument} must be a path"):
        train(SMALL, **arguments)


def test_weights_that_are_not_there(faces, tmp_path):
    with pytest.raises(LpxError, match="does not exist") as caught:
        train(SMALL, faces, tmp_path / "x.pt", weights=str(tmp_path / "none.pt"))
    assert caught.value.code == "not-found"


def test_temperature_is_found_and_applied():
    detector, _ = new_detector("efficientnet_lite0", "stage2", input_size=48, bottleneck=16)
    generator = torch.Generator().manual_seed(0)
    honest = 2 * torch.randn(400, 6, 6, generator=generator)
    detector.aggregate = "mean_logit"
    chance = honest.mean(dim=(1, 2)).mul(3).sigmoid()
    labels = (torch.rand(400, generator=generator) < chance).float()
    # Logits that are 3 honest ones times 4: overconfident by a factor of 4.
    found = fit_temperature(detector, 12 * honest, labels)
    assert found == pytest.approx(4, rel=0.5)
    x = torch.rand(1, 3, 48, 48, generator=generator)
    detector.eval()
    with torch.no_grad():
        before = detector.logits(x)
        apply_temperature(detector, found)
        assert torch.allclose(detector.logits(x) * found, before, atol=1e-5)


def test_score_loss_survives_certainty():
    assert torch.isfinite(score_loss(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])))


def test_average_moves_towards_the_weights():
    a, b = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    torch.nn.init.constant_(b.weight, 3.0)
    b.running_mean.fill_(10.0)
    b.num_batches_tracked.fill_(7)
    update(a, b, 0.75)
    assert a.weight.tolist() == [1.5, 1.5]
    assert a.running_mean.tolist() == [2.5, 2.5]
    assert a.num_batches_tracked.item() == 7


class Quadrant:
    """Toy pairs: noise of another scale in the upper left quadrant of the fake."""

    def __init__(self, seed):
        self.seed = seed

    def real(self, number):
        rng = np.random.default_rng((self.seed, number))
        coarse = rng.integers(60, 196, (4, 4, 3), np.uint8)
        image = cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)

    def fake(self, number):
        image = self.real(number)
        rng = np.random.default_rng((self.seed, number, 1))
        image[:24, :24] = np.clip(
            image[:24, :24].astype(np.float32) + rng.normal(0, 25, (24, 24, 3)), 0, 255
        )
        return image


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_map_finds_the_forged_quadrant_from_image_labels(weight, tmp_path):
    recipe = replace(
        SMALL,
        steps=60,
        steps_per_epoch=30,
        pairs=8,
        learning_rate=2e-3,
        diversity=LocalDiversity(weight=weight),
    )
    torch.manual_seed(0)
    detector, card = new_detector(
        recipe.backbone, recipe.cut, input_size=recipe.input_size, bottleneck=16
    )
    data = TrainingData(Quadrant(0), Quadrant(1), (), {})
    module = LocalPrediction(detector, card, recipe, data, workers=0)
    run = Run(tmp_path / "ckpt.pt", tmp_path, options=quiet())
    run_lightning(module, run, Keeper(Store(run.folder), recipe, ""))
    offset, scale = card.normalisation()
    fakes = np.stack([Quadrant(2).fake(n) for n in range(16)]).astype(np.float32)
    batch = torch.from_numpy(((fakes - offset) * scale).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        _, maps = module.average(batch)
    half = maps.shape[-1] // 2
    inside = maps[:, :half, :half].mean().item()
    outside = maps[:, half:, half:].mean().item()
    print(f"LD weight {weight}: map {inside:.3f} in the forged quadrant, {outside:.3f} opposite")
    assert inside > outside + 0.04


def test_landmarked_faces_need_their_landmarks(tmp_path):
    folder = write_faces(tmp_path / "f", ["a", "b"])
    np.savez(folder / "landmarks.npz", files=np.array(["000.png"]), points=np.zeros((1, 4, 2)))
    with pytest.raises(LpxError, match=r"no landmarks of 001\.png"):
        load_landmarked(folder)
