"""The crops of all faces of an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lpx.data.detect.base import Detection, Points
from lpx.data.detect.face_mesh import FaceMesh
from lpx.data.images.crops import Crop, CropRecipe
from lpx.data.images.decode import Image

_LEAST_SIDE = 2.0
"""Pixels of the image that a box must cover in each direction to be cut out of it."""


@dataclass(frozen=True, eq=False)
class FoundFace:
    """A face of an image.

    Attributes:
        detection: Where it is.
        crop: Cut out by a recipe.
        mesh: FaceMesh's landmarks, float32 [468, 2]; None where the recipe needs none.
    """

    detection: Detection
    crop: Crop
    mesh: Points | None


def cut_faces(
    image: Image, detections: Iterable[Detection], mesh: FaceMesh | None, recipe: CropRecipe
) -> tuple[FoundFace, ...]:
    """Cut faces out of an image.

    A face outside the image is left out; so is one that FaceMesh does not recognise, where the
    recipe needs landmarks: a crop by landmarks that are not there would show anything.

    Args:
        image: uint8 RGB [H, W, 3].
        detections: Its faces.
        mesh: Finds landmarks; may be None where the recipe needs none.
        recipe: How to cut.

    Returns:
        From left to right, by the middle of the box.

    Raises:
        ValueError: The recipe needs landmarks and `mesh` is None.
    """
    if recipe.needs_landmarks and mesh is None:
        raise ValueError(f"crop recipe {recipe.name} needs landmarks")
    found = []
    for face in sorted(detections, key=lambda face: face.box[0] + face.box[2]):
        if not _inside(image, face):
            continue
        points = None
        if mesh is not None and recipe.needs_landmarks:
            landmarks = mesh.landmarks(image, face.box, face.points)
            if not landmarks.is_face:
                continue
            points = landmarks.points
        found.append(FoundFace(face, recipe.cut(image, face.box, points), points))
    return tuple(found)


def _inside(image: Image, face: Detection) -> bool:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = face.box
    across, down = min(x1, width) - max(x0, 0), min(y1, height) - max(y0, 0)
    return bool(min(across, down) >= _LEAST_SIDE)
