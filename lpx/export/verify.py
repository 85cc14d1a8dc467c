"""Compare an exported model with the checkpoint it came from, on faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lpx.data.face_set import FaceSet
from lpx.errors import LpxError
from lpx.export.deployed import Deployed
from lpx.models.checkpoint import Detector

TOLERANCE = 1e-4
"""Largest |difference| of score and map that an export may show."""
FACES = 32
BATCH = 8


@dataclass(frozen=True)
class Verification:
    """How far an export is from its checkpoint.

    Attributes:
        faces: Faces compared.
        max_score_difference: Largest |difference| of scores.
        max_map_difference: Largest |difference| of patch maps.
        worst_face: The face with the largest of both.
    """

    faces: int
    max_score_difference: float
    max_map_difference: float
    worst_face: str


def verify(model: bytes, detector: Detector, faces: FaceSet) -> Verification:
    """Run both on real faces, the export in ONNX Runtime.

    Raises:
        LpxError: A difference above `TOLERANCE`; the worst face is named.
    """
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    module = Deployed(detector.module, detector.card).eval()
    chosen = faces.first(FACES)
    names: list[str] = []
    scores: list[float] = []
    maps: list[float] = []
    for batch in chosen.stream(BATCH, detector.card.input_size, []):
        score, patch_map = session.run(("score", "patch_map"), {"faces": batch.pixels})
        with torch.inference_mode():
            truth = [t.numpy() for t in module(torch.from_numpy(batch.pixels))]
        names += [chosen.faces[i].name for i in batch.indices]
        scores += np.abs(score - truth[0]).tolist()
        maps += np.abs(patch_map - truth[1]).max(axis=(1, 2)).tolist()
    largest = np.maximum(scores, maps)
    worst = int(np.argmax(largest))
    found = Verification(len(names), max(scores), max(maps), names[worst])
    if not largest[worst] <= TOLERANCE:
        raise LpxError(
            f"the exported model differs from the checkpoint by {largest[worst]:.2g} on face "
            f"{found.worst_face}",
            f"score by {found.max_score_difference:.2g}, map by {found.max_map_difference:.2g} at "
            f"most; {TOLERANCE:g} is allowed",
            "the model may depend on the batch, or on random numbers in eval mode",
        )
    return found
