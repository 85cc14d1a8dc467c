"""Cut the videos of a data set into face crops on disk, and find these by the set's name."""

from lpx.data.prepare.preparing import FRAMES, PrepareResult, count_reasons, prepare
from lpx.data.prepare.recipe import RECIPE, RecipeChoice, exported_card, recipe_for
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
    "PrepareResult",
    "PreparedSet",
    "RecipeChoice",
    "count_reasons",
    "exported_card",
    "find_prepared",
    "is_prepared",
    "listed",
    "open_prepared",
    "prepare",
    "prepared_sets",
    "recipe_for",
]
