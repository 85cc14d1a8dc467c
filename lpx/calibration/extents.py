"""How large the tensors of a model are for any number of faces.

The first dimension of a tensor is not always the batch: a network that cuts faces into patches or
windows holds several rows of each face, and one that mixes positions may have the batch second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lpx.calibration.ort_layout import open_session
from lpx.errors import LpxError

_PROBED = (1, 2, 3)
"""Batch sizes to run where the graph states no size: two determine a line, the third checks it."""


@dataclass(frozen=True)
class Extent:
    """Shape of a tensor; dimension d of it is `fixed[d] + per_face[d] * faces`."""

    fixed: tuple[int, ...]
    per_face: tuple[int, ...]

    def shape(self, faces: int) -> tuple[int, ...]:
        """The shape for a number of faces."""
        return tuple(a + b * faces for a, b in zip(self.fixed, self.per_face, strict=True))

    def values(self, faces: int) -> int:
        """How many values it has for a number of faces."""
        return math.prod(self.shape(faces))

    @property
    def channels(self) -> int:
        """Size of the second dimension; 0 where there is none, or it grows with the faces."""
        return self.fixed[1] if len(self.fixed) > 1 and not self.per_face[1] else 0

    @property
    def row_per_face(self) -> bool:
        """Whether the first dimension counts faces, and nothing else does."""
        return self.per_face == (1,) + (0,) * (len(self.fixed) - 1) and self.fixed[:1] == (0,)


def extents(model: bytes, graph: ir.Model, names: Sequence[str]) -> dict[str, Extent]:
    """Sizes of tensors: from the graph where it states them, else from running it.

    Args:
        model: ONNX, which gives the tensors as outputs.
        graph: The same model.
        names: The tensors.

    Raises:
        LpxError: A dimension does not grow by the same with every face.
    """
    faces = graph.graph.inputs[0]
    batch = faces.shape[0] if faces.shape else None
    values = {str(v.name): v for v in graph.graph.outputs}
    stated = {name: _stated(values[name], batch) for name in names}
    unknown = [name for name in names if stated[name] is None]
    measured = _measured(model, unknown) if unknown else {}
    return {name: extent or measured[name] for name, extent in stated.items()}


def _stated(value: ir.Value, batch: int | ir.SymbolicDim | None) -> Extent | None:
    if value.shape is None:
        return None
    sizes = []
    for dimension in value.shape:
        if isinstance(dimension, int):
            sizes.append((dimension, 0))
        elif isinstance(batch, ir.SymbolicDim) and dimension.value and dimension == batch:
            sizes.append((0, 1))
        else:
            return None
    return Extent(tuple(a for a, _ in sizes), tuple(b for _, b in sizes))


def _measured(model: bytes, names: list[str]) -> dict[str, Extent]:
    session = open_session(model, optimise=False)
    (faces,) = session.get_inputs()
    shapes = []
    for count in _PROBED:
        pixels = np.full((count, *faces.shape[1:]), 128, np.uint8)
        shapes.append([value.shape for value in session.run(names, {faces.name: pixels})])
    return {name: _line(name, *each) for name, *each in zip(names, *shapes, strict=True)}


def _line(name: str, *shapes: tuple[int, ...]) -> Extent:
    one, two, three = map(np.array, shapes)
    per_face = two - one
    if not (three - two == per_face).all():
        raise LpxError(
            f"the size of tensor {name} does not grow evenly with the number of faces",
            f"it is {', '.join(str(list(s)) for s in shapes)} for one, two and three faces",
            "a detector treats every face by itself: look for what mixes faces of a batch",
        )
    return Extent(tuple((one - per_face).tolist()), tuple(per_face.tolist()))
