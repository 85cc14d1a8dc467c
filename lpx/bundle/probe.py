"""Probe faces: a few faces with the scores that they must get on another machine.

They are packed at the size of the model's input, losslessly: neither the resizing nor the JPEG
decoder of the other machine takes part, and a score that differs shows that the model runs
differently. Each engine of the bundle has scores of its own, see `lpx.bundle.expected`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpx.artefacts.model import ExportedModel
from lpx.bundle.expected import ExpectedScores, Scores, expected_scores, identity
from lpx.bundle.manifest import PROBE
from lpx.bundle.sources import Source, bytes_source
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.images.decode import UnreadableImageError, read_image
from lpx.engines.base import Faces
from lpx.engines.manifest import EngineManifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.errors import LpxError
from lpx.formats import check_format
from lpx.render.encode import encode_png
from lpx.schema import SchemaError, in_range, read_record, sealed
from lpx.workspace import WorkspaceFolder, read_sealed

# Number of probe faces, sampled evenly.
FACES = 16
FILE = "probe.json"
FORMAT = "lpx-probe/2"
_PACK_AGAIN = "pack the bundle again with the version of lpx that is installed here"
_BATCH = 8
# Digits of a score behind the point: more would differ from run to run, and none would be missed
# beside the tolerance, which is 1e-4 or more.
_DIGITS = 6


@dataclass(frozen=True)
class Probe:
    """Probe faces of a model.

    Attributes:
        faces: uint8 RGB [N, S, S, 3].
        scores: float32 [N], scores of the float32 model in ONNX Runtime.
        tolerance: Largest |score difference| of that model on another machine.
        model_sha256: SHA-256 of that model.
        engines: Scores that engines must give, by `lpx.bundle.expected.identity`.
    """

    faces: Faces
    scores: Scores
    tolerance: float
    model_sha256: str
    engines: Mapping[str, ExpectedScores] = field(default_factory=dict)


@dataclass(frozen=True)
class _ProbeFace:
    """A face in `probe.json`: its file, the file's SHA-256, and its score."""

    file: str
    sha256: str
    score: float


@dataclass(frozen=True)
class _EngineScores:
    """What `probe.json` has of an engine: its name, for readers, its scores and their tolerance."""

    name: str
    scores: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True)
class _ProbeFile:
    """Contents of `probe.json`."""

    model_sha256: str
    faces: tuple[_ProbeFace, ...]
    tolerance: float
    engines: Mapping[str, _EngineScores]


def make_probe(faces: FaceSet, model: ExportedModel, tolerance: float) -> Probe:
    """Score probe faces with the float32 model.

    Args:
        faces: Face set to sample from.
        model: The exported model.
        tolerance: Largest |score difference| of that model on another machine.

    Raises:
        LpxError: No face can be read, ONNX Runtime cannot run the model, or a score is not finite.
    """
    size = model.card.input_size
    batches = [batch.pixels for batch in faces.first(FACES).stream(_BATCH, size, [])]
    if not batches:
        raise LpxError(
            f"no probe face of {faces.name} can be read",
            "a bundle has a few faces with their scores, to check the model on another machine",
            "`lpx data info` counts the faces that cannot be read",
        )
    with closing(OnnxRuntimeEngine(model.data, size)) as engine:
        scores = np.concatenate([engine.infer(pixels).score for pixels in batches])
    if not np.isfinite(scores).all():
        raise LpxError(
            f"the exported model gives a face of {faces.name} a score that is not finite",
            "such a model cannot be checked on another machine, or be relied on here",
            "run `lpx bench` to see which faces, and export a model that works",
        )
    return Probe(np.concatenate(batches), scores, tolerance, model.sha256)


def tolerance_elsewhere(workspace: WorkspaceFolder) -> float:
    """Return the largest |score difference| of the float32 model on another machine.

    When the model was exported, ONNX Runtime differed from PyTorch by up to d. Elsewhere it may
    differ as much in the other direction: by 2 d from here. The export's tolerance is the least.
    """
    path = workspace.model.with_suffix(".json")
    verification = read_sealed(path, "lpx export ckpt.pt")["verification"]
    try:
        largest = float(verification["max_score_difference"])
        return min(1.0, max(float(verification["tolerance"]), 2 * largest))
    except (KeyError, TypeError, ValueError) as error:
        raise LpxError(
            f"{path} does not say how the export was verified",
            "the tolerance for scores on another machine comes from it",
            "run `lpx export` again",
            code="damaged",
        ) from error


