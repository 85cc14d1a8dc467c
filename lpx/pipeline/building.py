"""build(): ONNX to engines, calibrated on faces."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace

from lpx.calibration.calibrate import calibrate
from lpx.calibration.methods import METHODS
from lpx.calibration.scales import Scales, load_scales, save_scales
from lpx.data.face_set import FaceSet
from lpx.engines.build import BuildRequest, build_engine
from lpx.engines.machine import read_machine
from lpx.engines.manifest import EngineManifest, Precision
from lpx.engines.targets import choose
from lpx.errors import LpxError
from lpx.graph.prepare import prepare
from lpx.graph.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.pipeline.exported import ExportedModel, check_at_least, open_faces, read_exported
from lpx.pipeline.reporter import SILENT, Reporter
from lpx.workspace import Workspace

CALIBRATION_FACES = 512
OTHER_WEIGHTS = (
    "the calibration method was chosen with other weight options than these: run `lpx calibrate` "
    "with them to judge the methods anew"
)
PARTIAL = "calibration.partial.npz"
"""Where a calibration writes down how far it has come."""
DEMO_CALIBRATION = (
    "calibrated on the demo faces, because no --faces were given: ranges of your own faces may "
    "differ, and INT8 accuracy with them"
)


def build(
    workspace: Workspace,
    precisions: tuple[Precision, ...],
    *,
    target: str = "auto",
    faces: str | None = None,
    count: int = CALIBRATION_FACES,
    method: str | None = None,
    compute_capabilities: tuple[str, ...] = (),
    workspace_mib: int | None = None,
    weights: WeightOptions = DEFAULT_WEIGHTS,
    requantise: bool = False,
    report: Reporter = SILENT,
) -> tuple[EngineManifest, ...]:
    """Build engines of the exported model.

    Args:
        workspace: Holds `model.onnx`; receives `scales.json` and `engines/<name>/`.
        precisions: "fp32", "fp16", "int8".
        target: "auto", "onnxruntime", "tensorrt" or "tensorrt-rtx".
        faces: Face set to calibrate on, for int8; None takes what `lpx calibrate` left, else the
            demo faces, with a warning.
        count: Most faces to calibrate on.
        method: Calibration method, for int8; None takes the one that `lpx calibrate` chose, else
            the default.
        compute_capabilities: GPUs to build for; tensorrt-rtx only.
        workspace_mib: Cap on TensorRT's scratch memory, MiB.
        weights: What is done to weights, for int8.
        requantise: Take out the Q/DQ pairs that the model has, instead of refusing it.
        report: Told what happens.

    Returns:
        The manifests, in the order asked.

    Raises:
        LpxError: No exported model, an unusable target, or faces that cannot be read.
    """
    check_at_least("--count", count, 1)
    check_at_least("--workspace-mib", workspace_mib, 1)
    machine = read_machine()
    chosen, reason = choose(target, machine)
    if method is not None and method not in METHODS:
        raise LpxError(
            f"unknown calibration method {method!r}",
            f"known methods: {', '.join(METHODS)}",
            "name one of these with --method",
        )
    if compute_capabilities and chosen != "tensorrt-rtx":
        raise LpxError(
            f"--compute-capability with target {chosen}",
            "only tensorrt-rtx builds for GPUs that are not here",
            "leave it out, or add --target tensorrt-rtx",
        )
    report.say(f"target {chosen}: {reason}")
    model = read_exported(workspace)
    manifests = []
    with workspace.lock():
        scales = None
        if "int8" in precisions:
            scales = _scales(workspace, model, faces, count, weights, requantise, report)
        for precision in precisions:
            request = BuildRequest(
                target=chosen,
                precision=precision,
                scales=scales,
                method=(method or scales.method) if scales and precision == "int8" else "",
                compute_capabilities=compute_capabilities,
                workspace_mib=workspace_mib,
                weights=weights,
                requantise=requantise,
            )
            folder = workspace.engines / request.name
            report.say(f"building {request.name}")
            manifests.append(build_engine(model.data, model.card, request, folder, machine))
    return tuple(manifests)


def _prepared(
    model: ExportedModel, weights: WeightOptions, requantise: bool, report: Reporter
) -> ExportedModel:
    """The float model that calibration must observe: equalised where the build will be."""
    data, pairs = prepare(
        model.data, "the exported model", equalised=weights.equalise, requantise=requantise
    )
    if weights.equalise:
        scaled = sum(bool(pair.scaled) for pair in pairs)
        report.say(f"equalised channels between {scaled} pairs of convolutions")
    return replace(model, data=data, sha256=hashlib.sha256(data).hexdigest())


def _scales(
    workspace: Workspace, model: ExportedModel, name: str | None, count: int,
    weights: WeightOptions, requantise: bool, report: Reporter,
) -> Scales:  # fmt: skip
    """Ranges for this model and these faces: those in the workspace if they fit, else new ones."""
    pool = open_faces(workspace, name or "demo", "train")
    faces = pool.first(count)
    model = _prepared(model, weights, requantise, report)
    scales = _stored(workspace, model, pool, faces, named=name is not None)
    if scales is not None:
        report.say(f"reusing {workspace.scales} ({scales.face_count} faces of {scales.faces})")
        scales = _with_evidence_of(scales, weights)
    else:
        scales = calibrate(
            model.data,
            faces,
            model.card.input_size,
            progress=report.progress(f"calibrating on {faces.name}"),
            resume=workspace.root / PARTIAL,
        )
        save_scales(workspace.scales, scales)
    # Whether faces were named is this build's affair, not that of the ranges, which are kept.
    unnamed = name is None and scales.faces == "demo"
    warnings = (DEMO_CALIBRATION if unnamed else "", scales.warning)
    scales = replace(scales, warning="; ".join(filter(None, warnings)))
    if scales.warning:
        report.say(f"warning: {scales.warning}")
    return scales


def _with_evidence_of(scales: Scales, weights: WeightOptions) -> Scales:
    """The same ranges, without what was measured of methods under other weight options."""
    if not scales.candidates or scales.weights == asdict(weights):
        return scales
    warnings = (scales.warning, OTHER_WEIGHTS)
    return replace(scales, candidates=(), weights={}, warning="; ".join(filter(None, warnings)))


def _stored(
    workspace: Workspace, model: ExportedModel, pool: FaceSet, faces: FaceSet, *, named: bool
) -> Scales | None:
    """The scales in the workspace, where they are of this model and these faces.

    Those that `lpx calibrate` made are of faces that it chose from a set: they fit whoever names
    that set, or none.
    """
    if not workspace.scales.is_file():
        return None
    try:
        stored = load_scales(workspace.scales, model.sha256)
    except LpxError:
        # Scales of an earlier export, or of it equalised otherwise, are cheap to make again.
        return None
    if stored.set_digest:
        same_set = (stored.faces, stored.set_digest) == (pool.name, pool.digest())
        return stored if same_set or not named else None
    same = (stored.faces, stored.faces_digest) == (faces.name, faces.digest())
    return stored if same else None
