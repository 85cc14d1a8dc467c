"""debug(): the first layer of an engine that leaves the float32 graph."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lpx.api.debug_runtime import NAMES, Runtime, choose_runtime, open_inside
from lpx.arguments import check_at_least, check_choice
from lpx.artefacts.model import ExportedModel, open_faces, read_exported
from lpx.artefacts.select_engine import check_card, engine_folders
from lpx.data.face_sets.face_set import FaceSet, Skipped
from lpx.engines.load import read_graph
from lpx.engines.manifest import EngineManifest, Precision, read_manifest
from lpx.errors import LpxError
from lpx.graph.layers import layers_of, read_named
from lpx.graph.qdq.prepare import prepare_model
from lpx.layerwise.compare import (
    LayerComparison,
    LayerError,
    LayerVerdict,
    TensorSource,
    batch_size,
    compare_layers,
    judge_layers,
    unexplained,
)
from lpx.layerwise.figure import draw_layers
from lpx.layerwise.tensor_error import TensorError
from lpx.reporter import SILENT, Reporter
from lpx.workspace import Workspace, write_bytes, write_json

FACES = 16
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.25}
"""Relative error that a layer may have by default: about four times the demo model's."""
TF32_TOLERANCE = TOLERANCE["fp16"]
"""As above for float32 in TensorRT where it may multiply in TF32: with float16's ten bits."""
Against = Literal["onnx", "torch"]


@dataclass(frozen=True)
class Debugged:
    """What `debug` found, and where it wrote it.

    Attributes:
        engine: Name of the engine.
        against: What it was compared with.
        ran_in: What computed its tensors: its own runtime, or ONNX Runtime its graph.
        faces: Name of the face set.
        count: Faces compared.
        skipped: Faces that could not be read.
        tolerance: Largest relative error allowed.
        comparison: Errors of every layer.
        verdict: The first layer beyond the tolerance.
        notes: What the reader must know.
        picture: The figure.
        table: The same as JSON.
    """

    engine: str
    against: Against
    ran_in: Runtime
    faces: str
    count: int
    skipped: tuple[Skipped, ...]
    tolerance: float
    comparison: LayerComparison
    verdict: LayerVerdict
    notes: tuple[str, ...]
    picture: Path
    table: Path


def debug(
    workspace: Workspace,
    engine: str,
    *,
    faces: str | None = None,
    limit: int = FACES,
    tolerance: float | None = None,
    against: Against = "onnx",
    sensitivity: bool = False,
    ran_in: Runtime | None = None,
    allow_host_code: bool = False,
    allow_factory: bool = False,
    out: Path | None = None,
    report: Reporter = SILENT,
) -> Debugged:
    """Compare every layer of an engine with the float32 graph, on the same faces.

    Args:
        workspace: Holds the engine; receives `debug/<engine>/layers.json` and `layers.png`.
        engine: Its name.
        faces: Face set; None for the demo faces.
        limit: Most faces, spread evenly over the set.
        tolerance: Largest relative error of a layer; None for the precision's `TOLERANCE`.
        against: "onnx", the exported graph, or "torch", the checkpoint.
        sensitivity: Measure what each layer alone does to the score; with "onnx" only.
        ran_in: What computes the engine's tensors. None for TensorRT where the engine is one of
            TensorRT's and runs here, and its graph in ONNX Runtime else.
        allow_host_code: Load a version-compatible TensorRT plan, which carries code that runs here.
        allow_factory: Run the factory that the workspace names, for `against` "torch".
        out: Folder to write to.
        report: Told what happens.

    Raises:
        LpxError: No such engine, no face that can be read, a tolerance that is not a positive
            number, a reference that gives NaN, or TensorRT was asked for and cannot be used.
    """
    check_choice("against", against, get_args(Against))
    if ran_in is not None:
        check_choice("ran_in", ran_in, get_args(Runtime))
    _check(limit, tolerance, against, sensitivity=sensitivity)
    model = read_exported(workspace)
    manifest = _manifest(workspace, model, engine)
    lowered = read_graph(workspace.engines / manifest.name, manifest)
    ran_in, note = choose_runtime(manifest, ran_in)
    notes = [note] if note else []
    out = out or workspace.root / "debug" / manifest.name
    pool = open_faces(workspace, faces or "demo", "test", out, report=report).first(limit)
    target, size = _target(model, manifest), model.card.input_size
    batches, skipped = _decode(pool, batch_size(target), size)
    reference = (
        _checkpoint(workspace, model, manifest, target, allow_factory)
        if against == "torch"
        else None
    )
    report.say(f"comparing {manifest.name} with {against} on {sum(map(len, batches))} faces")
    # ONNX Runtime's optimiser is not a part of a TensorRT engine.
    as_written = manifest.target != "onnxruntime"
    with ExitStack() as held:
        inside = None
        if ran_in == "tensorrt":
            inside = open_inside(
                workspace,
                manifest,
                target,
                lowered,
                held,
                allow_host_code=allow_host_code,
                report=report,
            )
        found = compare_layers(
            lowered,
            target,
            batches,
            size,
            reference=reference,
            observed=inside,
            sensitivity=sensitivity,
            as_written=as_written,
            progress=report.progress("comparing layers"),
        )
    bound = _default_tolerance(manifest, ran_in) if tolerance is None else tolerance
    verdict = judge_layers(found, bound)
    if unexplained(verdict, bound) and not as_written:
        unfused = compare_layers(lowered, target, batches, size, as_written=True)
        plain = judge_layers(unfused, bound)
        notes.append(_optimiser(verdict, plain))
    done = Debugged(
        engine=manifest.name,
        against=against,
        ran_in=ran_in,
        faces=pool.name,
        count=sum(map(len, batches)),
        skipped=tuple(skipped),
        tolerance=bound,
        comparison=found,
        verdict=verdict,
        notes=(*notes, *_notes(found, against, ran_in, skipped)),
        picture=out / "layers.png",
        table=out / "layers.json",
    )
    title = (
        f"{done.engine} in {NAMES[ran_in]} against {against}, {done.count} faces of {done.faces}"
    )
    write_bytes(done.picture, draw_layers(found, verdict, bound, title, NAMES[ran_in]))
    write_json(done.table, to_values(done))
    return done


