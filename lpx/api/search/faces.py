"""Faces of a search: labelled, and apart from those of the calibration and of a bench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lpx.artefacts.model import ExportedModel, look_up, open_faces
from lpx.artefacts.overlap import shared_faces
from lpx.bench.parity.score import check_labels
from lpx.calibration import selection
from lpx.calibration.scales import Scales
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.sets import is_video_set
from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.reporter import Reporter

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

_SEED = 0


@dataclass(frozen=True)
class SearchFaces:
    """Two sets of faces that share no video and no person.

    Attributes:
        search: Faces that plans are compared on.
        verification: Faces that finished engines are judged on.
    """

    search: FaceSet
    verification: FaceSet

    def record(self) -> list[dict[str, Any]]:
        """Return a record of the faces, as a plan's origin holds it."""
        return [_record(self.search, "search"), _record(self.verification, "verification")]


def open_search_faces(
    workspace: OpenedWorkspace,
    model: ExportedModel,
    scales: Scales,
    name: str | None,
    limit: int,
    reporter: Reporter,
) -> FaceSet:
    """Open labelled faces to measure layers on.

    Args:
        workspace: The workspace.
        model: The exported model.
        scales: Its ranges, with a record of the calibration faces.
        name: Face set; None for the demo faces.
        limit: Maximum number of faces, sampled evenly.
        reporter: Receives notes.

    Raises:
        LpxError: The set does not exist, lacks labels or a class, or overlaps the calibration
            faces.
    """
    name = name or "demo"
    # The test split stays for the bench, if there is another.
    split = "val" if is_video_set(name) else "test"
    faces = open_faces(
        workspace, name, split, places=workspace.places, card=model.card, reporter=reporter
    ).first(limit)
    check_labels(faces.labels(), faces)
    look_up(faces, reporter)
    if overlap := shared_faces(scales.summary(), faces):
        raise LpxError(
            f"the ranges were calibrated on {overlap}",
            "on faces that it was calibrated on, a layer looks better in INT8 than it is",
            "use other faces with `search_faces`, or calibrate on other `faces`",
        )
    return faces


def split_search_faces(faces: FaceSet) -> SearchFaces:
    """Split faces in two halves that share no video and no person.

    Raises:
        LpxError: All faces are linked, or a half has fewer than two faces of a class.
    """
    keys = []
    for face in faces.faces:
        linked_by = [("video", face.video)]
        linked_by += [("identity", name) for name in face.identities]
        keys.append(linked_by)
    aside = selection.hold_out(selection.linked(keys), 0.5, len(faces.faces), _SEED)
    if not len(aside):
        raise LpxError(
            f"all {counted(len(faces.faces), 'face')} of {faces.name} share videos or people",
            "engines are judged on people whom the search did not see",
            "use a set of more people with `search_faces`",
        )
    rest = np.setdiff1d(np.arange(len(faces.faces)), aside)
    halves = SearchFaces(faces.take(rest), faces.take(aside))
    for half in (halves.search, halves.verification):
        check_labels(half.labels(), half)
    return halves


def _record(faces: FaceSet, used_for: str) -> dict[str, Any]:
    return {
        "faces": faces.name,
        "split": faces.split,
        "face_count": len(faces.faces),
        "faces_digest": faces.digest(),
        "set_digest": "",
        "identities": sorted(faces.identities()),
        "videos": sorted(faces.videos()),
        "contents": sorted(faces.short_contents()),
        "used_for": used_for,
    }
