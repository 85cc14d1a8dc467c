"""The table of pipelines: what each does to a crop, and names that do not exist."""

from __future__ import annotations

import numpy as np
import pytest

from lpx.data.images.decode import fit
from lpx.data.pipelines.nv12 import through_nv12
from lpx.data.pipelines.resize import antialiased, bilinear, nearest
from lpx.data.pipelines.table import ALIASES, PIPELINES, find_pipelines
from lpx.errors import InvalidArgumentError

SIZE = 16


def noise(height, width):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)


def made(name, image):
    return PIPELINES[name].make(image, SIZE)


def test_each_is_made_of_its_parts():
    image = noise(41, 40)
    colours = through_nv12(image[:40])
    np.testing.assert_array_equal(made("deepstream", image), bilinear(colours, SIZE))
    np.testing.assert_array_equal(made("deepstream-nearest", image), nearest(colours, SIZE))
    np.testing.assert_array_equal(made("opencv-linear", image), bilinear(image, SIZE))
    np.testing.assert_array_equal(made("pillow-bilinear", image), antialiased(image, SIZE))
    np.testing.assert_array_equal(made("nv12", image), fit(through_nv12(image), SIZE))
    wrong = through_nv12(image, written="bt709", read="bt601")
    np.testing.assert_array_equal(made("nv12-wrong-matrix", image), fit(wrong, SIZE))


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 200), (201, 7), (15, 17), (16, 16)])
def test_any_crop_becomes_an_input(name, shape):
    image = noise(*shape)
    before = image.copy()
    face = made(name, image)
    assert face.shape == (SIZE, SIZE, 3)
    assert face.dtype == np.uint8
    # Other pipelines, and lpx itself, are given the same array.
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", PIPELINES)
def test_grey_stays_grey(name):
    face = made(name, noise(40, 40)[..., :1].repeat(3, axis=2))
    assert (face == face[..., :1]).all()


def test_nothing_is_changed_where_nothing_has_to_be():
    image = noise(SIZE, SIZE)
    same = {name for name in PIPELINES if np.array_equal(made(name, image), image)}
    # NV12 is never the identity.
    assert same == {"opencv-linear", "pillow-bilinear"}


def test_enlarging_bilinearly_is_what_lpx_does():
    image = noise(11, 9)
    np.testing.assert_array_equal(made("opencv-linear", image), fit(image, SIZE))


def test_pipelines_are_found_in_order_and_once():
    names = [p.name for p in find_pipelines("pixels", ["nv12", "triton", "opencv-linear", "nv12"])]
    assert names == ["nv12", "opencv-linear"]
    assert find_pipelines("pixels", []) == ()
    assert not set(ALIASES) & set(PIPELINES)
    assert set(ALIASES.values()) <= set(PIPELINES)


def test_what_does_not_exist_is_answered_with_what_does():
    with pytest.raises(InvalidArgumentError) as caught:
        find_pipelines("pixels", ["deepstream", "Deepstream"])
    assert caught.value.what == (
        "pixels must name pipelines that lpx knows: deepstream, deepstream-nearest, "
        "opencv-linear, pillow-bilinear, nv12, nv12-wrong-matrix, triton (got 'Deepstream')"
    )
