from __future__ import annotations

import numpy as np
import pytest

from lpx.predict.stills import WIDTH, Stills
from lpx.predict.timeline import Moment


def kept(scores, count=4, shape=(40, 60, 3)):
    stills = Stills(len(scores), count)
    for place, score in enumerate(scores):
        stills.add(place, Moment(place, None, score), np.full(shape, place, np.uint8))
    return stills.chosen()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 8, 60, 61])
def test_stills_are_spread_over_the_video(frames):
    found = [still.moment.frame for still in kept([0.5] * frames)]
    assert len(found) == min(4, frames)
    assert found == sorted(set(found))
    assert found[-1] - found[0] >= frames // 2 - 1


@pytest.mark.parametrize("highest", [0, 9, 10, 33, 39])
def test_the_highest_frame_is_among_them(highest):
    scores = [0.2] * 40
    scores[highest] = 0.9
    found = kept(scores)
    assert len(found) == 4
    assert highest in [still.moment.frame for still in found]
    assert all(still.picture.max() == still.moment.frame for still in found)


def test_faceless_frames_are_shown_too():
    assert len(kept([None] * 12)) == 4


def test_pictures_are_small_and_not_those_that_are_drawn_on_next():
    (still,) = kept([0.5], shape=(1080, 1920, 3))
    assert still.picture.shape == (270, WIDTH, 3)
    picture = np.zeros((8, 8, 3), np.uint8)
    stills = Stills(1)
    stills.add(0, Moment(0, None, 0.5), picture)
    picture[:] = 255
    assert stills.chosen()[0].picture.max() == 0
