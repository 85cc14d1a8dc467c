"""What is drawn on a face: where, and in which colours."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from lpx.render.encode import encode_webp
from lpx.render.face import (
    STRONGEST,
    WEAKEST,
    difference_picture,
    difference_ramp,
    explained,
    field_box,
    looked_at,
    matrix_picture,
    similarity_ramp,
    unit_box,
)

FACE = np.full((120, 120, 3), 200, np.uint8)


def edge(image, colour):
    return (image == colour).all(axis=-1)


def test_the_box_is_drawn_just_within_its_edges():
    drawn = edge(field_box(FACE, (30, 40, 90, 100)), STRONGEST)
    rows, columns = np.nonzero(drawn)
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (30, 40, 89, 99)
    assert not drawn[45:95, 35:85].any()
    assert drawn[40, 30:90].all()
    assert drawn[40:100, 89].all()
    assert (FACE == 200).all(), "the face itself is left alone"


def test_the_box_has_a_dark_halo_and_changes_nothing_else():
    image = field_box(FACE, (30, 40, 90, 100))
    assert image[39, 60, 0] < 200
    assert image[41, 60, 0] < 200
    assert (image[:38] == 200).all()
    assert (image[50:90, 40:80] == 200).all()


def test_a_faint_box_is_dashed():
    along = edge(field_box(FACE, (30, 40, 90, 100), faint=True), WEAKEST)[40, 30:90]
    assert 0.3 < along.mean() < 0.7


@pytest.mark.parametrize("box", [(0, 0, 120, 120), (-20, -20, 30, 30), (100, 100, 500, 500)])
def test_a_box_at_the_border_or_beyond_is_cut_off(box):
    image = field_box(FACE, box)
    assert image.shape == FACE.shape
    assert edge(image, STRONGEST).any()


def test_a_units_box_is_around_its_square():
    x0, y0, x1, y1 = unit_box((4, 8), 1, 2, 80)
    assert x0 < 20 < 30 < x1
    assert y0 < 20 < 40 < y1


def test_similarities_have_fixed_colours():
    # The same value has the same colour, whatever else is in the matrix.
    one = matrix_picture(np.array([[1, 0.3], [0.3, 1]], np.float32), group=4, cell=3)
    other = matrix_picture(np.array([[1, -1, 0], [-1, 1, 0.3], [0, 0.3, 1]], np.float32), 4, cell=3)
    assert one.shape == (6, 6, 3)
    assert (one[0, 0] == other[0, 0]).all()
    assert (one[0, 5] == other[4, 8]).all()
    assert (other[0, 8] == 247).all()
    assert other[0, 0].sum() < 150
    red, green, _ = other[0, 4].astype(int)
    assert green > red, "-1 is green, not purple"


def test_lines_part_the_rows_of_regions():
    picture = matrix_picture(np.ones((16, 16), np.float32), group=4, cell=5)
    assert picture.shape == (83, 83, 3)
    white = (picture == 255).all(axis=-1).all(axis=1)
    assert np.nonzero(white)[0].tolist() == [20, 41, 62]


def test_differences_run_from_blue_over_white_to_orange():
    picture = difference_picture(np.array([[-0.5, 0], [0.5, 9]], np.float32), 0.5, 8)
    assert picture.shape == (8, 8, 3)
    low, none, high, beyond = (p.astype(int) for p in picture[[0, 0, 7, 7], [0, 7, 0, 7]])
    assert low[2] > low[0]
    assert (none == 247).all()
    assert high[0] > high[2]
    assert (high == beyond).all()
    assert (difference_ramp()[0, [0, -1]] == [low, high]).all()
    assert similarity_ramp(0).shape == (8, 256, 3)


def test_webp_holds_the_picture():
    matrix = matrix_picture(np.eye(4, dtype=np.float32), 2)
    decoded = cv2.imdecode(np.frombuffer(encode_webp(matrix, 101), np.uint8), cv2.IMREAD_COLOR)
    assert (decoded[..., ::-1] == matrix).all()


def test_sheets_are_pictures():
    patch_map = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    face = np.full((320, 320, 3), 90, np.uint8)
    whole = looked_at(face, face, np.eye(4, dtype=np.float32), 2, ["one", "two"])
    short = looked_at(face, face, np.zeros((0, 0), np.float32), 0, ["one"])
    assert whole.dtype == short.dtype == np.uint8
    assert whole.shape[1] > short.shape[1]
    assert whole.shape[0] > short.shape[0] > 320
    assert explained(face, patch_map, "real")[40:].shape[1] >= 2 * 320
