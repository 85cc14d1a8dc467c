"""Boxes for DeepStream: lpx's own squares, at even numbers and inside the frame."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpx.data.images.crops import RECIPES as LPX_RECIPES
from lpx.data.images.crops import crop
from lpx.data.images.cut_faces import cut_faces
from lpx.deploy.deepstream.files import face_boxes
from lpx.deploy.deepstream.files.face_boxes import (
    NOTHING,
    RECIPES,
    Box,
    FaceBoxes,
    crop_box,
    on_even_pixels,
    square_of_box,
)

RECIPE = "square-1.3"
FILES = Path(face_boxes.__file__).parent


def float32(value):
    return float(np.float32(value))


boxes = st.builds(
    Box,
    *(st.floats(-200, 800).map(float32),) * 2,
    *(st.floats(0, 700).map(float32),) * 2,
)
sizes = st.integers(2, 720)


def of_lpx(face, width, height):
    """What `lpx predict` cuts out: left, top and side; None for a face that it leaves out."""
    # Rows and columns of the image say where a crop is from.
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows & 255, columns & 255, rows * 0], axis=-1).astype(np.uint8)
    ends = (face.left, face.top, face.left + face.width, face.top + face.height)
    detection = SimpleNamespace(box=ends, points=None)
    cut = cut_faces(image, [detection], None, LPX_RECIPES[RECIPE])
    if not cut:
        return None
    matrix, pixels = cut[0].crop.matrix, cut[0].crop.pixels
    assert pixels.shape[0] == pixels.shape[1]
    return (-matrix[0, 2], -matrix[1, 2], pixels.shape[0])


@settings(max_examples=2000)
@given(boxes, sizes, sizes)
def test_square_is_that_of_lpx(face, width, height):
    square = square_of_box(face, width, height)
    expected = of_lpx(face, width, height)
    assert (square is None) == (expected is None)
    if square is not None:
        assert square == (*expected, expected[2])


@settings(max_examples=2000)
@given(boxes, sizes, sizes)
def test_box_is_even_inside_the_frame_and_one_pixel_off_at_most(face, width, height):
    square, box = square_of_box(face, width, height), crop_box(face, width, height, RECIPE)
    if square is None or square.width < 2:
        assert box is None
        return
    assert all(value % 2 == 0 for value in box)
    assert box.left >= 0
    assert box.top >= 0
    assert box.left + box.width <= width
    assert box.top + box.height <= height
    assert max(abs(a - b) for a, b in zip(square, box, strict=True)) <= 1
    # What nvinfer makes of it: left and top rounded up to even numbers, the others down.
    left, top, across, down = (int(value) for value in box)
    assert (left + left % 2, top + top % 2, across - across % 2, down - down % 2) == box


def rounded_by_nvinfer(square):
    left, top, across, down = (int(value) for value in square)
    return Box(left + left % 2, top + top % 2, across - across % 2, down - down % 2)


@settings(max_examples=1000)
@given(boxes, sizes, sizes)
def test_rounding_is_nvinfers_unless_that_leaves_the_frame(face, width, height):
    square = square_of_box(face, width, height)
    if square is None or square.width < 2:
        return
    theirs, ours = rounded_by_nvinfer(square), on_even_pixels(square, width, height)
    if theirs.left + theirs.width <= width and theirs.top + theirs.height <= height:
        assert ours == theirs
    else:
        assert ours != theirs


def test_nvinfers_own_rounding_leaves_the_frame():
    """The reason for `on_even_pixels`: an odd left and an even side at the right edge."""
    square = Box(101, 0, 100, 100)
    assert rounded_by_nvinfer(square).left + 100 > 201
    assert on_even_pixels(square, 201, 300) == (100, 0, 100, 100)


@pytest.mark.parametrize(
    ("face", "expected"),
    [
        (Box(100, 100, 50, 60), (86, 92, 78, 78)),
        # Moved into the frame at the left, made smaller at the right.
        (Box(0, 100, 60, 60), (0, 92, 78, 78)),
        (Box(600, 100, 40, 60), (582, 92, 58, 58)),
        # Halves are rounded to even numbers, as Python does.
        (Box(10.5, 10.5, 20, 20), (8, 8, 26, 26)),
        # Outside the frame, or as good as.
        (Box(-60, 100, 60, 60), None),
        (Box(639, 100, 60, 60), None),
        (Box(100, 100, 1, 1), None),
        (Box(100, 100, 0, 0), None),
        *(
            (Box(*(value if at == place else 100 for at in range(4))), None)
            for place in range(4)
            for value in (math.nan, math.inf, -math.inf)
        ),
    ],
)
def test_examples(face, expected):
    assert crop_box(face, 640, 480, RECIPE) == expected


def test_recipes_are_those_of_lpx_that_need_a_box_only():
    assert set(RECIPES) == {name for name, it in LPX_RECIPES.items() if not it.needs_landmarks}


def test_square_contains_what_the_recipe_cuts():
    """A face in the middle: the same pixels but for the last row and column."""
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    face = Box(200, 150, 71, 90)
    detection = SimpleNamespace(box=(200, 150, 271, 240))
    pixels = crop(RECIPE, image, detection).pixels
    left, top, side, _ = (int(value) for value in crop_box(face, 640, 480, RECIPE))
    ours = image[top : top + side, left : left + side]
    inner = min(side, len(pixels)) - 1
    shifts = [(dy, dx) for dy in (0, 1) for dx in (0, 1)]
    assert any(
        np.array_equal(pixels[dy : dy + inner, dx : dx + inner], ours[:inner, :inner])
        for dy, dx in shifts
    )


def objects(*found):
    made = []
    for left, top, width, height in found:
        rect = SimpleNamespace(left=left, top=top, width=width, height=height)
        made.append(SimpleNamespace(rect_params=rect))
    return made


def rects(faces):
    return [tuple(vars(face.rect_params).values()) for face in faces]


def test_boxes_are_enlarged_and_put_back():
    found = [(100.25, 100.5, 50.0, 60.0), (-60.0, 100.0, 60.0, 60.0)]
    faces = objects(*found)
    probe = FaceBoxes(RECIPE)
    probe.enlarge((0, 7), iter(faces), 640, 480)
    assert rects(faces) == [(86.0, 92.0, 78.0, 78.0), NOTHING]
    # Too small for nvinfer, which scores no box below `input-object-min-width`.
    probe.restore((0, 7), iter(faces))
    assert rects(faces) == found


def test_boxes_that_others_changed_are_left():
    faces = objects((100, 100, 50, 60), (300, 100, 50, 60))
    probe = FaceBoxes(RECIPE)
    probe.enlarge(1, faces, 640, 480)
    faces[0].rect_params.left = 5.0
    probe.restore(1, faces)
    assert rects(faces)[0][0] == 5.0
    assert rects(faces)[1] == (300, 100, 50, 60)


def test_restoring_an_unknown_frame_or_twice_changes_nothing():
    faces = objects((100, 100, 50, 60))
    probe = FaceBoxes(RECIPE)
    probe.restore(1, faces)
    probe.enlarge(1, faces, 640, 480)
    probe.restore(1, faces)
    probe.restore(1, faces)
    assert rects(faces) == [(100, 100, 50, 60)]


def test_memory_is_bounded_where_frames_are_dropped():
    probe = FaceBoxes(RECIPE, kept=4)
    for number in range(1000):
        probe.enlarge(number, objects((100, 100, 50, 60)), 640, 480)
    assert len(probe._changed) == 4


def test_unknown_recipe_is_refused():
    with pytest.raises(ValueError, match=r"aligned-1\.3-256 is not one of square-1\.3"):
        FaceBoxes("aligned-1.3-256")


PROGRAM = """
#include <stdio.h>
#include "face_boxes.h"
int main(void) {
    LpxBox box;
    int width, height;
    while (scanf("%lf %lf %lf %lf %d %d", &box.left, &box.top, &box.width, &box.height, &width,
                 &height) == 6) {
        if (lpx_crop_box(&box, width, height))
            printf("%g %g %g %g\\n", box.left, box.top, box.width, box.height);
        else
            printf("none\\n");
    }
    return 0;
}
"""
COMPILERS = {"c": shutil.which("gcc"), "c++": shutil.which("g++")}


@pytest.mark.parametrize("language", COMPILERS)
def test_boxes_in_c_are_the_same(language, tmp_path):
    compiler = COMPILERS[language]
    if compiler is None:
        pytest.skip("there is no compiler")
    source, program = tmp_path / "boxes.c", tmp_path / "boxes"
    source.write_text(PROGRAM)
    options = ("-Wall", "-Wextra", "-Werror", f"-I{FILES}", "-x", language)
    command = [compiler, *options, str(source), "-o", str(program), "-lm"]
    subprocess.run(command, check=True, timeout=120)
    random = np.random.default_rng(0)
    count = 20_000
    # Halves and quarters, as ties are where roundings differ.
    faces = np.float32(random.integers(-800, 3200, (count, 4)) / 4)
    faces[:, 2:] = np.abs(faces[:, 2:])
    # One number of a face that is not finite, each in turn.
    for row in range(8):
        faces[row, row % 4] = np.nan if row < 4 else np.inf
    frames = random.integers(1, 800, (count, 2))
    lines = []
    for face, frame in zip(faces.tolist(), frames.tolist(), strict=True):
        lines.append(" ".join(map(repr, (*face, *frame))))
    done = subprocess.run(
        [str(program)],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = done.stdout.splitlines()
    assert len(found) == count
    assert 0.05 < found.count("none") / count < 0.95
    for face, frame, line in zip(faces.tolist(), frames.tolist(), found, strict=True):
        box = crop_box(Box(*face), *frame, RECIPE)
        expected = "none" if box is None else " ".join(f"{value:g}" for value in box)
        assert line == expected, (face, frame)
