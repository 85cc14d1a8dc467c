"""Heat maps and overlays: the one place that draws on a face."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels of the picture, x1 and y1 exclusive."""

STRONGEST = (255, 40, 120)
"""Colour of the patch that looks most like a fake; RGB, and in no heat map, as its counterpart."""
WEAKEST = (110, 235, 255)

_OPACITY = 0.55
_QUALITY = 80
_LOSSLESS = 101
_HALO = 0.5
# Green over white to purple, after ColorBrewer's PRGn; blue over white to orange, after PuOr.
_SIMILARITY = ((0, 68, 27), (127, 191, 123), (247, 247, 247), (175, 141, 195), (64, 0, 75))
_DIFFERENCE = ((8, 69, 148), (107, 174, 214), (247, 247, 247), (253, 141, 60), (166, 54, 3))


def heat_map(patch_map: NDArray[np.float32], size: int) -> Image:
    """Colour a map of probabilities, the same colour for the same value on every face.

    Args:
        patch_map: float32 [h, w] in [0, 1]; 0 is dark blue, 1 is bright yellow.
        size: Side of the picture, pixels.

    Returns:
        uint8 RGB [size, size, 3], one square per unit: no interpolation that invents detail.
    """
    levels = (np.clip(patch_map, 0, 1) * 255).round().astype(np.uint8)
    large = cv2.resize(levels, (size, size), interpolation=cv2.INTER_NEAREST)
    coloured = cv2.applyColorMap(large, cv2.COLORMAP_CIVIDIS)
    return np.ascontiguousarray(coloured[..., ::-1])


def overlay(face: Image, patch_map: NDArray[np.float32]) -> Image:
    """Lay a heat map over a grey version of the face.

    The face is made grey so that its own colours are not read as heat. A map of one cell, that of a
    model which scores whole faces, localises nothing: the face stays as it is.

    Args:
        face: uint8 RGB [S, S, 3].
        patch_map: float32 [h, w] in [0, 1].

    Returns:
        uint8 RGB [S, S, 3].
    """
    if patch_map.size == 1:
        return face
    grey = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    heat = heat_map(patch_map, face.shape[0])
    return np.asarray(cv2.addWeighted(heat, _OPACITY, grey, 1 - _OPACITY, 0), np.uint8)


def explained(face: Image, patch_map: NDArray[np.float32], caption: str) -> Image:
    """The face, its overlay and a scale side by side, with a caption above.

    Args:
        face: uint8 RGB [S, S, 3].
        patch_map: float32 [h, w] in [0, 1].
        caption: One line of ASCII.

    Returns:
        uint8 RGB; at least 560 pixels wide.
    """
    side = max(256, face.shape[0])
    face = np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    margin = np.full((side, 8, 3), 255, np.uint8)
    ramp = np.linspace(1, 0, side, dtype=np.float32)[:, None]
    scale = _scale(heat_map(ramp, side), ("1.0", "0.5", "0.0"))
    body = np.hstack([face, margin, overlay(face, patch_map), margin, scale])
    head = np.full((28, body.shape[1], 3), 255, np.uint8)
    _write(head, caption, (6, 19), 0.48)
    return np.vstack([head, body])


def _scale(ramp: Image, ticks: tuple[str, str, str]) -> Image:
    """A strip of a picture whose colour runs from top to bottom, with three numbers beside it."""
    side = ramp.shape[0]
    numbers = np.full((side, 36, 3), 255, np.uint8)
    for text, row in zip(ticks, (12, side // 2 + 4, side - 4), strict=True):
        _write(numbers, text, (4, row), 0.4)
    return np.hstack([ramp[:, :16], numbers])


def looked_at(
    face: Image, heat: Image, matrix: NDArray[np.float32], group: int, lines: list[str]
) -> Image:
    """What a detector looks at on one face, as a sheet to keep.

    Args:
        face: uint8 RGB [S, S, 3], boxes drawn on it.
        heat: uint8 RGB [S, S, 3], the overlay.
        matrix: float32 [R, R], similarities of regions; [0, 0] leaves them out.
        group: As in `matrix_picture`.
        lines: What to write below, ASCII.

    Returns:
        uint8 RGB.
    """
    side = face.shape[0]
    ramp = np.linspace(1, 0, side, dtype=np.float32)[:, None]
    heat_scale = _scale(heat_map(ramp, side), ("1.0", "0.5", "0.0"))
    panels = [
        _titled("crop and receptive field", face),
        _titled("probability of fake, per patch", np.hstack([heat, heat_scale])),
    ]
    if len(matrix):
        large = matrix_picture(matrix, group, side // len(matrix))
        picture = cv2.resize(large, (side, side), interpolation=cv2.INTER_NEAREST)
        low = -1.0 if matrix.min() < 0 else 0.0
        colours = np.repeat(_diverging(low + (1 - low) * ramp, _SIMILARITY), 16, axis=1)
        scale = _scale(colours, ("1.0", f"{(1 + low) / 2:.1f}", f"{low:.1f}"))
        panels.append(_titled("similarity of regions", np.hstack([picture, scale])))
    body = np.hstack(panels)
    foot = np.full((24 * len(lines) + 8, body.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines):
        _write(foot, line, (10, 24 * number + 20), 0.45)
    return np.vstack([body, foot])


def _titled(title: str, picture: Image) -> Image:
    """A picture under its title, with a white margin around."""
    framed = np.pad(picture, ((28, 6), (10, 10), (0, 0)), constant_values=255)
    _write(framed, title, (10, 19), 0.45)
    return framed


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image]]], side: int, columns: int) -> Image:
    """Pictures in rows, each under its title.

    Args:
        rows: Titles, and uint8 RGB [side, side, 3] each; more than `columns` go into further lines.
        side: Of a picture, pixels.
        columns: Pictures in a line.
    """
    sheet = []
    for title, pictures in rows:
        blank = np.full((side, side, 3), 255, np.uint8)
        padded = [*pictures, *[blank] * (-len(pictures) % columns)]
        lines = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
        sheet.append(_titled(title, np.vstack(lines)))
    return np.vstack(sheet)


