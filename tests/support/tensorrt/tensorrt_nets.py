"""Tiny detectors as ONNX: uint8 faces in, score and patch map out, FP32, FP16 or INT8 by Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SIZE = 32
Scales = Literal["same", "fp32-between-casts"]


@dataclass
class Net:
    """A graph under construction. `dtype` is what it computes in."""

    dtype: Any
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    random: Any = field(default_factory=lambda: np.random.default_rng(0))

    def op(self, kind: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [out or name], name=name, **attributes)
        )
        return out or name

    def constant(self, value: Any, dtype: Any = None) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value, dtype or self.dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def quantised(self, x: str, scale: Any, *, scales: Scales, axis: int | None = None) -> str:
        """Q/DQ with scales of the input's type, or FP32 scales between two casts."""
        dtype = self.dtype if scales == "same" else np.float32
        if scales != "same":
            x = self.op("Cast", x, to=TensorProto.FLOAT)
        step = self.constant(scale, dtype)
        zero = self.constant(np.zeros(np.shape(scale)), np.int8)
        options = {} if axis is None else {"axis": axis}
        q = self.op("QuantizeLinear", x, step, zero, **options)
        y = self.op("DequantizeLinear", q, step, zero, **options)
        if scales != "same":
            y = self.op("Cast", y, to=helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype)))
        return y

    def conv(
        self,
        x: str,
        channels: tuple[int, int],
        *,
        stride: int = 1,
        group: int = 1,
        quantise: bool = False,
        per_channel: bool = True,
        scales: Scales = "same",
        bias_dtype: Any = None,
    ) -> str:
        """3 x 3 convolution and ReLU, with Q/DQ on data and weights where asked."""
        inputs, outputs = channels
        weights = self.random.standard_normal((outputs, inputs // group, 3, 3)) * 0.1
        w = self.constant(weights)
        if quantise:
            largest = np.abs(weights).reshape(outputs, -1).max(axis=1) / 127
            scale, axis = (largest, 0) if per_channel else (largest.max(), None)
            w = self.quantised(w, scale, scales=scales, axis=axis)
            x = self.quantised(x, 0.05, scales=scales)
        b = self.constant(np.zeros(outputs), bias_dtype)
        pads, strides = [1, 1, 1, 1], [stride, stride]
        return self.op("Relu", self.op("Conv", x, w, b, pads=pads, strides=strides, group=group))

    def start(self) -> str:
        """Uint8 faces to NCHW; the cast must come first, TensorRT takes uint8 nowhere else."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        scaled = self.op("Div", self.op("Cast", "faces", to=kind), self.constant(255.0))
        return self.op("Transpose", scaled, perm=[0, 3, 1, 2])

    def finish(self, x: str, channels: int, batch: int | str = "N", opset: int = 19) -> bytes:
        """Head, sigmoid and mean in FP32; the serialized model."""
        w = self.constant(self.random.standard_normal((1, channels, 1, 1)) * 0.1)
        logits = self.op("Cast", self.op("Conv", x, w), to=TensorProto.FLOAT)
        channel = self.constant([1], np.int64)
        self.op("Squeeze", self.op("Sigmoid", logits), channel, out="patch_map")
        if opset < 18:
            self.op("ReduceMean", "patch_map", axes=[1, 2], keepdims=0, out="score")
        else:
            cells = self.constant([1, 2], np.int64)
            self.op("ReduceMean", "patch_map", cells, keepdims=0, out="score")
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "tiny",
            [value("faces", TensorProto.UINT8, [batch, SIZE, SIZE, 3])],
            [
                value("score", TensorProto.FLOAT, [batch]),
                value("patch_map", TensorProto.FLOAT, [batch, SIZE // 2, SIZE // 2]),
            ],
            self.constants,
        )
        opsets, ir_version = [helper.make_opsetid("", opset)], 8 if opset < 19 else 9
        model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
        return model.SerializeToString()


def tiny(
    precision: str = "fp16",
    *,
    channels: int = 32,
    batch: int | str = "N",
    per_channel: bool = True,
    scales: Scales = "same",
    depthwise: bool = False,
    weak: bool = False,
) -> bytes:
    """A stem and two convolutions, whose precision is the graph's; the stem stays FP16 in INT8.

    `weak` is the graph for weakly typed releases: FP32 throughout, opset 17.
    """
    net = Net(np.float32 if precision == "fp32" or weak else np.float16)
    quantise = precision == "int8"
    x = net.conv(net.start(), (3, channels), stride=2)
    for group in (channels if depthwise else 1, 1):
        x = net.conv(
            x,
            (channels, channels),
            group=group,
            quantise=quantise,
            per_channel=per_channel,
            scales=scales,
        )
    return net.finish(x, channels, batch, opset=17 if weak else 19)


def one_convolution(name: str = "conv") -> bytes:
    """A graph of one convolution, for libraries that only pretend to build it."""
    net = Net(np.float16)
    shape = [1, 8, 8, 8]
    tensor = helper.make_tensor_value_info
    weights = net.constant(np.ones((8, 8, 1, 1)))
    node = helper.make_node("Conv", ["x", weights], ["y"], name=name)
    sides = [[tensor(side, TensorProto.FLOAT16, shape)] for side in ("x", "y")]
    return helper.make_model(
        helper.make_graph([node], "one convolution", *sides, net.constants)
    ).SerializeToString()
