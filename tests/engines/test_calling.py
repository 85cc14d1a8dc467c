"""Engines as users have them: `with lpx.load(folder) as detector: detector(image)`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from tensorrt_fakes import SIZE, FakeDriver, FakeGpu, FakeLibrary, loadable

import lpx
from lpx.data.images.decode import fit, read_image
from lpx.engines.base import Engine
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.tensorrt.runtime import TensorRTEngine
from lpx.engines.torch import TorchEngine
from lpx.errors import InvalidArgumentError, LpxError
from lpx.models.checkpoint import load_checkpoint

KINDS = ("onnxruntime-fp32", "onnxruntime-int8", "torch", "tensorrt")


@pytest.fixture
def opened(built):
    """Opens an engine of a kind; TensorRT's is a fake."""

    def make(kind: str) -> Engine:
        if kind == "torch":
            return TorchEngine(load_checkpoint(built.reference))
        if kind == "tensorrt":
            gpu = FakeGpu()
            library = loadable(FakeLibrary("tensorrt-10.3.0"), gpu)
            card = lpx.load(built.engines / "onnxruntime-fp32").card
            return TensorRTEngine(b"plan", library.opened, card=card, driver=FakeDriver(gpu))
        return lpx.load(built.engines / kind)

    return make


@pytest.fixture
def crop(tmp_path) -> Path:
    """An image file of another size than any engine takes."""
    path = tmp_path / "face.png"
    pixels = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_engine_carries_its_card_and_closes_itself(opened, kind):
    with opened(kind) as detector:
        assert isinstance(detector.card, lpx.ModelCard)
        assert 0 < detector.card.threshold < 1
        assert not detector.closed
    assert detector.closed
    assert detector.card.threshold  # known after it was closed
    assert detector.device_memory.reason == "the engine is closed"


@pytest.mark.parametrize("kind", KINDS)
def test_one_face_or_several_in_every_form_get_the_same_scores(opened, crop, kind):
    with opened(kind) as detector:
        pixels = read_image(crop)
        fitted = fit(pixels, detector.size)
        wanted = detector.infer(fitted[None])
        for image in (crop, str(crop), pixels, pixels[None], [crop], (pixels,), iter([str(crop)])):
            found = detector(image)
            assert found.score.shape == (1,)
            np.testing.assert_array_equal(found.score, wanted.score)
            np.testing.assert_array_equal(found.patch_map, wanted.patch_map)
        several = detector([crop, fitted, pixels] * 15)
        assert several.score.shape == (45,)
        np.testing.assert_allclose(several.score, wanted.score[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((8, 8, 3), np.float32), "got float32 [8, 8, 3]"),
        (np.zeros((8, 8), np.uint8), "got uint8 [8, 8]"),
        (np.zeros((8, 8, 4), np.uint8), "got uint8 [8, 8, 4]"),
        (np.zeros((2, 3, 8, 8), np.uint8), "got uint8 [2, 3, 8, 8]"),
        (np.zeros((0, 8, 3), np.uint8), "got uint8 [0, 8, 3]"),
        ([np.zeros((8, 8), np.uint8)], "got uint8 [8, 8]"),
        ([], "got []"),
        (None, "got NoneType"),
        (3, "got int"),
        (b"face.png", "got bytes"),
        ([None], "got NoneType"),
        ({"a": 1}, "got dict"),
        ("", "must be the path of a file"),
    ],
)
def test_images_of_another_kind_are_refused(opened, kind, image, said):
    with opened(kind) as detector:
        with pytest.raises(InvalidArgumentError) as caught:
            detector(image)
        assert said in caught.value.what
        assert caught.value.what.startswith("image must be")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [str, Path])
def test_files_that_are_missing_or_no_images(opened, tmp_path, kind, form):
    (tmp_path / "text.png").write_text("no image")
    with opened(kind) as detector:
        for name, code in (("nothing.png", "not-found"), ("text.png", "damaged"), (".", "damaged")):
            with pytest.raises(LpxError) as caught:
                detector(form(tmp_path / name))
            assert caught.value.code == code
            assert str(tmp_path) in caught.value.what


@pytest.mark.parametrize("kind", KINDS)
def test_a_closed_engine_refuses_all_and_may_be_closed_again(opened, kind):
    detector = opened(kind)
    detector.close()
    detector.close()
    faces = np.zeros((1, detector.size, detector.size, 3), np.uint8)
    for use in (
        lambda: detector.infer(faces),
        lambda: detector(faces),
        lambda: detector("missing.png"),
        lambda: detector.__enter__(),
    ):
        with pytest.raises(LpxError, match="the engine is closed") as caught:
            use()
        assert caught.value.code == "closed"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("faces", [None, [1], "x", np.zeros((1, 2, 2, 3), np.uint8)])
def test_infer_refuses_what_it_does_not_take(opened, kind, faces):
    with opened(kind) as detector:
        with pytest.raises(LpxError, match="faces are") as caught:
            detector.infer(faces)
        assert caught.value.code == "invalid-argument"
        assert f"uint8 RGB [N, {detector.size}, {detector.size}, 3]" in caught.value.why


def test_an_engine_made_of_a_graph_alone_has_no_card(built):
    with OnnxRuntimeEngine(built.model.read_bytes(), 160) as engine:
        with pytest.raises(LpxError) as caught:
            _ = engine.card
        assert caught.value.code == "no-model-card"


def test_the_fake_plan_is_of_another_size():
    """So that the size above is the plan's, not the card's."""
    assert SIZE != 160


@pytest.mark.parametrize("folder", [None, 3, b"x", ""])
def test_a_folder_of_another_type_is_refused(folder):
    with pytest.raises(InvalidArgumentError, match="path must be"):
        lpx.load(folder)


def test_an_engine_that_cannot_be_released_is_closed_all_the_same(opened):
    detector = opened("onnxruntime-fp32")

    class Stuck(OnnxRuntimeEngine):
        def _release(self):
            super()._release()
            raise LpxError("the driver is gone")

    detector.__class__ = Stuck
    with pytest.raises(LpxError, match="the driver is gone"):
        detector.close()
    detector.close()
    assert detector.closed
