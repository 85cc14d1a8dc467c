"""Crop recipes that boxes in DeepStream can reproduce."""

from __future__ import annotations

from lpx.card import ModelCard
from lpx.data.images.crops import RECIPES, aligned
from lpx.deploy.deepstream.files.face_boxes import RECIPES as BOX_RECIPES
from lpx.errors import LpxError

_OWN = "or set `own_crop=True` if something else in your pipeline sets the boxes as in training"


def check_recipe(card: ModelCard) -> None:
    """Check that boxes of a face detector suffice to crop faces as a model was trained on.

    Raises:
        LpxError: They do not (code "unsupported"), or the card does not say how (code
            "invalid-input").
    """
    name = card.crop
    if name in BOX_RECIPES:
        return
    if name not in RECIPES:
        what = "does not say how its faces were cropped"
        if name != "unknown":
            what = f'was trained on faces cropped by "{name}", which lpx does not know'
        raise LpxError(
            f"the model {what}",
            "DeepStream cuts out the bare box of the face detector, and crops unlike those of the "
            "training get wrong scores",
            f"package a model whose card names a crop recipe, {_OWN}",
        )
    why = "it needs landmarks of the face, and DeepStream has the boxes of a face detector"
    if RECIPES[name].cut is aligned:
        why = "it turns faces by their landmarks, and nvinfer cuts out upright boxes"
    raise LpxError(
        f'the crop recipe "{name}" of the model cannot be made in DeepStream',
        why,
        f"package a model trained on {' or '.join(BOX_RECIPES)}, {_OWN}",
        code="unsupported",
    )
