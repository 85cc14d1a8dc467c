from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lpx.bench.parity.breakdown import breakdown, members_of
from lpx.bench.parity.parity import compare
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile
from lpx.engines.base import Prediction
from lpx.metrics import auc, video_scores


def sample(videos=40, per_video=6, seed=0):
    """Faces whose error is that of their video; half the fakes are of each method."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(videos) % 2, per_video)
    video = np.repeat(np.arange(videos), per_video)
    methods = np.where(labels == 0, "real", np.where(video % 4 == 1, "swap", "mask"))
    reference = labels + rng.normal(size=videos)[video] + 0.3 * rng.normal(size=len(video))
    candidate = reference + 0.5 * rng.normal(size=videos)[video]
    source = ImageFile(Path("none"))
    # Fakes of all methods carry the names of the reals that they were made from.
    faces = FaceSet(
        "set",
        "test",
        "none",
        tuple(
            Face(f"{i}", int(labels[i]), str(methods[i]), f"{video[i] // 2}", (), source)
            for i in range(len(labels))
        ),
    )
    return labels, reference.astype(np.float32), candidate.astype(np.float32), faces


def prediction(scores):
    return Prediction(scores, np.repeat(scores[:, None, None], 4, axis=1).reshape(-1, 2, 2))


def test_videos_decide_where_faces_share_them():
    labels, reference, candidate, faces = sample()
    where = members_of(faces, np.arange(len(labels)))
    assert where.shared_videos
    found = compare(labels, prediction(reference), prediction(candidate), 0.5, groups=where.groups)
    assert found.auc_difference == found.difference.bootstrap
    assert found.difference.bootstrap.method == "bootstrap"
    interval = found.difference.bootstrap
    width = interval.high - interval.low
    assert width > 1.5 * (found.difference.delong.high - found.difference.delong.low)
    alone = compare(labels, prediction(reference), prediction(candidate), 0.5)
    assert alone.auc_difference == alone.difference.delong == found.difference.delong
    assert (alone.difference.bootstrap, alone.difference.note) == (None, "")


def test_too_few_videos_for_a_bootstrap_is_said():
    labels, reference, candidate, _ = sample()
    one_video_of_reals = np.where(labels == 0, 0, 1 + np.arange(len(labels)))
    found = compare(
        labels, prediction(reference), prediction(candidate), 0.5, groups=one_video_of_reals
    )
    assert found.auc_difference == found.difference.delong
    assert "the real faces are in 1 of" in found.difference.note
    assert "too narrow" in found.difference.note


def test_a_row_per_method_and_level():
    labels, reference, candidate, faces = sample()
    indices = np.arange(len(labels))
    where = members_of(faces, indices)
    parts = {
        (p.level, p.method): p
        for p in breakdown(labels, reference, {"x": candidate}, where, 0.005)["x"]
    }
    assert list(parts) == [
        ("face", "mask"),
        ("face", "swap"),
        ("video", "all"),
        ("video", "mask"),
        ("video", "swap"),
    ]
    kept = (labels == 0) | (where.methods == "swap")
    swap = parts["face", "swap"]
    assert (swap.fakes, swap.reals) == (60, 120)
    assert swap.difference.deciding.estimate == pytest.approx(
        auc(labels[kept], candidate[kept]) - auc(labels[kept], reference[kept])
    )
    assert swap.difference.bootstrap is not None
    videos = [
        video_scores(scores, labels, where.methods, where.videos)
        for scores in (reference, candidate)
    ]
    whole = parts["video", "all"]
    assert whole.fakes + whole.reals == len(videos[0].scores)
    assert whole.difference.deciding.estimate == pytest.approx(
        auc(videos[1].labels, videos[1].scores) - auc(videos[0].labels, videos[0].scores)
    )
    assert whole.difference.deciding.method == "delong"


def test_a_method_of_one_fake_has_no_interval_and_says_so():
    labels, reference, candidate, faces = sample(videos=8, per_video=1)
    where = members_of(faces, np.arange(8))
    where.methods[1] = "rare"
    (rare,) = (
        p
        for p in breakdown(labels, reference, {"x": candidate}, where, 0.005)["x"]
        if p.method == "rare"
    )
    assert (rare.difference, rare.verdict) == (None, None)
    assert rare.reason == "4 real and 1 fake faces: too few for an interval"


def test_one_method_and_single_images_need_no_rows():
    labels, reference, candidate, faces = sample(videos=8, per_video=1)
    where = members_of(faces, np.arange(8))
    where.methods[labels == 1] = "swap"
    assert breakdown(labels, reference, {"x": candidate}, where, 0.005)["x"] == ()
