"""Score face crops in batches, and refuse scores that are no probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import are_maps, are_probabilities
from lpx.engines.base import Engine, Prediction
from lpx.errors import LpxError

# Faces given to the engine at a time: a crowd may have hundreds in a frame, more than an engine's
# largest batch takes.
BATCH = 8


def score_crops(
    engine: Engine, crops: Sequence[NDArray[np.uint8]], batch: int = BATCH
) -> Prediction:
    """Score crops of the engine's size.

    Args:
        engine: The engine.
        crops: uint8 RGB [S, S, 3] each; may be empty.
        batch: Maximum number of crops per call.
    """
    parts = []
    for start in range(0, len(crops), batch):
        parts.append(engine.infer(np.stack(crops[start : start + batch])))
    # np.concatenate refuses an empty list, and frames without faces are common.
    if not parts:
        return Prediction(np.zeros(0, np.float32), np.zeros((0, 1, 1), np.float32))
    return Prediction(
        np.concatenate([part.score for part in parts]),
        np.concatenate([part.patch_map for part in parts]),
    )


def check_scores(engine: str, prediction: Prediction, where: str) -> None:
    """Refuse scores and maps that are not within 0 to 1.

    Args:
        engine: Name of the engine, for the error.
        prediction: What it gave.
        where: What the faces are in, such as "clip.mp4, frame 3".

    Raises:
        LpxError: They are not.
    """
    likely = are_probabilities(prediction.score)
    if likely.all() and are_maps(prediction.patch_map).all():
        return
    wrong = "a map with values outside 0 to 1"
    if not likely.all():
        wrong = f"the score {prediction.score[~likely][0]}"
    raise LpxError(
        f"{engine} gives {wrong} to a face in {where}",
        "scores must be finite probabilities, from 0 to 1; others invalidate every result",
        'check with `engine="torch"` whether the checkpoint does so too; if it does not, build '
        "the engine again, or in another precision",
    )
