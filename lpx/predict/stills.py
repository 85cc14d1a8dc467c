"""Choose a few frames of a video while it is drawn."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np

from lpx.predict.timeline import Moment, Still
from lpx.render.face import Image

STILLS = 8
# Maximum width of a still, pixels.
WIDTH = 480


class Stills:
    """Keeps the middle frame of each part of a video, or the one with the highest score of all.

    Args:
        wanted: Number of frames that will be added.
        count: Number of stills to keep.
    """

    def __init__(self, wanted: int, count: int = STILLS) -> None:
        # A short video has fewer frames than stills, and a part without a frame would have no
        # middle.
        self._parts = min(count, wanted)
        self._wanted = wanted
        # Rounded up, as _part() rounds down.
        starts = [-(-part * wanted // self._parts) for part in range(self._parts + 1)]
        self._middles = {(a + b - 1) // 2 for a, b in pairwise(starts)}
        self._kept: dict[int, Still] = {}
        self._highest: tuple[float, int, Still] | None = None

    def add(self, place: int, moment: Moment, picture: Image) -> None:
        """Add a frame; its picture is copied if it is kept.

        Args:
            place: Number of the frame among those that are added, from 0.
            moment: Its time and score.
            picture: uint8 RGB [H, W, 3].
        """
        score = moment.score
        # Strictly higher, so that of equal frames the first one stays.
        highest = score is not None and (self._highest is None or score > self._highest[0])
        if place not in self._middles and not highest:
            return
        # Pictures are large: only those that may be chosen are kept.
        still = Still(moment, _small(picture))
        if place in self._middles:
            self._kept[self._part(place)] = still
        if highest and score is not None:
            self._highest = (score, self._part(place), still)

    def chosen(self) -> tuple[Still, ...]:
        """Return the stills, in order of time."""
        kept = dict(self._kept)
        if self._highest is not None:
            _, part, still = self._highest
            # It replaces the middle frame of its part, so that the number of stills stays the same.
            kept[part] = still
        return tuple(kept[part] for part in sorted(kept))

    def _part(self, place: int) -> int:
        return min(place * self._parts // self._wanted, self._parts - 1)


def _small(picture: Image) -> Image:
    height, width = picture.shape[:2]
    if width <= WIDTH:
        # A copy: the caller may go on drawing on its own.
        return np.array(picture)
    size = (WIDTH, max(1, round(height * WIDTH / width)))
    # Averaging over areas avoids the moiré that other interpolations give when a frame shrinks.
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
