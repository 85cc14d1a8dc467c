"""Calibration: choose faces, observe their activations, and rank the methods."""

from __future__ import annotations

import resource
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpx.api.ranges import PARTIAL
from lpx.arguments import check_at_least, check_choice
from lpx.artefacts.model import look_up, open_faces, read_exported
from lpx.bench.parity.method_ranking import Evidence, MethodRanking
from lpx.calibration import selection
from lpx.calibration.methods import METHODS
from lpx.calibration.observe import Observation, observe, scales_of
from lpx.calibration.observe import calibrate as observed_scales
from lpx.calibration.observed_model import face_ranges
from lpx.calibration.on_cluster import ClusterObserver
from lpx.calibration.scales import Scales, save_scales
from lpx.card import METADATA_KEY, ModelCard, card_from_json
from lpx.data.face_sets.face_set import FaceSet, ImageFile
from lpx.data.wording import counted
from lpx.engines.build import placement_of, require_quantised
from lpx.errors import LpxError
from lpx.graph.model_io import name_nodes, parse
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder, read_regular, write_bytes, write_sealed

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

FACES_FORMAT = "lpx-calibration-faces/1"
HELD_OUT_SHARE = 0.25
MAX_HELD_OUT = 256


@dataclass(frozen=True)
class CalibrateOptions:
    """Options of a calibration; `lpx.Workspace.calibrate` documents them.

    Raises:
        InvalidArgumentError: One has a value that it cannot have.
    """

    limit: int = 512
    select: str = "stratified"
    method: str = "auto"
    seed: int = 0
    curve: bool = False
    weights: WeightOptions = DEFAULT_WEIGHTS

    def __post_init__(self) -> None:
        check_choice("method", self.method, ("auto", *METHODS))
        check_choice("select", self.select, selection.SELECTIONS)
        check_at_least("limit", self.limit, 1)
        check_at_least("seed", self.seed, 0)


@dataclass(frozen=True)
class CurvePoint:
    """Evidence for the chosen method, calibrated on part of the faces."""

    faces: int
    evidence: Evidence