def _check(limit: int, tolerance: float | None, against: Against, *, sensitivity: bool) -> None:
    check_at_least("limit", limit, 1)
    if tolerance is not None and not 0 < tolerance < math.inf:
        raise LpxError(
            f"--tolerance {tolerance:g} is not a valid bound",
            "it is the relative error, ||d|| / ||x||, that a layer may have",
            f"give a positive number, as --tolerance {TOLERANCE['int8']:g}, or leave it out",
        )
    if sensitivity and against == "torch":
        raise LpxError(
            "--sensitivity with --against torch",
            "it puts an engine's layers into the float32 ONNX graph one at a time",
            "leave --against out",
        )


def _checkpoint(
    workspace: Workspace,
    model: ExportedModel,
    manifest: EngineManifest,
    target: bytes,
    allow_factory: bool,
) -> TensorSource:
    """The checkpoint's modules, matched with the layers of the float graph."""
    if _equalised(manifest):
        raise LpxError(
            f"engine {manifest.name} was equalised",
            "its channels are scaled, and have no counterpart in the checkpoint",
            "leave --against out",
        )
    # Imported here, for PyTorch takes seconds.
    from lpx.artefacts.reference import read_reference
    from lpx.layerwise.torch_layers import TorchLayers

    detector = read_reference(workspace, model, allow_factory=allow_factory)
    graph = read_named(target, "the float model")
    return TorchLayers(detector, graph, layers_of(graph))


def _optimiser(verdict: LayerVerdict, plain: LayerVerdict) -> str:
    """What running the graph without ONNX Runtime's optimiser tells of an unexplained error."""
    assert verdict.first is not None
    if plain.first is None:
        return (
            "without ONNX Runtime's graph optimiser every layer is within tolerance: a fused "
            f"kernel at or before {verdict.first.layer.name} computes something else than the graph"
        )
    return (
        "without ONNX Runtime's graph optimiser the first layer beyond is "
        f"{plain.first.layer.name}: the error lies in the graph, not in fused kernels"
    )


def _manifest(workspace: Workspace, model: ExportedModel, name: str) -> EngineManifest:
    names = [folder.name for folder in engine_folders(workspace)]
    if name not in names:
        raise LpxError(
            f"engine {name} does not exist",
            f"{workspace.root} holds {', '.join(names) or 'no engine'}",
            "name one of these" if names else "run `lpx build --int8` first",
        )
    manifest = read_manifest(workspace.engines / name)
    if manifest.model_sha256 != model.sha256:
        raise LpxError(
            f"engine {name} was built from another model than {workspace.model}",
            f"it names {manifest.model_sha256[:12]}, the model is {model.sha256[:12]}",
            f"run `lpx build --{manifest.precision} --target {manifest.target}` again",
        )
    check_card(manifest, model)
    return manifest


