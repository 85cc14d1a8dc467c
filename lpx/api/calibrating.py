"""calibrate(): choose faces, observe them, and judge every method by what it does to scores."""

from __future__ import annotations

import resource
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.api.ranges import PARTIAL
from lpx.arguments import check_at_least
from lpx.artefacts.model import look_up, open_faces, read_exported
from lpx.bench.parity.score import check_finite
from lpx.calibration import selection
from lpx.calibration.methods import METHODS
from lpx.calibration.observe import calibrate as observe
from lpx.calibration.ranges import face_ranges
from lpx.calibration.scales import Scales, save_scales
from lpx.card import METADATA_KEY, ModelCard, card_from_json
from lpx.data.face_sets.face_set import FaceSet, ImageFile, Skipped
from lpx.data.roots import DataPlaces
from lpx.engines.base import Prediction
from lpx.engines.build import make_graph, placement_of, require_quantised
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.graph.model_io import name_nodes, parse
from lpx.graph.qdq.prepare import prepare_model
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.metrics import auc, auc_difference, map_agreement, score_difference
from lpx.reporter import SILENT, Reporter
from lpx.workspace import Workspace, read_regular, write_sealed

FACES_FORMAT = "lpx-calibration-faces/1"
HELD_OUT_SHARE = 0.25
MOST_HELD_OUT = 256
_BATCH = 2
"""Held-out faces at a time: more are no faster on a CPU, and every method's graph holds
activations of that many."""


