"""Draw on the frames of a video, and below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.render.face import STRONGEST, WEAKEST, Box, Image, heat_map


@dataclass(frozen=True, eq=False)
class Mark:
    """A face to draw on a frame.

    Attributes:
        box: Bounding box, in pixels of the frame.
        matrix: Maps the frame's coordinates to the crop's, float64 [2, 3].
        crop_size: Width and height of the crop, pixels.
        patch_map: float32 [h, w] in [0, 1], over the whole crop.
        label: Short text in ASCII.
        fake: Whether the face is called fake.
    """

    box: Box
    matrix: NDArray[np.float64]
    crop_size: tuple[int, int]
    patch_map: NDArray[np.float32]
    label: str
    fake: bool


class DrawnSize(NamedTuple):
    """Width and height of a drawn frame, pixels; both even."""

    width: int
    height: int


class StripScore(NamedTuple):
    """A score in the chart of a strip.

    Attributes:
        place: Position in the video, in [0, 1].
        score: Score; None without a face.
    """

    place: float
    score: float | None


# Minimum width and maximum side of a drawn frame, pixels.
_NARROWEST, _LONGEST = 640, 1920
# RGB colours.
_FAKE, _REAL, _THRESHOLD = STRONGEST, WEAKEST, (150, 150, 150)
_PANEL, _CHART, _PALE = (24, 26, 30), (44, 47, 53), (222, 224, 228)
# Pixels per unit of a heat map before it is warped onto a frame, for clean edges.
_CELL = 16
# Minimum width of a strip, at which its texts and scale fit beside each other; even.
_STRIP = 320


def drawn_size(width: int, height: int) -> DrawnSize:
    """Return the size at which a frame is drawn: labels stay legible, and files small."""
    scale = min(max(1.0, _NARROWEST / width), _LONGEST / max(width, height))
    # MPEG-4 stores colours at half the resolution, which takes even sides.
    return DrawnSize(max(round(width * scale / 2), 1) * 2, max(round(height * scale / 2), 1) * 2)


def marked(frame: Image, marks: Sequence[Mark], size: tuple[int, int]) -> Image:
    """Draw heat maps, boxes and labels of faces on a frame.

    The heat map of a face covers the pixels that the detector saw. Below it the frame is grey, and
    shows through more where a patch is less likely to be fake.

    Args:
        frame: uint8 RGB [H, W, 3].
        marks: Faces in the frame.
        size: Width and height of the picture, see `drawn_size`.

    Returns:
        uint8 RGB.
    """
    across, down = size[0] / frame.shape[1], size[1] / frame.shape[0]
    method = cv2.INTER_AREA if across < 1 else cv2.INTER_CUBIC
    image = np.asarray(cv2.resize(frame, size, interpolation=method), np.uint8)
    # Heat maps first: faces may overlap, and no box or label may be covered.
    for mark in marks:
        _lay_heat(image, mark, across, down)
    unit = _unit(size[0])
    for mark in marks:
        x0, x1 = round(mark.box[0] * across), round(mark.box[2] * across)
        y0, y1 = round(mark.box[1] * down), round(mark.box[3] * down)
        colour = _FAKE if mark.fake else _REAL
        line = max(1, round(1.5 * unit))
        cv2.rectangle(image, (x0, y0), (x1, y1), _PANEL, line + 2, cv2.LINE_AA)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, line, cv2.LINE_AA)
        _tag(image, mark.label, (x0, y0, y1), colour, unit)
    return image


def _unit(width: int) -> float:
    """Return the scale of lines and texts, 1 for a picture 640 pixels wide."""
    return max(width / _NARROWEST, 0.75)


def _lay_heat(image: Image, mark: Mark, across: float, down: float) -> None:
    high, wide = mark.patch_map.shape
    shape = np.diag([wide * _CELL / mark.crop_size[0], high * _CELL / mark.crop_size[1], 1.0])
    to_crop = np.vstack([mark.matrix, [0.0, 0.0, 1.0]])
    matrix = (shape @ to_crop @ np.diag([1 / across, 1 / down, 1.0]))[:2]
    # In OpenCV's coordinates, the middle of a pixel has whole numbers; here, its corner has.
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [wide, 0], [0, high], [wide, high]]) * _CELL
    places = corners @ inverse[:, :2].T + inverse[:, 2]
    left, top = np.maximum(np.floor(places.min(axis=0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(places.max(axis=0)), image.shape[1::-1]).astype(int)
    if right <= left or bottom <= top:
        return
    matrix[:, 2] += matrix[:, :2] @ (left, top)
    levels = np.repeat(np.repeat(np.clip(mark.patch_map, 0, 1), _CELL, 0), _CELL, 1)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    window = (int(right - left), int(bottom - top))
    # WARP_INVERSE_MAP takes the matrix from the frame to the heat map, which is what there is.
    warped = cv2.warpAffine(levels, matrix, window, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones_like(levels), matrix, window, flags=flags)
    coloured = cv2.applyColorMap((warped * 255).round().astype(np.uint8), cv2.COLORMAP_CIVIDIS)
    part = image[top:bottom, left:right]
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    heat = (inside * (0.2 + 0.35 * warped))[..., None]
    plain = part + inside[..., None] * (grey - part)
    part[...] = (plain + heat * (coloured[..., ::-1] - plain)).round().astype(np.uint8)


def _tag(
    image: Image, text: str, at: tuple[int, int, int], colour: tuple[int, int, int], unit: float
) -> None:
    """Draw a label above a box, or below it or inside at the edge of the picture.

    Args:
        image: Picture to draw into.
        text: The label.
        at: Left, top and bottom of the box.
        colour: RGB colour of the label.
        unit: Scale of lines and texts.
    """
    scale = 0.42 * unit
    thick = max(1, round(unit * 0.9))
    (wide, high), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = round(3 * unit)
    tall = high + below + pad
    left, top, bottom = at
    left = min(max(left, 0), max(image.shape[1] - wide - 2 * pad, 0))
    above = top - tall - pad
    if above < 0:
        above = bottom + pad if bottom + pad + tall <= image.shape[0] else max(top, 0) + pad
    cv2.rectangle(image, (left, above), (left + wide + 2 * pad, above + tall), colour, -1)
    # White on dark colours, black on bright ones.
    ink = (255, 255, 255) if sum(colour) < 450 else (20, 20, 20)
    place = (left + pad, above + tall - below)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA)


def score_strip(
    width: int,
    left: str,
    right: str,
    threshold: float,
    scores: Sequence[StripScore] = (),
) -> Image:
    """Draw a strip to put below a frame: two texts, a scale of the heat map, scores over time.

    Args:
        width: Width of the frame, pixels; even. The strip of a narrow frame is wider, see `framed`.
        left: Text in ASCII, at the left edge.
        right: Text in ASCII, at the right edge.
        threshold: Score from which on bars have the colour of fakes; a dashed line.
        scores: Scores of the frames so far, the current one last; () draws no chart.

    Returns:
        uint8 RGB [h, w, 3], both even; of the same size for all strips of one width with a chart.
    """
    width = max(width, _STRIP)
    unit = _unit(width)
    pad, text = round(8 * unit), round(22 * unit)
    chart, height = 0, text
    if scores:
        chart = round(46 * unit)
        height = text + chart + pad
    strip = np.full((height // 2 * 2, width, 3), _PANEL, np.uint8)
    scale, thick = 0.4 * unit, max(1, round(0.8 * unit))

    def put(words: str, x: int) -> None:
        cv2.putText(
            strip,
            words,
            (x, round(15 * unit)),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            _PALE,
            thick,
            cv2.LINE_AA,
        )

    def long(words: str) -> int:
        (across, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
        return int(across)

    put(left, pad)
    put(right, width - pad - long(right))
    ramp_wide = round(70 * unit)
    ramp_left = (width - ramp_wide) // 2
    ramp = heat_map(np.linspace(0, 1, ramp_wide, dtype=np.float32)[None], ramp_wide)
    tall = round(8 * unit)
    strip[round(7 * unit) :][:tall, ramp_left : ramp_left + ramp_wide] = ramp[:tall]
    put("real", ramp_left - long("real") - pad // 2)
    put("fake", ramp_left + ramp_wide + pad // 2)
    if chart:
        _chart(strip[text : text + chart, pad : width - pad], scores, threshold, unit)
    return strip


def framed(picture: Image, strip: Image) -> Image:
    """Put a strip below a picture, which is centred if it is narrower."""
    beside = strip.shape[1] - picture.shape[1]
    wide = cv2.copyMakeBorder(
        picture, 0, 0, beside // 2, beside - beside // 2, cv2.BORDER_CONSTANT, value=_PANEL
    )
    return np.vstack([np.asarray(wide, np.uint8), strip])


def _chart(area: Image, scores: Sequence[StripScore], threshold: float, unit: float) -> None:
    """Draw bars of scores from 0 to 1 over time into `area`."""
    area[...] = _CHART
    high, wide = area.shape[:2]
    bar = max(2, round(3 * unit))

    def x_of(place: float) -> int:
        return int(place * (wide - bar) + 0.5)

    for place, score in scores:
        x = x_of(place)
        if score is None:
            area[high - bar :, x : x + bar] = _THRESHOLD
            continue
        colour = _FAKE if score >= threshold else _REAL
        area[min(round((1 - score) * high), high - bar) :, x : x + bar] = colour
    row = min(round((1 - threshold) * high), high - 1)
    for start in range(0, wide, 4 * bar):
        area[row : row + max(1, bar // 3), start : start + 2 * bar] = _PALE
    now = x_of(scores[-1][0])
    around = max(1, bar // 3)
    area[:, max(now - around, 0) : now] = (255, 255, 255)
    area[:, now + bar : now + bar + around] = (255, 255, 255)