def _default_tolerance(manifest: EngineManifest, ran_in: Runtime) -> float:
    tf32 = manifest.options.get("tf32", True)
    if ran_in == "tensorrt" and manifest.precision == "fp32" and tf32:
        return TF32_TOLERANCE
    return TOLERANCE[manifest.precision]


def _equalised(manifest: EngineManifest) -> bool:
    return bool((manifest.calibration or {}).get("weights", {}).get("equalise"))


def _target(model: ExportedModel, manifest: EngineManifest) -> bytes:
    """The float32 graph that the engine was lowered from."""
    equalised = _equalised(manifest)
    return prepare_model(model.data, "the exported model", equalised=equalised, requantise=True)[0]


def _decode(faces: FaceSet, batch: int, size: int) -> tuple[list[NDArray[np.uint8]], list[Skipped]]:
    skipped: list[Skipped] = []
    batches = [b.pixels for b in faces.stream(batch, size, skipped)]
    if not batches:
        reason = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty"
        raise LpxError(
            f"no face of {faces.name} can be read", reason, "name another set with --faces"
        )
    return batches, skipped


def _notes(
    found: LayerComparison, against: Against, ran_in: Runtime, skipped: list[Skipped]
) -> list[str]:
    notes = []
    seen = found.watched
    same = seen.integer_convolutions == seen.integer_convolutions_unwatched
    if seen.score_difference > 1e-5 or not same:
        left = f"{seen.integer_convolutions} of {seen.integer_convolutions_unwatched}"
        left = "" if same else f", and {left} integer convolutions were left"
        notes.append(
            f"handing tensors out changes how {NAMES[ran_in]} runs: the score moved by up to "
            f"{seen.score_difference:.2g}{left}; what is shown holds to about that much"
        )
    if against == "torch":
        notes.append(
            "against torch the layers are not run alone, so an error that a layer makes and one "
            "that it inherits are not told apart"
        )
    if found.unmatched and against == "torch":
        notes.append(
            f"{len(found.unmatched)} layers are not the output of a torch module and are left out"
        )
    elif found.unmatched:
        names = ", ".join(layer.name for layer in found.unmatched[:3])
        where = "are not in the engine's graph"
        if ran_in == "tensorrt":
            where = "were fused away by TensorRT, or are not in the engine's graph"
        notes.append(f"{len(found.unmatched)} layers {where}, and are left out: {names}")
    if skipped:
        notes.append(
            f"{len(skipped)} faces could not be read, the first: {skipped[0].name} "
            f"({skipped[0].reason})"
        )
    return notes


def to_values(done: Debugged) -> dict[str, Any]:
    """What `--json` prints and `layers.json` holds; null stands for infinity."""
    found, verdict = done.comparison, done.verdict
    return {
        "engine": done.engine,
        "against": done.against,
        "ran_in": done.ran_in,
        "faces": done.faces,
        "count": done.count,
        "skipped": [asdict(s) for s in done.skipped],
        "tolerance": done.tolerance,
        "within_tolerance": verdict.first is None,
        "first_beyond": verdict.first.layer.name if verdict.first else None,
        "culprit": verdict.culprit.layer.name if verdict.culprit else None,
        "by_runtime": verdict.by_runtime,
        "beyond": [e.layer.name for e in verdict.beyond],
        "score_difference": {"mean": _finite(found.score_mean), "max": _finite(found.score_max)},
        "watched": {k: _finite(v) for k, v in asdict(found.watched).items()},
        "layers": [_layer_values(e) for e in found.layers],
        "unmatched": [asdict(layer) for layer in found.unmatched],
        "notes": list(done.notes),
        "picture": str(done.picture),
    }


def _layer_values(error: LayerError) -> dict[str, Any]:
    effect = error.effect
    return {
        **asdict(error.layer),
        "computes_in": error.computes_in,
        "stored_in": error.stored_in,
        "total": _error_values(error.total),
        "own": _error_values(error.own) if error.own else None,
        "effect": {k: _finite(v) for k, v in asdict(effect).items()} if effect else None,
        "runtime": _error_values(error.runtime) if error.runtime else None,
    }


def _error_values(error: TensorError) -> dict[str, Any]:
    values = {**asdict(error), "sqnr_db": error.sqnr_db}
    return {key: _finite(value) for key, value in values.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