def field_box(face: Image, box: Box, *, faint: bool = False) -> Image:
    """Draw what a unit sees as a box, with a dark halo so that it shows on every skin.

    Args:
        face: uint8 RGB [H, W, 3].
        box: Receptive field, in pixels of `face`; what lies outside is not drawn.
        faint: Thin, dashed and pale, for the field of the weakest patch.

    Returns:
        A copy, uint8 RGB [H, W, 3].
    """
    line = max(1, face.shape[0] // (120 if faint else 75))
    edge = _frame(face, box, 0, line)
    halo = _frame(face, box, 1, line + 1)
    if faint:
        rows, columns = np.indices(face.shape[:2])
        dash = (rows + columns) // max(2, round(box[2] - box[0]) // 14) % 2 == 0
        edge, halo = edge & dash, halo & dash
    image: Image = face.copy()
    image[halo] = (image[halo] * (1 - _HALO)).astype(np.uint8)
    image[edge] = WEAKEST if faint else STRONGEST
    return image


def unit_box(grid: tuple[int, int], row: int, column: int, size: int) -> Box:
    """A box around the square of a unit in a heat map of `size` pixels, which stays visible."""
    high, wide, around = size / grid[0], size / grid[1], size // 75 + 1
    return (
        column * wide - around,
        row * high - around,
        (column + 1) * wide + around,
        (row + 1) * high + around,
    )


def _frame(image: Image, box: Box, outside: int, inside: int) -> NDArray[np.bool_]:
    """Pixels from `outside` pixels around `box` to `inside` pixels within it."""
    rows, columns = np.indices(image.shape[:2])
    x0, y0, x1, y1 = (round(value) for value in box)

    def within(grown: int) -> NDArray[np.bool_]:
        beside = (columns >= x0 - grown) & (columns < x1 + grown)
        return np.asarray(beside & (rows >= y0 - grown) & (rows < y1 + grown))

    return within(outside) & ~within(-inside)


def matrix_picture(matrix: NDArray[np.float32], group: int, cell: int = 5) -> Image:
    """Colour a matrix of cosine similarities, the same colour for the same value everywhere.

    Args:
        matrix: float32 [R, R] in [-1, 1]; 0 is white, 1 dark purple, -1 dark green.
        group: A line is left blank after every `group` rows and columns.
        cell: Side of an entry, pixels.

    Returns:
        uint8 RGB, square.
    """
    entries = np.kron(_diverging(matrix, _SIMILARITY), np.ones((cell, cell, 1), np.uint8))
    breaks = np.arange(group, len(matrix), group) * cell
    for axis in (0, 1):
        entries = np.insert(entries, breaks, 255, axis=axis)
    return np.ascontiguousarray(entries, np.uint8)


def similarity_ramp(low: float) -> Image:
    """The colours of similarities from `low` to 1, uint8 RGB [8, 256, 3]."""
    return np.repeat(
        _diverging(np.linspace(low, 1, 256, dtype=np.float32)[None], _SIMILARITY), 8, 0
    )


def difference_ramp() -> Image:
    """The colours of `difference_picture` from end to end, uint8 RGB [8, 256, 3]."""
    values = np.linspace(-1, 1, 256, dtype=np.float32)[None]
    return np.asarray(np.repeat(_diverging(values, _DIFFERENCE), 8, axis=0), np.uint8)


def difference_picture(difference: NDArray[np.float32], limit: float, size: int) -> Image:
    """Colour a difference of two maps.

    Args:
        difference: float32 [h, w]; 0 is white, `limit` and more dark orange, -`limit` dark blue.
        limit: Value of the scale's end, over 0.
        size: Side of the picture, pixels.

    Returns:
        uint8 RGB [size, size, 3].
    """
    colours = _diverging(difference / limit, _DIFFERENCE)
    large = cv2.resize(colours, (size, size), interpolation=cv2.INTER_NEAREST)
    return np.asarray(large, np.uint8)


def _diverging(values: NDArray[np.float32], anchors: tuple[tuple[int, int, int], ...]) -> Image:
    """Colours [..., 3] of values in [-1, 1], linear between anchors at even distances."""
    places = np.linspace(-1, 1, len(anchors))
    channels = [np.interp(values, places, channel) for channel in zip(*anchors, strict=True)]
    return np.asarray(np.stack(channels, axis=-1).round(), np.uint8)


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


def encode_png(image: Image) -> bytes:
    """PNG bytes of an RGB image."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return bytes(data)


def encode_webp(image: Image, quality: int) -> bytes:
    """WebP bytes of an RGB image; `quality` up to 100, 101 for no loss."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return bytes(data)


def lossy(image: Image) -> str:
    """A photograph as a data URI."""
    return _data_uri(encode_webp(image, _QUALITY))


def lossless(image: Image) -> str:
    """A picture of few colours as a data URI."""
    return _data_uri(encode_webp(image, _LOSSLESS))


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"


def _write(image: Image, text: str, at: tuple[int, int], scale: float) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)
