"""Whether an engine that was just built tells faces apart at all.

Ranges that one loud channel has stretched, or an overflow in half precision, make an engine that
gives every face the same score: it loads, runs and is fast. A few faces show it before anyone
measures an AUC.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np

from lpx.data.face_set import FaceSet
from lpx.engines import load
from lpx.engines.base import Faces
from lpx.engines.onnxruntime_engine import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.metrics import is_dead
from lpx.pipeline.exported import ExportedModel

FACES = 32
"""Faces that are scored, spread evenly over the set."""


def some_faces(pool: FaceSet, size: int) -> Faces:
    """Up to `FACES` readable faces of a set, uint8 RGB [N, S, S, 3]."""
    batches = [batch.pixels for batch in pool.first(FACES).stream(8, size, [])]
    return np.concatenate(batches) if batches else np.empty((0, size, size, 3), np.uint8)


def symptom(folder: Path, model: ExportedModel, faces: Faces, *, allow_host_code: bool) -> str:
    """What shows that the engine in `folder` is dead; "" where nothing does.

    Args:
        folder: The engine's.
        model: The exported model, which is run in ONNX Runtime beside it.
        faces: uint8 RGB [N, S, S, 3].
        allow_host_code: Load a version-compatible plan; this process has built it.

    Raises:
        LpxError: The engine does not load or run.
    """
    if len(faces) < 2:
        return ""
    with closing(load(folder, allow_host_code=allow_host_code)) as engine:
        found = engine.infer(faces).score
    if not np.isfinite(found).all():
        count = int((~np.isfinite(found)).sum())
        return f"its score is not a finite number on {count} of {len(faces)} faces"
    try:
        with closing(OnnxRuntimeEngine(model.data, model.card.input_size)) as reference:
            wanted = reference.infer(faces).score
    except LpxError:
        return ""  # nothing to compare with
    if not np.isfinite(wanted).all() or not is_dead(wanted, found):
        return ""
    return (
        f"it gives all {len(faces)} faces one score ({found.min():.4f} to {found.max():.4f}); those"
        f" of the exported model go from {wanted.min():.4f} to {wanted.max():.4f}"
    )
