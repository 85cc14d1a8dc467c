from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile
from lpx.data.images.decode import read_image
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.predict.crop_scorer import CropScorer
from lpx.predict.journal import ScoreJournal
from lpx.predict.results import FaceScore, FileScore
from lpx.render.encode import encode_png

CARD = SimpleNamespace(input_size=16, threshold=0.7)


class BrightnessEngine:
    """Scores a face by its mean brightness."""

    def infer(self, pixels):
        maps = pixels.astype(np.float32).mean(axis=3) / 255
        return Prediction(maps.mean(axis=(1, 2)), maps)


@pytest.fixture
def faces(tmp_path):
    faces = []
    for name, level in (("dark", 51), ("bright", 204)):
        path = tmp_path / f"{name}.png"
        path.write_bytes(encode_png(np.full((20, 20, 3), level, np.uint8)))
        faces.append(Face(path.name, None, "unknown", path.name, (), ImageFile(path)))
    faces.insert(1, Face("gone.png", None, "unknown", "gone.png", (), ImageFile(Path("gone.png"))))
    return FaceSet("crops", "all", "unknown", tuple(faces))


def score(faces, pictures=None, **options):
    skipped, steps = [], []
    scorer = CropScorer("engine", BrightnessEngine(), CARD, pictures, **options)
    results = list(scorer.score(faces, skipped, lambda *step: steps.append(step)))
    return results, skipped, steps


def test_crops_are_scored_and_drawn(faces, tmp_path):
    results, skipped, steps = score(faces, tmp_path / "out")
    assert [file.name for file in results] == ["dark.png", "bright.png"]
    assert [file.score for file in results] == pytest.approx([0.2, 0.8], abs=1e-6)
    assert [file.fake for file in results] == [False, True]
    assert [one.name for one in skipped] == ["gone.png"]
    assert steps == [(3, 3)]
    for file in results:
        assert read_image(file.picture).shape[1] >= 560


def test_without_a_folder_nothing_is_drawn(faces):
    results, _, _ = score(faces)
    assert {file.picture for file in results} == {None}
    assert {file.note for file in results} == {""}


def test_a_crop_that_cannot_be_drawn_is_scored(faces, tmp_path):
    def full(*_, **__):
        raise LpxError("x.png cannot be written", "no")

    results, _, _ = score(faces, tmp_path / "out", write=full)
    assert [file.picture for file in results] == [None, None]
    assert {file.note for file in results} == {"nothing was drawn: x.png cannot be written: no"}


def test_a_score_that_is_the_threshold_as_float32_is_resumed(tmp_path):
    """0.7 as float32 is less than 0.7 as float64, but the face was called fake."""
    path = tmp_path / "a.png"
    path.write_bytes(b"a picture")
    value = float(np.float32(0.7))
    assert value < 0.7
    face = FaceScore(0, None, 1, None, None, value, True)
    result = FileScore("a.png", "image", value, False, 1, (face,))
    settings = {"threshold": 0.7}
    journal = ScoreJournal(tmp_path / "results.jsonl", settings)
    journal.add(result, path)
    journal.close()
    again = ScoreJournal(tmp_path / "results.jsonl", settings)
    assert again.find("a.png", path) == result
    again.close()
