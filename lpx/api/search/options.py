"""Options of a search."""

from __future__ import annotations

from dataclasses import dataclass

from lpx.api.search.sensitivity import SensitivityOptions
from lpx.arguments import check_number
from lpx.bench.parity.parity import MARGIN
from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions


@dataclass(frozen=True)
class SearchOptions(SensitivityOptions):
    """Arguments of `lpx.Workspace.search`, which documents them.

    Raises:
        InvalidArgumentError: A value that an argument cannot have.
    """

    search_limit: int = 2048
    margin: float = MARGIN
    confidence: float = 0.95
    budget_minutes: float | None = None
    latency_seconds: float = 2.0
    tensorrt: TensorRTOptions = DEFAULT_TENSORRT

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("margin", self.margin, above=0.0, most=0.5)
        check_number("confidence", self.confidence, least=0.5, most=0.9999)
        check_number("budget_minutes", self.budget_minutes, above=0.0)
        check_number("latency_seconds", self.latency_seconds, above=0.0)