@dataclass(frozen=True)
class Evidence:
    """What a method does to the scores of held-out faces, against the float32 model.

    Attributes:
        method: The calibration method.
        score_error_mean: Mean |difference| of scores.
        score_error_max: Largest |difference| of scores.
        map_error_mean: Mean |difference| of a patch's score.
        auc: Of the INT8 graph; None without faces of both classes.
        auc_loss: AUC of the float32 model, less that; None likewise.
        auc_loss_low: Lower end of its 95 % interval (DeLong); None likewise.
        auc_loss_high: Upper end.
    """

    method: str
    score_error_mean: float
    score_error_max: float
    map_error_mean: float
    auc: float | None = None
    auc_loss: float | None = None
    auc_loss_low: float | None = None
    auc_loss_high: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Evidence for the chosen method, calibrated on some of the faces."""

    faces: int
    evidence: Evidence


@dataclass(frozen=True)
class Calibrated:
    """What `calibrate` found.

    Attributes:
        scales: As written to the workspace; `scales.method` is the method chosen.
        candidates: Evidence for every method, best first (`best_first`).
        held_out: Faces that it was measured on.
        forward_seconds: The float32 model on as many faces as were calibrated on, taken from the
            time it needed per held-out face.
        peak_rss_mib: The largest memory this process has had, MiB.
        notes: What must be said of the choice of faces.
        curve: Evidence by number of faces; empty where it was not asked for.
    """

    scales: Scales
    candidates: tuple[Evidence, ...]
    held_out: int
    forward_seconds: float
    peak_rss_mib: float
    notes: tuple[str, ...]
    curve: tuple[CurvePoint, ...]


def calibrate(
    workspace: Workspace,
    faces: str | None,
    *,
    model_path: Path | None = None,
    limit: int = 512,
    select: str = "stratified",
    method: str = "auto",
    seed: int = 0,
    curve: bool = False,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    weights: WeightOptions = DEFAULT_WEIGHTS,
    requantise: bool = False,
    report: Reporter = SILENT,
) -> Calibrated:
    """Calibrate an exported model, and keep the method that serves it best.

    Args:
        workspace: Holds `model.onnx`; receives `scales.json` and `calibration-faces.json`.
        faces: The set to choose from; None takes the demo faces.
        model_path: An ONNX model that lpx exported; None takes the workspace's.
        limit: Most faces to calibrate on.
        select: "stratified", "random" or "coverage".
        method: "auto", or the method that `lpx build` shall use.
        seed: Of the choice of faces.
        curve: Measure too how the error falls with the number of faces.
        places: Where the videos and prepared faces of public data sets lie.
        weights: What is done to weights of the INT8 graphs that are judged.
        requantise: Take out the Q/DQ pairs that the model has, instead of refusing it.
        report: Told what happens.

    Raises:
        NotAsAskedError: lpx's rules leave every convolution in float.
        LpxError: No exported model, an unknown option, or too few faces that can be read.
    """
    if method not in ("auto", *METHODS):
        raise _unknown("calibration method", method, ("auto", *METHODS), "--method")
    if select not in selection.SELECTIONS:
        raise _unknown("selection", select, selection.SELECTIONS, "--select")
    check_at_least("limit", limit, 1)
    check_at_least("seed", seed, 0)
    data, card = read_model(workspace, model_path)
    source = str(model_path or workspace.model)
    observed, _ = prepare_model(data, source, equalised=weights.equalise, requantise=requantise)
    graph = parse(observed, source)
    name_nodes(graph)
    placement = placement_of(graph, "onnxruntime", "onnxruntime", weights.min_channels)
    require_quantised(graph, placement, weights.min_channels)
    pool = open_faces(workspace, faces or "demo", "train", places=places, card=card, report=report)
    with workspace.lock():
        look_up(pool, report)
        set_digest = pool.digest()
        chosen, held_out, notes = choose(observed, card, pool, limit, select, seed, report)
        scales = observe(
            observed,
            chosen,
            card.input_size,
            progress=report.progress(f"calibrating on {pool.name}"),
            resume=workspace.root / PARTIAL,
            say=report.say,
        )
        judge = Judge(data, card, held_out, weights, requantise)
        candidates = judge.rank(scales, METHODS, report)
        best = candidates[0].method if method == "auto" else method
        if candidates[0].auc is None:
            notes += ("no AUC: it takes two held-out faces of each class at least",)
        scales = replace(
            scales,
            faces=replace(scales.faces, set_digest=set_digest),
            method=best,
            candidates=tuple(asdict(c) for c in candidates),
            weights=asdict(weights),
        )
        points = _curve(observed, chosen, judge, best, seed, report) if curve else ()
        if pool.has_changed():
            raise LpxError(
                f"faces of {pool.name} changed while they were calibrated on",
                "ranges and evidence would be of neither the old faces nor the new",
                "run it again when nothing writes to them",
            )
        write_sealed(workspace.root / "calibration-faces.json", _face_list(chosen, select, seed))
        save_scales(workspace.scales, scales)
        # Not before: what is stopped while the methods are judged does not observe again.
        (workspace.root / PARTIAL).unlink(missing_ok=True)
    return Calibrated(
        scales=scales,
        candidates=candidates,
        held_out=len(held_out.faces),
        forward_seconds=round(judge.seconds_per_face * scales.faces.count, 3),
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        notes=notes,
        curve=points,
    )


def read_model(workspace: Workspace, path: Path | None) -> tuple[bytes, ModelCard]:
    """The workspace's model, or another one that lpx exported, and its card.

    Raises:
        LpxError: There is none, or it is not lpx's.
    """
    if path is None:
        exported = read_exported(workspace)
        return exported.data, exported.card
    try:
        data = read_regular(path)
    except OSError as error:
        raise LpxError(
            f"{path} cannot be read", error.strerror or str(error), "name a model of `lpx export`"
        ) from error
    text = parse(data, str(path)).metadata_props.get(METADATA_KEY)
    if text is None:
        raise LpxError(
            f"{path} carries no model card",
            "without it nobody knows what the model takes",
            "name a model that `lpx export` wrote",
        )
    return data, card_from_json(text, str(path))


def choose(
    model: bytes,
    card: ModelCard,
    pool: FaceSet,
    limit: int,
    select: str,
    seed: int,
    report: Reporter = SILENT,
) -> tuple[FaceSet, FaceSet, tuple[str, ...]]:
    """Split a set into faces to calibrate on and faces to judge by, which share no video.

    They share no identity either, unless all faces are of one.

    Returns:
        Calibration faces, held-out faces, and what must be said of the choice.

    Raises:
        LpxError: All faces are of one video, or there is none.
    """
    faces = list(pool.faces)
    notes: tuple[str, ...] = ()
    identities = [f.identities for f in faces]
    keys = [
        [("video", f.video), *(("identity", name) for name in names)]
        for f, names in zip(faces, identities, strict=True)
    ]
    aside = selection.hold_out(selection.linked(keys), HELD_OUT_SHARE, MOST_HELD_OUT, seed)
    if not len(aside):
        aside = selection.hold_out([f.video for f in faces], HELD_OUT_SHARE, MOST_HELD_OUT, seed)
        notes = (
            "all faces are of linked identities: held-out faces share identities with those "
            "calibrated on, though no video",
        )
    if not len(aside):
        raise LpxError(
            f"{pool.name} holds {len(faces)} face{'s' * (len(faces) != 1)}"
            f"{' of one video' * (len(faces) > 1)}",
            "some must be held out to judge the calibration by",
            "name a larger set with --faces",
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
            model, _part(pool, rest), card.input_size, report.progress("looking at all faces")
        )
        taken = readable[selection.coverage(lows, highs, limit)]
    return _part(pool, rest[taken]), _part(pool, aside), notes


def _part(faces: FaceSet, indices: NDArray[np.int64]) -> FaceSet:
    return replace(faces, faces=tuple(faces.faces[int(i)] for i in indices))


class Judge:
    """Compares INT8 graphs with the float32 model on the same faces.

    Args:
        model: The float32 model.
        card: Its card.
        faces: Held-out faces.
        weights: What is done to weights of the INT8 graphs.
        requantise: Take out the Q/DQ pairs that the model has.
    """

    def __init__(
        self,
        model: bytes,
        card: ModelCard,
        faces: FaceSet,
        weights: WeightOptions = DEFAULT_WEIGHTS,
        requantise: bool = False,
    ) -> None:
        self.model, self.card, self.faces = model, card, faces
        self.weights, self.requantise = weights, requantise
        self.skipped: list[Skipped] = []
        self.seconds_per_face = 0.0
        self.indices, self.reference = self._reference()

    def _reference(self) -> tuple[NDArray[np.int64], Prediction]:
        indices: list[NDArray[np.int64]] = []
        parts: list[Prediction] = []
        seconds = 0.0
        model, _ = prepare_model(self.model, "the exported model", requantise=self.requantise)
        with closing(OnnxRuntimeEngine(model, self.card.input_size)) as engine:
            for batch in self.faces.stream(_BATCH, self.card.input_size, self.skipped):
                if not parts:
                    engine.infer(batch.pixels)  # the first call is slower
                started = time.perf_counter()
                parts.append(engine.infer(batch.pixels))
                seconds += time.perf_counter() - started
                check_finite("the float32 model", parts[-1], self.faces, batch.indices)
                indices.append(batch.indices)
        if not parts:
            raise LpxError(
                f"no held-out face of {self.faces.name} can be read",
                f"{self.skipped[0].name}: {self.skipped[0].reason}",
                "name another set with --faces",
            )
        order = np.concatenate(indices)
        self.seconds_per_face = seconds / len(order)
        return order, _join(parts)

    def rank(
        self, scales: Scales, methods: tuple[str, ...], report: Reporter = SILENT
    ) -> tuple[Evidence, ...]:
        """Evidence for each method on the held-out faces, best first as by `best_first`."""
        engines = {}
        for method in methods:
            request = BuildRequest(
                "onnxruntime",
                "int8",
                scales,
                method,
                weights=self.weights,
                requantise=self.requantise,
            )
            graph, _ = make_graph(self.model, request, "onnxruntime")
            size = self.card.input_size
            engines[method] = OnnxRuntimeEngine(graph, size, shares_cores=True)
        parts: dict[str, list[Prediction]] = {method: [] for method in methods}
        tell = report.progress("judging by held-out faces")
        for batch in self.faces.stream(_BATCH, self.card.input_size, []):
            for method, engine in engines.items():
                parts[method].append(engine.infer(batch.pixels))
            tell(int(batch.indices[-1]) + 1, len(self.faces.faces))
        tell(len(self.faces.faces), len(self.faces.faces))
        return best_first([self._evidence(m, _join(parts[m])) for m in methods])

    def _evidence(self, method: str, found: Prediction) -> Evidence:
        error = score_difference(self.reference.score, found.score)
        maps = map_agreement(self.reference.patch_map, found.patch_map)
        labels = self.faces.labels()[self.indices]
        evidence = Evidence(method, error.mean, error.max, maps.mean_abs_difference)
        if min((labels == 0).sum(), (labels == 1).sum()) < 2:
            return evidence
        known = labels >= 0
        scores = self.reference.score[known], found.score[known]
        d = auc_difference(labels[known], *scores)
        return replace(
            evidence,
            auc=auc(labels[known], scores[1]),
            auc_loss=0 - d.estimate,
            auc_loss_low=0 - d.high,
            auc_loss_high=0 - d.low,
        )


def best_first(candidates: list[Evidence]) -> tuple[Evidence, ...]:
    """By the mean score error; last come methods that are shown to lose AUC.

    A method is shown to lose where the whole interval of its loss lies above 0: those are ordered
    by the low end of it. Every other difference of AUC, gains included, is chance or cannot be told
    from it: an engine that follows the float32 model has nothing to gain, so a gain is an error
    that happened to help on these faces.
    """

    def place(candidate: Evidence) -> tuple[float, float]:
        low = candidate.auc_loss_low
        return 0.0 if low is None else max(low, 0.0), candidate.score_error_mean

    return tuple(sorted(candidates, key=place))


def _curve(
    model: bytes, chosen: FaceSet, judge: Judge, method: str, seed: int, report: Reporter
) -> tuple[CurvePoint, ...]:
    """Evidence for growing parts of the calibration faces, drawn at random."""
    order = np.random.default_rng(seed).permutation(len(chosen.faces))
    most = len(order)
    sizes = sorted({n for n in (2**k for k in range(2, 20)) if n < most} | {most})
    points = []
    tell = report.progress("calibrating on fewer faces")
    for done, size in enumerate(sizes, 1):
        part = _part(chosen, np.sort(order[:size]))
        scales = observe(model, part, judge.card.input_size)
        points.append(CurvePoint(size, judge.rank(scales, (method,))[0]))
        tell(done, len(sizes))
    return tuple(points)


def _face_list(faces: FaceSet, select: str, seed: int) -> dict[str, Any]:
    rows = []
    for face, content in zip(faces.faces, faces.contents, strict=True):
        digest: str | None = content.tobytes().hex()
        of = "file" if isinstance(face.source, ImageFile) else "what it is made from"
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
    """Draw score error, and loss of AUC where it is known, over the number of faces; PNG."""
    import io

    from matplotlib.figure import Figure

    from lpx.workspace import write_bytes

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
        (e.auc_loss, e.auc_loss_low, e.auc_loss_high)
        for e in (p.evidence for p in points)
        if e.auc_loss is not None and e.auc_loss_low is not None and e.auc_loss_high is not None
    ]
    if len(losses) == len(points):
        middle, low, high = np.array(losses).T
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


def _join(parts: list[Prediction]) -> Prediction:
    return Prediction(
        np.concatenate([p.score for p in parts]), np.concatenate([p.patch_map for p in parts])
    )


def _unknown(kind: str, value: str, known: tuple[str, ...], option: str) -> LpxError:
    return LpxError(
        f"unknown {kind} {value!r}", f"known: {', '.join(known)}", f"name one with {option}"
    )
