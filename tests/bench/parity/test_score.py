from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from lpx.bench.parity.score import BATCH, score
from lpx.bench.parity.score_store import ScoreStore
from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.data.images.decode import UnreadableImageError
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


@pytest.mark.parametrize("bad", [np.nan, np.inf, -5.0, 1.5])
def test_score_that_is_no_probability_names_engine_and_face(bad):
    class Broken(Brightness):
        def infer(self, faces):
            found = super().infer(faces)
            found.score[faces[:, 0, 0, 0] == 20] = bad
            return found

    faces = face_set([None, *range(40)], [0] + [0, 1] * 20)
    with pytest.raises(LpxError, match=rf"^bad gives the score {bad} to face 21\.png"):
        score({"good": Brightness(), "bad": Broken()}, faces, SIZE)


class Killed(BaseException):
    """Stands for what ends a process."""


class Failing(Brightness):
    """Fails from its n-th batch on."""

    def __init__(self, after, error):
        super().__init__()
        self.after, self.error = after, error

    def infer(self, faces):
        if len(self.batches) == self.after:
            raise self.error
        return super().infer(faces)


def test_an_engine_that_is_not_needed_may_fail_and_the_others_go_on():
    faces = face_set(range(50), [number % 2 for number in range(50)])
    engines = {"one": Brightness(), "bad": Failing(1, RuntimeError("out of memory\nat line 3"))}
    found = score(engines, faces, SIZE, needed=("one",))
    assert found.predictions.keys() == {"one"}
    assert len(found.predictions["one"].score) == 50
    (failure,) = found.failed
    assert (failure.name, failure.during) == ("bad", "scoring")
    assert failure.reason == "RuntimeError: out of memory (at faces 16.png to 31.png)"
    assert len(engines["bad"].batches) == 1
    with pytest.raises(RuntimeError, match="out of memory"):
        score(engines, faces, SIZE, needed=("one", "bad"))


def test_nan_of_an_engine_that_is_not_needed_names_the_face():
    class Broken(Brightness):
        def infer(self, faces):
            found = super().infer(faces)
            found.score[faces[:, 0, 0, 0] == 20] = np.nan
            return found

    faces = face_set(range(40), [0, 1] * 20)
    found = score({"one": Brightness(), "bad": Broken()}, faces, SIZE, needed=("one",))
    assert found.failed[0].reason.startswith("bad gives the score nan to face 20.png")


VALUES = [0, None, *range(2, 50), None, *range(51, 90)]


@pytest.fixture
def stored(tmp_path):
    """Scores the same faces into the same folder; engines are named and told apart by number."""
    faces = face_set(VALUES, [number % 2 for number in range(len(VALUES))])

    def run(engines, digests=None, of=None):
        digests = digests or dict.fromkeys(engines, "0" * 64)
        store = ScoreStore(tmp_path / "partial", of or {"faces": "a"}, digests)
        return score(engines, faces, SIZE, store=store)

    return run


def same(one, other):
    assert one.indices.tolist() == other.indices.tolist()
    assert one.skipped == other.skipped
    assert one.predictions.keys() == other.predictions.keys()
    for name, prediction in one.predictions.items():
        np.testing.assert_array_equal(prediction.score, other.predictions[name].score)
        np.testing.assert_array_equal(prediction.patch_map, other.predictions[name].patch_map)


@pytest.mark.parametrize("after", range(6))
def test_a_run_that_was_ended_goes_on_where_it_stopped(stored, tmp_path, after):
    whole = score(
        {"one": Brightness(), "half": Brightness(0.5)},
        face_set(VALUES, [n % 2 for n in range(len(VALUES))]),
        SIZE,
    )
    first = Brightness()
    with pytest.raises(Killed):
        stored({"one": first, "half": Failing(after, Killed())})
    assert len(first.batches) == after + 1
    one, half = Brightness(), Brightness(0.5)
    found = stored({"one": one, "half": half})
    assert len(one.batches) == 6 - after - 1
    assert len(half.batches) == 6 - after
    assert found.indices.tolist() == whole.indices.tolist()
    assert found.skipped == whole.skipped
    np.testing.assert_array_equal(found.predictions["one"].score, whole.predictions["one"].score)
    again = stored({"one": Failing(0, Killed()), "half": Failing(0, Killed())})
    same(again, found)


@pytest.mark.parametrize("lost", [1, 7, 300])
def test_a_batch_that_was_cut_off_is_scored_again(stored, tmp_path, lost):
    whole = stored({"one": Brightness()})
    (path,) = (tmp_path / "partial").glob("*.scores")
    path.write_bytes(path.read_bytes()[:-lost])
    engine = Brightness()
    same(stored({"one": engine}), whole)
    assert 1 <= len(engine.batches) <= 2
    same(stored({"one": Failing(0, Killed())}), whole)


def test_a_damaged_batch_and_what_follows_is_scored_again(stored, tmp_path):
    whole = stored({"one": Brightness()})
    (path,) = (tmp_path / "partial").glob("*.scores")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    engine = Brightness()
    same(stored({"one": engine}), whole)
    assert 1 <= len(engine.batches) < 6


def test_another_engine_is_scored_anew_and_other_faces_altogether(stored):
    stored({"one": Brightness(), "half": Brightness(0.5)})
    kept, rebuilt = Failing(0, Killed()), Brightness(0.25)
    digests = {"one": "0" * 64, "half": "1" * 64}
    found = stored({"one": kept, "half": rebuilt}, digests)
    assert len(rebuilt.batches) == 6
    assert found.predictions["half"].score[-1] == pytest.approx(0.25 * 89 / 255)
    fresh = Brightness()
    stored({"one": fresh}, of={"faces": "b"})
    assert len(fresh.batches) == 6
