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

from lpx.arguments import check_fields
from lpx.errors import LpxError

Form = Literal["hinge", "closed", "gram", "margin_l2"]
On = Literal["all", "fake", "contrast"]
FORMS: tuple[Form, ...] = ("hinge", "closed", "gram", "margin_l2")
ONS: tuple[On, ...] = ("all", "fake", "contrast")
CONTRAST = 0.25
"""Weight of drawing the regions of real faces together, with `on="contrast"`."""
EPSILON = 1e-6


@dataclass(frozen=True)
class LocalDiversity:
    """Settings of the loss.

    Attributes:
        weight: Factor lambda before the loss; 0 switches it off. 0.01 to 0.5 are sensible.
        form: See the module's docstring.
        on: "all" takes every face and no label; "fake" only fakes; "contrast" drives the regions of
            fakes apart and draws those of reals together with weight `CONTRAST`.
        evidence: Compare what regions contribute to the logit (feature times classifier weight,
            the weight detached, so that the loss cannot act by shrinking it) instead of features.
        grid: g, regions per side.
        margin: m; 0 by default, for `margin_l2` 1 is usual.
        warm_up: Share of the training over which the weight rises linearly from 0.
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

    def check(self, units: tuple[int, int]) -> None:
        """Refuse settings that mean nothing.

        Args:
            units: Grid (h, w) of the detector.

        Raises:
            LpxError: Fewer units than regions, a negative weight.
        """
        if self.weight < 0 or self.grid < 2:
            raise LpxError(
                f"local diversity with weight {self.weight:g} and grid {self.grid}",
                "the weight is not negative, and there are two regions a side at least",
                "set --ld and --ld-grid accordingly",
            )
        if self.weight and min(units) < self.grid:
            raise LpxError(
                f"{units[0]}x{units[1]} units cannot be pooled to {self.grid}x{self.grid} regions",
                "local diversity compares regions of one unit or more",
                "cut the backbone earlier, use larger faces, or a smaller --ld-grid",
            )

    def factor(self, progress: float) -> float:
        """The weight at `progress` in [0, 1] of the training."""
        rising = min(1.0, progress / self.warm_up) if self.warm_up > 0 else 1.0
        return self.weight * rising

    def __call__(self, features: Tensor, labels: Tensor, classifier: Tensor) -> Tensor:
        """The loss, without lambda.

        Args:
            features: Unit features [B, D, h, w].
            labels: [B], 1 = fake.
            classifier: Weight of the head's 1x1 classifier, [1, D, 1, 1].

        Returns:
            A scalar; 0 where no face of the batch counts.
        """
        per_face = _FORMS[self.form](self.regions(features, classifier), self.margin)
        if self.on == "all":
            return per_face.mean()
        fake = (labels > 0.5).to(per_face)
        if self.on == "fake":
            return (per_face * fake).sum() / fake.sum().clamp(min=1)
        sign = fake - CONTRAST * (1 - fake)
        return (per_face * sign).mean()

    def regions(self, features: Tensor, classifier: Tensor) -> Tensor:
        """Normalised region vectors [B, R, D], float32 (float64 stays)."""
        if features.dtype != torch.float64:
            features = features.float()
        pooled = F.adaptive_avg_pool2d(features, self.grid).flatten(2).transpose(1, 2)
        if self.evidence:
            pooled = pooled * classifier.detach().reshape(1, 1, -1).to(pooled)
        normalised: Tensor = pooled / pooled.norm(dim=2, keepdim=True).clamp(min=EPSILON)
        return normalised


def similarity(vectors: Tensor) -> Tensor:
    """Cosine similarity [B, R, R] of normalised region vectors [B, R, D]."""
    return vectors @ vectors.transpose(1, 2)


def hinge(vectors: Tensor, margin: float) -> Tensor:
    """Mean positive part of similarity above `margin`, over pairs; [B]."""
    return F.relu(_pairs(similarity(vectors)) - margin).mean(dim=1)


def closed(vectors: Tensor, margin: float) -> Tensor:
    """Mean similarity over pairs, minus `margin`, without looking at pairs; [B]."""
    count = vectors.shape[1]
    own = vectors.square().sum(dim=(1, 2))
    total = vectors.sum(dim=1).square().sum(dim=1)
    return (total - own) / (count * (count - 1)) - margin


def gram(vectors: Tensor, margin: float) -> Tensor:
    """Mean squared difference of the Gram matrix from the identity; no margin; [B]."""
    matrix = similarity(vectors)
    identity = torch.eye(matrix.shape[1], device=matrix.device, dtype=matrix.dtype)
    return (matrix - identity).square().mean(dim=(1, 2))


def margin_l2(vectors: Tensor, margin: float) -> Tensor:
    """Mean squared shortfall of the distance below `margin`, over pairs; [B]."""
    squared = (2 - 2 * _pairs(similarity(vectors))).clamp(min=0)
    # The root has no gradient at 0, where two regions are the same.
    distance = (squared + EPSILON**2).sqrt()
    return F.relu(margin - distance).square().mean(dim=1)


def _pairs(matrix: Tensor) -> Tensor:
    """The entries above the diagonal, [B, R (R - 1) / 2]."""
    rows, columns = torch.triu_indices(matrix.shape[1], matrix.shape[1], offset=1)
    return matrix[:, rows, columns]


_FORMS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "hinge": hinge,
    "closed": closed,
    "gram": gram,
    "margin_l2": margin_l2,
}
