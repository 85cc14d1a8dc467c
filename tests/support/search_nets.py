"""Small detectors with random weights, one for each kind of network that searches take apart."""

from __future__ import annotations

import numpy as np
import onnx

SIZE = 64

HEAD = '<ir_version: 9, opset_import: ["" : 20]>\n'
NETS = {
    # Residual blocks, one with a projection, behind a MaxPool, as in ResNet.
    "pooled": """
        s = Conv<pads=[3,3,3,3], strides=[2,2]>(x, w0)
        sr = Relu(s)
        p = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(sr)
        a = Conv<pads=[1,1,1,1]>(p, w1)
        ar = Relu(a)
        b = Conv<pads=[1,1,1,1]>(ar, w2)
        c = Add(b, p)
        cr = Relu(c)
        d = Conv<pads=[1,1,1,1], strides=[2,2]>(cr, w3)
        dr = Relu(d)
        e = Conv<pads=[1,1,1,1]>(dr, w4)
        f = Conv<strides=[2,2]>(cr, w5)
        g = Add(e, f)
        last = Relu(g)""",
    # Inverted residual blocks with depthwise convolutions, as in MobileNetV2.
    "depthwise": """
        s = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0)
        sr = Relu(s)
        a = Conv<pads=[1,1,1,1], group=16>(sr, w1)
        ar = Relu(a)
        b = Conv(ar, w2)
        c = Conv(b, w3)
        cr = Relu(c)
        d = Conv<pads=[1,1,1,1], group=32>(cr, w4)
        dr = Relu(d)
        e = Conv(dr, w5)
        last = Add(e, b)""",
}
SHAPES = {
    "pooled": [
        (16, 3, 7, 7),
        (16, 16, 3, 3),
        (16, 16, 3, 3),
        (32, 16, 3, 3),
        (32, 32, 3, 3),
        (32, 16, 1, 1),
    ],
    "depthwise": [
        (16, 3, 3, 3),
        (16, 1, 3, 3),
        (16, 16, 1, 1),
        (32, 16, 1, 1),
        (32, 1, 3, 3),
        (16, 32, 1, 1),
    ],
}
GRID = {"pooled": 8, "depthwise": 32}


def make_model(name):
    """A small detector with random weights; the head is that of lpx's detectors."""
    generator = np.random.default_rng(0)
    grid, width = GRID[name], SHAPES[name][-1][0]
    text = f"""{HEAD}g (uint8[N,{SIZE},{SIZE},3] faces)
            => (float[N] score, float[N,{grid},{grid}] patch_map) {{
        pixels = Cast<to=1>(faces)
        chw = Transpose<perm=[0,3,1,2]>(pixels)
        x = Sub(chw, mean){NETS[name]}
        h = Conv(last, w6)
        hr = Relu(h)
        k = Conv(hr, w7)
        z = Squeeze(k, axis)
        patch_map = Sigmoid(z)
        score = ReduceMean<keepdims=0>(patch_map, axes)
    }}"""
    proto = onnx.parser.parse_model(text)
    weights = {"mean": np.full((1, 3, 1, 1), 127.0, np.float32)}
    for number, shape in enumerate([*SHAPES[name], (16, width, 1, 1), (1, 16, 1, 1)]):
        scale = (2 / np.prod(shape[1:])) ** 0.5
        if number == 0:
            scale /= 64
        weights[f"w{number}"] = (scale * generator.normal(size=shape)).astype(np.float32)
    weights["axis"] = np.array([1])
    weights["axes"] = np.array([1, 2])
    for tensor, value in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, tensor))
    for node in proto.graph.node:
        node.name = f"{node.op_type}_{node.output[0]}"
    return onnx.shape_inference.infer_shapes(proto).SerializeToString()
