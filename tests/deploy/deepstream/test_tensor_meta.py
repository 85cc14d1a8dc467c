"""Scores and maps read from what nvinfer attaches, with a stand-in for pyds."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from lpx.deploy.deepstream.files.tensor_meta import (
    FaceScore,
    Layer,
    items,
    label_of,
    layers_of,
    read_face,
)
from tests.support.deepstream.pyds import Link

TENSOR, OTHER = 12, 3


def linked(*elements):
    return Link(elements) if elements else None


CASTS = SimpleNamespace(cast=lambda data: data)
PYDS = SimpleNamespace(
    NvDsUserMeta=CASTS,
    NvDsInferTensorMeta=CASTS,
    NvDsClassifierMeta=CASTS,
    NvDsLabelInfo=CASTS,
    NvDsMetaType=SimpleNamespace(NVDSINFER_TENSOR_OUTPUT_META=TENSOR),
    get_nvds_LayerInfo=lambda meta, index: meta.layers[index],
    get_ptr=lambda buffer: buffer,
)


def layer(name, array):
    """An output as pyds shows it: an address, and eight sizes of which the first are used."""
    array = np.ascontiguousarray(array, np.float32)
    dims = np.zeros(8, np.uint32)
    dims[: array.ndim] = array.shape
    made = SimpleNamespace(
        layerName=name,
        inferDims=SimpleNamespace(d=dims, numDims=array.ndim, numElements=array.size),
        buffer=array.ctypes.data_as(ctypes.c_void_p).value,
    )
    made.kept = array  # as nothing else owns it
    return made


def tensors(*layers, unique_id=2, kind=TENSOR):
    meta = SimpleNamespace(unique_id=unique_id, num_output_layers=len(layers), layers=layers)
    return SimpleNamespace(base_meta=SimpleNamespace(meta_type=kind), user_meta_data=meta)


def test_score_and_map_are_read():
    patch_map = np.arange(6).reshape(2, 3) / 8
    face = SimpleNamespace(
        obj_user_meta_list=linked(
            tensors(layer("score", [0.1]), unique_id=9),
            SimpleNamespace(base_meta=SimpleNamespace(meta_type=OTHER)),
            tensors(layer("patch_map", patch_map), layer("score", [0.75])),
        )
    )
    layers = layers_of(PYDS, face, 2)
    assert layers == {
        "score": Layer((1,), [0.75]),
        "patch_map": Layer((2, 3), patch_map.ravel().tolist()),
    }
    found = read_face(layers, 0.75)
    assert found == FaceScore(0.75, True, patch_map.tolist())


def test_values_are_copied():
    """nvinfer uses its buffers again."""
    output = layer("score", [0.5])
    face = SimpleNamespace(obj_user_meta_list=linked(tensors(output)))
    layers = layers_of(PYDS, face, 2)
    output.kept[:] = 0.9
    assert layers["score"].values == [0.5]


@pytest.mark.parametrize("found", [(), (tensors(layer("score", [0.1]), unique_id=9),)])
def test_face_that_was_not_scored(found):
    assert layers_of(PYDS, SimpleNamespace(obj_user_meta_list=linked(*found)), 2) is None


@pytest.mark.parametrize("threshold", [0.3, 0.1 + 0.2, 1 / 3, 0.0, 1.0])
def test_threshold_is_compared_as_in_lpx(threshold):
    at = np.float32(threshold)
    for score in (at, np.nextafter(at, np.float32(0)), np.nextafter(at, np.float32(1))):
        layers = {"score": Layer((1,), [float(score)])}
        assert read_face(layers, threshold).fake == bool(np.array([score]) >= threshold)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"prob": Layer((1,), [0.5])}, "no output is named score, but prob"),
        ({"score": Layer((2,), [0.5, 0.5])}, "score has 2 values for a face"),
        ({"score": Layer((0,), [])}, "score has 0 values for a face"),
        ({"score": Layer((1,), [float("nan")])}, "score nan is not a probability"),
        ({"score": Layer((1,), [1.5])}, r"score 1\.5 is not a probability"),
        (
            {"score": Layer((1,), [0.5]), "patch_map": Layer((2, 3), [0.5] * 5)},
            r"patch_map has shape \(2, 3\) and 5 values",
        ),
        (
            {"score": Layer((1,), [0.5]), "patch_map": Layer((4,), [0.5] * 4)},
            r"patch_map has shape \(4,\) and 4 values",
        ),
    ],
)
def test_outputs_of_another_engine_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        read_face(layers, 0.5)


def test_map_is_optional():
    assert read_face({"score": Layer((1,), [0.25])}, 0.5) == FaceScore(0.25, False, None)


def labels(unique_id, *probabilities):
    made = [SimpleNamespace(result_prob=value) for value in probabilities]
    return SimpleNamespace(unique_component_id=unique_id, label_info_list=linked(*made))


def test_label_of_a_fake_face():
    face = SimpleNamespace(classifier_meta_list=linked(labels(5, 0.2), labels(2, 0.9)))
    assert label_of(PYDS, face, 2) == FaceScore(0.9, True, None)
    assert label_of(PYDS, SimpleNamespace(classifier_meta_list=None), 2) is None
    empty = SimpleNamespace(classifier_meta_list=linked(labels(2)))
    assert label_of(PYDS, empty, 2) is None


def test_lists_end():
    assert list(items(None, CASTS)) == []
    assert list(items(linked(1, 2, 3), CASTS)) == [1, 2, 3]
