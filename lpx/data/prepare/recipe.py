"""The crop recipe used if the user names none."""

from __future__ import annotations

from typing import NamedTuple

from lpx.card import ModelCard, card_from_dict
from lpx.data.images.crops import RECIPES
from lpx.workspace import WorkspaceFolder, read_sealed

RECIPE = "square-1.3"


class RecipeChoice(NamedTuple):
    """A crop recipe and the reason for it.

    Attributes:
        recipe: A key of `lpx.data.images.crops.RECIPES`.
        reason: The reason, for the user.
    """

    recipe: str
    reason: str


def exported_card(workspace: WorkspaceFolder) -> ModelCard | None:
    """Return the card of a workspace's exported model, or None if there is no model.

    Raises:
        LpxError: The model's manifest is damaged.
    """
    # The manifest has the card too: loading and checking the model itself takes seconds.
    path = workspace.model.with_suffix(".json")
    if not path.is_file():
        return None
    return card_from_dict(read_sealed(path, "lpx export ckpt.pt").get("card"), str(path))


def recipe_for(card: ModelCard | None) -> RecipeChoice:
    """Choose the crop recipe to prepare faces with for a model."""
    if card is None:
        return RecipeChoice(RECIPE, "the default, as the workspace has no exported model")
    if card.crop in RECIPES:
        return RecipeChoice(card.crop, "named by the model's card")
    return RecipeChoice(
        RECIPE, f"the default, as the model's card names an unknown recipe: {card.crop!r}"
    )
