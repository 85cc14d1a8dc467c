"""Find out whether a newly built engine distinguishes faces at all.

Ranges that a single channel with large values has stretched, or an overflow in half precision, make
an engine that gives every face the same score: it loads, runs and is fast. A few faces show it
before anyone measures an AUC.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpx.artefacts.model import ExportedModel
from lpx.data.face_sets.face_set import FaceSet
from lpx.engines.base import Engine, Faces
from lpx.engines.load import load
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.metrics import is_dead

# Number of faces that are scored, sampled evenly.
FACES = 32


@dataclass(frozen=True)
class Probe:
    """Faces to try engines on.

    Attributes:
        faces: Face crops, uint8 RGB [N, S, S, 3].
        scores: Scores of the exported model, float32 [N]; None if it cannot be run.
    """

    faces: Faces
    scores: NDArray[np.float32] | None


def make_probe(pool: FaceSet, model: ExportedModel) -> Probe:
    """Return up to `FACES` readable faces of a set, and their scores by the exported model."""
    size = model.card.input_size
    batches = [batch.pixels for batch in pool.first(FACES).stream(8, size, [])]
    if not batches:
        return Probe(np.empty((0, size, size, 3), np.uint8), None)
    faces = np.concatenate(batches)
    try:
        with closing(OnnxRuntimeEngine(model.data, size)) as reference:
            return Probe(faces, reference.infer(faces).score)
    except LpxError:
        # Without scores to compare with, only engines whose scores are not finite are named.
        return Probe(faces, None)


def symptom(
    folder: Path,
    probe: Probe,
    *,
    allow_host_code: bool,
    open_engine: Callable[..., Engine] = load,
) -> str:
    """Return the sign that an engine is dead, "" if there is none.

    Args:
        folder: Folder of the engine.
        probe: Faces to try it on, with scores of the model that it was built from.
        allow_host_code: Load a version-compatible plan; this process has built it.
        open_engine: Opens the engine in a folder.

    Raises:
        LpxError: The engine does not load or run.
    """
    count, reference = len(probe.faces), probe.scores
    # One face says nothing about differences between faces.
    if count < 2:
        return ""
    with closing(open_engine(folder, allow_host_code=allow_host_code)) as engine:
        scores = engine.infer(probe.faces).score
    if broken := int((~np.isfinite(scores)).sum()):
        return f"its score is not a finite number on {broken} of {count} faces"
    if reference is None or not np.isfinite(reference).all() or not is_dead(reference, scores):
        return ""
    return (
        f"it gives all {count} faces one score ({scores.min():.4f} to {scores.max():.4f}); those "
        f"of the exported model range from {reference.min():.4f} to {reference.max():.4f}"
    )
