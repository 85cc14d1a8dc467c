"""Cut all faces out of an image."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lpx.data.detect.base import Detection, Points
from lpx.data.detect.face_mesh import FaceMesh
from lpx.data.images.crops import Crop, CropRecipe
from lpx.data.images.decode import Image

# Pixels of the image that a box must cover in each direction: less shows no face.
_MIN_SIDE = 2.0


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """A face cut out of an image.

    Attributes:
        detection: Its detection in the image.
        crop: The crop.
        mesh: FaceMesh's landmarks, float32 [468, 2]; None if the recipe needs none.
    """

    detection: Detection
    crop: Crop
    mesh: Points | None


def cut_faces(
    image: Image, detections: Iterable[Detection], mesh: FaceMesh | None, recipe: CropRecipe
) -> tuple[FaceCrop, ...]:
    """Cut faces out of an image.

    Faces outside the image are left out, and those that FaceMesh does not recognise if the recipe
    needs landmarks.

    Args:
        image: uint8 RGB [H, W, 3].
        detections: Detected faces.
        mesh: Finds landmarks; may be None if the recipe needs none.
        recipe: Crop recipe.

    Returns:
        Crops from left to right, by the middle of the box.

    Raises:
        ValueError: The recipe needs landmarks and `mesh` is None.
    """
    if recipe.needs_landmarks and mesh is None:
        raise ValueError(f"crop recipe {recipe.name} needs landmarks")
    crops = []
    for face in sorted(detections, key=lambda face: face.box[0] + face.box[2]):
        if not _inside(image, face):
            continue
        points = None
        if mesh is not None and recipe.needs_landmarks:
            landmarks = mesh.landmarks(image, face.box, face.points)
            # A crop by landmarks of no face could show anything.
            if not landmarks.is_face:
                continue
            points = landmarks.points
        crops.append(FaceCrop(face, recipe.cut(image, face.box, points), points))
    return tuple(crops)


def _inside(image: Image, face: Detection) -> bool:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = face.box
    across, down = min(x1, width) - max(x0, 0), min(y1, height) - max(y0, 0)
    return bool(min(across, down) >= _MIN_SIDE)
