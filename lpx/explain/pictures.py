"""Pictures of an explained face: as data URIs for the page, and as a single image file."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lpx.data.images.decode import Image, fit
from lpx.explain.examiner import Explanation, Findings
from lpx.render.encode import lossless, lossy
from lpx.render.face import field_box, looked_at, matrix_picture, overlay, unit_box

# Approximate size of all faces' pictures in a page; pictures of many faces are smaller.
IMAGE_BYTES = 6_500_000
# Smallest and largest side of a picture on the page, pixels.
SIDES = (112, 256)
SHEET_SIDE = 320
# Approximate size of a compressed picture of a face.
_BYTES_PER_PIXEL = 0.13


@dataclass(frozen=True)
class Pictures:
    """Pictures of a face, as data URIs.

    Attributes:
        crop: The face, with the receptive fields of its strongest and weakest patch.
        heat: The patch map over the grey face, with both patches framed.
        matrix: Similarity of the face's regions; "" if there are none.
    """

    crop: str
    heat: str
    matrix: str


def picture_side(count: int) -> int:
    """Return the side, in pixels, at which pictures of `count` faces fit into `IMAGE_BYTES`."""
    # Two pictures per face; base64 adds a third.
    side = math.sqrt(IMAGE_BYTES * 0.75 / (2 * max(1, count)) / _BYTES_PER_PIXEL)
    return int(min(max(side, SIDES[0]), SIDES[1]))


def draw(face: Explanation, pixels: Image, regions: int, side: int) -> Pictures:
    """Draw a face for the page.

    Args:
        face: Explanation of the face.
        pixels: The crop as the detector saw it, uint8 RGB [S, S, 3].
        regions: Regions per side; 0 for none.
        side: Side of the pictures, pixels.
    """
    matrix = ""
    if regions:
        matrix = lossless(matrix_picture(face.similarity, regions))
    return Pictures(
        crop=lossy(crop_picture(face, pixels, side)),
        heat=lossy(heat_picture(face, pixels, side)),
        matrix=matrix,
    )


def crop_picture(face: Explanation, pixels: Image, side: int) -> Image:
    """Draw the crop with the receptive fields of its weakest and strongest patch."""
    picture = fit(pixels, side)
    # The strongest last, so that its box is on top.
    for patch, faint in ((face.weakest, True), (face.strongest, False)):
        if patch.box is not None:
            scaled = tuple(value * side / len(pixels) for value in patch.box)
            picture = field_box(picture, scaled, faint=faint)  # type: ignore[arg-type]
    return picture


def heat_picture(face: Explanation, pixels: Image, side: int) -> Image:
    """Draw the patch map over the grey crop, with the two patches framed."""
    picture = overlay(fit(pixels, side), face.patch_map)
    rows, columns = face.patch_map.shape
    for patch, faint in ((face.weakest, True), (face.strongest, False)):
        box = unit_box((rows, columns), patch.row, patch.column, side)
        picture = field_box(picture, box, faint=faint)
    return picture


def sheet(findings: Findings, face: Explanation, pixels: Image) -> Image:
    """Draw a single face with its figures, as an image file to keep beside the page."""
    call = "FAKE" if face.fake else "real"
    lines = [f"{call}: score {face.score:.3f}, threshold {findings.card.threshold:.3f}"]
    patches = (("strongest", face.strongest, "solid"), ("weakest", face.weakest, "dashed"))
    for name, patch, line in patches:
        lines.append(
            f"{name} patch {patch.probability:.2f} at row {patch.row + 1}, "
            f"column {patch.column + 1} ({line} box)"
        )
    if findings.field.size is None:
        lines.append("no receptive field drawn: it is the whole crop, or unknown")
    if face.mean_similarity is not None:
        lines.append(f"local diversity: similarity {face.mean_similarity:.2f}")
    return looked_at(
        crop_picture(face, pixels, SHEET_SIDE),
        heat_picture(face, pixels, SHEET_SIDE),
        face.similarity,
        findings.regions,
        lines,
    )
