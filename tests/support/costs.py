"""Cost plans of benches whose costs do not matter."""

from __future__ import annotations

from dataclasses import dataclass

from lpx import CostPlan
from lpx.bench.performance.latency import TimingLimits

UNTIMED = CostPlan(latency_seconds=0)
QUICK = TimingLimits(warm_up_seconds=0, min_iterations=2, block_seconds=0.01, trtexec_seconds=0.02)


@dataclass(frozen=True)
class QuickPlan(CostPlan):
    """A plan whose timings take no time."""

    limits: TimingLimits = QUICK
