"""Scorers for tests of streams: real or absent faces, and an engine that computes nothing."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from lpx.data.detect import Detection, open_detector
from lpx.data.images.crops import find_recipe
from lpx.engines.base import Engine, Prediction
from lpx.streams.face_road import FaceRoad
from lpx.streams.scoring import Scorer

POINTS = np.float32([[40, 40], [60, 40], [50, 50], [42, 60], [58, 60]])


class Card:
    """The fields of a model card that a stream reads."""

    input_size = 32
    threshold = 0.5
    crop = "square-1.3"


class ConstantEngine(Engine):
    """Gives every face the same score."""

    def __init__(self, score=0.75):
        super().__init__(Card.input_size)
        self.score = score
        self.batches = []

    def _infer(self, faces):
        self.batches.append(len(faces))
        return Prediction(
            np.full(len(faces), self.score, np.float32),
            np.full((len(faces), 1, 1), 0.5, np.float32),
        )

    def _release(self):
        pass


class FixedDetector:
    """Finds the same faces in every frame."""

    name = "fixed"

    def __init__(self, faces=1):
        self.faces = faces

    def detect(self, image):
        return (Detection((30.0, 30.0, 70.0, 70.0), 0.9, POINTS),) * self.faces


def scorer(engine=None, detector=None):
    """Returns a function that opens a scorer."""

    @contextmanager
    def open_it():
        road = FaceRoad(
            Card(), detector or open_detector("blazeface", 1), None, find_recipe("square-1.3")
        )
        with engine or ConstantEngine() as opened:
            yield Scorer("constant", opened, road)

    return open_it
