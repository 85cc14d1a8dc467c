"""What a detector looks at, face by face.

Per face: the patch map, the receptive fields of its strongest and weakest patch, and how alike the
regions of the face are to the classifier. A reconstruction of the visualisation that goes with
local prediction and local diversity (Ling et al., IJCNN 2021); see `lpx.training.local_diversity`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lpx.bench.parity.score import ROUNDING
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import FaceSet, Skipped
from lpx.engines.base import Faces
from lpx.engines.torch import TorchEngine
from lpx.errors import LpxError
from lpx.metrics.roc import called_fake
from lpx.models.aggregates import aggregate
from lpx.models.checkpoint import Detector
from lpx.models.detector import LocalPredictionDetector
from lpx.models.receptive_field import ReceptiveField, analyse
from lpx.training.local_diversity import LocalDiversity, similarity

REGIONS = 4
"""Regions per side, as the local-diversity loss has by default; fewer where there are few units."""
BATCH = 8

Box = tuple[int, int, int, int]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Patch:
    """One classification unit of a face.

    Attributes:
        row: From the top, 0 first.
        column: From the left, 0 first.
        probability: Of fake.
        box: (x0, y0, x1, y1) of what it sees of the crop, in pixels of the detector's input, x1 and
            y1 exclusive; None where the receptive field is unknown.
    """

    row: int
    column: int
    probability: float
    box: Box | None


@dataclass(frozen=True)
class Explanation:
    """What the detector does with one face.

    Attributes:
        name: Of the face in its set.
        label: 1 = fake, 0 = real, None = not known.
        score: Probability of fake.
        fake: Whether the score reaches the threshold.
        patch_map: float32 [h, w] in [0, 1].
        strongest: The patch that looks most like a fake.
        weakest: The patch that looks least like one.
        similarity: Cosine similarity of the regions' evidence, float32 [R, R] in [-1, 1], regions
            row by row from the top left; [0, 0] where there are no regions.
    """

    name: str
    label: int | None
    score: float
    fake: bool
    patch_map: Floats
    strongest: Patch
    weakest: Patch
    similarity: Floats

    @property
    def mean_similarity(self) -> float | None:
        """Mean over pairs of different regions; None where there are no regions."""
        return off_diagonal_mean(self.similarity)

    @property
    def mistaken(self) -> bool | None:
        """Whether the call contradicts the label; None where the label is not known."""
        return None if self.label is None else self.fake != bool(self.label)

    def mistake(self, threshold: float) -> float | None:
        """How far the score lies on the wrong side of the threshold; negative on the right one."""
        if self.label is None:
            return None
        return threshold - self.score if self.label else self.score - threshold


def off_diagonal_mean(matrix: Floats) -> float | None:
    """Mean over pairs of different regions: the local-diversity loss without its hinge.

    Args:
        matrix: Similarities [R, R], symmetric; None is returned for R = 0.
    """
    count = len(matrix)
    if not count:
        return None
    return float(matrix.sum(dtype=np.float64) - np.trace(matrix)) / (count * (count - 1))


@dataclass(frozen=True)
class ClassMean:
    """The mean over all faces of one label.

    Attributes:
        word: "real" or "fake".
        faces: How many.
        score: Mean score.
        similarity: Mean similarity of regions, float32 [R, R], R = 0 without regions.
        patch_map: Mean patch map, float32 [h, w].
        pixels: Mean face, uint8 RGB [S, S, 3].
    """

    word: str
    faces: int
    score: float
    similarity: Floats
    patch_map: Floats
    pixels: NDArray[np.uint8]


def class_means(
    found: Sequence[Explanation], pixels: Mapping[int, NDArray[np.float64]]
) -> tuple[ClassMean, ...]:
    """Means over the faces of each label, real first; a label without faces has none.

    Args:
        found: Explanations, of which those without a label count for nothing.
        pixels: Sum of the crops of each label found, [S, S, 3].
    """
    means = []
    for label, word in enumerate(("real", "fake")):
        faces = [face for face in found if face.label == label]
        if faces:
            means.append(
                ClassMean(
                    word,
                    len(faces),
                    float(np.mean([face.score for face in faces])),
                    np.mean([face.similarity for face in faces], axis=0),
                    np.mean([face.patch_map for face in faces], axis=0),
                    (pixels[label] / len(faces)).round().astype(np.uint8),
                )
            )
    return tuple(means)


def regions_per_side(grid: tuple[int, int]) -> int:
    """Regions per side that a grid (h, w) of units is pooled to; 0 where none can be compared."""
    side = min(REGIONS, *grid)
    return side if side > 1 else 0


def clip(box: Box | None, size: int) -> Box | None:
    """The part of a box that lies on a crop of `size` pixels; a unit may look at padding too."""
    if box is None:
        return None
    x0, y0, x1, y1 = (min(max(value, 0), size) for value in box)
    return x0, y0, x1, y1


class Examiner:
    """Runs a detector in float32 and keeps what its parts say. Not thread-safe.

    Args:
        detector: Of an lpx checkpoint.

    Raises:
        LpxError: The model of a factory, of whose inside nothing is known.
    """

    def __init__(self, detector: Detector) -> None:
        if not isinstance(detector.module, LocalPredictionDetector):
            raise LpxError(
                f"{detector.card.architecture} is not a local-prediction detector of lpx",
                "lpx cannot tell the features of its units, which an explanation compares",
                "`lpx predict` draws the heat maps of any model",
            )
        self.card: ModelCard = detector.card
        self.field = _field(detector)
        self.regions = regions_per_side(self.field.grid)
        self.network = detector.module
        self.engine = TorchEngine(detector)

    def examine(
        self, faces: FaceSet, skipped: list[Skipped]
    ) -> Iterator[tuple[Explanation, NDArray[np.uint8]]]:
        """Explain faces in their order, in bounded memory.

        Args:
            faces: Any set, with labels or without.
            skipped: Receives every face that cannot be read.

        Yields:
            What is found, and the crop as the detector saw it, uint8 RGB [S, S, 3].

        Raises:
            LpxError: The detector gives a score that is not a number.
        """
        for batch in faces.stream(BATCH, self.card.input_size, skipped):
            scores, logits, matrices = self._run(batch.pixels)
            called = called_fake(scores, self.card.threshold)
            for place, index in enumerate(batch.indices):
                face = faces.faces[int(index)]
                _check_finite(face.name, float(scores[place]))
                # Of the logits: probabilities near 1 are rounded to the same number.
                low, high = int(logits[place].argmin()), int(logits[place].argmax())
                patch_map = _sigmoid(logits[place])
                found = Explanation(
                    face.name,
                    face.label,
                    float(scores[place]),
                    bool(called[place]),
                    patch_map,
                    self._patch(patch_map, high),
                    self._patch(patch_map, low),
                    matrices[place],
                )
                yield found, batch.pixels[place]

    def _run(self, faces: Faces) -> tuple[Floats, Floats, Floats]:
        """Scores [N], unit logits [N, h, w] and similarities [N, R, R] of a batch of faces."""
        head = self.network.head
        with torch.inference_mode():
            pixels = torch.from_numpy(faces).to(self.engine.device)
            features = head.features(self.network.backbone(self.engine.module.normalised(pixels)))
            logits = head.classifier(features).squeeze(1)
            scores = aggregate(self.card.aggregate, logits, self.card.aggregate_parameter)
            matrices = self._similarity(features)
        return scores.cpu().numpy(), logits.cpu().numpy(), matrices.cpu().numpy()

    def _similarity(self, features: Tensor) -> Tensor:
        if not self.regions:
            return features.new_zeros(len(features), 0, 0)
        weight = self.network.head.classifier.weight
        return similarity(LocalDiversity(grid=self.regions).regions(features, weight))

    def _patch(self, patch_map: Floats, index: int) -> Patch:
        row, column = divmod(index, patch_map.shape[1])
        box = clip(self.field.box(row, column), self.card.input_size)
        return Patch(row, column, float(patch_map[row, column]), box)


def _field(detector: Detector) -> ReceptiveField:
    try:
        return analyse(detector.module, detector.card.input_size)
    except LpxError as error:
        # A box on a face is worth less than all the rest: what cannot be traced has none.
        return ReceptiveField(None, None, None, detector.card.grid, False, error.what, 0.0)


def _sigmoid(logits: Floats) -> Floats:
    return torch.from_numpy(logits).sigmoid().numpy()


def _check_finite(name: str, score: float) -> None:
    if not -ROUNDING <= score <= 1 + ROUNDING:  # NaN is outside too
        raise LpxError(
            f"the checkpoint gives the score {score} to face {name}",
            "a score is a probability; there is nothing to explain about another number",
            "its training has diverged: take an earlier checkpoint",
        )


@dataclass(frozen=True)
class Findings:
    """Everything a page is made from.

    Attributes:
        checkpoint: Name of its file.
        card: Of the detector.
        field: What a unit sees.
        regions: Regions per side, 0 for none.
        faces: The set that was looked at, after the limit.
        total: Faces of the set before the limit.
        explanations: One per face that could be read, in the set's order.
        means: Per label.
        skipped: Faces that could not be read.
    """

    checkpoint: str
    card: ModelCard
    field: ReceptiveField
    regions: int
    faces: FaceSet
    total: int
    explanations: tuple[Explanation, ...]
    means: tuple[ClassMean, ...]
    skipped: tuple[Skipped, ...]

    @property
    def mistakes(self) -> int | None:
        """How many faces are called what they are not; None where no label is known."""
        judged = [face.mistaken for face in self.explanations if face.mistaken is not None]
        return sum(judged) if judged else None
