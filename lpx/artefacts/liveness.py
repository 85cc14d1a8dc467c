"""Whether an engine that was just built tells faces apart at all.

Ranges that one loud channel has stretched, or an overflow in half precision, make an engine that
gives every face the same score: it loads, runs and is fast. A few faces show it before anyone
measures an AUC.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpx.artefacts.model import ExportedModel
from lpx.data.face_sets.face_set import FaceSet
from lpx.engines import load
from lpx.engines.base import Faces
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.metrics import is_dead

FACES = 32
"""Faces that are scored, spread evenly over the set."""


@dataclass(frozen=True)
class Probe:
    """Faces to try engines on.

    Attributes:
        faces: uint8 RGB [N, S, S, 3].
        scores: float32 [N], the exported model's; None where it cannot be run for comparison.
    """

    faces: Faces
    scores: NDArray[np.float32] | None


def make_probe(pool: FaceSet, model: ExportedModel) -> Probe:
    """Up to `FACES` readable faces of a set, and what the exported model gives them."""
    size = model.card.input_size
    batches = [batch.pixels for batch in pool.first(FACES).stream(8, size, [])]
    faces = np.concatenate(batches) if batches else np.empty((0, size, size, 3), np.uint8)
    try:
        with closing(OnnxRuntimeEngine(model.data, size)) as reference:
            scores = reference.infer(faces).score if batches else None
    except LpxError:
        scores = None
    return Probe(faces, scores)


def symptom(folder: Path, probe: Probe, *, allow_host_code: bool) -> str:
    """What shows that the engine in `folder` is dead; "" where nothing does.

    Args:
        folder: The engine's.
        probe: What to try it on, of the model that it was built from.
        allow_host_code: Load a version-compatible plan; this process has built it.

    Raises:
        LpxError: The engine does not load or run.
    """
    count, wanted = len(probe.faces), probe.scores
    if count < 2:
        return ""
    with closing(load(folder, allow_host_code=allow_host_code)) as engine:
        found = engine.infer(probe.faces).score
    if broken := int((~np.isfinite(found)).sum()):
        return f"its score is not a finite number on {broken} of {count} faces"
    if wanted is None or not np.isfinite(wanted).all() or not is_dead(wanted, found):
        return ""
    return (
        f"it gives all {count} faces one score ({found.min():.4f} to {found.max():.4f}); those"
        f" of the exported model go from {wanted.min():.4f} to {wanted.max():.4f}"
    )
