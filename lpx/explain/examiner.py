"""Explanation of a detector's scores, face by face.

For each face: the patch map, the receptive fields of its strongest and weakest patch, and the
similarity of its regions to the classifier. This reconstructs the visualisation of local prediction
and local diversity (Ling et al., IJCNN 2021); see `lpx.training.local_diversity`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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

# Regions per side, the default of the local-diversity loss; fewer on a smaller grid of units.
REGIONS = 4
_BATCH = 8

Box = tuple[int, int, int, int]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Patch:
    """A classification unit of a face.

    Attributes:
        row: Row, from the top, starting at 0.
        column: Column, from the left, starting at 0.
        probability: Probability of fake.
        box: Receptive field (x0, y0, x1, y1) on the crop, in pixels of the detector's input, x1 and
            y1 exclusive; None if unknown.
    """

    row: int
    column: int
    probability: float
    box: Box | None


@dataclass(frozen=True)
class Explanation:
    """Explanation of the score of one face.

    Attributes:
        name: Name of the face in its set.
        label: 1 = fake, 0 = real, None = unknown.
        score: Probability of fake.
        fake: True if the score reaches the threshold.
        patch_map: Probability of fake of each patch, float32 [h, w].
        strongest: Patch with the highest probability of fake.
        weakest: Patch with the lowest.
        similarity: Cosine similarity of the regions' evidence, float32 [R, R] in [-1, 1], regions
            row by row from the top left; [0, 0] if there are no regions.
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
        """Mean similarity over pairs of different regions; None if there are no regions."""
        return off_diagonal_mean(self.similarity)

    @property
    def mistaken(self) -> bool | None:
        """True if the classification contradicts the label; None if the label is unknown."""
        if self.label is None:
            return None
        return self.fake != bool(self.label)

    def mistake(self, threshold: float) -> float | None:
        """Return the distance of the score from the threshold, on its wrong side.

        It is negative for a correctly classified face, and None if the label is unknown.
        """
        if self.label is None:
            return None
        if self.label:
            return threshold - self.score
        return self.score - threshold


def off_diagonal_mean(matrix: Floats) -> float | None:
    """Return the mean over pairs of different regions: the local-diversity loss without its hinge.

    Args:
        matrix: Similarities [R, R], symmetric.

    Returns:
        The mean; None if R = 0.
    """
    count = len(matrix)
    if not count:
        return None
    return float(matrix.sum(dtype=np.float64) - np.trace(matrix)) / (count * (count - 1))


