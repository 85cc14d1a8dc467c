"""Reads the score and the map of local scores from the outputs that nvinfer attaches to a face.

It needs neither DeepStream nor any package; `pyds` is handed to the functions that use it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class FaceScore(NamedTuple):
    """What the detector says of a face.

    `score` is the probability of fake, `fake` whether it reaches the threshold, and `patch_map`
    the probabilities of its parts, row by row; None without that output.
    """

    score: float
    fake: bool
    patch_map: list[list[float]] | None


class Layer(NamedTuple):
    """An output of the engine for one face: shape without the batch, and values row by row."""

    shape: tuple[int, ...]
    values: Sequence[float]


def read_face(layers: Mapping[str, Layer], threshold: float) -> FaceScore:
    """Return the score and the map of a face.

    Args:
        layers: Outputs by name: `score`, one value, and perhaps `patch_map`, (h, w).
        threshold: Score from which on a face is fake; "threshold" in card.json.

    Raises:
        ValueError: `score` is missing, an output has another shape, or the score is not a
            probability: the engine is another, or broken.
    """
    if "score" not in layers:
        raise ValueError(f"no output is named score, but {', '.join(sorted(layers))}")
    values = list(layers["score"].values)
    if len(values) != 1:
        raise ValueError(f"score has {len(values)} values for a face, not one")
    score = float(values[0])
    # In this form a NaN is refused too.
    if not 0 <= score <= 1:
        raise ValueError(f"score {score} is not a probability")
    patch_map = None
    if "patch_map" in layers:
        patch_map = _rows(layers["patch_map"])
    # The threshold is compared in float32, as lpx does.
    fake = score >= ctypes.c_float(threshold).value
    return FaceScore(score, fake, patch_map)


def _rows(layer: Layer) -> list[list[float]]:
    if len(layer.shape) != 2 or math.prod(layer.shape) != len(layer.values):
        raise ValueError(f"patch_map has shape {layer.shape} and {len(layer.values)} values")
    height, width = layer.shape
    return [list(layer.values[row * width : (row + 1) * width]) for row in range(height)]


def layers_of(pyds: Any, face: Any, detector_id: int) -> dict[str, Layer] | None:
    """Return the outputs that the detector attached to a face, copied; None if there are none.

    Args:
        pyds: The module.
        face: pyds.NvDsObjectMeta.
        detector_id: `gie-unique-id` of the detector.
    """
    for user in items(face.obj_user_meta_list, pyds.NvDsUserMeta):
        if user.base_meta.meta_type != pyds.NvDsMetaType.NVDSINFER_TENSOR_OUTPUT_META:
            continue
        meta = pyds.NvDsInferTensorMeta.cast(user.user_meta_data)
        # Other elements may have attached their own tensors to the same face.
        if meta.unique_id != detector_id:
            continue
        layers = {}
        for index in range(meta.num_output_layers):
            info = pyds.get_nvds_LayerInfo(meta, index)
            layers[info.layerName] = _layer(pyds, info)
        return layers
    return None


def label_of(pyds: Any, face: Any, detector_id: int) -> FaceScore | None:
    """Return what the score-only form attached to a face; None for a face that is not fake.

    nvinfer attaches the one label, fake, from the threshold on, and nothing below it.

    Args:
        pyds: The module.
        face: pyds.NvDsObjectMeta.
        detector_id: `gie-unique-id` of the detector.
    """
    for found in items(face.classifier_meta_list, pyds.NvDsClassifierMeta):
        if found.unique_component_id != detector_id:
            continue
        # At most one, as the engine of this form has one output with one class.
        for label in items(found.label_info_list, pyds.NvDsLabelInfo):
            return FaceScore(label.result_prob, True, None)
    return None


def items(link: Any, kind: Any) -> Iterator[Any]:
    """Yield the elements of one of DeepStream's lists.

    Args:
        link: First link; None for an empty list.
        kind: Class of the elements in pyds.
    """
    while link is not None:
        try:
            element = kind.cast(link.data)
        # pyds ends its lists in this way, and a generator would turn it into a RuntimeError.
        except StopIteration:
            return
        yield element
        try:
            link = link.next
        except StopIteration:
            return


def _layer(pyds: Any, info: Any) -> Layer:
    dims = info.inferDims
    # `d` has a fixed number of places, and those from `numDims` on mean nothing.
    shape = tuple(int(size) for size in dims.d[: dims.numDims])
    # The engines of this package give float32 in every precision.
    pointer = ctypes.cast(pyds.get_ptr(info.buffer), ctypes.POINTER(ctypes.c_float))
    # Copied, as nvinfer uses the buffer again once the frame has gone on.
    return Layer(shape, list(pointer[: math.prod(shape)]))
