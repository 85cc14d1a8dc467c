"""What each group costs when it alone is in INT8: AUC, scores and maps."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lpx.metrics import Interval
from lpx.search.groups import Group
from lpx.search.predict import Predictor
from lpx.search.shifts import Shifts
from lpx.search.subject import Subject


@dataclass(frozen=True)
class GroupSensitivity:
    """Effect of one group in INT8, all others in float.

    Attributes:
        group: The group.
        auc_difference: AUC with it in INT8 less that of the float graph, with DeLong's paired 95 %
            interval; negative: a loss.
        logit_shift_mean: Mean shift of the logits: an offset that costs no AUC.
        logit_shift_spread: Standard deviation of the shifts over faces.
        map_error: Mean |difference| of a patch's score.
    """

    group: Group
    auc_difference: Interval
    logit_shift_mean: float
    logit_shift_spread: float
    map_error: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, with the group's fields beside the others."""
        values = asdict(self)
        return {**values.pop("group"), **values}


def sensitivities(
    subject: Subject, shifts: Shifts, predictor: Predictor
) -> tuple[GroupSensitivity, ...]:
    """Return the effect of each group, the largest loss of AUC first.

    Args:
        subject: The model.
        shifts: Shifts of its pieces.
        predictor: Predictor with these shifts.
    """
    results = []
    for group in subject.groups:
        # Some groups alone need more than their own piece: ONNX Runtime also rounds what an INT8
        # layer returns.
        names = subject.parts({group.name})
        shift = np.sum([shifts.by_piece[name] for name in names], axis=0)
        results.append(
            GroupSensitivity(
                group=group,
                auc_difference=predictor.difference({group.name}),
                logit_shift_mean=float(shift.mean()),
                logit_shift_spread=float(shift.std()),
                map_error=max(shifts.map_errors[name] for name in names),
            )
        )
    # Equal losses, such as none at all, by how much they move scores.
    results.sort(key=lambda one: (one.auc_difference.estimate, -one.logit_shift_spread))
    return tuple(results)
