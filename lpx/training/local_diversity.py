"""The local-diversity (LD) loss: different regions of a face should show different patterns.

An independent reconstruction, from the public abstract, of the local-diversity idea of Ling et al.,
IJCNN 2021 (DOI 10.1109/ijcnn52387.2021.9533912), whose formula is not public.

Unit features z [B, D, h, w] are average-pooled to g x g regions, R = g^2: neighbouring units share
most of their receptive field, so pairs of units are trivially alike, and R <= D keeps orthogonality
within reach. With e_r the region's feature (or its evidence, below), ê_r = e_r / max(|e_r|, 1e-6)
and the mean taken over pairs r < q,

    hinge:     L = mean of max(0, ê_r . ê_q - m)
    closed:    L = (|sum of ê_r|^2 - sum of |ê_r|^2) / (R (R - 1)) - m
    gram:      L = mean of (Ê Ê^T - I)^2 over all entries
    margin_l2: L = mean of max(0, m - |ê_r - ê_q|)^2

`closed` equals `hinge` where no product is below m, in O(R D). With m = 0 and features never
negative both are scale-free, lie in [0, 1], and are 0 exactly when regions use disjoint channels.
Random non-negative features of single units start near 2 / pi, pooled ones nearer 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lpx.arguments import check_at_least, check_fields, check_number
from lpx.errors import LpxError

Form = Literal["hinge", "closed", "gram", "margin_l2"]
On = Literal["all", "fake", "contrast"]
CONTRAST = 0.25
"""Weight of the term that draws the regions of real faces together, with `on="contrast"`."""
# Smallest norm that a region is divided by.
EPSILON = 1e-6


@dataclass(frozen=True)
class LocalDiversity:
    """Settings of the loss.

    Attributes:
        weight: Factor lambda of the loss; 0 switches it off. 0.01 to 0.5 are sensible.
        form: One of the formulas of this module.
        on: "all" takes every face, whatever its label; "fake" only fakes; "contrast" drives the
            regions of fakes apart and draws those of real faces together with weight `CONTRAST`.
        evidence: Compare the contributions of regions to the logit (feature times classifier
            weight) instead of features.
        grid: g, regions per side.
        margin: m; for `margin_l2` 1 is usual.
        warm_up: Share of the training over which the weight rises linearly from 0.

    Raises:
        InvalidArgumentError: A field has a value that it cannot have.
    """

    weight: float = 0.1
    form: Form = "hinge"
    on: On = "all"
    evidence: bool = True
    grid: int = 4
    margin: float = 0.0
    warm_up: float = 0.1

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("weight", self.weight, least=0)
        check_at_least("grid", self.grid, 2, "one region per side has no other to compare with")
        check_number("margin", self.margin)
        check_number("warm_up", self.warm_up, least=0, most=1)

    def check(self, units: tuple[int, int]) -> None:
        """Refuse a detector that has fewer units than there are regions.

        Args:
            units: Grid (h, w) of the detector.

        Raises:
            LpxError: It has.
        """
        if self.weight and min(units) < self.grid:
            raise LpxError(
                f"{units[0]}x{units[1]} units cannot be pooled to {self.grid}x{self.grid} regions",
                "local diversity compares regions of at least one unit",
                "use an earlier `cut`, a larger `input_size`, or a smaller `grid`",
            )

    def factor(self, progress: float) -> float:
        """Return the weight at a share `progress`, in [0, 1], of the training."""
        if self.warm_up == 0:
            return self.weight
        return self.weight * min(1.0, progress / self.warm_up)

    def __call__(self, features: Tensor, labels: Tensor, classifier: Tensor) -> Tensor:
        """Compute the loss, without lambda.

        Args:
            features: Unit features [B, D, h, w].
            labels: [B], 1 = fake.
            classifier: Weight of the head's 1x1 classifier, [1, D, 1, 1].

        Returns:
            A scalar; 0 if no face of the batch counts.
        """
        per_face = _FORMS[self.form](self.regions(features, classifier), self.margin)
        if self.on == "all":
            return per_face.mean()
        fake = (labels > 0.5).to(per_face)
        if self.on == "fake":
            # A batch without fakes has a loss of 0, not 0 / 0.
            return (per_face * fake).sum() / fake.sum().clamp(min=1)
        sign = fake - CONTRAST * (1 - fake)
        return (per_face * sign).mean()

    def regions(self, features: Tensor, classifier: Tensor) -> Tensor:
        """Return normalised region vectors [B, R, D], float32 (float64 for float64 features)."""
        # Half precision has too few bits for cosines near 1; float64 is for tests of the gradient.
        if features.dtype != torch.float64:
            features = features.float()
        pooled = F.adaptive_avg_pool2d(features, self.grid).flatten(2).transpose(1, 2)
        if self.evidence:
            # Detached: the loss must not act by shrinking the classifier's weight.
            pooled = pooled * classifier.detach().reshape(1, 1, -1).to(pooled)
        normalised: Tensor = pooled / pooled.norm(dim=2, keepdim=True).clamp(min=EPSILON)
        return normalised


def similarity(vectors: Tensor) -> Tensor:
    """Return the cosine similarity [B, R, R] of normalised region vectors [B, R, D]."""
    return vectors @ vectors.transpose(1, 2)


def hinge(vectors: Tensor, margin: float) -> Tensor:
    """Return the mean positive part of similarity above `margin`, over pairs; [B]."""
    return F.relu(above_diagonal(similarity(vectors)) - margin).mean(dim=1)


def closed(vectors: Tensor, margin: float) -> Tensor:
    """Return the mean similarity over pairs, minus `margin`, in linear time; [B]."""
    # The square of the sum is the sum over all ordered pairs, those of equal indices included.
    count = vectors.shape[1]
    own = vectors.square().sum(dim=(1, 2))
    total = vectors.sum(dim=1).square().sum(dim=1)
    return (total - own) / (count * (count - 1)) - margin


def gram(vectors: Tensor, margin: float) -> Tensor:
    """Return the mean squared difference of the Gram matrix from the identity; no margin; [B]."""
    matrix = similarity(vectors)
    identity = torch.eye(matrix.shape[1], device=matrix.device, dtype=matrix.dtype)
    return (matrix - identity).square().mean(dim=(1, 2))


def margin_l2(vectors: Tensor, margin: float) -> Tensor:
    """Return the mean squared shortfall of distances below `margin`, over pairs; [B]."""
    # |a - b|^2 = 2 - 2 a.b for unit vectors, which rounding may make negative.
    squared = (2 - 2 * above_diagonal(similarity(vectors))).clamp(min=0)
    # The root has no gradient at 0, that is, for two equal regions.
    distance = (squared + EPSILON**2).sqrt()
    return F.relu(margin - distance).square().mean(dim=1)


def above_diagonal(matrix: Tensor) -> Tensor:
    """Return the entries above the diagonal, [B, R (R - 1) / 2]."""
    rows, columns = torch.triu_indices(matrix.shape[1], matrix.shape[1], offset=1)
    return matrix[:, rows, columns]


_FORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "hinge": hinge,
    "closed": closed,
    "gram": gram,
    "margin_l2": margin_l2,
}
