"""The round trip through NV12, against the values of the standards and ffmpeg."""

from __future__ import annotations

import shutil
import subprocess

import cv2
import numpy as np
import pytest

from lpx.data.pipelines import nv12
from lpx.data.pipelines.nv12 import through_nv12

FFMPEG = shutil.which("ffmpeg")
# Luma, Cb and Cr of the colours of a 100 % colour bar, limited range.
BARS = {
    "bt601": {
        (255, 255, 255): (235, 128, 128),
        (255, 255, 0): (210, 16, 146),
        (0, 255, 255): (170, 166, 16),
        (0, 255, 0): (145, 54, 34),
        (255, 0, 255): (106, 202, 222),
        (255, 0, 0): (81, 90, 240),
        (0, 0, 255): (41, 240, 110),
        (0, 0, 0): (16, 128, 128),
    },
    "bt709": {
        (255, 255, 255): (235, 128, 128),
        (255, 255, 0): (219, 16, 138),
        (0, 255, 255): (188, 154, 16),
        (0, 255, 0): (173, 42, 26),
        (255, 0, 255): (78, 214, 230),
        (255, 0, 0): (63, 102, 240),
        (0, 0, 255): (32, 240, 118),
        (0, 0, 0): (16, 128, 128),
    },
}


def of(colour, height=2, width=2):
    return np.full((height, width, 3), colour, np.uint8)


def photo(height, width, seed=0):
    """An image as smooth as a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("standard", BARS)
def test_colours_have_the_values_of_the_standard(standard):
    for colour, (luma, *chroma) in BARS[standard].items():
        made_luma, made_chroma = nv12._to_nv12(of(colour), standard)
        assert (made_luma == luma).all(), colour
        assert made_chroma.reshape(-1).tolist() == chroma, colour


@pytest.mark.parametrize("standard", BARS)
def test_colours_come_back_within_two_levels(standard):
    for colour in BARS[standard]:
        back = through_nv12(of(colour), written=standard, read=standard)
        assert np.abs(back.astype(int) - colour).max() <= 2


def test_it_is_not_the_identity():
    """The luma of video has 220 levels, those of the pixels 256."""
    greys = np.arange(256, dtype=np.uint8).repeat(2)[None, :, None].repeat(2, 0).repeat(3, 2)
    back = through_nv12(greys)
    assert np.abs(back.astype(int) - greys).max() == 1
    assert len(np.unique(back)) == 220
    # Grey stays grey.
    assert (back == back[..., :1]).all()


def test_four_pixels_share_their_chroma():
    image = np.array([[(200, 60, 60), (60, 200, 60)], [(60, 60, 200), (120, 120, 120)]], np.uint8)
    back = through_nv12(image).astype(float)
    # One chroma for all: the differences between the channels are the same in each pixel.
    differences = (back - back.mean(axis=2, keepdims=True)).reshape(4, 3)
    assert np.abs(differences - differences.mean(axis=0)).max() <= 1
    # Luma stays each pixel's own.
    shares = (0.299, 0.587, 0.114)
    assert np.abs(back @ shares - image @ shares).max() <= 1.5


def test_another_matrix_gives_other_colours():
    image = of((200, 40, 40))
    right = through_nv12(image, written="bt709", read="bt709")
    wrong = through_nv12(image, written="bt709", read="bt601")
    assert np.abs(right.astype(int) - image).max() <= 2
    assert np.abs(wrong.astype(int) - image).max() > 10
    # White has no chroma, whatever the matrix.
    white = through_nv12(of((255, 255, 255)), written="bt709", read="bt601")
    assert (white == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 2), (2, 5), (7, 9)])
def test_odd_sizes(shape):
    """A last row or column without a partner has the mean of what is there."""
    assert np.abs(through_nv12(of((90, 120, 200), *shape)).astype(int) - (90, 120, 200)).max() <= 2
    image = photo(*shape)
    padded = np.pad(image, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge")
    np.testing.assert_array_equal(through_nv12(image), through_nv12(padded)[: shape[0], : shape[1]])


def test_it_is_the_same_in_pieces():
    """Rows are converted by hundreds; a piece ends between two squares."""
    image = photo(2 * nv12._ROWS + 3, 4)
    parts = [image[: nv12._ROWS], image[nv12._ROWS : 2 * nv12._ROWS], image[2 * nv12._ROWS :]]
    np.testing.assert_array_equal(
        through_nv12(image), np.concatenate([through_nv12(part) for part in parts])
    )
    assert nv12._ROWS % 2 == 0


@pytest.mark.skipif(FFMPEG is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize(("standard", "name"), [("bt601", "bt601"), ("bt709", "bt709")])
def test_ffmpeg_has_nearly_the_same_nv12(standard, name):
    """Its chroma lies at other places, so that only smooth images are the same."""
    image = photo(64, 48)
    scale = f"scale=out_color_matrix={name}:out_range=tv:flags=area+accurate_rnd+full_chroma_int"
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "48x64", "-i", "-")
    made = subprocess.run(
        [FFMPEG, "-v", "error", *source, "-vf", scale, "-pix_fmt", "nv12", "-f", "rawvideo", "-"],
        input=image.tobytes(),
        capture_output=True,
        check=True,
    )
    values = np.frombuffer(made.stdout, np.uint8).astype(int)
    luma, chroma = nv12._to_nv12(image, standard)
    assert np.abs(values[: 64 * 48].reshape(64, 48) - luma).max() <= 1
    assert np.abs(values[64 * 48 :].reshape(32, 24, 2) - chroma).max() <= 2
