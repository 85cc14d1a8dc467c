"""From the videos of a data set to face crops on disk, and back to them by name."""

from lpx.data.prepare.preparing import FRAMES, Prepared, prepare, reasons
from lpx.data.prepare.recipe import RECIPE, exported_card, recipe_for
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
    "exported_card",
    "find_prepared",
    "is_prepared",
    "listed",
    "open_prepared",
    "prepare",
    "prepared_sets",
    "reasons",
    "recipe_for",
]
