"""Compare what a machine computes for probe faces with what it has to compute."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lpx.bundle.expected import ExpectedScores, expected_scores, identity, score_each
from lpx.bundle.manifest import PROBE
from lpx.bundle.probe import FILE, Probe, read_probe
from lpx.data.wording import counted
from lpx.engines.base import Engine
from lpx.engines.manifest import EngineManifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError, NotAsAskedError


@dataclass(frozen=True)
class ScoreCheck:
    """Scores of probe faces, compared with those that they must get.

    Attributes:
        faces: Number of faces.
        largest: Largest |score difference|; infinite if a score is not finite.
        tolerance: Largest accepted one.
        differing: Number of faces beyond it.
    """

    faces: int
    largest: float
    tolerance: float
    differing: int

    @property
    def passed(self) -> bool:
        """Return whether all scores are as expected."""
        return not self.differing

    def __str__(self) -> str:
        largest = f"{self.largest:.2g}" if np.isfinite(self.largest) else "not finite"
        return (
            f"scores of {self.differing} of {counted(self.faces, 'probe face')} differ by more "
            f"than {self.tolerance:.2g} (largest difference {largest})"
        )


def compare_scores(engine: Engine, probe: Probe, expected: ExpectedScores) -> ScoreCheck:
    """Score probe faces with an engine, and compare.

    Raises:
        LpxError: The engine does not take the faces, or fails.
    """
    scores = score_each(engine, probe.faces)
    difference = np.abs(scores - expected.scores)
    # A NaN is not below any bound.
    differing = int((~(difference <= expected.tolerance)).sum())
    largest = float("inf")
    if np.isfinite(difference).all():
        largest = float(difference.max())
    return ScoreCheck(len(probe.faces), largest, expected.tolerance, differing)


def expected_of(folder: Path, manifest: EngineManifest, probe: Probe) -> ExpectedScores:
    """Return the scores that an engine must give probe faces.

    They came with the engine. For one that was built later, with other ranges, they are those of
    its graph on this machine.

    Args:
        folder: The engine's.
        manifest: Its manifest.
        probe: The faces.

    Raises:
        LpxError: The graph of the engine is altered.
    """
    known = probe.engines.get(identity(manifest))
    if known is not None:
        return known
    return expected_scores(folder, manifest, probe.faces, probe.scores, probe.tolerance)


def check_model_scores(folder: Path) -> ScoreCheck | None:
    """Score the probe faces of a workspace with its exported model in ONNX Runtime.

    Args:
        folder: The workspace.

    Returns:
        The comparison, which has passed; None without probe faces.

    Raises:
        NotAsAskedError: Scores differ by more than the tolerance (code "scores-differ").
        LpxError: The probe faces are damaged or of another model, or the model does not run here.
    """
    path = folder / PROBE / FILE
    if not path.is_file():
        return None
    probe = read_probe(path.parent)
    data = (folder / "model.onnx").read_bytes()
    if probe.model_sha256 != hashlib.sha256(data).hexdigest():
        # Engines would not be checked with faces of another model.
        raise LpxError(
            f"{path} is of another model than {folder / 'model.onnx'}",
            "engines of this model could not be checked with it",
            "pack the bundle again",
            code="damaged",
        )
    expected = ExpectedScores(probe.scores, probe.tolerance)
    with closing(OnnxRuntimeEngine(data, probe.faces.shape[1])) as engine:
        found = compare_scores(engine, probe, expected)
    if not found.passed:
        raise scores_differ("the exported model in ONNX Runtime", found, _UNPACK)
    return found


_UNPACK = (
    "try another release of onnxruntime; to look into the bundle all the same, unpack it with "
    "`lpx unpack --no-check`"
)


def scores_differ(what: str, found: ScoreCheck, fix: str) -> LpxError:
    """Make the error for scores that differ.

    Args:
        what: What gave the scores.
        found: The comparison.
        fix: What to do.
    """
    return NotAsAskedError(
        f"{what} does not give probe faces the scores that they must get",
        str(found),
        fix,
        code="scores-differ",
    )
