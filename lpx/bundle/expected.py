"""Scores that engines must give probe faces, and by how much they may differ elsewhere.

An engine's own scores are those of its graph, which holds its rounding of weights and activations:
they differ from the float32 model's by what the precision costs. Another kernel for the same graph
rounds the same values elsewhere, so that its scores differ from these by errors of that size, not
of the size of float32's.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpx.engines.base import Engine, Faces
from lpx.engines.load import read_graph
from lpx.engines.manifest import EngineManifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError, OutOfMemoryError

Scores = NDArray[np.float32]
# Least tolerance of scores with other kernels, by precision: probe faces whose scores are near 0 or
# 1 hide what the precision costs.
LEAST = {"fp32": 0.002, "fp16": 0.002, "int8": 0.01}
# Tolerance to the float32 model's scores, where the graph does not hold the precision.
_TO_FLOAT32 = {"fp32": 0.01, "fp16": 0.05, "int8": 0.25}
# TF32 has as many bits of mantissa as FP16, and no graph shows it.
_TF32 = _TO_FLOAT32["fp16"]
# Dialects whose precision a flag of the builder or a calibration cache decides.
_NOT_IN_GRAPH = ("weakly-typed", "calibration-cache")
# Of a manifest's calibration: what decides the graph. The rest says where it comes from.
_DECIDING = ("method", "ranges_sha256", "weights")


@dataclass(frozen=True)
class ExpectedScores:
    """Scores that an engine must give probe faces.

    Attributes:
        scores: float32 [N], in [0, 1].
        tolerance: Largest |score difference|.
    """

    scores: Scores
    tolerance: float


def score_each(engine: Engine, faces: Faces) -> Scores:
    """Score faces one by one: a batch of them would take memory that the process then keeps.

    Args:
        engine: The engine.
        faces: uint8 RGB [N, S, S, 3].

    Returns:
        float32 [N].
    """
    return np.concatenate([engine.infer(face[None]).score for face in faces])


def identity(manifest: EngineManifest) -> str:
    """Return a digest of what an engine was asked to be, which a rebuilt one keeps.

    It covers the model, target, precision, calibrated ranges and precision plan: an engine that was
    built with other ranges has other scores.
    """
    calibration = manifest.calibration or {}
    deciding = [calibration.get(key) for key in _DECIDING]
    asked: list[object] = [manifest.model_sha256, manifest.target, manifest.precision, deciding]
    if manifest.plan is not None:
        # Only then: engines without a plan keep the digest that earlier bundles have.
        asked.append(manifest.plan["layers"])
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def expected_scores(
    folder: Path, manifest: EngineManifest, faces: Faces, float32: Scores, tolerance: float
) -> ExpectedScores:
    """Score faces with the graph of an engine in ONNX Runtime, and derive the tolerance.

    The tolerance is twice the largest difference from the float32 model, since the errors of two
    kernels may have opposite signs, or the least one of the precision if that is larger.

    Args:
        folder: Folder of the engine.
        manifest: Its manifest.
        faces: uint8 RGB [N, S, S, 3].
        float32: float32 [N], scores of the float32 model.
        tolerance: Largest |score difference| of that model on another machine.

    Raises:
        OutOfMemoryError: There is not enough memory.
        LpxError: The graph is altered.
    """
    least = LEAST[manifest.precision]
    if manifest.target == "onnxruntime" and manifest.precision == "fp32":
        # The very kernels that the exported model has.
        return ExpectedScores(float32, tolerance)
    if manifest.precision == "fp32" and _may_use_tf32(manifest):
        return ExpectedScores(float32, max(tolerance, _TF32))
    if manifest.dialect in _NOT_IN_GRAPH:
        return to_float32(manifest, float32, tolerance)
    try:
        graph = read_graph(folder, manifest)
    except LpxError as error:
        # Plans of early versions of lpx have no graph beside them.
        if error.code == "not-found":
            return to_float32(manifest, float32, tolerance)
        raise
    # The CPU's engines run their graph optimised, there as here. The graphs of others are computed
    # node by node: ONNX Runtime's optimiser miscomputes some of them.
    as_written = manifest.target != "onnxruntime"
    try:
        with closing(OnnxRuntimeEngine(graph, faces.shape[1], as_written=as_written)) as engine:
            scores = score_each(engine, faces)
    except OutOfMemoryError:
        raise
    except LpxError:
        # A release of ONNX Runtime may lack an operator for float16: no fault of the engine.
        return to_float32(manifest, float32, tolerance)
    if not np.isfinite(scores).all():
        return to_float32(manifest, float32, tolerance)
    own = float(np.abs(scores - float32).max())
    return ExpectedScores(scores, min(1.0, max(tolerance, least, 2 * own)))


def _may_use_tf32(manifest: EngineManifest) -> bool:
    # Not whether it was used: a rebuilt engine may run on a GPU that has TF32 where the old one ran
    # on one that has not. ONNX Runtime's CUDA provider is run without it.
    uses = manifest.target not in ("onnxruntime", "onnxruntime-cuda")
    return uses and manifest.tensorrt.tf32


def to_float32(manifest: EngineManifest, float32: Scores, tolerance: float) -> ExpectedScores:
    """Return the float32 model's scores, for an engine whose own are not known."""
    return ExpectedScores(float32, max(tolerance, _TO_FLOAT32[manifest.precision]))
