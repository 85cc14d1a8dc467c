"""Work in place of latency, for targets whose layers are not timed one by one."""

from __future__ import annotations

from collections.abc import Collection

from lpx.search.subject import Subject
from lpx.search.timing.latency import GroupCost

# Work of a multiply-accumulate in INT8 and in float: tensor cores do twice as many in INT8 as in
# FP16 (NVIDIA's data sheets of A100, Orin and H100).
_INT8, _FLOAT = 0.5, 1.0


class WorkModel:
    """Predict the work of plans: multiply-accumulates, those in INT8 counted half.

    It ignores memory traffic and conversions. Engines that a search builds are timed.

    Args:
        subject: The model.
    """

    source = "multiply-accumulates, those in INT8 counted half (layers were not timed)"
    unit = "of the work of all layers in float"

    def __init__(self, subject: Subject) -> None:
        self._work = {group.name: group.multiply_accumulates for group in subject.groups}
        self._total = max(sum(self._work.values()), 1)

    def groups(self) -> tuple[GroupCost, ...]:
        """Return no times: none were measured."""
        return ()

    def predict(self, int8: Collection[str]) -> float:
        """Return the work of a plan, relative to that of all groups in float.

        Args:
            int8: Names of the groups in INT8.
        """
        done = 0.0
        for name, work in self._work.items():
            done += work * (_INT8 if name in int8 else _FLOAT)
        return done / self._total
