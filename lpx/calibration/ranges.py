"""The range of every tensor on every face: what `--select coverage` chooses by."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.observed_model import Activation, ObservedModel
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped

Floats = NDArray[np.float32]


def face_ranges(
    model: bytes, faces: FaceSet, size: int, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Run the model over the faces, and keep two numbers per face and tensor.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: The faces to choose from.
        size: S, pixels.
        progress: Told after each batch.

    Returns:
        int64 [n], the faces that can be read; their smallest and largest values, float32
        [n, tensors].
    """
    observed = ObservedModel(model)
    indices: list[int] = []
    lows: list[Floats] = []
    highs: list[Floats] = []
    skipped: list[Skipped] = []
    # Where a tensor's rows do not tell which face they are of, each face goes through by itself.
    at_a_time = observed.batch_size if observed.row_per_face else 1
    batches = faces.stream(at_a_time, size, skipped)
    for batch, (low, high) in observed.run_all(batches, _extremes):
        indices += batch.indices.tolist()
        lows.append(low)
        highs.append(high)
        if progress is not None:
            progress(indices[-1] + 1, len(faces.faces))
    none = np.empty((0, len(observed.names)), np.float32)
    return (
        np.array(indices, np.int64),
        np.concatenate([none, *lows]),
        np.concatenate([none, *highs]),
    )


def _extremes(batch: Batch, activations: list[Activation]) -> tuple[Floats, Floats]:
    """Smallest and largest values of each face and tensor, [N, tensors] each."""
    flat = [a.values.reshape(len(batch.indices), -1) for a in activations]
    return np.stack([v.min(axis=1) for v in flat], 1), np.stack([v.max(axis=1) for v in flat], 1)
