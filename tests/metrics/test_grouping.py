from __future__ import annotations

import numpy as np
import pytest

from lpx.errors import LpxError
from lpx.metrics import auc, independent_groups, video_groups, video_scores

LABELS = [1, 0, 1, 1, 0, 1]
METHODS = ["FaceSwap", "real", "Deepfakes", "FaceSwap", "real", "Deepfakes"]
VIDEOS = ["000_003", "000", "000_003", "000_003", "001", "000_003"]
SCORES = [0.25, 0.5, 1.0, 0.75, 0.125, 0.5]


def test_videos_of_one_name_and_two_methods_stay_apart():
    videos = video_scores(SCORES, LABELS, METHODS, VIDEOS)
    assert videos.methods.tolist() == ["Deepfakes", "FaceSwap", "real", "real"]
    assert videos.videos.tolist() == ["000_003", "000_003", "000", "001"]
    assert videos.scores.tolist() == [0.75, 0.5, 0.5, 0.125]
    assert videos.labels.tolist() == [1, 1, 0, 0]
    assert videos.faces.tolist() == [2, 2, 1, 1]
    assert auc(videos.labels, videos.scores) == 0.875


def test_the_order_of_faces_does_not_matter():
    order = np.random.default_rng(0).permutation(len(SCORES))
    shuffled = video_scores(*(np.array(v)[order] for v in (SCORES, LABELS, METHODS, VIDEOS)))
    straight = video_scores(SCORES, LABELS, METHODS, VIDEOS)
    for name in ("scores", "labels", "methods", "videos", "faces"):
        np.testing.assert_array_equal(getattr(shuffled, name), getattr(straight, name))


def test_float32_scores_are_averaged_in_float64():
    scores = np.full(100_000, 0.1, dtype=np.float32)
    mean = video_scores(scores, [1] * len(scores), [0] * len(scores), [0] * len(scores)).scores[0]
    assert mean == pytest.approx(float(np.float32(0.1)), rel=1e-10)


def test_video_groups_number_method_and_video():
    assert video_groups(METHODS, VIDEOS).tolist() == [1, 2, 0, 1, 3, 0]


def test_a_video_of_both_labels_is_named():
    with pytest.raises(LpxError, match="video 7 of method swap has faces of both labels"):
        video_scores([0.1, 0.2, 0.3], [0, 1, 0], ["real", "swap", "swap"], ["7", "7", "7"])


@pytest.mark.parametrize("name", ["methods", "videos"])
def test_names_of_another_length_are_refused(name):
    names = {"methods": METHODS, "videos": VIDEOS}
    names[name] = names[name][:-1]
    with pytest.raises(LpxError, match=f"{name} has 5 values"):
        video_scores(SCORES, LABELS, **names)
    with pytest.raises(LpxError, match="values for"):
        video_groups(**names)


def test_faces_of_one_person_or_one_video_are_one_group():
    methods = ["real", "swap", "swap", "real", "real", "real"]
    videos = ["000", "000_003", "900", "003", "a", "a"]
    people = ["anna", "anna", "", "ben", "ben", "carl"]
    # anna is in two videos; ben and carl share the video "a".
    found = independent_groups(methods, videos, people)
    assert found[0] == found[1]
    assert found[3] == found[4] == found[5]
    assert sorted(set(found.tolist())) == [0, 1, 2]


def test_without_people_groups_are_videos():
    people = [""] * len(METHODS)
    found = independent_groups(METHODS, VIDEOS, people)
    assert found.tolist() == video_groups(METHODS, VIDEOS).tolist()
