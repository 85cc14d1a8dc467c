"""What an explanation holds, against the definitions of its parts."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from lpx.api.explain import explain, open_faces
from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.engines.torch import TorchEngine
from lpx.errors import LpxError
from lpx.explain import examiner as explanation
from lpx.explain.examiner import Examiner, class_means, clip, off_diagonal_mean, regions_per_side
from lpx.export.deployed import Deployed
from lpx.models.checkpoint import Detector, save_checkpoint
from lpx.models.detector import new_detector
from lpx.models.receptive_field import ReceptiveField
from lpx.render.encode import encode_png
from lpx.training.local_diversity import LocalDiversity, closed, similarity


@dataclass(frozen=True)
class Pixels:
    """A face that is in memory."""

    image: np.ndarray

    def read(self):
        return self.image


def face_set(*images, labels=None):
    labels = labels or [None] * len(images)
    faces = tuple(
        Face(f"{number}.png", label, "", "", (), Pixels(image))
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    )
    return FaceSet("mine", "all", "unknown", faces)


def noise(count, size):
    return np.random.default_rng(2).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def make(randomise):
    """A function that makes a detector with random weights, as a checkpoint would load."""

    def made(backbone="tf_efficientnet_lite0", cut="stage2", size=64, seed=0, **settings):
        module, card = new_detector(backbone, cut, input_size=size, bottleneck=8, **settings)
        return Detector(randomise(module, seed), replace(card, threshold=0.5))

    return made


def examine(detector, faces):
    return [found for found, _ in Examiner(detector).examine(faces, [])]


def test_scores_and_maps_are_those_of_the_reference(make):
    detector = make(aggregate_name="lse")
    images = noise(11, 64)
    found = examine(detector, face_set(*images))
    truth = TorchEngine(detector).infer(images)
    assert np.allclose([face.score for face in found], truth.score, atol=1e-6)
    assert np.allclose([face.patch_map for face in found], truth.patch_map, atol=1e-6)
    assert [face.fake for face in found] == (truth.score >= 0.5).tolist()


def test_strongest_and_weakest_are_the_ends_of_the_map(make):
    for face in examine(make(), face_set(*noise(3, 64))):
        assert face.patch_map[face.strongest.row, face.strongest.column] == face.patch_map.max()
        assert face.patch_map[face.weakest.row, face.weakest.column] == face.patch_map.min()
        assert face.strongest.probability == face.patch_map.max()


def test_strongest_is_found_where_probabilities_are_rounded_to_one(make):
    detector = make()
    images = noise(1, 64)
    (before,) = examine(detector, face_set(*images))
    with torch.no_grad():
        detector.module.head.classifier.bias += 60
    (after,) = examine(detector, face_set(*images))
    assert (after.patch_map == 1).all()
    assert (after.strongest.row, after.strongest.column) == (
        before.strongest.row,
        before.strongest.column,
    )


def test_the_box_of_a_known_unit(make):
    # ResNet-18 to layer1: 7x7/2 padded 3, 3x3/2 padded 1, four 3x3 at stride 4, each padded 1:
    # unit 0 begins at -3 - 2 * 1 - 4 * 4 = -21, sees 43 px, and the next is 4 px on.
    examiner = Examiner(make("resnet18", "layer1", size=96))
    assert examiner.field.grid == (24, 24)
    assert examiner.field.box(10, 12) == (27, 19, 70, 62)
    assert examiner.field.box(0, 23) == (71, -21, 114, 22)
    image = np.zeros((24, 24), np.float32)
    image[0, 23] = 1
    assert examiner._patch(image, 23).box == (71, 0, 96, 22)


def test_clip():
    assert clip((-5, 3, 40, 90), 64) == (0, 3, 40, 64)
    assert clip((-500, -500, 500, 500), 64) == (0, 0, 64, 64)
    assert clip(None, 64) is None


def test_the_strongest_patch_sees_the_spot_it_reacts_to(make):
    detector = make("xception", "block1", size=96)
    plain = np.full((96, 96, 3), 120, np.uint8)
    spotted = plain.copy()
    row, column = 37, 61
    spotted[row, column] = 255
    examiner = Examiner(detector)
    deployed = Deployed(detector.module, detector.card)
    with torch.no_grad():
        inputs = deployed.normalised(torch.from_numpy(np.stack([plain, spotted])))
        flat, spot = detector.module.head.features(detector.module.backbone(inputs))
        # Units that see padding differ from the others without any spot.
        inside = flat[:, flat.shape[1] // 2, flat.shape[2] // 2]
        change = (spot - flat).flatten(1)
        wanted = change[:, change.norm(dim=0).argmax()]
        detector.module.head.classifier.weight.copy_(wanted.reshape(1, -1, 1, 1))
        detector.module.head.classifier.bias.fill_(-float(wanted @ inside))
    before, after = examine(detector, face_set(plain, spotted))
    reacts = before.patch_map != after.patch_map
    sees = np.array(
        [
            [
                y0 <= row < y1 and x0 <= column < x1
                for x0, y0, x1, y1 in (examiner.field.box(r, c) for c in range(reacts.shape[1]))
            ]
            for r in range(reacts.shape[0])
        ]
    )
    assert reacts.any()
    assert not (reacts & ~sees).any(), "a patch reacts to what lies outside its box"
    x0, y0, x1, y1 = after.strongest.box
    assert x0 <= column < x1
    assert y0 <= row < y1


def test_similarities_are_those_of_the_loss(make):
    detector = make()
    images = noise(3, 64)
    found = examine(detector, face_set(*images))
    head = detector.module.head
    with torch.no_grad():
        inputs = Deployed(detector.module, detector.card).normalised(torch.from_numpy(images))
        features = head.features(detector.module.backbone(inputs))
    weight = head.classifier.weight
    vectors = LocalDiversity().regions(features, weight)
    assert np.allclose([f.similarity for f in found], similarity(vectors).detach(), atol=1e-5)
    means = [face.mean_similarity for face in found]
    assert means == pytest.approx(closed(vectors, 0.0).tolist(), abs=1e-5)
    # The same once more, by hand: 16x16 units, four by four of them a region.
    assert features.shape[2:] == (16, 16)
    evidence = features[0].double().reshape(-1, 4, 4, 4, 4).mean(dim=(2, 4)).flatten(1).T
    evidence = evidence * weight.detach().flatten()
    evidence = evidence / evidence.norm(dim=1, keepdim=True)
    assert np.allclose(found[0].similarity, evidence @ evidence.T, atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "side"), [((20, 20), 4), ((3, 9), 3), ((2, 2), 2), ((1, 8), 0), ((8, 1), 0)]
)
def test_regions_per_side(grid, side):
    assert regions_per_side(grid) == side


def test_off_diagonal_mean():
    assert off_diagonal_mean(np.array([[1, 0.2], [0.2, 1]], np.float32)) == pytest.approx(0.2)
    assert off_diagonal_mean(np.zeros((0, 0), np.float32)) is None


def test_a_grid_of_one_unit_has_no_regions(make):
    detector = make("resnet18", "whole", size=32)
    assert detector.card.grid == (1, 1)
    (face,) = examine(detector, face_set(*noise(1, 32)))
    assert face.similarity.shape == (0, 0)
    assert face.mean_similarity is None
    assert face.strongest.box == (0, 0, 32, 32)


def test_a_field_that_cannot_be_analysed_is_unknown(make, monkeypatch):
    def fail(module, size):
        raise LpxError("it cannot be traced")

    monkeypatch.setattr(explanation, "analyse", fail)
    examiner = Examiner(make())
    assert examiner.field.reason == "it cannot be traced"
    ((found, _),) = examiner.examine(face_set(*noise(1, 64)), [])
    assert found.strongest.box is None
    assert len(found.similarity) == 16


def test_a_field_without_limits_gives_no_box(make):
    examiner = Examiner(make())
    examiner.field = ReceptiveField(None, None, None, (16, 16), False, "mean mixes positions", 0.1)
    ((found, _),) = examiner.examine(face_set(*noise(1, 64)), [])
    assert found.strongest.box is found.weakest.box is None


def test_the_model_of_a_factory_is_refused(make):
    detector = make()
    with pytest.raises(LpxError, match="not a local-prediction detector"):
        Examiner(Detector(nn.Sequential(detector.module), detector.card))


def test_a_score_that_is_no_number_is_refused(make):
    detector = make()
    with torch.no_grad():
        detector.module.head.classifier.bias.fill_(float("nan"))
    with pytest.raises(LpxError, match=r"score nan to face 0\.png"):
        examine(detector, face_set(*noise(1, 64)))


def test_mistakes(make):
    (face,) = examine(make(), face_set(*noise(1, 64)))
    right = replace(face, label=1, score=0.7, fake=True)
    wrong = replace(face, label=0, score=0.7, fake=True)
    assert (face.mistaken, face.mistake(0.5)) == (None, None)
    assert (right.mistaken, wrong.mistaken) == (False, True)
    assert right.mistake(0.5) == pytest.approx(-0.2)
    assert wrong.mistake(0.5) == pytest.approx(0.2)


def test_class_means(make):
    images = noise(5, 64)
    found = examine(make(), face_set(*images, labels=[0, 1, 0, None, 1]))
    sums = {label: images[[label, 2 if label == 0 else 4]].sum(axis=0) * 1.0 for label in (0, 1)}
    real, fake = class_means(found, sums)
    assert (real.word, real.faces, fake.word, fake.faces) == ("real", 2, "fake", 2)
    assert np.allclose(real.patch_map, (found[0].patch_map + found[2].patch_map) / 2)
    assert fake.score == pytest.approx((found[1].score + found[4].score) / 2)
    assert np.abs(fake.pixels - images[[1, 4]].mean(axis=0)).max() <= 0.5
    assert off_diagonal_mean(real.similarity) == pytest.approx(
        (found[0].mean_similarity + found[2].mean_similarity) / 2, abs=1e-6
    )
    assert class_means(found[3:4], {}) == ()


@pytest.fixture
def checkpoint(make, tmp_path):
    detector = make()
    save_checkpoint(tmp_path / "ckpt.pt", detector.module, detector.card)
    return tmp_path / "ckpt.pt"


def test_a_folder(checkpoint, crops, tmp_path):
    (crops / "fake" / "broken.png").write_bytes(b"no image")
    seen = []
    done = explain(checkpoint, str(crops), tmp_path / "out", progress=lambda *at: seen.append(at))
    found = done.findings
    assert [s.name for s in found.skipped] == ["fake/broken.png"]
    assert len(found.explanations) == 16
    assert [mean.faces for mean in found.means] == [8, 8]
    assert found.mistakes == sum(face.mistaken for face in found.explanations)
    assert seen[-1] == (17, 17)
    assert done.picture is None
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["index.html", "maps.npz"]
    with np.load(done.maps) as numbers:
        assert numbers["names"].tolist() == [face.name for face in found.explanations]
        assert numbers["scores"].dtype == numbers["patch_maps"].dtype == np.float32
        assert numbers["scores"].tolist() == [face.score for face in found.explanations]
        assert numbers["labels"].tolist() == [face.label for face in found.explanations]
        assert numbers["patch_maps"].shape == (16, 16, 16)
        assert numbers["similarities"].shape == (16, 16, 16)
        rows, columns = numbers["strongest"].T
        peaks = numbers["patch_maps"][np.arange(16), rows, columns]
        assert (peaks == numbers["patch_maps"].max(axis=(1, 2))).all()
        mean = numbers["patch_maps"][numbers["labels"] == 1].mean(axis=0)
        assert np.allclose(found.means[1].patch_map, mean)


def test_the_same_faces_give_the_same_page(checkpoint, crops, tmp_path):
    one = explain(checkpoint, str(crops), tmp_path / "one", limit=3)
    other = explain(checkpoint, str(crops), tmp_path / "other", limit=3)
    assert one.page.read_bytes() == other.page.read_bytes()
    assert (len(one.findings.explanations), one.findings.total) == (3, 16)


def test_an_image(checkpoint, drawn, tmp_path):
    path = tmp_path / "face.png"
    path.write_bytes(encode_png(drawn[0][0]))
    before = path.read_bytes()
    done = explain(checkpoint, str(path), tmp_path)
    assert done.picture == tmp_path / "face.png.png"
    assert done.picture.read_bytes().startswith(b"\x89PNG")
    assert path.read_bytes() == before, "the face is not overwritten, even where it lies in --out"
    assert done.findings.explanations[0].label is None
    assert np.load(done.maps)["labels"].tolist() == [-1]


def test_pictures_that_it_drew_are_no_faces(checkpoint, drawn, tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "one.png").write_bytes(encode_png(drawn[0][0]))
    explain(checkpoint, str(folder / "one.png"), folder / "out")
    done = explain(checkpoint, str(folder), folder / "out")
    assert [face.name for face in done.findings.explanations] == ["one.png"]


def test_a_data_set_by_name_is_its_test_split():
    assert open_faces("demo").split == "test"


@pytest.mark.parametrize(
    ("source", "said"),
    [("none.png", "does not exist"), ("celebdf", "unknown data set"), ("empty", "no images")],
)
def test_what_is_not_there(source, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(LpxError, match=said):
        open_faces(source)


def test_no_image_can_be_read(checkpoint, tmp_path):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.png").write_bytes(b"")
    with pytest.raises(LpxError, match="can be read") as caught:
        explain(checkpoint, str(tmp_path / "faces"), tmp_path / "out")
    assert "a.png: file is empty" in caught.value.why
    assert not (tmp_path / "out").exists()


def test_weights_without_a_card_are_refused(make, tmp_path):
    torch.save(make().module.state_dict(), tmp_path / "plain.pt")
    with pytest.raises(LpxError, match="no lpx model card") as caught:
        explain(tmp_path / "plain.pt", "demo", tmp_path / "out")
    assert "explanations need an lpx checkpoint" in caught.value.why
    assert "lpx export" in caught.value.fix
