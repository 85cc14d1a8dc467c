"""Return calibrated ranges for a build: those of the workspace if they fit, else new ones."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from lpx.artefacts.model import ExportedModel, look_up, open_faces
from lpx.bundle.manifest import came_with_bundle
from lpx.calibration.observe import calibrate
from lpx.calibration.scales import IMPORTED, Scales, load_scales, read_scales, save_scales
from lpx.data.face_sets.face_set import FaceSet
from lpx.errors import LpxError
from lpx.graph.model_io import name_nodes, parse
from lpx.graph.qdq.placement_dla import tensors_to_observe
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.reporter import Reporter
from lpx.workspace import WorkspaceFolder

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

# File of a workspace with the progress of a calibration.
PARTIAL = "calibration.partial.npz"
DEMO_CALIBRATION = (
    "calibrated on the demo faces, as no faces were named: ranges of your own faces may differ, "
    "and INT8 accuracy with them"
)
OTHER_WEIGHTS = (
    "the calibration method was chosen with other weight options than these: run `lpx calibrate` "
    "with them to judge the methods again"
)


def _prepared(model: ExportedModel, weights: WeightOptions, reporter: Reporter) -> ExportedModel:
    """Return the float model that calibration must observe: equalised if the build will be."""
    data, pairs = prepare_model(
        model.data, "the exported model", equalised=weights.equalise, requantise=weights.requantise
    )
    if weights.equalise:
        scaled = sum(bool(pair.scaled) for pair in pairs)
        reporter.say(f"equalised channels between {scaled} pairs of convolutions")
    # With its digest: ranges belong to the graph that was observed, not to the one before.
    return replace(model, data=data, sha256=hashlib.sha256(data).hexdigest())


def scales_for(
    workspace: OpenedWorkspace,
    model: ExportedModel,
    name: str | None,
    limit: int,
    weights: WeightOptions,
    reporter: Reporter,
) -> Scales:
    """Return ranges for a model and faces: those in the workspace if they fit, else new ones."""
    pool = open_faces(
        workspace,
        name or "demo",
        "train",
        places=workspace.places,
        card=model.card,
        reporter=reporter,
    )
    faces = pool.first(limit)
    model = _prepared(model, weights, reporter)
    look_up(faces, reporter)
    scales = _stored(workspace, model, pool, faces, reporter, named=bool(name))
    if scales is not None:
        reporter.say(
            f"reusing {workspace.scales} ({scales.faces.count} faces of {scales.faces.name})"
        )
        scales = _with_evidence_of(scales, weights)
    else:
        scales = calibrate(
            model.data,
            faces,
            model.card.input_size,
            progress=reporter.progress(f"calibrating on {faces.name}"),
            resume=workspace.root / PARTIAL,
            say=reporter.say,
        )
        save_scales(workspace.scales, scales)
        # Not before the ranges are saved: a run that stops in between resumes from it.
        (workspace.root / PARTIAL).unlink(missing_ok=True)
    # Whether faces were named is this build's affair, not that of the ranges, which are kept.
    unnamed = not name and scales.faces.name == "demo"
    warnings = (DEMO_CALIBRATION if unnamed else "", scales.warning)
    scales = replace(scales, warning="; ".join(filter(None, warnings)))
    if scales.warning:
        reporter.warn(scales.warning)
    return scales


def _with_evidence_of(scales: Scales, weights: WeightOptions) -> Scales:
    """Return the same ranges, without evidence on methods under other weight options."""
    # An earlier lpx knew fewer options: those that it did not name had their defaults.
    if not scales.candidates or asdict(DEFAULT_WEIGHTS) | scales.weights == asdict(weights):
        return scales
    warnings = (scales.warning, OTHER_WEIGHTS)
    return replace(scales, candidates=(), weights={}, warning="; ".join(filter(None, warnings)))


def _stored(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    pool: FaceSet,
    faces: FaceSet,
    reporter: Reporter,
    *,
    named: bool,
) -> Scales | None:
    """Return the scales in the workspace, if they are of this model and these faces.

    Without named faces, all scales fit that are of named ones, were imported or came in a bundle.
    Those of faces that `lpx calibrate` chose from a set also fit if that set is named.

    Returns:
        None if there are none, or if their faces can be calibrated on again.

    Raises:
        LpxError: They are damaged; or they are of named faces and do not fit the model, and no
            faces are named now.
    """
    path = workspace.scales
    # A link that leads nowhere counts as a file, so that it is reported and not replaced.
    if not os.path.lexists(path):
        return None
    stored = read_scales(path)
    chosen = stored.faces.name != "demo"
    # The packer of a bundle chose its ranges, those of the demo faces too.
    kept = not named and (chosen or came_with_bundle(workspace, path.name))
    why = _unfit(stored, model, pool, faces, named=named, kept=kept)
    if not why:
        return stored
    if chosen and not named:
        # The demo faces would take the place of those that somebody chose.
        load_scales(path, model.sha256)
        raise LpxError(
            f"{path} lacks tensors of the model",
            why,
            f"calibrate again: name the faces with `faces` (it is of {stored.faces.name})",
        )
    reporter.say(f"{path} is not used, and is written again: {why}")
    return None


def _unfit(
    stored: Scales, model: ExportedModel, pool: FaceSet, faces: FaceSet, *, named: bool, kept: bool
) -> str:
    """Return why stored scales are not of this model and these faces; "" if they are."""
    if stored.model_sha256 != model.sha256:
        return "it is of another export, or of other weight options"
    if stored.method == IMPORTED:
        return "it was imported, and faces are named" if named else ""
    if not _observed(model) <= stored.tensors.keys():
        return "an earlier lpx observed fewer tensors"
    if kept or (stored.faces.set_digest and not named):
        return ""
    # Faces that `lpx calibrate` chose are identified by the set that they were chosen from, all
    # others by themselves.
    then = stored.faces.set_digest or stored.faces.digest
    now = pool if stored.faces.set_digest else faces
    if stored.faces.name != now.name:
        return f"it is of {stored.faces.name}, not of {now.name}"
    if then != now.digest():
        return (
            f"the faces of {now.name} are not those of then: their files, labels or number differ"
        )
    return ""


def _observed(model: ExportedModel) -> set[str]:
    graph = parse(model.data, "the exported model")
    name_nodes(graph)
    return set(tensors_to_observe(graph))
