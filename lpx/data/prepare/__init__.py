"""From the videos of a data set to face crops on disk, and back to them by name."""

from lpx.data.prepare.preparing import FRAMES, RECIPE, Prepared, prepare, reasons
from lpx.data.prepare.store import (
    PreparedSet,
    find_prepared,
    is_prepared,
    listed,
    open_prepared,
    prepared_sets,
)

__all__ = [
    "FRAMES",
    "RECIPE",
    "Prepared",
    "PreparedSet",
    "find_prepared",
    "is_prepared",
    "listed",
    "open_prepared",
    "prepare",
    "prepared_sets",
    "reasons",
]
