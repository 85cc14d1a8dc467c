"""The checkpoint's recorded scores as members of a bundle."""

from __future__ import annotations

import hashlib

import numpy as np

from lpx.artefacts.model import ExportedModel
from lpx.bench.parity.recording import FOLDER, Recording, files_of, read_recordings
from lpx.bundle.manifest import REFERENCE
from lpx.bundle.sources import Source, bytes_source
from lpx.data.face_sets.face_set import FaceSet, ImageFile
from lpx.data.wording import counted
from lpx.render.encode import encode_png
from lpx.reporter import Reporter
from lpx.workspace import WorkspaceFolder


def recording_members(
    workspace: WorkspaceFolder, model: ExportedModel, faces: FaceSet | None, reporter: Reporter
) -> tuple[Source, ...]:
    """Return the members for the recorded scores of a model; none if nothing was recorded.

    Args:
        workspace: Contains the recordings; those of another model are left out.
        model: The exported model.
        faces: Faces that are packed too; None if none are.
        reporter: Receives a warning if some of them have no recorded score.

    Raises:
        LpxError: A recording is damaged.
    """
    recordings: list[Recording] = []
    for recording in read_recordings(workspace.root / FOLDER):
        if recording.subject.model_sha256 == model.sha256:
            recordings.append(recording)
    if faces is not None:
        _warn_of_missing(recordings, faces, reporter)
    sources: list[Source] = []
    renamed = _packed_contents(faces) if recordings and faces else {}
    for recording in recordings:
        for name, data in files_of(recording.renamed(renamed)).items():
            sources.append(bytes_source(f"{REFERENCE}/{name}", data))
    return tuple(sources)


def _warn_of_missing(recordings: list[Recording], faces: FaceSet, reporter: Reporter) -> None:
    readable = np.flatnonzero(faces.contents.any(axis=1))
    missing = len(readable)
    for recording in recordings:
        without = int((recording.rows(faces.contents[readable]) < 0).sum())
        missing = min(missing, without)
    if missing:
        reporter.warn(
            f"{missing} of {counted(len(readable), 'face')} have no recorded score of the "
            "checkpoint: benching them elsewhere will need PyTorch and the checkpoint, or run "
            "`lpx bench` on them first and pack again"
        )


def _packed_contents(faces: FaceSet) -> dict[bytes, bytes]:
    """Return the contents that faces have in a bundle, by those that they have here.

    They differ for faces without a file, which are packed as PNG.
    """
    contents: dict[bytes, bytes] = {}
    for row, face in enumerate(faces.faces):
        if not isinstance(face.source, ImageFile):
            packed = hashlib.sha256(encode_png(face.source.read())).digest()
            contents[faces.contents[row].tobytes()] = packed
    return contents
