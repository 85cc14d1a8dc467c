"""What happens to a frame once it is decoded: faces are found, cut out and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpx.card import ModelCard
from lpx.data.detect import Detection, FaceDetector, FaceMesh
from lpx.data.images.crops import CropRecipe
from lpx.data.images.cut_faces import FaceCrop, cut_faces
from lpx.data.images.decode import Image, fit

FaceInput = NDArray[np.uint8]
"""A face as an engine takes it: uint8 RGB [S, S, 3]."""


@dataclass(frozen=True)
class FaceRoad:
    """Finds and cuts faces for a model. May be used by several threads.

    Attributes:
        card: The model's card.
        detector: Finds faces.
        mesh: Finds landmarks; None if the recipe needs none.
        recipe: Cuts faces out.
    """

    card: ModelCard
    detector: FaceDetector
    mesh: FaceMesh | None
    recipe: CropRecipe

    def detect(self, pixels: Image) -> tuple[Detection, ...]:
        """Find the faces of a frame, uint8 RGB [H, W, 3]."""
        return self.detector.detect(pixels)

    def cut(self, pixels: Image, found: Sequence[Detection]) -> tuple[FaceCrop, ...]:
        """Cut faces out of a frame, from left to right."""
        return cut_faces(pixels, found, self.mesh, self.recipe)

    def inputs(self, faces: Sequence[FaceCrop]) -> list[FaceInput]:
        """Resize crops to the size that the engine takes."""
        return [fit(face.crop.pixels, self.card.input_size) for face in faces]
