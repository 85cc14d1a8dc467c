"""export(), build(), bench(), predict(): what the commands call, and the public Python API."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import lpx
from lpx.bench.html import render_html
from lpx.bench.parity import MARGIN
from lpx.bench.run import Candidate, Watch, to_report
from lpx.bench.run import bench as measure
from lpx.bench.score import Scored, check_finite
from lpx.calibration.calibrate import calibrate
from lpx.calibration.methods import METHODS
from lpx.calibration.scales import Scales, load_scales, save_scales
from lpx.card import ModelCard, card_from_dict
from lpx.data.decode import fit
from lpx.data.face_set import FaceSet, Skipped
from lpx.data.sets import open_set
from lpx.engines.base import Engine
from lpx.engines.build import BuildRequest, build_engine
from lpx.engines.load import load
from lpx.engines.machine import read_machine
from lpx.engines.manifest import FILE, EngineManifest, Precision, read_manifest
from lpx.engines.targets import can_run, choose
from lpx.engines.torch_engine import TorchEngine
from lpx.errors import LpxError
from lpx.export.to_onnx import OPSET, to_onnx
from lpx.export.verify import Verification, verify
from lpx.models.checkpoint import (
    Detector,
    ForeignModel,
    load_checkpoint,
    load_factory,
    save_checkpoint,
    save_state,
    weights_digest,
)
from lpx.render import encode_png, explained
from lpx.workspace import Workspace, read_json, sha256, write_bytes, write_json

EXPORT_FORMAT = "lpx-export/1"
CALIBRATION_FACES = 512
PARTIAL = "calibration.partial.npz"
"""Where a calibration writes down how far it has come."""
FEW_FACES = 30
"""Faces of a class below which an interval of AUC is not to be relied on."""
DEMO_CALIBRATION = (
    "calibrated on the demo faces, because no --faces were given: ranges of your own faces may "
    "differ, and INT8 accuracy with them"
)


class Reporter(Protocol):
    """Where a step says what it does."""

    def say(self, text: str) -> None:
        """Tell one thing."""
        ...

    def progress(self, label: str) -> Callable[[int, int], None]:
        """Start a bar; call the result with (done, total)."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Drop the text."""

    def progress(self, label: str) -> Callable[[int, int], None]:
        """A bar that nobody sees."""
        return lambda done, total: None


SILENT = Silent()


@dataclass(frozen=True)
class Exported:
    """What `export` made."""

    model: Path
    model_sha256: str
    card: ModelCard
    verification: Verification
    opset: int


def export(
    checkpoint: Path | None,
    workspace: Workspace,
    *,
    opset: int = OPSET,
    foreign: ForeignModel | None = None,
    factory: str | None = None,
    report: Reporter = SILENT,
) -> Exported:
    """Export a checkpoint to `model.onnx` in the workspace, verified on faces.

    Args:
        checkpoint: An lpx checkpoint, or a state dict; None where a factory loads its own weights.
        workspace: Receives `model.onnx`, `model.json` and `reference.pt`.
        opset: ONNX opset, 17 to 20.
        foreign: What a state dict without a card is.
        factory: `package.module:function` that makes the model.
        report: Told what happens.

    Raises:
        LpxError: The checkpoint cannot be loaded or exported, or the export differs from it.
    """
    detector = _load(checkpoint, foreign, factory)
    card = detector.card
    report.say(f"{card.architecture} cut at {card.cut}, {card.aggregate}, {card.input_size} px, "
               f"grid {card.grid[0]}x{card.grid[1]}")  # fmt: skip
    model = to_onnx(detector, opset)
    verification = verify(model, detector, open_set("demo", "test"))
    digest = hashlib.sha256(model).hexdigest()
    with workspace.lock():
        if factory is None:
            save_checkpoint(workspace.reference, detector.module, card)
        else:
            save_state(workspace.reference, detector)
        write_bytes(workspace.model, model)
        write_json(
            workspace.model.with_suffix(".json"),
            {
                "format": EXPORT_FORMAT,
                "checkpoint": None if checkpoint is None else str(checkpoint),
                "checkpoint_sha256": None if checkpoint is None else sha256(checkpoint),
                "factory": factory,
                "model_sha256": digest,
                "opset": opset,
                "card": card.to_dict(),
                "verification": asdict(verification),
                "versions": _versions("torch", "onnx", "onnxscript", "onnxsim"),
            },
        )
    return Exported(workspace.model, digest, card, verification, opset)


