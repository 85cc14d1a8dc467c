"""Choose the recipe by which faces are cropped for a model."""

from __future__ import annotations

from lpx.card import ModelCard
from lpx.data.images.crops import RECIPES, CropRecipe, find_recipe
from lpx.errors import LpxError
from lpx.reporter import Reporter


def choose_recipe(card: ModelCard, named: str | None, reporter: Reporter) -> CropRecipe:
    """Return the recipe that was named, or the one of a model's training.

    Args:
        card: The model's card.
        named: Name of a recipe; None for the card's.
        reporter: Receives a warning if the two differ.

    Raises:
        InvalidArgumentError: No recipe has this name.
        LpxError: None was named, and the card names none that lpx has.
    """
    if named is not None:
        recipe = find_recipe(named)
        # A recipe that is named wins over the card's, which may be wrong, but the user has to know.
        if card.crop in RECIPES and card.crop != named:
            reporter.warn(
                f"the model was trained on crops by {card.crop}, not {named}: scores can be far off"
            )
        return recipe
    if card.crop in RECIPES:
        return RECIPES[card.crop]
    raise LpxError(
        f"unknown how faces were cropped for this model's training: its card says {card.crop!r}",
        f"scores are valid only for faces cropped as in training; lpx has {', '.join(RECIPES)}",
        "choose a recipe (`crop`), or crop the faces yourself and pass `detector=None`",
    )
