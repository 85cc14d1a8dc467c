"""An estimate with its interval: what DeLong and the bootstrap return, and parity reads."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An AUC with its confidence interval.

    Attributes:
        estimate: The AUC, in [0, 1].
        low: The interval's lower end, in [0, 1].
        high: The interval's upper end, in [0, 1].
        standard_error: Of the estimate, in units of AUC.
        method: How the interval was made: "delong".
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    method: str


@dataclass(frozen=True)
class Difference:
    """AUC(candidate) - AUC(reference) with its confidence interval; negative is a loss.

    Attributes:
        estimate: The difference, in [-1, 1].
        low: The interval's lower end.
        high: The interval's upper end.
        standard_error: Of the estimate, in units of AUC.
        method: How the interval was made: "delong" or "bootstrap".
    """

    estimate: float
    low: float
    high: float
    standard_error: float
    method: str
