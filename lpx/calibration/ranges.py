"""Range of every tensor on every face, the input of coverage-based face selection."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.observed_model import Activation, ObservedModel
from lpx.data.face_sets.face_set import Batch, FaceSet, Skipped
from lpx.reporter import Progress

Floats = NDArray[np.float32]


class FaceRanges(NamedTuple):
    """Ranges of tensors on single faces.

    Attributes:
        faces: int64 [n], indices of the faces that can be read.
        lows: float32 [n, tensors], smallest value of each tensor on each face.
        highs: float32 [n, tensors], largest value.
    """

    faces: NDArray[np.int64]
    lows: Floats
    highs: Floats


def face_ranges(
    model: bytes, faces: FaceSet, size: int, progress: Progress | None = None
) -> FaceRanges:
    """Run a model over faces, and keep the smallest and largest value per face and tensor.

    Args:
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: Faces to choose from.
        size: S, pixels.
        progress: Called after each batch.
    """
    observed = ObservedModel(model)
    indices: list[int] = []
    lows: list[Floats] = []
    highs: list[Floats] = []
    skipped: list[Skipped] = []
    # If rows of a tensor are not faces, a face's values can be identified only in a batch of one.
    at_a_time = observed.batch_size if observed.row_per_face else 1
    batches = faces.stream(at_a_time, size, skipped)
    for batch, extremes in observed.run_all(batches, _extremes):
        indices += batch.indices.tolist()
        lows.append(extremes.lows)
        highs.append(extremes.highs)
        if progress is not None:
            progress(indices[-1] + 1, len(faces.faces))
    # Concatenation needs an array even if no face can be read.
    none = np.empty((0, len(observed.names)), np.float32)
    return FaceRanges(
        np.array(indices, np.int64),
        np.concatenate([none, *lows]),
        np.concatenate([none, *highs]),
    )


def _extremes(batch: Batch, activations: list[Activation]) -> FaceRanges:
    flat = [a.values.reshape(len(batch.indices), -1) for a in activations]
    return FaceRanges(
        batch.indices,
        np.stack([v.min(axis=1) for v in flat], 1),
        np.stack([v.max(axis=1) for v in flat], 1),
    )
