"""A small network, and faces from memory, for tests of calibration."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np
import onnx

from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.data.images.decode import UnreadableImageError

SIZE = 8
# Three convolutions: the second and the third are quantised, on what they read, "b" and "c".
GRAPH = """
<ir_version: 9, opset_import: ["" : 20]>
detector (uint8[n, 8, 8, 3] faces) => (float[n] score, float[n, 8, 8] patch_map)
{
  x = Cast <to = 1> (faces)
  t = Transpose <perm = [0, 3, 1, 2]> (x)
  a = Conv (t, first)
  b = Relu (a)
  c = Conv (b, second)
  d = Conv (c, third)
  patch_map = ReduceMean <keepdims = 0> (d, channel)
  score = ReduceMean <keepdims = 0> (d, all)
}
"""


def model(scale=1 / 255, seed=0, narrow=16):
    rng = np.random.default_rng(seed)
    constants = {
        "first": (rng.standard_normal((16, 3, 1, 1)) * scale).astype(np.float32),
        "second": rng.standard_normal((16, 16, 1, 1)).astype(np.float32),
        "third": rng.standard_normal((narrow, 16, 1, 1)).astype(np.float32),
        "channel": np.array([1], np.int64),
        "all": np.array([1, 2, 3], np.int64),
    }
    return built(GRAPH, constants), constants


def patches(scale=1 / 255):
    """`model`, of faces that were cut into quarters: the left ones of all faces, then the right."""
    _, constants = model(scale)
    halves = ((0, 4), (4, 8))
    named = {
        f"{side}{end}": np.array([value])
        for side, pair in zip("ab", halves, strict=True)
        for end, value in zip(("from", "to"), pair, strict=True)
    }
    cut = """
  left = Slice (t, afrom, ato, three)
  right = Slice (t, bfrom, bto, three)
  sides = Concat <axis = 0> (left, right)
  top = Slice (sides, afrom, ato, two)
  low = Slice (sides, bfrom, bto, two)
  cut = Concat <axis = 0> (top, low)
  a = Conv (cut, first)"""
    text = GRAPH.replace("  a = Conv (t, first)", cut)
    text = text.replace(
        "patch_map = ReduceMean <keepdims = 0> (d, channel)\n  score = ReduceMean "
        "<keepdims = 0> (d, all)",
        """each = ReduceMean <keepdims = 0> (d, all)
  by_place = Reshape (each, places)
  by_face = Transpose <perm = [1, 0]> (by_place)
  patch_map = Reshape (by_face, grid)
  score = ReduceMean <keepdims = 0> (by_face, channel)""",
    )
    text = text.replace("float[n, 8, 8] patch_map", "float[n, 2, 2] patch_map")
    more = {
        "two": np.array([2]),
        "three": np.array([3]),
        "places": np.array([4, -1]),
        "grid": np.array([-1, 2, 2]),
    }
    return built(text, constants | named | more), constants


def built(text, constants):
    """The model of a text, with its initialisers; nodes are named after their first output."""
    proto = onnx.parser.parse_model(text)
    for name, value in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    for node in proto.graph.node:
        node.name = node.output[0]
    return onnx.shape_inference.infer_shapes(proto).SerializeToString()


@dataclass(frozen=True)
class Pixels:
    """A face from memory; None stands for one that cannot be read."""

    values: np.ndarray | None

    def read(self):
        if self.values is None:
            raise UnreadableImageError("broken")
        return self.values


def face_set(*images):
    faces = tuple(
        Face(f"{n}.png", None, "unknown", str(n), (f"person {n % 3}",), Pixels(image))
        for n, image in zip(count(), images)
    )
    return FaceSet("made up", "train", "none", faces)


def noise(faces, seed=1):
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (faces, SIZE, SIZE, 3), dtype=np.uint8))


def expected(images, constants):
    """Activations b and c, float64 [N, 16, S, S]."""
    pixels = np.stack(images).astype(np.float64)
    b = np.maximum(np.einsum("nhwi,oi->nohw", pixels, constants["first"][..., 0, 0]), 0)
    return {"b": b, "c": np.einsum("nihw,oi->nohw", b, constants["second"][..., 0, 0])}
