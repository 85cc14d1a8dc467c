from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest

from lpx.calibration.methods import METHODS
from lpx.calibration.observe import calibrate
from lpx.calibration.observed_model import face_ranges
from lpx.errors import LpxError
from lpx.graph.model_io import parse
from lpx.graph.qdq.placement import place
from lpx.graph.qdq.placement_dla import place_dla
from tests.support.calibration_nets import SIZE, expected, face_set, model, noise, patches


def test_statistics_are_those_of_the_activations():
    data, constants = model()
    images = noise(11)
    scales = calibrate(data, face_set(*images), SIZE)
    wanted = expected(images, constants)
    assert set(scales.tensors) == {"b", "c"}
    for name, values in wanted.items():
        found = scales.tensors[name]
        assert found.count == values.size
        assert found.low == pytest.approx(values.min(), rel=1e-5, abs=1e-7)
        assert found.high == pytest.approx(values.max(), rel=1e-5)
        assert found.means == pytest.approx(values.mean(axis=(0, 2, 3)), rel=1e-5, abs=1e-6)
        assert found.peaks["max"] == pytest.approx(np.abs(values).max(), rel=1e-5)
        for method in METHODS[1:4]:
            percent = float(method.removeprefix("percentile-"))
            exact = np.percentile(np.abs(values), percent, method="inverted_cdf")
            assert found.peaks[method] == pytest.approx(exact, rel=1 / 128 + 1e-5)


def test_tensors_that_only_a_dla_quantises_are_observed_too():
    """A DLA takes narrow convolutions as well, the kernels of a GPU do not."""
    data, _ = model(narrow=8)
    graph = parse(data, "the model")
    assert "c" not in place(graph).tensors
    scales = calibrate(data, face_set(*noise(4)), SIZE)
    assert set(scales.ranges("max")) >= set(place_dla(graph).observed) == {"b", "c"}


def test_batch_size_does_not_matter():
    data, _ = model()
    faces = face_set(*noise(11))
    results = [calibrate(data, faces, SIZE, largest_batch=b).tensors for b in (1, 4, 11)]
    assert results[1] == results[0]
    assert results[2] == results[0]


def test_order_does_not_matter():
    data, _ = model()
    images = noise(16)
    forwards, backwards = (calibrate(data, face_set(*f), SIZE) for f in (images, images[::-1]))
    assert backwards.tensors == forwards.tensors
    # The same names, but other faces behind them; the same faces under whatever name.
    assert backwards.faces.digest != forwards.faces.digest
    assert backwards.faces.contents == forwards.faces.contents
    assert len(forwards.faces.contents) == 16


def test_patches_in_the_batch_have_the_statistics_of_the_whole_faces():
    """Kernels of one cell see the same whether a face is cut or not, and so whatever the batch."""
    data, constants = patches()
    images = noise(11)
    wanted = expected(images, constants)
    faces = face_set(*images)
    results = [calibrate(data, faces, SIZE, largest_batch=b).tensors for b in (1, 4, 11)]
    assert results[1] == results[0] == results[2]
    assert set(results[0]) == {"b", "c"}
    for name, values in wanted.items():
        found = results[0][name]
        assert found.count == values.size
        assert found.high == pytest.approx(values.max(), rel=1e-5)
        assert found.means == pytest.approx(values.mean(axis=(0, 2, 3)), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("network", [model, patches])
def test_ranges_of_each_face(network):
    data, constants = network()
    images = noise(7)
    indices, lows, highs = face_ranges(data, face_set(*images), SIZE)
    wanted = expected(images, constants)
    assert indices.tolist() == list(range(7))
    for column, values in enumerate(wanted.values()):
        flat = values.reshape(7, -1)
        np.testing.assert_allclose(lows[:, column], flat.min(axis=1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(highs[:, column], flat.max(axis=1), rtol=1e-5, atol=1e-6)


def test_overflow_in_a_patch_names_its_face():
    data, _ = patches(3e37)
    images = [np.zeros((SIZE, SIZE, 3), np.uint8) for _ in range(13)]
    images[10] = np.full((SIZE, SIZE, 3), 255, np.uint8)
    with pytest.raises(LpxError, match=r"activation [bc] is NaN or infinite on face 10\.png"):
        calibrate(data, face_set(*images), SIZE)


def test_what_it_was_made_from_is_kept():
    data, _ = model()
    faces = face_set(*noise(4))
    scales = calibrate(data, faces, SIZE)
    assert scales.model_sha256 == hashlib.sha256(data).hexdigest()
    assert (scales.faces.name, scales.faces.split, scales.faces.count) == ("made up", "train", 4)
    assert scales.faces.digest == faces.digest()
    assert scales.faces.identities == ("person 0", "person 1", "person 2")
    assert scales.warning == ""
    assert "tensors" not in scales.summary()


def test_faces_that_cannot_be_read_are_left_out_and_named():
    data, _ = model()
    images = noise(3)
    told = []
    broken = face_set(images[0], None, *images[1:], None, None, None)
    scales = calibrate(data, broken, SIZE, progress=lambda *done: told.append(done))
    assert scales.faces.count == 3
    assert scales.warning == (
        "4 of 7 calibration faces could not be read and were left out: "
        "1.png (broken), 4.png (broken), 5.png (broken) and 1 more"
    )
    assert scales.tensors == calibrate(data, face_set(*images), SIZE).tensors
    assert told[-1] == (7, 7)


@pytest.mark.parametrize(("images", "why"), [([None, None], "0.png: broken"), ([], "is empty")])
def test_no_face_at_all_is_an_error(images, why):
    with pytest.raises(LpxError, match="no face of made up can be read") as caught:
        calibrate(model()[0], face_set(*images), SIZE)
    assert why in caught.value.why
    assert "`faces`" in caught.value.fix


@pytest.mark.parametrize("scale", [3e37, -3e37])
def test_activation_that_overflows_is_refused_with_tensor_and_face(scale):
    data, _ = model(scale)
    images = [np.zeros((SIZE, SIZE, 3), np.uint8) for _ in range(13)]
    images[10] = np.full((SIZE, SIZE, 3), 255, np.uint8)
    with pytest.raises(LpxError, match=r"activation [bc] is NaN or infinite on face 10\.png"):
        calibrate(data, face_set(*images), SIZE)


def test_model_without_anything_to_quantise_is_refused():
    data, _ = model()
    graph = onnx.load_model_from_string(data)
    for node in graph.graph.node:
        if node.op_type == "Conv":
            node.op_type = "ConvTranspose"
    with pytest.raises(LpxError, match="nothing in this model is quantised") as caught:
        calibrate(graph.SerializeToString(), face_set(*noise(2)), SIZE)
    assert "--fp16" in caught.value.fix
