"""Engines on the pixels of other pipelines: each face is decoded once, and scores resume."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from lpx.bench.parity.parity import compare
from lpx.bench.parity.pixels import (
    PixelPlan,
    digests,
    facts_of,
    note_pixels,
    pixel_stages,
    pixels_of,
    read_facts,
)
from lpx.bench.parity.score import BATCH, score
from lpx.bench.parity.score_store import ScoreStore
from lpx.bench.parity.stage_names import choose_stages
from lpx.bench.parity.stages import ComparisonTerms, StageScores
from lpx.data.face_sets.face_set import Batch, Face, FaceSet
from lpx.data.images.decode import UnreadableImageError, fit
from lpx.data.pipelines.table import PIPELINES
from lpx.engines.base import Prediction
from lpx.errors import InvalidArgumentError, LpxError
from lpx.metrics import auc

SIZE = 8
CHOSEN = (PIPELINES["opencv-linear"], PIPELINES["nv12"])


@dataclass
class Noise:
    """A face of noise that counts how often it is decoded; one without a side is unreadable."""

    seed: int
    side: int
    reads: int = 0

    def read(self):
        self.reads += 1
        if not self.side:
            raise UnreadableImageError("broken")
        rng = np.random.default_rng(self.seed)
        return rng.integers(0, 256, (self.side, self.side, 3)).astype(np.uint8)


def face_set(sides, seed=0):
    faces = tuple(
        Face(f"{i}.png", i % 2, "", "", (), Noise(seed + i, side)) for i, side in enumerate(sides)
    )
    return FaceSet("noise", "test", "none", faces)


class Brightness:
    """Calls bright corners fake."""

    def __init__(self):
        self.batches = []

    def infer(self, faces):
        self.batches.append(len(faces))
        scores = (faces[:, 0, 0].mean(axis=1) / 255).astype(np.float32)
        return Prediction(scores, scores[:, None, None] * np.ones((1, 2, 2), np.float32))

    def close(self):
        pass


class Failing(Brightness):
    """Fails from its n-th batch on."""

    def __init__(self, after, error):
        super().__init__()
        self.after, self.error = after, error

    def infer(self, faces):
        if len(self.batches) == self.after:
            raise self.error
        return super().infer(faces)


class Killed(BaseException):
    """Stands for what ends a process."""


def test_each_face_is_decoded_once_and_scored_on_all_pixels():
    faces = face_set([20, 0, *range(5, 40)])
    engine = Brightness()
    plan = PixelPlan(CHOSEN, ("one",))
    found = score({"torch": Brightness(), "one": engine}, faces, SIZE, pixels=plan)
    assert [face.source.reads for face in faces.faces] == [1] * len(faces.faces)
    assert list(found.predictions) == [
        "torch",
        "one",
        "one:pixels:opencv-linear",
        "one:pixels:nv12",
    ]
    assert len(engine.batches) == 3 * 3
    for pipeline in CHOSEN:
        images = [faces.faces[i].source.read() for i in found.indices]
        pixels = np.stack([pipeline.make(image, SIZE) for image in images])
        alone = Brightness().infer(pixels)
        prediction = found.predictions[pixels_of("one", pipeline.name)]
        np.testing.assert_array_equal(prediction.score, alone.score)
        own = np.stack([fit(image, SIZE) for image in images])
        facts = read_facts(pipeline, found.pixel_notes[pipeline.name], SIZE)
        changed = (pixels != own).any(axis=(1, 2, 3))
        assert facts.changed == changed.sum()
        assert facts.difference == pytest.approx(np.abs(pixels - own.astype(float)).mean())
        sides = np.array([len(image) for image in images])
        assert facts.faces == len(images) == 36
        assert facts.resized == (sides != SIZE).sum() == 35
        assert facts.shrunk == (sides > SIZE).sum()
        assert facts.median_side == np.median(sides)
    # Enlarging is the same, and so is halving, where four pixels have equal weights.
    facts = read_facts(CHOSEN[0], found.pixel_notes["opencv-linear"], SIZE)
    assert (facts.shrunk, facts.changed) == (32, 31)


def test_pixels_are_other_ways_to_resize_a_batch():
    pixels = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    other = pixels.copy()
    other[1, 0, 0, 0] = 255
    sizes = np.array([[7, 9], [8, 8]])
    notes = note_pixels(Batch(np.arange(2), pixels, sizes, {"x": other}), "x")
    assert notes.score.tolist() == pytest.approx([0, 255 / (3 * SIZE * SIZE)])
    assert notes.patch_map[:, 0].tolist() == sizes.tolist()


@pytest.fixture
def stored(tmp_path):
    faces = face_set([0, *range(4, 60)])

    def run(engine, plan, digest="0"):
        engines = {"torch": "t", "one": digest}
        keys = engines | digests(plan, engines)
        store = ScoreStore(tmp_path / "partial", {"faces": "a"}, keys)
        return score({"torch": Brightness(), "one": engine}, faces, SIZE, store=store, pixels=plan)

    return run


@pytest.mark.parametrize("after", range(0, 12, 2))
def test_a_run_that_was_ended_goes_on_where_it_stopped(stored, after):
    plan = PixelPlan(CHOSEN, ("one",))
    batches = 4 * 3
    with pytest.raises(Killed):
        stored(Failing(after, Killed()), plan)
    rest = Brightness()
    found = stored(rest, plan)
    assert len(rest.batches) == batches - after
    faces = face_set([0, *range(4, 60)])
    whole = score({"torch": Brightness(), "one": Brightness()}, faces, SIZE, pixels=plan)
    assert found.predictions.keys() == whole.predictions.keys()
    for name, prediction in whole.predictions.items():
        np.testing.assert_array_equal(found.predictions[name].score, prediction.score)
    for pipeline in CHOSEN:
        mine, theirs = found.pixel_notes[pipeline.name], whole.pixel_notes[pipeline.name]
        np.testing.assert_array_equal(mine.score, theirs.score)
        np.testing.assert_array_equal(mine.patch_map, theirs.patch_map)
    # Nothing is left to do.
    stored(Failing(0, Killed()), plan)


def test_scores_of_another_engine_version_or_pipeline_are_not_used(stored):
    plan = PixelPlan(CHOSEN[:1], ("one",))
    stored(Brightness(), plan)
    changed = PixelPlan((replace(CHOSEN[0], version=99),), ("one",))
    for other, digest, batches in ((changed, "0", 4), (plan, "1", 8)):
        engine = Brightness()
        stored(engine, other, digest)
        assert len(engine.batches) == batches
    engine = Brightness()
    stored(engine, PixelPlan(CHOSEN, ("one",)))
    assert len(engine.batches) == 4


def test_digests_have_a_key_for_everything_that_is_stored():
    plan = PixelPlan(CHOSEN, ("one", "two"))
    found = digests(plan, {"one": "a", "two": "b", "torch": "c"})
    assert len(set(found.values())) == len(found) == 2 * 3
    assert facts_of("nv12") in found
    assert pixels_of("two", "nv12") in found


def test_an_engine_that_fails_on_other_pixels_alone_keeps_its_scores():
    faces = face_set([20] * 40)

    class Picky(Brightness):
        def infer(self, pixels):
            found = super().infer(pixels)
            if len(self.batches) == 5:
                raise RuntimeError("no memory")
            return found

    plan = PixelPlan(CHOSEN, ("one",))
    found = score(
        {"torch": Brightness(), "one": Picky()}, faces, SIZE, needed=("torch",), pixels=plan
    )
    (failure,) = found.failed
    assert failure.name == "one:pixels:opencv-linear"
    assert failure.reason == "RuntimeError: no memory (at faces 16.png to 31.png)"
    assert "one" in found.predictions


def test_an_engine_that_fails_has_no_scores_of_other_pixels():
    """It had scored a batch of them, which are not all."""
    faces = face_set([20] * 40)
    engines = {"torch": Brightness(), "one": Failing(3, RuntimeError("no memory"))}
    plan = PixelPlan(CHOSEN, ("one",))
    found = score(engines, faces, SIZE, needed=("torch",), pixels=plan)
    assert found.predictions.keys() == {"torch"}
    assert [failure.name for failure in found.failed] == ["one"]
    known = {"torch": Brightness().infer(np.zeros((40, SIZE, SIZE, 3), np.uint8))}
    bad = {"one": Failing(0, RuntimeError("no memory"))}
    with pytest.raises(LpxError, match="no engine can score") as caught:
        score(bad, faces, SIZE, needed=(), pixels=plan, known=known)
    assert caught.value.why == "one: RuntimeError: no memory (at faces 0.png to 15.png)"
    assert BATCH == 16


LABELS = np.arange(400) % 2
RNG = np.random.default_rng(0)


def prediction(logits):
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    return Prediction(scores, scores[:, None, None] * np.ones((1, 2, 2), np.float32))


LOGITS = RNG.normal(2.0 * LABELS, 1.0)
GOOD = prediction(LOGITS)
BAD = prediction(RNG.permutation(LOGITS))


def test_stages_are_compared_with_the_checkpoint_and_with_the_engine():
    terms = ComparisonTerms(LABELS, 0.5)
    moved = prediction(LOGITS + 0.3 * RNG.normal(size=400))
    predictions = {
        "x": moved,
        "x:pixels:opencv-linear": moved,
        "x:pixels:nv12": BAD,
    }
    plan = PixelPlan((*CHOSEN, PIPELINES["deepstream"]), ("x",))
    reasons = {"x:pixels:deepstream": "no memory"}
    same, bad, missing = pixel_stages("x", plan, StageScores(GOOD, predictions, reasons, terms))
    assert same.pipeline == "opencv-linear"
    assert same.against_torch == compare(LABELS, GOOD, moved, 0.5)
    assert same.against_engine.auc_difference.estimate == 0
    assert bad.verdict == "fails"
    expected = auc(LABELS, BAD.score) - auc(LABELS, moved.score)
    assert bad.against_engine.auc_difference.estimate == pytest.approx(expected)
    assert (missing.against_torch, missing.against_engine) == (None, None)
    assert (missing.verdict, missing.reason) == ("undecided", "no memory")


def test_stages_are_chosen_by_name():
    chosen = choose_stages(("onnx", "pixels:triton", "pixels:nv12", "onnx"))
    assert (chosen.onnx, chosen.graph) == (True, False)
    assert [pipeline.name for pipeline in chosen.pipelines] == ["opencv-linear", "nv12"]
    assert chosen.notes == (
        "triton leaves resizing to its clients: the pixels are those of opencv-linear",
    )
    assert choose_stages("graph").graph
    assert choose_stages(()) == choose_stages([])


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (True, "stages must be a name or several names (got True)"),
        (None, "stages must be a name or several names (got None)"),
        ((1,), "stages must be a name or several names (got (1,))"),
        (
            "deepstream",
            "stages must be onnx, graph, or pixels:PIPELINE, or several of these "
            "(got 'deepstream')",
        ),
        (
            ("pixels:",),
            "stages must name pipelines that lpx knows: deepstream, deepstream-nearest, "
            "opencv-linear, pillow-bilinear, nv12, nv12-wrong-matrix, triton (got '')",
        ),
    ],
)
def test_unknown_stages_are_refused(names, said):
    with pytest.raises(InvalidArgumentError) as caught:
        choose_stages(names)
    assert caught.value.what == said
