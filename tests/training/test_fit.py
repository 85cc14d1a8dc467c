from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lpx[train]")

from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.data.pseudo_fakes.training_pairs import TrainingData, open_training_data
from lpx.errors import LpxError
from lpx.models.checkpoint import load_checkpoint
from lpx.models.detector import new_detector
from lpx.training.fit import Run, train
from lpx.training.local_diversity import LocalDiversity
from lpx.training.module import LocalPrediction, update
from lpx.training.operating_point import apply_temperature, fit_temperature, score_loss
from tests.training.small import SMALL, write_faces


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    identities = [f"person{i % 12}" for i in range(24)]
    return write_faces(tmp_path_factory.mktemp("data") / "faces", identities)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("out") / "ckpt.pt", workers=0, quiet=True)
    return run, train(SMALL, faces, None, run)


def test_checkpoint_brings_everything(trained):
    run, made = trained
    detector = load_checkpoint(run.out)
    card = detector.card
    assert card == made.card
    assert card.threshold_source.startswith("false-positive rate 0.1")
    assert set(card.provenance["held_out_auc"]) == {"sbi", "alpha", "poisson"}
    assert card.provenance["counts"] == {
        "identities_train": 7,
        "identities_val": 1,
        "identities_test": 4,
    }
    assert card.provenance["command"].startswith("lpx train --data FACES --out ckpt.pt")
    log = (run.state / "log" / "metrics.csv").read_text()
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
        train(SMALL, faces, tmp_path / "weights.pt", Run(tmp_path / "ckpt.pt", 0, quiet=True))


def test_other_settings_do_not_resume(faces, trained):
    run, _ = trained
    with pytest.raises(LpxError, match=r"learning_rate is 0\.1, was 0\.0005"):
        train(replace(SMALL, learning_rate=0.1), faces, None, run)


def test_nan_loss_stops_and_names_the_step(faces, tmp_path, monkeypatch):
    step = LocalPrediction.training_step

    def poisoned(self, batch, index):
        images, labels = batch
        return step(self, (images * float("nan") if self.step == 3 else images, labels), index)

    monkeypatch.setattr(LocalPrediction, "training_step", poisoned)
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    with pytest.raises(LpxError, match="nan at step 3"):
        train(SMALL, faces, None, run)
    good = torch.load(run.state / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(v).all() for v in good.values() if v.is_floating_point())
    assert not run.out.exists()


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
        train(recipe, faces, None, Run(tmp_path / "ckpt.pt", workers=0, quiet=True))


def test_unwritable_place(faces, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LpxError, match="cannot be written"):
        train(SMALL, faces, None, Run(tmp_path / "file" / "ckpt.pt", workers=0, quiet=True))


def test_unknown_pseudo_fakes():
    with pytest.raises(LpxError, match="unknown pseudo-fakes: gan"):
        replace(SMALL, pseudo_fakes=("gan",))


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
    from lpx.training.fit import _fit
    from lpx.training.keeper import Keeper
    from lpx.training.state import Store

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
    run = Run(tmp_path / "ckpt.pt", workers=0, quiet=True)
    _fit(module, run, Keeper(Store(run.state), recipe, ""))
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