def probe_members(
    probe: Probe, engines: Sequence[EngineManifest], folder: Path
) -> tuple[Source, ...]:
    """Return the members for probe faces, with the scores of engines.

    Args:
        probe: The faces, and the scores of the float32 model.
        engines: Manifests of engines of that model.
        folder: Contains the engines' folders.

    Raises:
        LpxError: The graph of an engine is altered.
    """
    sources, listed = [], []
    for number, (pixels, score) in enumerate(zip(probe.faces, probe.scores, strict=True)):
        data, file = encode_png(pixels), f"{number:02d}.png"
        sources.append(bytes_source(f"{PROBE}/{file}", data))
        digest = hashlib.sha256(data).hexdigest()
        # A digest of its own: `read_probe` is used long after the bundle was unpacked.
        listed.append(_ProbeFace(file, digest, _rounded(score)))
    scored = {}
    for engine in engines:
        expected = expected_scores(
            folder / engine.name, engine, probe.faces, probe.scores, probe.tolerance
        )
        scores = tuple(_rounded(score) for score in expected.scores)
        scored[identity(engine)] = _EngineScores(engine.name, scores, _rounded(expected.tolerance))
    content = _ProbeFile(probe.model_sha256, tuple(listed), probe.tolerance, scored)
    values = {"format": FORMAT, **asdict(content)}
    text = json.dumps(sealed(values), indent=2) + "\n"
    sources.append(bytes_source(f"{PROBE}/{FILE}", text.encode()))
    return tuple(sources)


def _rounded(score: float) -> float:
    return round(float(score), _DIGITS)


def read_probe(folder: Path) -> Probe:
    """Read the probe faces of an unpacked bundle.

    Args:
        folder: `probe` in the workspace.

    Raises:
        LpxError: They are missing, damaged, or of another version of lpx (code "unsupported").
    """
    path = folder / FILE
    values = read_sealed(path, "lpx unpack")
    try:
        check_format(path, values.pop("format", None), FORMAT, _PACK_AGAIN)
        # `read_sealed` has checked the values' checksum; here each is checked for what it means.
        probe = read_record(_ProbeFile, values)
        in_range(probe.tolerance, 0, 1, "tolerance")
        faces = []
        for face in probe.faces:
            in_range(face.score, 0, 1, f"the score of {face.file[:60]}")
            faces.append(_read_face(folder, face))
        if len({pixels.shape for pixels in faces}) != 1:
            raise SchemaError("its faces do not have one size")
        engines = {key: _expected(one, len(faces)) for key, one in probe.engines.items()}
    except SchemaError as error:
        raise LpxError(
            f"{path} is damaged", str(error), "unpack the bundle again", code="damaged"
        ) from error
    scores = np.array([face.score for face in probe.faces], np.float32)
    return Probe(np.stack(faces), scores, probe.tolerance, probe.model_sha256, engines)


def _expected(stored: _EngineScores, count: int) -> ExpectedScores:
    """Return the scores of an engine.

    Raises:
        SchemaError: They are not scores of that many faces.
    """
    where = stored.name[:60]
    if len(stored.scores) != count:
        raise SchemaError(f"{where!a} has {len(stored.scores)} scores of {count} faces")
    in_range(stored.tolerance, 0, 1, f"the tolerance of {where!a}")
    for score in stored.scores:
        in_range(score, 0, 1, f"a score of {where!a}")
    return ExpectedScores(np.array(stored.scores, np.float32), stored.tolerance)


def _read_face(folder: Path, face: _ProbeFace) -> NDArray[np.uint8]:
    """Read a probe face.

    Raises:
        SchemaError: It is not the one that was packed.
    """
    if Path(face.file).name != face.file:
        raise SchemaError(f"{face.file[:60]!a} is not the plain name of a file")
    path = folder / face.file
    try:
        pixels = read_image(path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except (OSError, UnreadableImageError) as error:
        raise SchemaError(f"{face.file} cannot be read: {error}") from error
    if digest != face.sha256:
        raise SchemaError(f"{face.file} is not the face that was packed")
    return pixels
