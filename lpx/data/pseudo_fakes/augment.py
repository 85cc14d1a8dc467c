"""Seeded augmentation of face crops, the same for real and fake.

A detector that sees JPEG artefacts or blur in one class only learns those. So augmentation depends
on its generator alone: two images with generators of the same seed get the same resolution loss,
compression and colour change.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image

Rng = np.random.Generator


def augment(image: Image, rng: Rng) -> Image:
    """Apply a random variation: flip, crop jitter, colour, resolution loss, blur, JPEG.

    Args:
        image: uint8 RGB [H, W, 3].
        rng: Source of every random choice.

    Returns:
        uint8 RGB [H, W, 3].
    """
    # Everything is drawn first, used or not: both images of a pair consume the generator alike.
    flip, tint, quality_kind, jpeg = rng.random(4)
    offset = rng.integers(-20, 21, 3)
    shift = rng.uniform(-0.03, 0.03, 2)
    zoom = rng.uniform(0.0, 0.08)
    colour = rng.uniform(-1, 1, 4)
    loss = rng.uniform(0, 1)
    quality = int(rng.integers(40, 101))

    out = crop_jitter(image, float(zoom), float(shift[0]), float(shift[1]))
    if flip < 0.5:
        out = np.ascontiguousarray(out[:, ::-1])
    out = colour_shift(out, *(float(c) for c in colour))
    if tint < 0.5:
        # Self-blending tints whole faces like this; real faces must show it as often.
        out = channel_offset(out, offset)
    if quality_kind < 0.3:
        out = resolution_loss(out, 0.4 + 0.6 * float(loss))
    elif quality_kind < 0.5:
        out = np.asarray(cv2.GaussianBlur(out, (0, 0), 0.3 + 1.2 * float(loss)), np.uint8)
    if jpeg < 0.6:
        out = jpeg_round_trip(out, quality)
    return out


def crop_jitter(image: Image, zoom: float, dx: float, dy: float) -> Image:
    """Crop by `zoom`, shifted by (dx, dy), all as shares of the side, and scale back."""
    size = image.shape[0]
    scale = 1.0 / (1.0 - zoom)
    centre = size / 2
    matrix = np.array(
        [
            [scale, 0, centre - scale * centre + dx * size * zoom / 0.08],
            [0, scale, centre - scale * centre + dy * size * zoom / 0.08],
        ]
    )
    warped = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(warped, np.uint8)


def colour_shift(
    image: Image, brightness: float, contrast: float, hue: float, saturation: float
) -> Image:
    """Change the colour; each argument is in [-1, 1], 0 for no change."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    # OpenCV's hue goes from 0 to 179, and wraps around.
    hsv[..., 0] = (hsv[..., 0].astype(np.int16) + round(4 * hue)) % 180
    table = np.clip(np.arange(256) * (1 + 0.2 * saturation), 0, 255).astype(np.uint8)
    hsv[..., 1] = cv2.LUT(hsv[..., 1], table)
    rgb = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    levels = (np.arange(256) - 128.0) * (1 + 0.15 * contrast) + 128.0 + 20.0 * brightness
    return np.asarray(cv2.LUT(rgb, np.clip(levels, 0, 255).astype(np.uint8)), np.uint8)


def channel_offset(image: Image, offset: NDArray[np.int64]) -> Image:
    """Add `offset`, int64 [3], to the channels."""
    table = np.clip(np.arange(256)[:, None] + offset, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table[None]), np.uint8)


def resolution_loss(image: Image, ratio: float) -> Image:
    """Shrink to `ratio` of the sides, and enlarge again."""
    height, width = image.shape[:2]
    side = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    small = cv2.resize(image, side, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def jpeg_round_trip(image: Image, quality: int) -> Image:
    """Compress and decompress as JPEG of a quality from 1 to 100."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)