@dataclass(frozen=True)
class CalibrationResult:
    """Result of `lpx.Workspace.calibrate`.

    Attributes:
        scales: Scales as written to `scales.json`; `scales.method` is the chosen method.
        candidates: Evidence for every method, best first (see `best_first`).
        held_out: Number of faces that the methods were compared on.
        forward_seconds: Time of the float32 model on as many faces as were calibrated on, from its
            time per held-out face.
        seconds: Wall time of observing the faces, including decoding, s; of a merge, the sum of
            all parts.
        pass_seconds: Time of the forward pass and of its statistics, s; likewise.
        peak_rss_mib: Largest resident memory of this process so far, MiB.
        notes: Remarks about the choice of faces.
        curve: Evidence by number of faces; empty unless requested.
    """

    scales: Scales
    candidates: tuple[Evidence, ...]
    held_out: int
    forward_seconds: float
    seconds: float
    pass_seconds: float
    peak_rss_mib: float
    notes: tuple[str, ...]
    curve: tuple[CurvePoint, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `lpx calibrate --json` prints them."""
        scales = self.scales
        return {
            "faces": scales.faces.count,
            "held_out_faces": self.held_out,
            "set": scales.faces.name,
            "forward_seconds": self.forward_seconds,
            "calibration_seconds": self.pass_seconds,
            "wall_seconds": self.seconds,
            "peak_rss_mib": round(self.peak_rss_mib, 1),
            "method": scales.method,
            "methods": {evidence.method: asdict(evidence) for evidence in self.candidates},
            "curve": [{"faces": p.faces, **asdict(p.evidence)} for p in self.curve],
            "warning": scales.warning,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class CalibrationInputs:
    """The model and the faces of a calibration.

    Attributes:
        data: The exported model, ONNX.
        observed: The same, as it is observed: equalised, and without Q/DQ pairs.
        card: Its card.
        pool: Faces to choose from.
    """

    data: bytes
    observed: bytes
    card: ModelCard
    pool: FaceSet

    def split(self, options: CalibrateOptions, reporter: Reporter) -> FaceSplit:
        """Choose the faces; see `split_faces`."""
        return split_faces(
            self.observed,
            self.card,
            self.pool,
            options.limit,
            options.select,
            options.seed,
            reporter,
        )


def calibrate(
    workspace: OpenedWorkspace,
    faces: str | None,
    options: CalibrateOptions = CalibrateOptions(),
    reporter: Reporter = SILENT,
    *,
    model_path: Path | None = None,
) -> CalibrationResult:
    """Implement `lpx.Workspace.calibrate`, which documents arguments and errors."""
    inputs = open_inputs(workspace, faces, options, reporter, model_path=model_path)
    with workspace.lock():
        look_up(inputs.pool, reporter)
        # Now, so that files that change during the pass are noticed.
        inputs.pool.digest()
        split = inputs.split(options, reporter)
        resume = workspace.root / PARTIAL
        observation = _observe(workspace, inputs, split.calibration, resume, reporter)
        try:
            scales = scales_of(observation, split.calibration)
        except LpxError:
            # Resuming would only come to the same end.
            resume.unlink(missing_ok=True)
            raise
        result = conclude(workspace, inputs, split, scales, options, reporter)
        # Not earlier: a run that stops while methods are compared need not observe again.
        resume.unlink(missing_ok=True)
    return replace(result, seconds=observation.seconds, pass_seconds=observation.pass_seconds)


def _observe(
    workspace: OpenedWorkspace,
    inputs: CalibrationInputs,
    faces: FaceSet,
    resume: Path,
    reporter: Reporter,
) -> Observation:
    """Observe the faces here, or on the cluster of the workspace."""
    size = inputs.card.input_size
    progress = reporter.progress(f"calibrating on {inputs.pool.name}")
    elsewhere = None
    if workspace.ray is not None:
        elsewhere = ClusterObserver(workspace.ray, reporter, inputs.observed, faces, size)
    return observe(
        inputs.observed,
        faces,
        size,
        progress=progress,
        resume=resume,
        say=reporter.say,
        elsewhere=elsewhere,
    )


def open_inputs(
    workspace: OpenedWorkspace,
    faces: str | None,
    options: CalibrateOptions,
    reporter: Reporter,
    *,
    model_path: Path | None = None,
) -> CalibrationInputs:
    """Read the model, and open the faces to choose from.

    Raises:
        LpxError: No exported model, one of which nothing would be quantised, or no such faces.
    """
    weights = options.weights
    data, card = read_model(workspace, model_path)
    source = str(model_path or workspace.model)
    observed, _ = prepare_model(
        data, source, equalised=weights.equalise, requantise=weights.requantise
    )
    graph = parse(observed, source)
    name_nodes(graph)
    # Whatever the engine will be for, the methods are ranked in ONNX Runtime. Checked before faces
    # are opened: a model without anything to quantise would otherwise show after the whole pass.
    placement = placement_of(graph, "onnxruntime", "onnxruntime", weights.min_channels)
    require_quantised(graph, placement, weights.min_channels)
    pool = open_faces(
        workspace, faces or "demo", "train", places=workspace.places, card=card, reporter=reporter
    )
    return CalibrationInputs(data, observed, card, pool)


def conclude(
    workspace: OpenedWorkspace,
    inputs: CalibrationInputs,
    split: FaceSplit,
    scales: Scales,
    options: CalibrateOptions,
    reporter: Reporter,
) -> CalibrationResult:
    """Rank the methods on held-out faces, and write the result.

    Args:
        workspace: Receives `scales.json` and `calibration-faces.json`.
        inputs: The model and the faces.
        split: Faces calibrated on, and held-out ones.
        scales: Ranges of the former.
        options: Options of the calibration.
        reporter: Receives progress.

    Returns:
        The result, without the times of the pass.

    Raises:
        LpxError: Faces changed in the meantime, no held-out face can be read, or the workspace
            cannot be written.
    """
    pool, chosen, notes = inputs.pool, split.calibration, split.notes
    set_digest = pool.digest()
    ranking = MethodRanking(inputs.data, inputs.card, split.held_out, options.weights)
    candidates = ranking.rank(scales, METHODS, reporter)
    best = candidates[0].method if options.method == "auto" else options.method
    if candidates[0].auc is None:
        notes += ("no AUC: that needs at least two held-out faces of each class",)
    scales = replace(
        scales,
        faces=replace(scales.faces, set_digest=set_digest),
        method=best,
        candidates=tuple(asdict(c) for c in candidates),
        weights=asdict(options.weights),
    )
    points: tuple[CurvePoint, ...] = ()
    if options.curve:
        points = _curve(inputs.observed, chosen, ranking, best, options.seed, reporter)
    # After the last face was read, and before anything is written.
    pool.check_unchanged("calibration")
    face_list = _face_list(chosen, options.select, options.seed)
    write_sealed(workspace.root / "calibration-faces.json", face_list)
    save_scales(workspace.scales, scales)
    return CalibrationResult(
        scales=scales,
        candidates=candidates,
        held_out=len(split.held_out.faces),
        forward_seconds=round(ranking.seconds_per_face * scales.faces.count, 3),
        seconds=0.0,
        pass_seconds=0.0,
        # Linux gives it in KiB.
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        notes=notes,
        curve=points,
    )


def read_model(workspace: WorkspaceFolder, path: Path | None) -> tuple[bytes, ModelCard]:
    """Read the workspace's model, or another one that lpx exported.

    Returns:
        The ONNX model's bytes, and its card.

    Raises:
        LpxError: No such file, or not a model that lpx exported.
    """
    if path is None:
        exported = read_exported(workspace)
        return exported.data, exported.card
    try:
        data = read_regular(path)
    except OSError as error:
        raise LpxError(
            f"{path} cannot be read",
            error.strerror or str(error),
            "use a model that `lpx export` wrote",
            code="not-found",
        ) from error
    text = parse(data, str(path)).metadata_props.get(METADATA_KEY)
    if text is None:
        raise LpxError(
            f"{path} has no model card",
            "the card says how faces are prepared for the model",
            "use a model that `lpx export` wrote",
            code="no-model-card",
        )
    return data, card_from_json(text, str(path))


@dataclass(frozen=True)
class FaceSplit:
    """A face set, split for calibration.

    Attributes:
        calibration: Faces to calibrate on.
        held_out: Faces to compare methods on. They share no video with the calibration faces, and
            no identity unless all faces are of linked identities.
        notes: Remarks about the choice.
    """

    calibration: FaceSet
    held_out: FaceSet
    notes: tuple[str, ...]


def split_faces(
    model: bytes,
    card: ModelCard,
    pool: FaceSet,
    limit: int,
    select: str,
    seed: int,
    reporter: Reporter = SILENT,
) -> FaceSplit:
    """Choose faces to calibrate on, and faces to compare methods on.

    Args:
        model: The float32 model, whose activations the selection "coverage" observes.
        card: Its card.
        pool: Faces to choose from.
        limit: Maximum number of calibration faces.
        select: One of `lpx.calibration.selection.SELECTIONS`.
        seed: Random seed.
        reporter: Receives progress.

    Raises:
        LpxError: All faces are of one video, or there are none.
    """
    faces = list(pool.faces)
    notes: tuple[str, ...] = ()
    identities = [f.identities for f in faces]
    # Faces that share a video or an identity are on the same side of the split.
    keys = []
    for face in faces:
        linked_by = [("video", face.video)]
        linked_by += [("identity", name) for name in face.identities]
        keys.append(linked_by)
    aside = selection.hold_out(selection.linked(keys), HELD_OUT_SHARE, MAX_HELD_OUT, seed)
    if not len(aside):
        aside = selection.hold_out([f.video for f in faces], HELD_OUT_SHARE, MAX_HELD_OUT, seed)
        notes = (
            "all faces are of linked identities: held-out faces share identities, but no video, "
            "with the calibration faces",
        )
    if not len(aside):
        raise LpxError(
            f"{pool.name} has {counted(len(faces), 'face')}{' of one video' * (len(faces) > 1)}",
            "some must be held out to compare calibration methods",
            "use a larger set of `faces`",
        )
    rest = np.setdiff1d(np.arange(len(faces)), aside)
    if select == "random":
        taken = selection.random(limit, len(rest), seed)
    elif select == "stratified":
        left = [faces[i] for i in rest]
        taken = selection.stratified(
            [(f.label, f.method) for f in left],
            [identities[i] or faces[i].video for i in rest],
            [f.video for f in left],
            limit,
            seed,
        )
    else:
        readable, lows, highs = face_ranges(
            model, pool.take(rest), card.input_size, reporter.progress("observing all faces")
        )
        taken = readable[selection.coverage(lows, highs, limit)]
    return FaceSplit(pool.take(rest[taken]), pool.take(aside), notes)


def _curve(
    model: bytes,
    chosen: FaceSet,
    ranking: MethodRanking,
    method: str,
    seed: int,
    reporter: Reporter,
) -> tuple[CurvePoint, ...]:
    """Measure the method on growing, random parts of the calibration faces."""
    # One order for all sizes: each part contains the smaller ones, so only the number of faces
    # changes along the curve.
    order = np.random.default_rng(seed).permutation(len(chosen.faces))
    sizes = []
    size = 4
    while size < len(order):
        sizes.append(size)
        size *= 2
    sizes.append(len(order))
    points = []
    progress = reporter.progress("calibrating on fewer faces")
    for done, size in enumerate(sizes, 1):
        part = chosen.take(np.sort(order[:size]))
        scales = observed_scales(model, part, ranking.card.input_size)
        points.append(CurvePoint(size, ranking.rank(scales, (method,))[0]))
        progress(done, len(sizes))
    return tuple(points)


def _face_list(faces: FaceSet, select: str, seed: int) -> dict[str, Any]:
    rows = []
    for face, content in zip(faces.faces, faces.contents, strict=True):
        digest: str | None = content.tobytes().hex()
        of = "file" if isinstance(face.source, ImageFile) else "what it is made from"
        # A digest of zeros stands for a face that could not be read.
        if not content.any():
            digest, of = None, "unreadable"
        rows.append(
            {
                "name": face.name,
                "label": face.label,
                "method": face.method,
                "sha256": digest,
                "sha256_of": of,
            }
        )
    return {
        "format": FACES_FORMAT,
        "set": faces.name,
        "split": faces.split,
        "select": select,
        "seed": seed,
        "faces": rows,
    }


def draw_curve(points: tuple[CurvePoint, ...], method: str, path: Path) -> None:
    """Draw the score error, and the loss of AUC if known, over the number of faces, as PNG."""
    import io

    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    sizes = [p.faces for p in points]
    axes.plot(sizes, [p.evidence.score_error_mean for p in points], "o-", label="mean score error")
    axes.plot(sizes, [p.evidence.score_error_max for p in points], "s--", label="max score error")
    axes.set(
        xscale="log",
        ylim=(0, None),
        xlabel="calibration faces",
        ylabel="|score difference|",
        title=f"INT8 ({method}) against float32, held-out faces",
    )
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    losses = [
        (p.evidence.auc_loss, p.evidence.auc_loss_low, p.evidence.auc_loss_high) for p in points
    ]
    if not any(None in loss for loss in losses):
        middle, low, high = np.array(losses, dtype=np.float64).T
        right = axes.twinx()
        right.errorbar(
            sizes,
            middle,
            yerr=(middle - low, high - middle),
            fmt="^:",
            color="0.4",
            capsize=3,
            label="loss of AUC, 95 %",
        )
        right.set_ylabel("loss of AUC")
    figure.legend(loc="outside lower center", ncols=3)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=120)
    write_bytes(path, data.getvalue())