@dataclass(frozen=True)
class ClassMean:
    """Means over all faces of one label.

    Attributes:
        word: "real" or "fake".
        faces: Number of faces.
        score: Mean score.
        similarity: Mean similarity of regions, float32 [R, R]; R = 0 without regions.
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
    explanations: Sequence[Explanation], pixels: Mapping[int, NDArray[np.float64]]
) -> tuple[ClassMean, ...]:
    """Return the means over the faces of each label, real first; labels without faces have none.

    Args:
        explanations: Explanations; those without a label are ignored.
        pixels: Sum of the crops of each label, [S, S, 3].
    """
    means = []
    for label, word in enumerate(("real", "fake")):
        faces = [face for face in explanations if face.label == label]
        if not faces:
            continue
        means.append(
            ClassMean(
                word=word,
                faces=len(faces),
                score=float(np.mean([face.score for face in faces])),
                similarity=np.mean([face.similarity for face in faces], axis=0),
                patch_map=np.mean([face.patch_map for face in faces], axis=0),
                pixels=(pixels[label] / len(faces)).round().astype(np.uint8),
            )
        )
    return tuple(means)


def regions_per_side(grid: tuple[int, int]) -> int:
    """Return the regions per side to which a grid (h, w) of units is pooled; 0 for a single one."""
    side = min(REGIONS, *grid)
    if side == 1:
        return 0
    return side


def clip(box: Box | None, size: int) -> Box | None:
    """Clip a box to a crop of `size` pixels."""
    if box is None:
        return None
    # The receptive field of a unit at the border includes padding.
    x0, y0, x1, y1 = (min(max(value, 0), size) for value in box)
    return x0, y0, x1, y1


class ExaminedFace(NamedTuple):
    """An explained face, with the crop as the detector saw it, uint8 RGB [S, S, 3]."""

    explanation: Explanation
    pixels: NDArray[np.uint8]


class _Results(NamedTuple):
    """Scores [N], unit logits [N, h, w] and similarities [N, R, R] of a batch of faces."""

    scores: Floats
    logits: Floats
    similarities: Floats


class Examiner:
    """Runs a detector in float32 and explains its scores. Not thread-safe.

    Args:
        detector: Detector of an lpx checkpoint.
        analyser: Computes receptive fields, as `lpx.models.receptive_field.analyse`.

    Raises:
        LpxError: The model was made by a factory, so that its parts are unknown.
    """

    def __init__(
        self,
        detector: Detector,
        *,
        analyser: Callable[[nn.Module, int], ReceptiveField] = analyse,
    ) -> None:
        if not isinstance(detector.module, LocalPredictionDetector):
            raise LpxError(
                f"{detector.card.architecture} is not a local-prediction detector of lpx",
                "an explanation compares the features of its units, which lpx cannot identify in "
                "other models",
                "use `lpx predict`, which draws the heat maps of any model",
                code="unsupported",
            )
        self.card: ModelCard = detector.card
        self.field = _field(detector, analyser)
        self.regions = regions_per_side(self.field.grid)
        self.network = detector.module
        self.engine = TorchEngine(detector)

    def examine(self, faces: FaceSet, skipped: list[Skipped]) -> Iterator[ExaminedFace]:
        """Explain faces in order, in bounded memory.

        Args:
            faces: A face set, with or without labels.
            skipped: Receives every face that cannot be read.

        Yields:
            Each face that can be read, explained.

        Raises:
            LpxError: A score of the detector is not a probability.
        """
        for batch in faces.stream(_BATCH, self.card.input_size, skipped):
            results = self._run(batch.pixels)
            called = called_fake(results.scores, self.card.threshold)
            for place, index in enumerate(batch.indices):
                face = faces.faces[int(index)]
                score, logits = float(results.scores[place]), results.logits[place]
                _check_probability(face.name, score)
                patch_map = _sigmoid(logits)
                explanation = Explanation(
                    name=face.name,
                    label=face.label,
                    score=score,
                    fake=bool(called[place]),
                    patch_map=patch_map,
                    # Ranked by logits: probabilities near 1 round to the same number.
                    strongest=self._patch(patch_map, int(logits.argmax())),
                    weakest=self._patch(patch_map, int(logits.argmin())),
                    similarity=results.similarities[place],
                )
                yield ExaminedFace(explanation, batch.pixels[place])

    def _run(self, faces: Faces) -> _Results:
        head = self.network.head
        with torch.inference_mode():
            pixels = torch.from_numpy(faces).to(self.engine.device)
            features = head.features(self.network.backbone(self.engine.module.normalised(pixels)))
            logits = head.classifier(features).squeeze(1)
            scores = aggregate(self.card.aggregate, logits, self.card.aggregate_parameter)
            matrices = self._similarity(features)
        return _Results(scores.cpu().numpy(), logits.cpu().numpy(), matrices.cpu().numpy())

    def _similarity(self, features: Tensor) -> Tensor:
        if not self.regions:
            return features.new_zeros(len(features), 0, 0)
        weight = self.network.head.classifier.weight
        return similarity(LocalDiversity(grid=self.regions).regions(features, weight))

    def _patch(self, patch_map: Floats, index: int) -> Patch:
        row, column = divmod(index, patch_map.shape[1])
        box = clip(self.field.box(row, column), self.card.input_size)
        return Patch(row, column, float(patch_map[row, column]), box)


def _field(
    detector: Detector, analyser: Callable[[nn.Module, int], ReceptiveField]
) -> ReceptiveField:
    try:
        return analyser(detector.module, detector.card.input_size)
    except LpxError as error:
        # Only the boxes are missing without it.
        return ReceptiveField(None, None, None, detector.card.grid, False, error.what, 0.0)


def _sigmoid(logits: Floats) -> Floats:
    return torch.from_numpy(logits).sigmoid().numpy()


def _check_probability(name: str, score: float) -> None:
    # "not <=", so that NaN is refused, too.
    if not -ROUNDING <= score <= 1 + ROUNDING:
        raise LpxError(
            f"the checkpoint gives the score {score} to face {name}",
            "scores must be finite probabilities; others cannot be explained",
            "training has diverged: use an earlier checkpoint",
        )


@dataclass(frozen=True)
class Findings:
    """Contents of the page.

    Attributes:
        checkpoint: Name of the checkpoint's file.
        card: Card of the detector.
        field: Receptive field of a unit.
        regions: Regions per side; 0 for none.
        faces: Face set, after the limit.
        total: Number of faces in the set before the limit.
        explanations: One per face that could be read, in the order of the set.
        means: Means of each label.
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
        """Number of wrongly classified faces; None if no label is known."""
        labelled = [face for face in self.explanations if face.label is not None]
        if not labelled:
            return None
        return sum(bool(face.mistaken) for face in labelled)
