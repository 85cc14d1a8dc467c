"""Resizing, against Pillow, a scalar implementation and pixels computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lpx.data.images.decode import fit
from lpx.data.pipelines.resize import _BLOCK_VALUES, antialiased, bilinear, even, nearest

SIZES = ((1, 1, 5), (1, 9, 4), (7, 1, 4), (2, 2, 3), (31, 45, 16), (9, 10, 32), (64, 64, 21))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def row_of(*values):
    """Return an image of one row, grey."""
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2)


def scalar_bilinear(image, size):
    """The four neighbours of each centre, weighted by distance, one value at a time."""
    height, width, _ = image.shape
    made = np.empty((size, size, 3))
    for y in range(size):
        for x in range(size):
            down = (y + 0.5) * height / size - 0.5
            across = (x + 0.5) * width / size - 0.5
            top, left = math.floor(down), math.floor(across)
            total = np.zeros(3)
            for dy, share_y in ((0, 1 - (down - top)), (1, down - top)):
                for dx, share_x in ((0, 1 - (across - left)), (1, across - left)):
                    # Beyond the edge lies the edge again.
                    j = min(max(top + dy, 0), height - 1)
                    i = min(max(left + dx, 0), width - 1)
                    total += share_y * share_x * image[j, i].astype(float)
            made[y, x] = total
    return made


def scalar_nearest(image, size):
    height, width, _ = image.shape
    made = np.empty((size, size, 3), np.uint8)
    for y in range(size):
        for x in range(size):
            j, i = math.floor((y + 0.5) * height / size), math.floor((x + 0.5) * width / size)
            made[y, x] = image[j, i]
    return made


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_bilinear_is_that_of_a_scalar_implementation(height, width, size):
    image = noise(height, width)
    # OpenCV's weights have 11 bits, and it rounds between its two passes.
    assert np.abs(bilinear(image, size) - scalar_bilinear(image, size)).max() <= 1


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_nearest_is_that_of_a_scalar_implementation(height, width, size):
    image = noise(height, width)
    np.testing.assert_array_equal(nearest(image, size), scalar_nearest(image, size))


@settings(max_examples=40, deadline=None)
@given(side=st.integers(1, 90), size=st.integers(1, 60), seed=st.integers(0, 9))
def test_antialiased_is_pillows(side, size, seed):
    image = noise(side, side, seed)
    theirs = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(antialiased(image, size), np.asarray(theirs))


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_antialiased_is_nearly_pillows_where_versions_of_it_differ(height, width, size):
    """Pillow 13 may resize the height of a crop first that is not square."""
    image = noise(height, width)
    theirs = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    difference = antialiased(image, size).astype(int) - np.asarray(theirs)
    assert np.abs(difference).max() <= 1


def test_a_large_crop_is_computed_in_blocks():
    side = 1700
    assert 3 * side * side > _BLOCK_VALUES
    image = noise(side, side)
    theirs = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(antialiased(image, 16), np.asarray(theirs))


def test_by_hand():
    """Eight columns become two: centres at 2 and 6."""
    image = np.repeat(row_of(0, 10, 20, 30, 40, 50, 60, 70), 2, axis=0)
    # Columns 2 and 6, which begin at the centres.
    assert nearest(image, 2)[0, :, 0].tolist() == [20, 60]
    # The means of columns 1 and 2, and of 5 and 6: the other four have no influence.
    assert bilinear(image, 2)[0, :, 0].tolist() == [15, 55]
    # Columns 0 to 5, by 1 - distance / 4: 66.25 / 3.5.
    assert antialiased(image, 2)[0, 0, 0] == 19
    # The means of each half.
    assert fit(np.repeat(image, 4, axis=0), 2)[0, :, 0].tolist() == [15, 55]


def test_fine_stripes_alias_without_antialiasing():
    """Stripes of one pixel, shrunk by 3: their mean is grey, and one in three of them is not."""
    stripes = np.tile(row_of(0, 255), (96, 48, 1))
    assert stripes.shape == (96, 96, 3)
    assert set(np.unique(bilinear(stripes, 32))) == {0, 255}
    assert set(np.unique(nearest(stripes, 32))) == {0, 255}
    inner = antialiased(stripes, 32)[:, 1:-1]
    assert inner.min() > 90
    assert inner.max() < 165


@pytest.mark.parametrize("resize", [nearest, bilinear, antialiased])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (33, 34), (16, 16)])
def test_any_crop_becomes_a_square(resize, shape):
    made = resize(noise(*shape), 16)
    assert made.shape == (16, 16, 3)
    assert made.dtype == np.uint8


@pytest.mark.parametrize("resize", [nearest, bilinear, antialiased])
def test_a_crop_of_the_size_stays(resize):
    image = noise(16, 16)
    np.testing.assert_array_equal(resize(image, 16), image)


@pytest.mark.parametrize("resize", [nearest, bilinear, antialiased])
def test_one_colour_stays(resize):
    for size in (7, 50):
        made = resize(np.full((21, 30, 3), (1, 128, 255), np.uint8), size)
        assert (made == (1, 128, 255)).all()


@pytest.mark.parametrize("resize", [nearest, bilinear, antialiased])
def test_views_with_strides_are_resized_too(resize):
    image = noise(40, 40)
    np.testing.assert_array_equal(resize(image[1:, 1:], 16), resize(image[1:, 1:].copy(), 16))


@pytest.mark.parametrize(
    ("shape", "kept"),
    [((5, 4), (4, 4)), ((4, 7), (4, 6)), ((1, 3), (1, 2)), ((1, 1), (1, 1)), ((2, 2), (2, 2))],
)
def test_sizes_are_rounded_down_to_even(shape, kept):
    image = noise(*shape)
    np.testing.assert_array_equal(even(image), image[: kept[0], : kept[1]])
