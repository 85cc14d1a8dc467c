"""Cost plans of benches whose costs do not matter."""

from __future__ import annotations

from lpx import CostPlan

UNTIMED = CostPlan(latency_seconds=0)
