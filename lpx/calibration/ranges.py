"""The range of every tensor on every face: what `--select coverage` chooses by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.forward import ObservedModel
from lpx.data.face_set import FaceSet, Skipped


def face_ranges(
    model: bytes, faces: FaceSet, size: int, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Run the model over the faces, one at a time, and keep two numbers per face and tensor.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: The faces to choose from.
        size: S, pixels.
        progress: Told after each face.

    Returns:
        int64 [n], the faces that can be read; their smallest and largest values, float32
        [n, tensors].
    """
    observed = ObservedModel(model)
    room = observed.room(1)
    indices: list[int] = []
    lows: list[list[float]] = []
    highs: list[list[float]] = []
    skipped: list[Skipped] = []
    for batch in faces.stream(1, size, skipped):
        activations = observed.run(batch.pixels, room)
        indices.append(int(batch.indices[0]))
        lows.append([float(a.values.min()) for a in activations])
        highs.append([float(a.values.max()) for a in activations])
        if progress is not None:
            progress(indices[-1] + 1, len(faces.faces))
    shape = (len(indices), len(observed.names))
    return (
        np.array(indices, np.int64),
        np.array(lows, np.float32).reshape(shape),
        np.array(highs, np.float32).reshape(shape),
    )
