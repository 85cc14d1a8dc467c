"""Stands in for pyds: one frame with three objects, of which two are faces.

The second face is outside the frame. FAKE_SCORE is the score of the first. With FAKE_BREAK,
reading the metadata fails once, in the first of the two probes.
"""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace

SCORE = (ctypes.c_float * 1)(float(os.environ.get("FAKE_SCORE", "0.875")))


class Link:
    def __init__(self, elements):
        self._elements = elements

    @property
    def data(self):
        return self._elements[0]

    @property
    def next(self):
        if len(self._elements) == 1:
            raise StopIteration
        return Link(self._elements[1:])


class _Casts:
    @staticmethod
    def cast(data):
        return data


NvDsFrameMeta = NvDsObjectMeta = NvDsUserMeta = NvDsInferTensorMeta = _Casts
NvDsClassifierMeta = NvDsLabelInfo = _Casts
NvDsMetaType = SimpleNamespace(NVDSINFER_TENSOR_OUTPUT_META=12)


def get_nvds_LayerInfo(meta, index):  # noqa: N802, as pyds calls it
    dims = SimpleNamespace(d=[1] + [0] * 7, numDims=1)
    return SimpleNamespace(layerName="score", inferDims=dims, buffer=ctypes.addressof(SCORE))


def get_ptr(buffer):
    return buffer


def _object(left, component, class_id):
    rect = SimpleNamespace(left=left, top=100.0, width=50.0, height=60.0)
    return SimpleNamespace(
        rect_params=rect,
        unique_component_id=component,
        class_id=class_id,
        obj_user_meta_list=None,
        classifier_meta_list=None,
    )


OBJECTS = [_object(100.0, 1, 0), _object(300.0, 1, 7), _object(900.0, 1, 0), _object(9.0, 4, 0)]
FRAME = SimpleNamespace(
    source_id=3,
    frame_num=41,
    obj_meta_list=Link(OBJECTS),
)
BATCH = SimpleNamespace(frame_meta_list=Link([FRAME]))


def infer():
    """Attach what nvinfer would: to objects that it does not pass over."""
    for found in OBJECTS:
        rect = found.rect_params
        print("# nvinfer sees", rect.left, rect.top, rect.width, rect.height)
        if rect.width < 16 or found.class_id != 0 or found.unique_component_id != 1:
            continue
        meta = SimpleNamespace(unique_id=2, num_output_layers=1)
        user = SimpleNamespace(base_meta=SimpleNamespace(meta_type=12), user_meta_data=meta)
        found.obj_user_meta_list = Link([user])
        label = SimpleNamespace(result_prob=float(SCORE[0]))
        classifier = SimpleNamespace(unique_component_id=2, label_info_list=Link([label]))
        found.classifier_meta_list = Link([classifier])


_ASKED = []


def gst_buffer_get_nvds_batch_meta(address):
    _ASKED.append(address)
    if len(_ASKED) == 1 and "FAKE_BREAK" in os.environ:
        raise RuntimeError("no metadata")
    return BATCH
