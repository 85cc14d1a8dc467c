"""Pictures of an explained face: for the page as data URIs, and as a sheet to keep."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lpx.data.images.decode import Image, fit
from lpx.explain.examiner import Explanation, Findings
from lpx.render.encode import lossless, lossy
from lpx.render.face import field_box, looked_at, matrix_picture, overlay, unit_box

IMAGE_BYTES = 6_500_000
"""What the faces' pictures may take in a page, about; pictures of many faces are smaller."""
SIDES = (112, 256)
SHEET_SIDE = 320
_BYTES_PER_PIXEL = 0.13


@dataclass(frozen=True)
class Pictures:
    """A face's pictures as data URIs.

    Attributes:
        crop: The face, with the receptive fields of its strongest and weakest patch.
        heat: Its patch map over the grey face, both patches marked.
        matrix: The similarity of its regions; "" where there are none.
    """

    crop: str
    heat: str
    matrix: str


def picture_side(count: int) -> int:
    """Side in pixels at which the pictures of `count` faces stay within `IMAGE_BYTES`."""
    # Two pictures a face; base64 takes a third more.
    side = math.sqrt(IMAGE_BYTES * 0.75 / (2 * max(1, count)) / _BYTES_PER_PIXEL)
    return int(min(max(side, SIDES[0]), SIDES[1]))


def draw(face: Explanation, pixels: Image, regions: int, side: int) -> Pictures:
    """Draw a face for the page.

    Args:
        face: What was found.
        pixels: The crop as the detector saw it, uint8 RGB [S, S, 3].
        regions: Regions per side, 0 for none.
        side: Of the pictures, pixels.
    """
    matrix = lossless(matrix_picture(face.similarity, regions)) if regions else ""
    return Pictures(
        lossy(crop_picture(face, pixels, side)), lossy(heat_picture(face, pixels, side)), matrix
    )


def crop_picture(face: Explanation, pixels: Image, side: int) -> Image:
    """The crop at `side` pixels, with what the weakest and the strongest patch see of it."""
    picture = fit(pixels, side)
    for patch, faint in ((face.weakest, True), (face.strongest, False)):
        if patch.box is not None:
            scaled = tuple(value * side / len(pixels) for value in patch.box)
            picture = field_box(picture, scaled, faint=faint)  # type: ignore[arg-type]
    return picture


def heat_picture(face: Explanation, pixels: Image, side: int) -> Image:
    """The patch map over the grey crop at `side` pixels, the two patches framed."""
    picture = overlay(fit(pixels, side), face.patch_map)
    rows, columns = face.patch_map.shape
    for patch, faint in ((face.weakest, True), (face.strongest, False)):
        box = unit_box((rows, columns), patch.row, patch.column, side)
        picture = field_box(picture, box, faint=faint)
    return picture


def sheet(found: Findings, face: Explanation, pixels: Image) -> Image:
    """The picture of a single face, to keep beside the page."""
    verdict = "FAKE" if face.fake else "real"
    lines = [f"{verdict}: score {face.score:.3f}, threshold {found.card.threshold:.3f}"]
    for name, patch in (("strongest", face.strongest), ("weakest", face.weakest)):
        lines.append(
            f"{name} patch {patch.probability:.2f} at row {patch.row + 1}, "
            f"column {patch.column + 1} ({'solid' if name == 'strongest' else 'dashed'} box)"
        )
    if found.field.size is None:
        lines.append("no receptive field drawn: a unit sees the whole crop, or it is unknown")
    if face.mean_similarity is not None:
        lines.append(f"local diversity: similarity {face.mean_similarity:.2f}")
    return looked_at(
        crop_picture(face, pixels, SHEET_SIDE),
        heat_picture(face, pixels, SHEET_SIDE),
        face.similarity,
        found.regions,
        lines,
    )
