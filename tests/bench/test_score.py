from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lpx.bench.score import BATCH, score
from lpx.data.decode import UnreadableImageError
from lpx.data.face_set import Face, FaceSet
from lpx.engines.base import Prediction
from lpx.errors import LpxError

SIZE = 4


@dataclass(frozen=True)
class Grey:
    """A face of one grey value; None stands for one that cannot be read."""

    value: int | None

    def read(self):
        if self.value is None:
            raise UnreadableImageError("broken")
        return np.full((SIZE, SIZE, 3), self.value, np.uint8)


class Brightness:
    """Calls bright faces fake."""

    def __init__(self, gain=1.0):
        self.gain, self.batches = gain, []

    def infer(self, faces):
        self.batches.append(len(faces))
        scores = (self.gain * faces.mean(axis=(1, 2, 3)) / 255).astype(np.float32)
        return Prediction(scores, scores[:, None, None] * np.ones((1, 2, 2), np.float32))

    def close(self):
        pass


def face_set(values, labels):
    faces = tuple(
        Face(f"{number}.png", label, "", "", (), Grey(value))
        for number, (value, label) in enumerate(zip(values, labels, strict=True))
    )
    return FaceSet("greys", "test", "none", faces)


def test_every_engine_sees_every_face_once_and_in_order():
    values = list(range(0, 250, 5))
    faces = face_set(values, [number % 2 for number in range(50)])
    engines = {"one": Brightness(), "half": Brightness(0.5)}
    told = []
    found = score(engines, faces, SIZE, lambda *done: told.append(done))
    assert found.indices.tolist() == list(range(50))
    assert found.labels.tolist() == faces.labels().tolist()
    assert found.predictions["one"].score == pytest.approx(np.array(values) / 255)
    assert found.predictions["half"].score == pytest.approx(np.array(values) / 510)
    assert found.predictions["one"].patch_map.shape == (50, 2, 2)
    assert engines["one"].batches == engines["half"].batches == [BATCH] * 3 + [2]
    assert told[-1] == (50, 50)
    assert told == sorted(told)


def test_unreadable_faces_are_left_out_and_kept_account_of():
    faces = face_set([0, None, 50, 100, 150, None], [0, 0, 1, 0, 1, 1])
    told = []
    found = score({"one": Brightness()}, faces, SIZE, lambda *done: told.append(done))
    assert found.indices.tolist() == [0, 2, 3, 4]
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert [(s.name, s.reason) for s in found.skipped] == [("1.png", "broken"), ("5.png", "broken")]
    assert told[-1] == (6, 6)


@pytest.mark.parametrize(
    ("values", "labels", "said"),
    [
        ([1, 2, 3], [0, 1, None], "greys: face 2.png has no label"),
        ([1, 2], [0, 0], "greys holds real faces only, 2 of them"),
        ([1, 2, 3], [1, 1, 1], "greys holds fake faces only, 3 of them"),
        ([1, 2, 3], [1, 1, 0], "greys holds 1 real and 2 fake faces"),
    ],
)
def test_labels_are_checked_before_anything_is_decoded(values, labels, said):
    engine = Brightness()
    with pytest.raises(LpxError, match=said):
        score({"one": engine}, face_set(values, labels), SIZE)
    assert engine.batches == []


@pytest.mark.parametrize(
    ("values", "what", "why"),
    [
        ([None] * 4, "no face of greys can be read", "0.png: broken"),
        ([1, 2, None, None], "greys holds real faces only", "2 others could not be read"),
        ([1, 2, 3, None], "greys holds 2 real and 1 fake faces", "the first: 3.png (broken)"),
    ],
)
def test_what_is_left_must_have_both_classes(values, what, why):
    with pytest.raises(LpxError, match=what) as caught:
        score({"one": Brightness()}, face_set(values, [0, 0, 1, 1]), SIZE)
    assert why in caught.value.why


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_score_that_is_no_number_names_engine_and_face(bad):
    class Broken(Brightness):
        def infer(self, faces):
            found = super().infer(faces)
            found.score[faces[:, 0, 0, 0] == 20] = bad
            return found

    faces = face_set([None, *range(40)], [0] + [0, 1] * 20)
    with pytest.raises(LpxError, match=rf"^bad gives the score {bad} to face 21\.png"):
        score({"good": Brightness(), "bad": Broken()}, faces, SIZE)
