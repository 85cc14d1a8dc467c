"""What is drawn on a frame of a video, or beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.render.face import STRONGEST, WEAKEST, Box, Image, heat_map


@dataclass(frozen=True, eq=False)
class Mark:
    """A face to draw on a frame.

    Attributes:
        box: In pixels of the frame.
        matrix: float64 [2, 3], from the frame's coordinates to the crop's.
        crop_size: Width and height of the crop, pixels.
        patch_map: float32 [h, w] in [0, 1], over the whole crop.
        label: A few ASCII characters.
        fake: Whether it is called fake.
    """

    box: Box
    matrix: NDArray[np.float64]
    crop_size: tuple[int, int]
    patch_map: NDArray[np.float32]
    label: str
    fake: bool


_NARROWEST, _LONGEST = 640, 1920
"""Pixels that a drawn frame is wide at least, and long at most."""
_FAKE, _REAL, _THRESHOLD = STRONGEST, WEAKEST, (150, 150, 150)
_PANEL, _CHART, _PALE = (24, 26, 30), (44, 47, 53), (222, 224, 228)
_CELL = 16
"""Pixels per unit that a heat map has before it is laid on a frame, for clean edges."""
_STRIP = 320
"""Width at which the texts and the scale of a strip fit beside each other; even."""


def drawn_size(width: int, height: int) -> tuple[int, int]:
    """Width and height at which a frame is drawn on: labels stay legible, and files small; even."""
    scale = min(max(1.0, _NARROWEST / width), _LONGEST / max(width, height))
    return max(round(width * scale / 2), 1) * 2, max(round(height * scale / 2), 1) * 2


def marked(frame: Image, marks: Sequence[Mark], size: tuple[int, int]) -> Image:
    """Draw heat maps, boxes and labels of faces on a frame.

    The heat map of a face lies where the pixels are that the detector saw. Below it the frame is
    grey, and the less likely a patch is a fake, the more of it shows through.

    Args:
        frame: uint8 RGB [H, W, 3].
        marks: Its faces.
        size: Width and height of the picture, see `drawn_size`.

    Returns:
        uint8 RGB.
    """
    across, down = size[0] / frame.shape[1], size[1] / frame.shape[0]
    method = cv2.INTER_AREA if across < 1 else cv2.INTER_CUBIC
    image = np.asarray(cv2.resize(frame, size, interpolation=method), np.uint8)
    for mark in marks:
        _lay_heat(image, mark, across, down)
    unit = _unit(size[0])
    for mark in marks:
        x0, x1 = (round(x * across) for x in mark.box[::2])
        y0, y1 = (round(y * down) for y in mark.box[1::2])
        colour = _FAKE if mark.fake else _REAL
        line = max(1, round(1.5 * unit))
        cv2.rectangle(image, (x0, y0), (x1, y1), _PANEL, line + 2, cv2.LINE_AA)
        cv2.rectangle(image, (x0, y0), (x1, y1), colour, line, cv2.LINE_AA)
        _tag(image, mark.label, (x0, y0, y1), colour, unit)
    return image


def _unit(width: int) -> float:
    """How much larger things are drawn than on a picture that is 640 pixels wide."""
    return max(width / _NARROWEST, 0.75)


def _lay_heat(image: Image, mark: Mark, across: float, down: float) -> None:
    high, wide = mark.patch_map.shape
    shape = np.diag([wide * _CELL / mark.crop_size[0], high * _CELL / mark.crop_size[1], 1.0])
    to_crop = np.vstack([mark.matrix, [0.0, 0.0, 1.0]])
    matrix = (shape @ to_crop @ np.diag([1 / across, 1 / down, 1.0]))[:2]
    # OpenCV puts a pixel's middle at whole numbers.
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
    # The matrix goes from the frame to the heat map, the way that WARP_INVERSE_MAP wants it.
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
    """A label above a box whose left, top and bottom are `at`; below it, or inside, at the edge."""
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
    ink = (255, 255, 255) if sum(colour) < 450 else (20, 20, 20)
    place = (left + pad, above + tall - below)
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA)


def score_strip(
    width: int,
    left: str,
    right: str,
    threshold: float,
    scores: Sequence[tuple[float, float | None]] = (),
) -> Image:
    """A strip to put below a frame: two texts, a scale of the heat map, scores over time.

    Args:
        width: Of the frame, pixels; even. The strip of a narrow frame is wider, see `framed`.
        left: ASCII.
        right: ASCII, at the right edge.
        threshold: A dashed line; scores from here on up are drawn as fake.
        scores: (place in the video in [0, 1], score or None where there is no face) of the frames
            so far, the last one being shown now; without any there is no chart.

    Returns:
        uint8 RGB [h, w, 3], both even; the same for every strip with a chart of one width.
    """
    width = max(width, _STRIP)
    unit = _unit(width)
    pad, text = round(8 * unit), round(22 * unit)
    chart = round(46 * unit) if scores else 0
    strip = np.full(((text + chart + (pad if chart else 0)) // 2 * 2, width, 3), _PANEL, np.uint8)
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
    """Put a strip below a picture, which is centred where it is the narrower one."""
    beside = strip.shape[1] - picture.shape[1]
    wide = cv2.copyMakeBorder(
        picture, 0, 0, beside // 2, beside - beside // 2, cv2.BORDER_CONSTANT, value=_PANEL
    )
    return np.vstack([np.asarray(wide, np.uint8), strip])


def _chart(
    area: Image, scores: Sequence[tuple[float, float | None]], threshold: float, unit: float
) -> None:
    """Bars of scores from 0 to 1 over time, into `area`."""
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
