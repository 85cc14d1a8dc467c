"""Draw heat maps and overlays on faces."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
# (x0, y0, x1, y1) in pixels of the picture, x1 and y1 exclusive.
Box = tuple[float, float, float, float]

# RGB colour of the patch that looks most like a fake. Like `WEAKEST`, it is in no heat map.
STRONGEST = (255, 40, 120)
# RGB colour of the patch that looks least like a fake.
WEAKEST = (110, 235, 255)

# Share of the heat map in an overlay.
_OPACITY = 0.55
# Share by which a halo darkens the picture.
_HALO = 0.5
# Green over white to purple, after ColorBrewer's PRGn; blue over white to orange, after PuOr.
_SIMILARITY = ((0, 68, 27), (127, 191, 123), (247, 247, 247), (175, 141, 195), (64, 0, 75))
_DIFFERENCE = ((8, 69, 148), (107, 174, 214), (247, 247, 247), (253, 141, 60), (166, 54, 3))


def heat_map(patch_map: NDArray[np.float32], size: int) -> Image:
    """Colour a map of probabilities, with the same colour for the same value on every face.

    Args:
        patch_map: float32 [h, w] in [0, 1]; 0 is dark blue, 1 is bright yellow.
        size: Side of the picture, pixels.

    Returns:
        uint8 RGB [size, size, 3], one square per unit.
    """
    levels = (np.clip(patch_map, 0, 1) * 255).round().astype(np.uint8)
    # Interpolation would invent detail that the map does not have.
    large = cv2.resize(levels, (size, size), interpolation=cv2.INTER_NEAREST)
    coloured = cv2.applyColorMap(large, cv2.COLORMAP_CIVIDIS)
    return np.ascontiguousarray(coloured[..., ::-1])


def overlay(face: Image, patch_map: NDArray[np.float32]) -> Image:
    """Lay a heat map over a grey version of the face.

    A map of one cell, from a model that scores whole faces, localises nothing: the face stays as it
    is.

    Args:
        face: uint8 RGB [S, S, 3].
        patch_map: float32 [h, w] in [0, 1].

    Returns:
        uint8 RGB [S, S, 3].
    """
    if patch_map.size == 1:
        return face
    # Grey, so that the face's own colours are not read as heat.
    grey = cv2.cvtColor(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    heat = heat_map(patch_map, face.shape[0])
    return np.asarray(cv2.addWeighted(heat, _OPACITY, grey, 1 - _OPACITY, 0), np.uint8)


def explained(face: Image, patch_map: NDArray[np.float32], caption: str) -> Image:
    """Draw the face, its overlay and a scale side by side, with a caption above.

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
    """Draw a strip of colours that run from top to bottom, with three numbers beside it."""
    side = ramp.shape[0]
    numbers = np.full((side, 36, 3), 255, np.uint8)
    for text, row in zip(ticks, (12, side // 2 + 4, side - 4), strict=True):
        _write(numbers, text, (4, row), 0.4)
    return np.hstack([ramp[:, :16], numbers])


def looked_at(
    face: Image, heat: Image, matrix: NDArray[np.float32], group: int, lines: list[str]
) -> Image:
    """Draw a sheet of what a detector looks at on one face.

    Args:
        face: Face with boxes, uint8 RGB [S, S, 3].
        heat: Overlay of the face, uint8 RGB [S, S, 3].
        matrix: Similarities of regions, float32 [R, R]; [0, 0] leaves them out.
        group: See `matrix_picture`.
        lines: Lines of ASCII text to write below.

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
        # Without negative values, the scale is that of 0 to 1.
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
    """Draw a picture under its title, with a white margin."""
    framed = np.pad(picture, ((28, 6), (10, 10), (0, 0)), constant_values=255)
    _write(framed, title, (10, 19), 0.45)
    return framed


def contact_sheet(rows: Sequence[tuple[str, Sequence[Image]]], side: int, columns: int) -> Image:
    """Draw rows of pictures, each row under its title.

    Args:
        rows: Titles and pictures, uint8 RGB [side, side, 3]; more than `columns` are wrapped.
        side: Side of a picture, pixels.
        columns: Number of pictures in a line.
    """
    sheet = []
    for title, pictures in rows:
        blank = np.full((side, side, 3), 255, np.uint8)
        padded = [*pictures, *[blank] * (-len(pictures) % columns)]
        lines = [np.hstack(padded[i : i + columns]) for i in range(0, len(padded), columns)]
        sheet.append(_titled(title, np.vstack(lines)))
    return np.vstack(sheet)


def field_box(face: Image, box: Box, *, faint: bool = False) -> Image:
    """Draw the receptive field of a unit as a box, with a dark halo to be visible on any skin.

    Args:
        face: uint8 RGB [H, W, 3].
        box: Receptive field, in pixels of `face`; parts outside are not drawn.
        faint: Draw it thin, dashed and pale, for the weakest patch.

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
    """Return a box around the square of a unit in a heat map of `size` pixels.

    It is a little larger than the square, which stays visible.
    """
    high, wide, around = size / grid[0], size / grid[1], size // 75 + 1
    return (
        column * wide - around,
        row * high - around,
        (column + 1) * wide + around,
        (row + 1) * high + around,
    )


def _frame(image: Image, box: Box, outside: int, inside: int) -> NDArray[np.bool_]:
    """Return the pixels from `outside` pixels around `box` to `inside` pixels within it."""
    rows, columns = np.indices(image.shape[:2])
    x0, y0, x1, y1 = (round(value) for value in box)

    def within(grown: int) -> NDArray[np.bool_]:
        beside = (columns >= x0 - grown) & (columns < x1 + grown)
        return np.asarray(beside & (rows >= y0 - grown) & (rows < y1 + grown))

    return within(outside) & ~within(-inside)


def matrix_picture(matrix: NDArray[np.float32], group: int, cell: int = 5) -> Image:
    """Colour a matrix of cosine similarities, with the same colour for the same value everywhere.

    Args:
        matrix: float32 [R, R] in [-1, 1]; 0 is white, 1 dark purple, -1 dark green.
        group: Number of rows and columns between two blank lines.
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
    """Return the colours of similarities from `low` to 1, uint8 RGB [8, 256, 3]."""
    return np.repeat(
        _diverging(np.linspace(low, 1, 256, dtype=np.float32)[None], _SIMILARITY), 8, 0
    )


def difference_ramp() -> Image:
    """Return the colours of `difference_picture` from end to end, uint8 RGB [8, 256, 3]."""
    values = np.linspace(-1, 1, 256, dtype=np.float32)[None]
    return np.asarray(np.repeat(_diverging(values, _DIFFERENCE), 8, axis=0), np.uint8)


def difference_picture(difference: NDArray[np.float32], limit: float, size: int) -> Image:
    """Colour a difference of two maps.

    Args:
        difference: float32 [h, w]; 0 is white, `limit` and more dark orange, -`limit` dark blue.
        limit: End of the scale, above 0.
        size: Side of the picture, pixels.

    Returns:
        uint8 RGB [size, size, 3].
    """
    colours = _diverging(difference / limit, _DIFFERENCE)
    large = cv2.resize(colours, (size, size), interpolation=cv2.INTER_NEAREST)
    return np.asarray(large, np.uint8)


def _diverging(values: NDArray[np.float32], anchors: tuple[tuple[int, int, int], ...]) -> Image:
    """Colour values in [-1, 1], uint8 RGB [..., 3], linearly between evenly spaced anchors."""
    places = np.linspace(-1, 1, len(anchors))
    channels = [np.interp(values, places, channel) for channel in zip(*anchors, strict=True)]
    return np.asarray(np.stack(channels, axis=-1).round(), np.uint8)


def _write(image: Image, text: str, at: tuple[int, int], scale: float) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)
