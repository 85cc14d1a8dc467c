from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.data.detect import Detection
from lpx.data.face_sets.demo import CROP, folder
from lpx.data.images.crops import (
    ALIGNED_LANDMARKS,
    ALIGNED_TARGETS,
    RECIPES,
    crop,
    find_recipe,
    similarity,
)
from lpx.data.images.decode import read_image
from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.errors import LpxError

HEIGHT, WIDTH = 120, 160


@pytest.fixture(scope="module")
def image():
    """Every pixel says where it is: (x, y, 0)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return np.stack([x, y, np.zeros_like(x)], axis=2)


@pytest.fixture(scope="module")
def portraits():
    return [(read_image(face.path), face.points) for face in load_landmarked(folder())[::9]]


def detection(*box):
    return Detection(box, 0.9, np.zeros((5, 2), np.float32))


def mesh_in(x0, y0, x1, y1, seed=0):
    """468 points that fill a box, reaching its corners."""
    points = np.random.default_rng(seed).uniform((x0, y0), (x1, y1), (468, 2))
    points[:2] = (x0, y0), (x1, y1)
    return points.astype(np.float32)


def expected_ff(box, width, height):
    """FaceForensics++'s geometry, from the description in its docstring."""
    x0, y0, x1, y1 = (round(v) for v in box)
    side = int(1.3 * max(x1 - x0, y1 - y0))
    left = max(int((x0 + x1) / 2 // 1) - side // 2, 0)
    top = max(int((y0 + y1) / 2 // 1) - side // 2, 0)
    return left, top, min(side, width - left, height - top)


@pytest.mark.parametrize(
    ("box", "left", "top", "side"),
    [
        ((50, 40, 90, 70), 44, 29, 52),  # inside
        ((5, 40, 45, 70), 0, 29, 52),  # moved in from the left
        ((50, 0, 90, 40), 44, 0, 52),  # and from above
        ((120, 40, 160, 70), 114, 29, 46),  # smaller at the right
        ((50, 80, 90, 120), 44, 74, 46),  # and at the bottom
        ((0, 0, 160, 120), 0, 0, 120),  # larger than the image
    ],
)
def test_square_of_the_box(image, box, left, top, side):
    cut = crop("square-1.3", image, detection(*box))
    assert np.array_equal(cut.pixels, image[top : top + side, left : left + side])
    assert cut.map_points(np.float32([[left, top]])).tolist() == [[0, 0]]
    assert cut.pixels.flags.c_contiguous


@given(st.floats(-20, 150), st.floats(-20, 110), st.floats(2, 120), st.floats(2, 120))
def test_square_of_any_box_in_the_image(x, y, width, height):
    box = (x, y, x + width, y + height)
    left, top, side = expected_ff(box, WIDTH, HEIGHT)
    whole = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    if side < 1:
        with pytest.raises(LpxError, match="outside the image"):
            crop("square-1.3", whole, detection(*box))
        return
    cut = crop("square-1.3", whole, detection(*box))
    assert cut.pixels.shape == (side, side, 3)
    assert cut.matrix.tolist() == [[1, 0, -left], [0, 1, -top]]


def test_a_face_outside_the_image_is_an_error(image):
    with pytest.raises(LpxError, match="outside the image"):
        crop("square-1.3", image, detection(300, 20, 340, 60))


@pytest.mark.parametrize(
    ("bounds", "left", "top", "side"),
    [
        ((60, 50, 100, 70), 45, 25, 70),  # in the middle
        ((0, 50, 40, 70), 0, 25, 70),  # moved in from every side
        ((120, 50, 160, 70), 90, 25, 70),
        ((60, 0, 100, 20), 45, 0, 70),
        ((60, 100, 100, 120), 45, 50, 70),
        ((20, 10, 120, 110), 10, 0, 120),  # no larger than the image
    ],
)
def test_square_of_the_landmarks(image, bounds, left, top, side):
    cut = crop("square-1.75-landmarks", image, detection(0, 0, 9, 9), mesh_in(*bounds))
    assert np.array_equal(cut.pixels, image[top : top + side, left : left + side])


def test_the_demo_faces_are_such_squares(portraits):
    # They were cut so from larger photographs: cutting again changes next to nothing.
    assert CROP in RECIPES
    for pixels, points in portraits:
        cut = crop(CROP, pixels, detection(0, 0, 9, 9), points)
        assert cut.pixels.shape[0] >= 255
        assert np.abs(cut.matrix[:, 2]).max() <= 1


def test_aligned_brings_landmarks_to_their_places(portraits):
    for pixels, points in portraits:
        cut = crop("aligned-1.3-256", pixels, detection(0, 0, 9, 9), points)
        assert cut.pixels.shape == (256, 256, 3)
        placed = cut.map_points(points[list(ALIGNED_LANDMARKS)]) - 0.5
        assert np.linalg.norm(placed - ALIGNED_TARGETS, axis=1).max() < 20
        assert placed.mean(axis=0) == pytest.approx(np.mean(ALIGNED_TARGETS, axis=0), abs=1e-3)


def test_aligned_leaves_an_aligned_face_as_it_is(portraits):
    pixels, points = portraits[0]
    points = points.copy()
    points[list(ALIGNED_LANDMARKS)] = np.float32(ALIGNED_TARGETS) + 0.5
    cut = crop("aligned-1.3-256", pixels, detection(0, 0, 9, 9), points)
    assert cut.matrix == pytest.approx(np.eye(2, 3), abs=1e-3)
    assert np.abs(cut.pixels.astype(int) - pixels).max() <= 2


def test_aligned_pixels_lie_where_the_matrix_says(portraits):
    # The image enlarged and turned, and its landmarks with it: the crop must be nearly the same.
    pixels, points = portraits[1]
    first = crop("aligned-1.3-256", pixels, detection(0, 0, 9, 9), points)
    double = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)[::-1, ::-1]
    moved = (512 - points * 2).astype(np.float32)
    second = crop("aligned-1.3-256", np.ascontiguousarray(double), detection(0, 0, 9, 9), moved)
    assert np.abs(first.pixels.astype(int) - second.pixels).mean() < 2
    assert second.map_points(moved) == pytest.approx(first.map_points(points), abs=1e-2)


def test_aligned_is_black_outside():
    white = np.full((40, 40, 3), 255, np.uint8)
    points = np.zeros((468, 2), np.float32)
    points[list(ALIGNED_LANDMARKS)] = np.float32(ALIGNED_TARGETS) - 100
    cut = crop("aligned-1.3-256", white, detection(0, 0, 9, 9), points)
    assert cut.pixels[:99].max() == 0
    assert cut.pixels[102:138, 102:138].min() == 255


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_say_whether_they_need_landmarks(image, recipe):
    face = detection(50, 40, 90, 70)
    if RECIPES[recipe].needs_landmarks:
        with pytest.raises(ValueError, match="needs landmarks"):
            crop(recipe, image, face)
    assert crop(recipe, image, face, mesh_in(50, 40, 90, 70)).pixels.dtype == np.uint8
    assert find_recipe(recipe).name == recipe


def test_an_unknown_recipe_names_the_known(image):
    with pytest.raises(LpxError, match=r"square-1\.3, aligned-1\.3-256"):
        crop("square-2", image, detection(1, 1, 5, 5))


coordinate = st.floats(-100, 100, allow_nan=False)
point_sets = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=9, unique=True)


@given(point_sets, st.floats(-3.14, 3.14), st.floats(0.05, 20), coordinate, coordinate)
def test_similarity_recovers_what_was_done(drawn, angle, scale, dx, dy):
    points = np.array(drawn)
    if np.linalg.svd(points - points.mean(axis=0), compute_uv=False)[0] < 1:
        return
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    truth = np.array([[cos, -sin, dx], [sin, cos, dy]])
    found = similarity(points, points @ truth[:, :2].T + truth[:, 2])
    assert found == pytest.approx(truth, abs=1e-6 * max(1, scale) * 100)


@given(st.integers(0, 10_000))
def test_similarity_is_the_best_of_its_kind(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(2, 5, 2))
    best = similarity(source, target)
    assert best[0, 0] == pytest.approx(best[1, 1])
    assert best[0, 1] == pytest.approx(-best[1, 0])

    def error(matrix):
        return ((source @ matrix[:, :2].T + matrix[:, 2] - target) ** 2).sum()

    # Linear least squares over (a, b, dx, dy) of [[a, -b, dx], [b, a, dy]].
    x, y = source.T
    zero, one = np.zeros(5), np.ones(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, dx, dy = np.linalg.lstsq(rows, target.T.ravel(), rcond=None)[0]
    other = np.array([[a, -b, dx], [b, a, dy]])
    assert error(best) == pytest.approx(error(other))


def test_similarity_does_not_mirror():
    source = np.array([[0.0, 0], [1, 0], [0, 2]])
    assert np.linalg.det(similarity(source, source * (-1, 1))[:, :2]) > 0


def test_crops_are_copies(image):
    cut = crop("square-1.3", image, detection(50, 40, 90, 70))
    cv2.rectangle(cut.pixels, (0, 0), (9, 9), (255, 255, 255), -1)
    assert image[29, 44].tolist() == [44, 29, 0]
