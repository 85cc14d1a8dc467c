"""Make pseudo-fakes: forgeries from real faces and their landmarks.

`sbi`: self-blended images after Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended
Images", CVPR 2022: a slightly changed copy of a face is blended back into itself through a softened
hull mask, so that only the blending reveals it. `alpha` and `poisson`: another person's face is
warped onto the target by its landmarks, colour-matched, and blended. Own implementation from the
papers' descriptions.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image
from lpx.data.pseudo_fakes.augment import Rng, channel_offset, colour_shift, resolution_loss

KINDS = ("sbi", "alpha", "poisson")

# Points on a face, float32 [P, 2], (x, y) in pixels; their convex hull is the face mask.
Landmarks = NDArray[np.float32]

# Masks are designed for faces of this side, and scaled to others.
_DESIGN_SIDE = 256


@dataclass(frozen=True)
class Forgery:
    """A pseudo-fake, and its forged pixels.

    Attributes:
        image: uint8 RGB [H, W, 3].
        mask: Share of the forged pixel, float32 [H, W] in [0, 1].
    """

    image: Image
    mask: NDArray[np.float32]


def forge(
    kind: str, face: Image, points: Landmarks, source: Image, source_points: Landmarks, rng: Rng
) -> Forgery:
    """Make a pseudo-fake.

    Args:
        kind: One of `KINDS`.
        face: Target face, uint8 RGB [H, W, 3].
        points: Its landmarks, float32 [P, 2].
        source: Face to put on it, uint8 RGB [H', W', 3]; not used by "sbi".
        source_points: Landmarks of the source, in the same order.
        rng: Source of every random choice.
    """
    if kind == "sbi":
        return self_blend(face, points, rng)
    return swap(face, points, source, source_points, rng, poisson=kind == "poisson")


def self_blend(face: Image, points: Landmarks, rng: Rng) -> Forgery:
    """Blend a face into itself, after changing colour and sharpness of one of the two copies.

    Args:
        face: uint8 RGB [H, W, 3].
        points: Its landmarks, float32 [P, 2].
        rng: Source of every random choice.
    """
    changed = _statistics_shift(face, rng)
    if rng.random() < 0.5:
        foreground, background = changed, face
    else:
        foreground, background = face, changed
    foreground = _nudge(foreground, rng)
    mask = soft_hull(points, face.shape[0], rng)
    mask *= np.float32(rng.choice([0.25, 0.5, 0.75, 1.0, 1.0, 1.0]))
    return Forgery(blend(foreground, background, mask), mask)


def swap(
    target: Image,
    target_points: Landmarks,
    source: Image,
    source_points: Landmarks,
    rng: Rng,
    *,
    poisson: bool,
) -> Forgery:
    """Put the source's face on the target's head.

    Args:
        target: uint8 RGB [H, W, 3].
        target_points: Landmarks of the target, float32 [P, 2].
        source: uint8 RGB [H', W', 3].
        source_points: Landmarks of the source, in the same order.
        rng: Source of every random choice.
        poisson: Blend gradients instead of pixels: Perez et al., "Poisson image editing", 2003.
    """
    # The affine transform that brings the source's landmarks closest to the target's.
    size = target.shape[0]
    ones = np.ones((len(source_points), 1), np.float32)
    matrix = np.linalg.lstsq(np.hstack([source_points, ones]), target_points, rcond=None)[0].T
    warped = cv2.warpAffine(
        source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    hull = _hull(target_points, size)
    # Otherwise the skin tone alone would reveal the swap.
    matched = _match_colour(np.asarray(warped, np.uint8), target, hull > 0)
    mask = soft_hull(target_points, size, rng)
    if not poisson:
        return Forgery(blend(matched, target, mask), mask)
    region = _inside_frame(hull)
    x, y, width, height = cv2.boundingRect(region)
    centre = (x + width // 2, y + height // 2)
    # seamlessClone writes into its mask.
    cloned = cv2.seamlessClone(matched, target, region.copy(), centre, cv2.NORMAL_CLONE)
    return Forgery(np.asarray(cloned, np.uint8), (region > 0).astype(np.float32))


def blend(foreground: Image, background: Image, mask: NDArray[np.float32]) -> Image:
    """Compute mask * foreground + (1 - mask) * background, rounded to uint8."""
    base = background.astype(np.float32)
    mixed = base + mask[..., None] * (foreground.astype(np.float32) - base)
    return np.asarray(np.clip(mixed + 0.5, 0, 255), np.uint8)


def soft_hull(points: Landmarks, size: int, rng: Rng) -> NDArray[np.float32]:
    """Draw the hull of the landmarks, randomly deformed, grown or shrunk, and blurred.

    Returns:
        float32 [size, size] in [0, 1].
    """
    unit = size / _DESIGN_SIDE
    shape = _elastic(_hull(_subset(points, rng), size), rng, unit)
    radius = int(rng.integers(0, 8) * unit)
    if radius:
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        change = cv2.erode if rng.random() < 0.7 else cv2.dilate
        shape = np.asarray(change(shape, kernel), np.uint8)
    sigma = float(rng.uniform(1.0, 8.0)) * unit
    soft = cv2.GaussianBlur(shape.astype(np.float32) / 255.0, (0, 0), sigma)
    # Rounding in the blur makes some ones a little larger than 1.
    return np.minimum(soft, 1).astype(np.float32)


def _hull(points: Landmarks, size: int) -> NDArray[np.uint8]:
    mask = np.zeros((size, size), np.uint8)
    hull = cv2.convexHull(np.round(points).astype(np.int32))
    cv2.fillConvexPoly(mask, hull, 255)
    return mask


def _subset(points: Landmarks, rng: Rng) -> Landmarks:
    """Select the whole face, or only its lower or upper part, as real swaps differ in this."""
    y = points[:, 1]
    low, high = y.min(), y.max()
    choice = rng.random()
    if choice < 0.7:
        return points
    if choice < 0.85:
        kept = points[y >= low + 0.45 * (high - low)]
    else:
        kept = points[y <= low + 0.55 * (high - low)]
    # Fewer than three points enclose no area.
    return kept if len(kept) >= 3 else points


def _elastic(mask: NDArray[np.uint8], rng: Rng, unit: float) -> NDArray[np.uint8]:
    """Bend a mask by a smooth random field of a few pixels."""
    size = mask.shape[0]
    coarse = rng.uniform(-1, 1, (2, 5, 5)).astype(np.float32) * (10 * unit)
    dx = cv2.resize(coarse[0], (size, size), interpolation=cv2.INTER_CUBIC)
    dy = cv2.resize(coarse[1], (size, size), interpolation=cv2.INTER_CUBIC)
    axis = np.arange(size, dtype=np.float32)
    bent = cv2.remap(mask, dx + axis[None, :], dy + axis[:, None], cv2.INTER_LINEAR)
    return np.asarray(bent, np.uint8)


def _statistics_shift(face: Image, rng: Rng) -> Image:
    """Change the colour, and reduce or increase the sharpness."""
    out = colour_shift(face, *rng.uniform(-1, 1, 4).tolist())
    out = channel_offset(out, rng.integers(-20, 21, 3))
    if rng.random() < 0.5:
        return resolution_loss(out, 0.5 if rng.random() < 0.5 else 0.25)
    soft = cv2.GaussianBlur(out, (0, 0), 1.5)
    amount = float(rng.uniform(0.2, 0.5))
    return np.asarray(cv2.addWeighted(out, 1 + amount, soft, -amount, 0), np.uint8)


def _nudge(image: Image, rng: Rng) -> Image:
    """Shift by up to 3 % and scale by up to 5 %, so that edges of the two copies do not match."""
    size = image.shape[0]
    scale = float(rng.uniform(0.95, 1.05))
    dx, dy = rng.uniform(-1, 1, 2) * (0.03 * size, 0.015 * size)
    half = size / 2 * (1 - scale)
    matrix = np.array([[scale, 0, half + dx], [0, scale, half + dy]])
    moved = cv2.warpAffine(
        image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.asarray(moved, np.uint8)


def _match_colour(source: Image, target: Image, inside: NDArray[np.bool_]) -> Image:
    """Give the source the target's mean and deviation per Lab channel, measured inside the hull.

    Reinhard et al., "Color Transfer between Images", 2001.
    """
    a = cv2.cvtColor(source, cv2.COLOR_RGB2LAB).astype(np.float32)
    b = cv2.cvtColor(target, cv2.COLOR_RGB2LAB)[inside].astype(np.float32)
    region = a[inside]
    # A region of one colour has a deviation of 0.
    gain = b.std(axis=0) / np.maximum(region.std(axis=0), 1.0)
    matched = (a - region.mean(axis=0)) * gain + b.mean(axis=0)
    lab = np.clip(matched, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def _inside_frame(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Clear the border, as gradient blending needs known pixels all around the mask."""
    out = mask.copy()
    out[[0, 1, -2, -1], :] = 0
    out[:, [0, 1, -2, -1]] = 0
    return np.asarray(out, np.uint8)
