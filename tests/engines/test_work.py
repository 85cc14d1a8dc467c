"""Multiply-accumulates, counted by hand and by lpx, and what is said of an engine by them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lpx.engines.manifest import UNKNOWN, share_in_integers
from lpx.engines.onnxruntime.cpu import count_convolutions
from lpx.engines.work import by_precision, multiply_accumulates, warning_of_share
from lpx.graph.qdq.placement import Decision

HEAD = '<ir_version: 9, opset_import: ["" : 20]>\n'


def model(text, **weights):
    proto = onnx.parser.parse_model(HEAD + text)
    for name, shape in weights.items():
        value = shape if isinstance(shape, np.ndarray) else np.ones(shape, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for node in proto.graph.node:
        node.name = node.output[0]
    return onnx.shape_inference.infer_shapes(proto).SerializeToString()


def test_counts_are_those_of_the_textbook():
    """Outputs times weights per output; the batch counts as one face."""
    data = model(
        """g (float[N,16,8,8] x) => (float[N,6] z, float[N,4,16,16] t) {
            a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)
            d = Conv<pads=[1,1,1,1], group=32>(a, dw)
            p = GlobalAveragePool(d)
            f = Flatten(p)
            l = Gemm<transB=1>(f, m)
            z = MatMul(l, n)
            t = ConvTranspose<strides=[2,2]>(x, u)
        }""",
        w=(32, 16, 3, 3),
        dw=(32, 1, 3, 3),
        m=(10, 32),
        n=(10, 6),
        u=(16, 4, 2, 2),
    )
    assert multiply_accumulates(data) == {
        "a": 32 * 4 * 4 * 16 * 9,
        "d": 32 * 4 * 4 * 9,
        "l": 10 * 32,
        "z": 6 * 10,
        "t": 16 * 8 * 8 * 4 * 4,
    }


def test_products_of_two_computed_tensors_count():
    """Attention has no weights, and work all the same."""
    data = model(
        """g (float[N,2,5,7] x) => (float[N,2,5,7] z) {
            k = Transpose<perm=[0,1,3,2]>(x)
            s = MatMul(x, k)
            z = MatMul(s, x)
        }"""
    )
    assert multiply_accumulates(data) == {"s": 2 * 5 * 5 * 7, "z": 2 * 5 * 7 * 5}


def test_shapes_that_only_running_tells():
    """Patches go into the batch: its size is the face's side over a patch's, squared."""
    data = model(
        """g (float[N,16,8,8] x) => (float[K,4,4,4] z) {
            r = Reshape(x, shape)
            z = Conv(r, w)
        }""",
        shape=np.array([-1, 16, 4, 4]),
        w=(4, 16, 1, 1),
    )
    assert multiply_accumulates(data) == {"z": 4 * 4 * 4 * 4 * 16}


def test_graph_that_does_not_run_with_one_face_has_no_count():
    data = model(
        "g (float[N,16,H,8] x) => (float[N,16,P,Q] z) { z = Conv(x, w) }", w=(16, 16, 3, 3)
    )
    assert multiply_accumulates(data) == {}


def test_batch_norms_are_no_convolutions():
    """ONNX Runtime makes a convolution of each behind a pool, as it lays tensors out anew."""
    data = model(
        """g (float[N,8,16,16] x) => (float[N,8,8,8] z) {
            a = Conv<pads=[1,1,1,1]>(x, w)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            b = BatchNormalization(p, s, s, s, s)
            z = Relu(b)
        }""",
        w=(8, 8, 3, 3),
        s=(8,),
    )
    assert count_convolutions(data) == {"int8": 0, "fp32": 1}


def test_what_a_runtime_does_not_account_for_is_unknown():
    counts = by_precision({"a": 60, "b": 30, "c": 10}, {"a": "int8", "b": "fp16"})
    assert counts == {"int8": 60, "fp16": 30, UNKNOWN: 10}
    assert share_in_integers(counts) == 0.6
    assert share_in_integers({}) is None
    assert share_in_integers({"fp32": 5}) == 0


DECISIONS = (
    Decision("wide", "Conv", True, "16 -> 16 channels"),
    Decision("narrow", "Conv", False, "8 -> 12 channels, under 16 (min_channels)"),
    Decision("thin", "Conv", False, "12 -> 8 channels, under 16 (min_channels)"),
    Decision("head", "MatMul", False, "not a convolution: the head's products are few"),
)


def test_little_work_in_integers_is_said_with_the_reasons():
    work = {"wide": 40, "narrow": 30, "thin": 25, "head": 5}
    text = warning_of_share(work, {"wide": "int8", "narrow": "fp32", "thin": "fp32"}, DECISIONS)
    assert text.startswith("only 40 % of the multiply-accumulates run in integers")
    assert "55 % (2 nodes): under 16 (min_channels); 5 % (1 node): not a convolution" in text


@pytest.mark.parametrize("least", [50, 99])
def test_half_in_integers_needs_no_word(least):
    work = {"wide": least, "narrow": 100 - least}
    assert warning_of_share(work, {"wide": "int8", "narrow": "fp32"}, DECISIONS) == ""
    assert warning_of_share({}, {}, DECISIONS) == ""


def test_node_that_the_runtime_leaves_in_float_is_said_so():
    text = warning_of_share({"wide": 90, "head": 10}, {"wide": "fp16"}, DECISIONS)
    assert "90 % (1 node): quantised, but the runtime computes it in float" in text