def _load(checkpoint: Path | None, foreign: ForeignModel | None, factory: str | None) -> Detector:
    if factory is not None:
        return load_factory(factory, checkpoint, foreign or ForeignModel(architecture=factory))
    if checkpoint is None:
        raise LpxError("no checkpoint was named", "", "lpx export ckpt.pt, or --factory")
    return load_checkpoint(checkpoint, foreign)


@dataclass(frozen=True)
class _Model:
    """The exported model, after checking it against its manifest."""

    data: bytes
    sha256: str
    card: ModelCard
    factory: str | None


_READ_BACK = {"model_sha256", "card", "factory"}


def _exported(workspace: Workspace) -> _Model:
    manifest_path = workspace.model.with_suffix(".json")
    if not workspace.model.is_file() or not manifest_path.is_file():
        raise LpxError(
            f"workspace {workspace.root} holds no exported model",
            "",
            "run `lpx export ckpt.pt` first (or `lpx demo` for a tour), or name the workspace "
            "with -w DIR",
        )
    manifest = read_json(manifest_path, "lpx export ckpt.pt")
    if manifest.get("format") != EXPORT_FORMAT or not manifest.keys() >= _READ_BACK:
        raise LpxError(
            f"{manifest_path} is not what this version of lpx writes",
            f"expected format {EXPORT_FORMAT}, with {', '.join(sorted(_READ_BACK))}",
            "run `lpx export` again",
        )
    data = workspace.model.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != manifest["model_sha256"]:
        raise LpxError(
            f"{workspace.model} is not the model that was exported",
            f"its SHA-256 begins with {found[:12]}, {manifest_path.name} says "
            f"{manifest['model_sha256'][:12]}",
            "it was edited or replaced after the export: run `lpx export` again",
        )
    card = card_from_dict(manifest["card"], str(manifest_path))
    return _Model(data, found, card, manifest["factory"])


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
        report: Told what happens.

    Returns:
        The manifests, in the order asked.

    Raises:
        LpxError: No exported model, an unusable target, or faces that cannot be read.
    """
    _check_at_least("--count", count, 1)
    _check_at_least("--workspace-mib", workspace_mib, 1)
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
    model = _exported(workspace)
    manifests = []
    with workspace.lock():
        scales = None
        if "int8" in precisions:
            scales = _scales(workspace, model, faces, count, report)
        for precision in precisions:
            request = BuildRequest(
                target=chosen,
                precision=precision,
                scales=scales,
                method=(method or scales.method) if scales and precision == "int8" else "",
                compute_capabilities=compute_capabilities,
                workspace_mib=workspace_mib,
            )
            folder = workspace.engines / request.name
            report.say(f"building {request.name}")
            manifests.append(build_engine(model.data, model.card, request, folder, machine))
    return tuple(manifests)


def _scales(
    workspace: Workspace, model: _Model, name: str | None, count: int, report: Reporter
) -> Scales:
    """Ranges for this model and these faces: those in the workspace if they fit, else new ones."""
    pool = _open(workspace, name or "demo", "train")
    faces = pool.first(count)
    scales = _stored(workspace, model, pool, faces, named=name is not None)
    if scales is not None:
        report.say(f"reusing {workspace.scales} ({scales.face_count} faces of {scales.faces})")
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


def _stored(
    workspace: Workspace, model: _Model, pool: FaceSet, faces: FaceSet, *, named: bool
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
        # Scales of an earlier export are no use, and cheap to make again.
        return None
    if stored.set_digest:
        same_set = (stored.faces, stored.set_digest) == (pool.name, pool.digest())
        return stored if same_set or not named else None
    same = (stored.faces, stored.faces_digest) == (faces.name, faces.digest())
    return stored if same else None


def _open(workspace: Workspace, name: str, split: str, out: Path | None = None) -> FaceSet:
    """Open a face set; pictures that lpx itself drew into its folder are no faces."""
    return open_set(name, split, skip=(workspace.root, out or workspace.predictions))


def _check_at_least(option: str, value: int | None, least: int, why: str = "") -> None:
    if value is not None and value < least:
        raise LpxError(f"{option} {value} is too small", why, f"give a number of at least {least}")


@dataclass(frozen=True)
class Benched:
    """What `bench` found, and where it wrote it."""

    report: dict[str, Any]
    json_path: Path
    html_path: Path


def bench(
    workspace: Workspace,
    dataset: str,
    *,
    limit: int | None = None,
    margin: float = MARGIN,
    latency_seconds: float = 2.0,
    allow_overlap: bool = False,
    report: Reporter = SILENT,
) -> Benched:
    """Measure every engine of the workspace that runs here against the checkpoint.

    Args:
        workspace: Holds the reference and the engines; receives `report.json` and `report.html`.
        dataset: A labelled data set; its test split where it has splits.
        limit: Most faces, spread evenly over the set; None for all.
        margin: AUC that a candidate may lose.
        latency_seconds: Time to measure each engine for, per batch size; 0 leaves latency out.
        allow_overlap: Measure, with a warning, on faces that an engine was calibrated on.
        report: Told what happens.

    Raises:
        LpxError: No engines, engines of another model, engines calibrated on faces of the set, a
            set without labels or with one class.
    """
    _check_at_least("--limit", limit, 4, "AUC and its interval need two real and two fake faces")
    if not 0 <= margin <= 1:
        raise LpxError(
            f"--margin {margin:g} does not lie between 0 and 1",
            "it is how much AUC an engine may lose",
            f"give such a number, as --margin {MARGIN:g}",
        )
    if not 0 <= latency_seconds < math.inf:
        raise LpxError(
            f"--latency-seconds {latency_seconds:g} is no time",
            "it is for how long each engine is measured",
            "give a number of seconds, or 0 to leave latency out",
        )
    faces = _open(workspace, dataset, "test").first(limit)
    model = _exported(workspace)
    manifests, not_run = _runnable(workspace, model)
    if not allow_overlap:
        _check_disjoint(manifests, faces)
    with workspace.lock(), ExitStack() as stack:
        reference = stack.enter_context(closing(TorchEngine(_reference(workspace, model))))
        candidates = {
            m.name: Candidate(m, stack.enter_context(closing(load(workspace.engines / m.name))))
            for m in manifests
        }
        watch = Watch(report.progress(f"scoring {faces.name}"), report.progress("timing"))
        result = measure(
            reference,
            candidates,
            faces,
            model.card,
            margin=margin,
            latency_seconds=latency_seconds,
            watch=watch,
        )
        values = to_report(
            result,
            faces,
            model.card,
            margin=margin,
            environment={
                "machine": asdict(read_machine()),
                "versions": _versions("torch", "onnx", "onnxruntime", "numpy"),
            },
            not_run=not_run,
            warnings=_warnings(manifests, faces, result.scored),
        )
        json_path, html_path = workspace.root / "report.json", workspace.root / "report.html"
        write_json(json_path, values)
        write_bytes(html_path, render_html(values, result).encode())
    return Benched(values, json_path, html_path)


def _reference(workspace: Workspace, model: _Model) -> Detector:
    if not workspace.reference.is_file():
        raise LpxError(
            f"{workspace.reference} does not exist",
            "it is the checkpoint that engines are compared with",
            "run `lpx export` again",
        )
    if model.factory is None:
        try:
            detector = load_checkpoint(workspace.reference)
        except LpxError as error:
            # Its advice is for a file of the user's own; this one lpx makes.
            raise LpxError(error.what, error.why, "run `lpx export` again") from error
    else:
        card = model.card
        foreign = ForeignModel(
            architecture=model.factory,
            input_size=card.input_size,
            mean=card.mean,
            std=card.std,
            channel_order=card.channel_order,
        )
        detector = load_factory(model.factory, workspace.reference, foreign)
    if weights_digest(detector) != model.card.weights_sha256:
        raise LpxError(
            f"{workspace.reference} is not the checkpoint that was exported",
            "its weights differ from those in the model card",
            "run `lpx export` again",
        )
    return detector


def _runnable(workspace: Workspace, model: _Model) -> tuple[list[EngineManifest], dict[str, str]]:
    """Engines of this model that run here; names and reasons of those that do not."""
    machine = read_machine()
    manifests: list[EngineManifest] = []
    not_run: dict[str, str] = {}
    for folder in sorted(p.parent for p in workspace.engines.glob(f"*/{FILE}")):
        manifest = read_manifest(folder)
        if manifest.model_sha256 != model.sha256:
            raise LpxError(
                f"engine {manifest.name} was built from another model than {workspace.model}",
                f"it names {manifest.model_sha256[:12]}, the model is {model.sha256[:12]}",
                f"run `lpx build --{manifest.precision} --target {manifest.target}` again, or "
                f"remove {folder}",
            )
        usable, reason = can_run(manifest, machine)
        if usable:
            manifests.append(manifest)
        else:
            not_run[manifest.name] = reason
    if not manifests:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in not_run.items())
        raise LpxError(
            f"workspace {workspace.root} has no engine that runs here",
            reasons or "none was built",
            "run `lpx build --int8` (with --target onnxruntime, which runs everywhere)"
            if not_run
            else "run `lpx build --int8` first",
        )
    return manifests, not_run


def _warnings(manifests: list[EngineManifest], faces: FaceSet, scored: Scored) -> list[str]:
    warnings = []
    if skipped := scored.skipped:
        names = ", ".join(f"{s.name} ({s.reason})" for s in skipped[:3])
        more = f" and {len(skipped) - 3} more, listed in report.json" * (len(skipped) > 3)
        warnings.append(
            f"{len(skipped)} of {len(faces.faces)} faces could not be read and are left out: "
            f"{names}{more}"
        )
    fakes = int((scored.labels == 1).sum())
    reals = len(scored.labels) - fakes
    if min(reals, fakes) < FEW_FACES:
        warnings.append(
            f"{reals} real and {fakes} fake faces are few: intervals of AUC hold for large samples,"
            f" and are too narrow below some {FEW_FACES} faces of each class"
        )
    return warnings + [
        f"{name} was calibrated on {overlap}; its AUC on other faces may be lower"
        for name, overlap in _overlaps(manifests, faces).items()
    ]


def _check_disjoint(manifests: list[EngineManifest], faces: FaceSet) -> None:
    """Refuse to measure an engine on what it was calibrated on.

    Raises:
        LpxError: The first such engine, and what is shared.
    """
    for name, overlap in _overlaps(manifests, faces).items():
        raise LpxError(
            f"{name} was calibrated on {overlap}",
            "its AUC on other faces may be lower than what would be measured",
            "bench on another set or split, build with other --faces, or measure all the same "
            "with --allow-overlap",
        )


def _overlaps(manifests: list[EngineManifest], faces: FaceSet) -> dict[str, str]:
    """What was calibrated on and is measured too, by the name of the engine."""
    digest = faces.digest()
    found = {m.name: _overlap(m.calibration or {}, faces, digest) for m in manifests}
    return {name: overlap for name, overlap in found.items() if overlap}


def _overlap(calibration: dict[str, Any], faces: FaceSet, digest: str) -> str:
    """What calibration and measurement share; "" where nothing, as far as is known."""
    if calibration.get("faces_digest") == digest:
        return "the very faces it is measured on"
    if (calibration.get("faces"), calibration.get("split")) == (faces.name, faces.split):
        return f"{calibration['face_count']} faces of {faces.name}, the set it is measured on"
    if calibration.get("faces") == faces.name:
        # Two sets may use one name for different videos; two splits of one set do not.
        videos = set(faces.videos()) & set(calibration.get("videos", ()))
        if videos:
            more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
            return f"frames of video {min(videos)}{more}, which {'are' if more else 'is'} measured"
    shared = sorted(set(faces.identities()) & set(calibration.get("identities", ())))
    if not shared:
        return ""
    more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
    return f"faces of {shared[0]}{more}, who {'are' if more else 'is'} also measured"


@dataclass(frozen=True)
class FaceScore:
    """What the detector says of one face.

    Attributes:
        name: Path relative to what was asked.
        score: Probability of fake, in [0, 1].
        fake: Whether the score reaches the threshold.
        picture: The heat map's path.
    """

    name: str
    score: float
    fake: bool
    picture: Path


@dataclass(frozen=True)
class Predicted:
    """What `predict` found."""

    engine: str
    threshold: float
    faces: tuple[FaceScore, ...]
    skipped: tuple[Skipped, ...]
    scores: Path


def predict(
    workspace: Workspace,
    path: Path,
    *,
    engine: str | None = None,
    out: Path | None = None,
    report: Reporter = SILENT,
) -> Predicted:
    """Score face crops, and draw where the detector sees forgery.

    Args:
        workspace: Holds the engines.
        path: An image, or a folder of images, of cropped faces.
        engine: Name of an engine, or "torch"; None takes the fastest that runs here.
        out: Folder for the pictures and `scores.csv`; `predictions` in the workspace by default.
        report: Told what happens.

    Raises:
        LpxError: No images, none readable, or an engine that does not exist or run here.
    """
    model = _exported(workspace)
    out = out or workspace.predictions
    faces = _images(workspace, path, out)
    name, loaded = _pick(workspace, model, engine)
    report.say(f"engine {name}, threshold {model.card.threshold:.3f}")
    tell = report.progress("scoring")
    skipped: list[Skipped] = []
    found: list[FaceScore] = []
    with closing(loaded):
        for batch in faces.stream(8, model.card.input_size, skipped):
            prediction = loaded.infer(batch.pixels)
            check_finite(name, prediction, faces, batch.indices)
            for index, pixels, score, patch_map in zip(
                batch.indices, batch.pixels, prediction.score, prediction.patch_map, strict=True
            ):
                face = faces.faces[index]
                fake = bool(score >= model.card.threshold)
                picture = out / f"{face.name}.png"
                verdict = "FAKE" if fake else "real"
                caption = f"{verdict}  score {score:.3f}  threshold {model.card.threshold:.3f}"
                write_bytes(picture, encode_png(explained(fit(pixels, 256), patch_map, caption)))
                found.append(FaceScore(face.name, float(score), fake, picture))
            tell(len(found) + len(skipped), len(faces.faces))
    if not found:
        raise LpxError(
            f"{path} holds no image that can be read",
            f"{skipped[0].name}: {skipped[0].reason}",
            "name an image, or a folder of images, of cropped faces",
        )
    scores = out / "scores.csv"
    write_bytes(scores, _csv(found))
    return Predicted(name, model.card.threshold, tuple(found), tuple(skipped), scores)


def _images(workspace: Workspace, path: Path, out: Path) -> FaceSet:
    if path.is_file():
        from lpx.data.face_set import Face, ImageFile

        face = Face(path.name, None, "unknown", path.name, (), ImageFile(path))
        return FaceSet(str(path), "all", "unknown", (face,))
    if not path.exists():
        raise LpxError(f"{path} does not exist", "", "name an image or a folder of face crops")
    return _open(workspace, f"folder:{path}", "all", out)


def _pick(workspace: Workspace, model: _Model, name: str | None) -> tuple[str, Engine]:
    if name == "torch":
        return name, TorchEngine(_reference(workspace, model))
    manifests, not_run = _runnable(workspace, model)
    order = ("int8", "fp16", "fp32")
    if name is None:
        # TensorRT's engines come before ONNX Runtime's, whose name sorts first.
        manifests.sort(key=lambda m: (m.target == "onnxruntime", order.index(m.precision)))
        return manifests[0].name, load(workspace.engines / manifests[0].name)
    if name in {m.name for m in manifests}:
        return name, load(workspace.engines / name)
    raise LpxError(
        f"engine {name} {'does not run here' if name in not_run else 'does not exist'}",
        not_run.get(name, f"{workspace.root} holds no engine of that name"),
        f"engines that run here: torch, {', '.join(m.name for m in manifests)}; name one of these, "
        "or leave --engine out",
    )


def _csv(found: list[FaceScore]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "score", "verdict", "picture"])
    for face in found:
        verdict = "fake" if face.fake else "real"
        writer.writerow([face.name, f"{face.score:.6f}", verdict, face.picture])
    return text.getvalue().encode()


def _versions(*packages: str) -> dict[str, str]:
    return {"lpx": lpx.__version__, **{name: metadata.version(name) for name in packages}}
