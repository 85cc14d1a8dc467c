"""Sizes of a model's tensors for any number of faces.

The first dimension of a tensor is not always the batch: a network that splits faces into patches or
windows has several rows per face, and one that mixes positions may have the batch second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lpx.calibration.ort_layout import open_session
from lpx.errors import LpxError

# Batch sizes to run if the graph does not state a size: two determine a line, the third checks it.
_PROBED = (1, 2, 3)


@dataclass(frozen=True)
class Extent:
    """Shape of a tensor; dimension d is `fixed[d] + per_face[d] * faces`."""

    fixed: tuple[int, ...]
    per_face: tuple[int, ...]

    def shape(self, faces: int) -> tuple[int, ...]:
        """Return the shape for a number of faces."""
        return tuple(a + b * faces for a, b in zip(self.fixed, self.per_face, strict=True))

    def values(self, faces: int) -> int:
        """Return the number of values for a number of faces."""
        return math.prod(self.shape(faces))

    @property
    def channels(self) -> int:
        """Size of the second dimension; 0 if there is none, or it grows with the faces."""
        if len(self.fixed) > 1 and not self.per_face[1]:
            return self.fixed[1]
        return 0

    @property
    def row_per_face(self) -> bool:
        """True if the first dimension, and no other, is the number of faces."""
        return self.per_face == (1,) + (0,) * (len(self.fixed) - 1) and self.fixed[:1] == (0,)


def extents(model: bytes, graph: ir.Model, names: Sequence[str]) -> dict[str, Extent]:
    """Return the sizes of tensors, from the graph if it states them, else by running it.

    Args:
        model: ONNX model with the tensors as outputs.
        graph: The same model, parsed.
        names: Names of the tensors.

    Raises:
        LpxError: A dimension does not grow linearly with the number of faces.
    """
    faces = graph.graph.inputs[0]
    batch = faces.shape[0] if faces.shape else None
    values = {str(v.name): v for v in graph.graph.outputs}
    known: dict[str, Extent] = {}
    unknown = []
    for name in names:
        extent = _stated(values[name], batch)
        if extent is None:
            unknown.append(name)
        else:
            known[name] = extent
    # Running the model costs a session: only if the graph leaves something open.
    if unknown:
        known.update(_measured(model, unknown))
    return {name: known[name] for name in names}


def _stated(value: ir.Value, batch: int | ir.SymbolicDim | None) -> Extent | None:
    if value.shape is None:
        return None
    fixed, per_face = [], []
    for dimension in value.shape:
        if isinstance(dimension, int):
            fixed.append(dimension)
            per_face.append(0)
        elif isinstance(batch, ir.SymbolicDim) and dimension.value and dimension == batch:
            fixed.append(0)
            per_face.append(1)
        else:
            # An expression such as 4*n, or a dimension without a name.
            return None
    return Extent(tuple(fixed), tuple(per_face))


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
            f"the size of tensor {name} does not grow linearly with the number of faces",
            f"it is {', '.join(str(list(s)) for s in shapes)} for one, two and three faces",
            "a detector processes each face independently: look for what mixes faces of a batch",
        )
    return Extent(tuple((one - per_face).tolist()), tuple(per_face.tolist()))
