"""Heat maps and overlays: the one place that draws on a face."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

_OPACITY = 0.55


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

    The face is made grey so that its own colours are not read as heat.

    Args:
        face: uint8 RGB [S, S, 3].
        patch_map: float32 [h, w] in [0, 1].

    Returns:
        uint8 RGB [S, S, 3].
    """
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
    ramp = np.linspace(1, 0, side, dtype=np.float32)[:, None]
    scale = heat_map(ramp, side)[:, :16]
    margin = np.full((side, 8, 3), 255, np.uint8)
    ticks = np.full((side, 36, 3), 255, np.uint8)
    for value, row in ((1.0, 12), (0.5, side // 2 + 4), (0.0, side - 4)):
        _write(ticks, f"{value:.1f}", (4, row), 0.4)
    body = np.hstack([face, margin, overlay(face, patch_map), margin, scale, ticks])
    head = np.full((28, body.shape[1], 3), 255, np.uint8)
    _write(head, caption, (6, 19), 0.48)
    return np.vstack([head, body])


def encode_png(image: Image) -> bytes:
    """PNG bytes of an RGB image."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return bytes(data)


def _write(image: Image, text: str, at: tuple[int, int], scale: float) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)
