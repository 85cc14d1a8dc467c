from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpx.data.pseudo_fakes import blend as pseudo_fakes
from lpx.data.pseudo_fakes.blend import KINDS, blend, forge, self_blend, soft_hull, swap

SIZE = 128
SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=25, deadline=None)


def textured(seed, size=SIZE):
    """uint8 RGB [size, size, 3] with detail at several scales, away from black and white."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.uniform(-1, 1, (n, n, 3)), (size, size), interpolation=cv2.INTER_CUBIC)
        for n in (4, 16, 64)
    ]
    mixed = 128 + 45 * layers[0] + 25 * layers[1] + 15 * layers[2]
    return mixed.clip(20, 235).astype(np.uint8)


def landmarks(seed=0, size=SIZE):
    """float32 [40, 2]: an oval in the middle, the same points in the same order for any seed."""
    rng = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    oval = np.stack([0.28 * np.cos(angles), 0.33 * np.sin(angles)], axis=1)
    inner = np.random.default_rng(99).uniform(-0.15, 0.15, (10, 2))
    points = np.concatenate([oval, inner]) + rng.normal(0, 0.004, (40, 2))
    return ((points + 0.5) * size).astype(np.float32)


FACE, POINTS = textured(1), landmarks(1)
OTHER, OTHER_POINTS = textured(2), landmarks(2)


def make(kind, seed):
    return forge(kind, FACE, POINTS, OTHER, OTHER_POINTS, np.random.default_rng(seed))


def outside(points, margin):
    """bool [SIZE, SIZE]: pixels further than `margin` from the hull of the points."""
    hull = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(hull, cv2.convexHull(np.round(points).astype(np.int32)), 255)
    return cv2.distanceTransform((hull == 0).astype(np.uint8), cv2.DIST_L2, 5) > margin


@pytest.mark.parametrize("kind", KINDS)
@FAST
@given(seed=SEEDS)
def test_shapes_types_and_ranges(kind, seed):
    forgery = make(kind, seed)
    assert (forgery.image.shape, forgery.image.dtype) == ((SIZE, SIZE, 3), np.uint8)
    assert (forgery.mask.shape, forgery.mask.dtype) == ((SIZE, SIZE), np.float32)
    assert forgery.mask.min() >= 0
    assert forgery.mask.max() <= 1
    assert forgery.mask.max() > 0.1, "nothing was forged"


@pytest.mark.parametrize("kind", KINDS)
@FAST
@given(seed=SEEDS)
def test_same_seed_same_forgery(kind, seed):
    first, second = make(kind, seed), make(kind, seed)
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.mask, second.mask)


@pytest.mark.parametrize("kind", ["sbi", "alpha"])
def test_other_seed_other_forgery(kind):
    assert not np.array_equal(make(kind, 1).image, make(kind, 2).image)


@pytest.mark.parametrize("kind", KINDS)
def test_sources_are_not_written_to(kind):
    before = [value.copy() for value in (FACE, POINTS, OTHER, OTHER_POINTS)]
    make(kind, 3)
    after = (FACE, POINTS, OTHER, OTHER_POINTS)
    assert all(np.array_equal(x, y) for x, y in zip(before, after, strict=True))


@FAST
@given(seed=SEEDS)
def test_self_blend_changes_nothing_outside_the_mask_but_what_it_does_to_a_whole_side(seed):
    """Outside the mask lies one of two images: the face itself, or its changed copy, untouched."""
    # The draws of `self_blend`, in its order.
    rng = np.random.default_rng(seed)
    changed = pseudo_fakes._statistics_shift(FACE, rng)
    background = FACE if rng.random() < 0.5 else changed

    forgery = self_blend(FACE, POINTS, np.random.default_rng(seed))
    away = forgery.mask == 0
    assert away.any()
    assert np.array_equal(forgery.image[away], background[away])
    inside = forgery.mask > 0.2
    assert (forgery.image[inside] != background[inside]).any()


def test_self_blend_changes_either_side():
    untouched = [
        np.array_equal(
            (f := self_blend(FACE, POINTS, np.random.default_rng(s))).image[f.mask == 0],
            FACE[f.mask == 0],
        )
        for s in range(40)
    ]
    # Half of the time the background is the face as it was.
    assert 8 < sum(untouched) < 32


@FAST
@given(seed=SEEDS)
def test_self_blend_of_a_flat_face_shows_nothing_but_its_colour_change(seed):
    flat = np.full((SIZE, SIZE, 3), 128, np.uint8)
    image = self_blend(flat, POINTS, np.random.default_rng(seed)).image.astype(int)
    # Brightness, contrast, saturation of grey, and an offset of up to 20: no pixel goes further.
    assert np.abs(image - 128).max() <= 20 + 20 + 2


@FAST
@given(seed=SEEDS)
def test_alpha_swap_changes_the_mask_alone_and_not_far_outside_the_hull(seed):
    forgery = make("alpha", seed)
    changed = (forgery.image != FACE).any(axis=2)
    assert not changed[forgery.mask == 0].any()
    assert changed[forgery.mask > 0.9].mean() > 0.9 or not (forgery.mask > 0.9).any()
    # Elastic bending, dilation and three sigmas of the blur, at half of their size at 256 px.
    assert not changed[outside(POINTS, (10 * 1.5 + 7 + 3.5 * 8) / 2)].any()


def test_poisson_swap_changes_the_hull_and_hardly_more():
    forgery = make("poisson", 0)
    difference = np.abs(forgery.image.astype(int) - FACE).max(axis=2)
    hull = ~outside(POINTS, 0)
    assert np.array_equal(forgery.mask > 0, hull)
    assert (difference[hull] > 0).mean() > 0.9
    # OpenCV solves in the hull's bounding box, and leaves traces in its corners.
    x, y, width, height = cv2.boundingRect(hull.astype(np.uint8))
    box = np.zeros_like(hull)
    box[y : y + height, x : x + width] = True
    assert not difference[~box].any()
    assert difference[outside(POINTS, 2)].mean() < 0.05 * difference[hull].mean()
    # Gradients, not pixels: the source's detail on the target's colours.
    assert np.abs(forgery.image[hull].mean(0) - FACE[hull].mean(0)).max() < 25


def test_poisson_swap_of_a_face_at_the_border():
    points = landmarks(0) + np.float32([0.3 * SIZE, 0])
    forgery = swap(FACE, points, OTHER, OTHER_POINTS, np.random.default_rng(0), poisson=True)
    assert points[:, 0].max() > SIZE
    border = np.ones((SIZE, SIZE), bool)
    border[2:-2, 2:-2] = False
    assert not forgery.mask[border].any()
    assert forgery.mask.any()


def test_swap_puts_the_sources_landmarks_on_the_targets():
    """A source that is the target, moved and scaled, comes back into place."""
    matrix = np.array([[1.2, 0.1, -20.0], [-0.1, 1.2, 5.0]], np.float32)
    moved = cv2.warpAffine(FACE, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT_101)
    moved_points = (POINTS @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    forgery = swap(FACE, POINTS, moved, moved_points, np.random.default_rng(0), poisson=False)
    inside = forgery.mask > 0.5
    difference = np.abs(forgery.image.astype(int) - FACE)[inside].mean()
    without_the_warp = np.abs(moved.astype(int) - FACE)[inside].mean()
    assert difference < without_the_warp / 3


def test_swap_takes_on_the_targets_colours():
    red = OTHER.copy()
    red[..., 1:] //= 3
    forgery = swap(FACE, POINTS, red, OTHER_POINTS, np.random.default_rng(0), poisson=False)
    inside = forgery.mask > 0.95
    assert np.abs(forgery.image[inside].mean(0) - FACE[inside].mean(0)).max() < 20
    assert np.abs(red[inside].mean(0) - FACE[inside].mean(0)).max() > 50


@given(share=st.floats(0, 1, width=32))
def test_blend_is_rounded_and_keeps_equal_pixels(share):
    mask = np.full((SIZE, SIZE), share, np.float32)
    assert np.array_equal(blend(FACE, FACE, mask), FACE)
    mixed = blend(OTHER, FACE, mask)
    exact = FACE + share * (OTHER.astype(np.float64) - FACE)
    assert np.abs(mixed - exact).max() <= 0.5 + 1e-4


def test_blend_ends():
    assert np.array_equal(blend(OTHER, FACE, np.zeros((SIZE, SIZE), np.float32)), FACE)
    assert np.array_equal(blend(OTHER, FACE, np.ones((SIZE, SIZE), np.float32)), OTHER)


@FAST
@given(seed=SEEDS)
def test_soft_hull_is_soft(seed):
    mask = soft_hull(POINTS, SIZE, np.random.default_rng(seed))
    assert mask.dtype == np.float32
    assert mask.min() >= 0
    assert mask.max() <= 1
    # No edge of one pixel, which would give every forgery away.
    steps = max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1))
    assert 0 < steps < 0.8


def test_soft_hull_is_as_large_in_proportion_at_any_size():
    shares = [
        soft_hull(landmarks(0, size), size, np.random.default_rng(5)).mean() for size in (128, 256)
    ]
    assert shares[0] == pytest.approx(shares[1], rel=0.1)
