"""Which recipe to cut faces by, where nobody says."""

from __future__ import annotations

from lpx.card import ModelCard, card_from_dict
from lpx.data.images.crops import RECIPES
from lpx.workspace import WorkspaceFolder, read_sealed

RECIPE = "square-1.3"


def exported_card(workspace: WorkspaceFolder) -> ModelCard | None:
    """The card of a workspace's exported model; None where there is no model.

    Read from the model's manifest alone: loading and checking the model itself takes seconds.

    Raises:
        LpxError: The manifest is damaged.
    """
    path = workspace.model.with_suffix(".json")
    if not path.is_file():
        return None
    return card_from_dict(read_sealed(path, "lpx export ckpt.pt").get("card"), str(path))


def recipe_for(card: ModelCard | None) -> tuple[str, str]:
    """The crop recipe to prepare faces by, and why that one."""
    if card is None:
        return RECIPE, "the usual one; no exported model is here to ask"
    if card.crop in RECIPES:
        return card.crop, "the model's card names it"
    return RECIPE, f"the usual one; the model's card says {card.crop!r}, which names no recipe"
