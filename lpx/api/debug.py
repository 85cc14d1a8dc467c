"""LayerComparison of an engine with the float32 graph, layer by layer."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpx.api.debug_runtime import (
    NAMES,
    TENSORRT,
    Runtime,
    TensorRTAccess,
    choose_runtime,
    open_inside,
)
from lpx.arguments import check_at_least, check_fields, check_number
from lpx.artefacts.model import ExportedModel, open_faces, read_exported
from lpx.artefacts.select_engine import check_model, find_engine
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
from lpx.workspace import WorkspaceFolder, write_bytes, write_json

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

FACES = 16
# Default relative error of a layer: about four times that of the demo's detector.
TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.25}
# For float32 in TensorRT with TF32, which has the ten bits of mantissa of float16.
TF32_TOLERANCE = TOLERANCE["fp16"]
Against = Literal["onnx", "torch"]


@dataclass(frozen=True)
class DebugResult:
    """Result of `lpx.Workspace.debug`.

    Attributes:
        engine: Name of the engine.
        against: Reference: "onnx" or "torch".
        runtime: Runtime that computed the engine's tensors.
        faces: Name of the face set.
        count: Number of faces compared.
        skipped: Faces that could not be read.
        tolerance: Largest accepted relative error of a layer.
        comparison: Errors of every layer.
        verdict: The first layer beyond the tolerance, and its cause.
        notes: Remarks on how far the comparison holds.
        picture: Path of the figure, `layers.png`.
        table: Path of the same as JSON, `layers.json`.
    """

    engine: str
    against: Against
    runtime: Runtime
    faces: str
    count: int
    skipped: tuple[Skipped, ...]
    tolerance: float
    comparison: LayerComparison
    verdict: LayerVerdict
    notes: tuple[str, ...]
    picture: Path
    table: Path

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `layers.json` holds them; None stands for infinity."""
        comparison, verdict = self.comparison, self.verdict
        first, culprit = _layer_name(verdict.first), _layer_name(verdict.culprit)
        return {
            "engine": self.engine,
            "against": self.against,
            "runtime": self.runtime,
            "faces": self.faces,
            "count": self.count,
            "skipped": [asdict(skipped) for skipped in self.skipped],
            "tolerance": self.tolerance,
            "within_tolerance": first is None,
            "first_beyond": first,
            "culprit": culprit,
            "by_runtime": verdict.by_runtime,
            "beyond": [error.layer.name for error in verdict.beyond],
            "score_difference": {
                "mean": _finite(comparison.score_mean),
                "max": _finite(comparison.score_max),
            },
            "watched": {key: _finite(value) for key, value in asdict(comparison.watched).items()},
            "layers": [_layer_values(error) for error in comparison.layers],
            "unmatched": [asdict(layer) for layer in comparison.unmatched],
            "notes": list(self.notes),
            "picture": str(self.picture),
        }


@dataclass(frozen=True)
class DebugOptions:
    """Arguments of `lpx.Workspace.debug`, which documents them."""

    faces: str | None = None
    limit: int = FACES
    tolerance: float | None = None
    against: Against = "onnx"
    sensitivity: bool = False
    runtime: Runtime | None = None
    out: Path | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least("limit", self.limit, 1)
        check_number(
            "tolerance", self.tolerance, above=0, why="it is a relative error ||d|| / ||x||"
        )
        if self.sensitivity and self.against == "torch":
            raise LpxError(
                '`sensitivity` cannot be combined with `against="torch"`',
                "it puts an engine's layers into the float32 ONNX graph one at a time",
                "leave out `against`",
                code="invalid-argument",
            )


def debug(
    workspace: OpenedWorkspace,
    engine: str,
    options: DebugOptions,
    reporter: Reporter = SILENT,
    *,
    access: TensorRTAccess = TENSORRT,
) -> DebugResult:
    """Implement `lpx.Workspace.debug`, which documents arguments and errors."""
    faces, limit, tolerance = options.faces, options.limit, options.tolerance
    against, sensitivity, out = options.against, options.sensitivity, options.out
    model = read_exported(workspace)
    manifest = _manifest(workspace, model, engine)
    lowered = read_graph(workspace.engines / manifest.name, manifest)
    runtime, note = choose_runtime(manifest, options.runtime, access)
    notes = [note] if note else []
    out = out or workspace.root / "debug" / manifest.name
    pool = open_faces(workspace, faces or "demo", "test", out, reporter=reporter).first(limit)
    target, size = _target(model, manifest), model.card.input_size
    # Before a TensorRT engine is built again, which takes minutes: a set without a readable face
    # ends here. The batches are kept, as they may be compared twice.
    batches, skipped = _decode(pool, batch_size(target), size)
    reference = None
    if against == "torch":
        reference = _checkpoint(workspace, model, manifest, target)
    reporter.say(f"comparing {manifest.name} with {against} on {sum(map(len, batches))} faces")
    # ONNX Runtime's optimiser is not a part of a TensorRT engine.
    as_written = manifest.target != "onnxruntime"
    with ExitStack() as held:
        inside = None
        if runtime == "tensorrt":
            inside = open_inside(
                workspace,
                manifest,
                target,
                lowered,
                held,
                allow_host_code=workspace.allow_host_code,
                reporter=reporter,
                access=access,
            )
        comparison = compare_layers(
            lowered,
            target,
            batches,
            size,
            reference=reference,
            observed=inside,
            sensitivity=sensitivity,
            as_written=as_written,
            progress=reporter.progress("comparing layers"),
        )
    bound = _default_tolerance(manifest, runtime) if tolerance is None else tolerance
    verdict = judge_layers(comparison, bound)
    # An error that no layer shows when it is run alone is either the graph's or that of a fused
    # kernel. A second run without the optimiser tells which, and costs as much as the first.
    if unexplained(verdict, bound) and not as_written:
        plain = judge_layers(compare_layers(lowered, target, batches, size, as_written=True), bound)
        notes.append(_optimiser(verdict, plain))
    result = DebugResult(
        engine=manifest.name,
        against=against,
        runtime=runtime,
        faces=pool.name,
        count=sum(map(len, batches)),
        skipped=tuple(skipped),
        tolerance=bound,
        comparison=comparison,
        verdict=verdict,
        notes=(*notes, *_notes(comparison, against, runtime, skipped)),
        picture=out / "layers.png",
        table=out / "layers.json",
    )
    title = (
        f"{result.engine} in {NAMES[runtime]} against {against}, "
        f"{result.count} faces of {result.faces}"
    )
    write_bytes(result.picture, draw_layers(comparison, verdict, bound, title, NAMES[runtime]))
    write_json(result.table, result.to_dict())
    return result


def _checkpoint(
    workspace: OpenedWorkspace, model: ExportedModel, manifest: EngineManifest, target: bytes
) -> TensorSource:
    """Match the checkpoint's modules with the layers of the float graph."""
    if _equalised(manifest):
        raise LpxError(
            f"engine {manifest.name} was equalised",
            "its channels are scaled, and have no counterpart in the checkpoint",
            "leave out `against`",
        )
    # Imported here because PyTorch takes seconds.
    from lpx.artefacts.reference import read_reference
    from lpx.layerwise.torch_layers import TorchLayers

    detector = read_reference(workspace, model, allow_factory=workspace.allow_factory)
    graph = read_named(target, "the float model")
    return TorchLayers(detector, graph, layers_of(graph))


def _optimiser(verdict: LayerVerdict, plain: LayerVerdict) -> str:
    """Say what running without ONNX Runtime's optimiser shows about an unexplained error."""
    assert verdict.first is not None
    if plain.first is None:
        return (
            "without ONNX Runtime's graph optimiser every layer is within tolerance: a fused "
            f"kernel at or before {verdict.first.layer.name} computes something other than the "
            "graph"
        )
    return (
        "without ONNX Runtime's graph optimiser the first layer beyond is "
        f"{plain.first.layer.name}: the error is in the graph, not in fused kernels"
    )


def _manifest(workspace: WorkspaceFolder, model: ExportedModel, name: str) -> EngineManifest:
    manifest = read_manifest(find_engine(workspace, name))
    check_model(workspace, manifest, model)
    return manifest


def _default_tolerance(manifest: EngineManifest, runtime: Runtime) -> float:
    tf32 = manifest.options.get("tf32", True)
    if runtime == "tensorrt" and manifest.precision == "fp32" and tf32:
        return TF32_TOLERANCE
    return TOLERANCE[manifest.precision]


def _equalised(manifest: EngineManifest) -> bool:
    return bool((manifest.calibration or {}).get("weights", {}).get("equalise"))


def _target(model: ExportedModel, manifest: EngineManifest) -> bytes:
    """The float32 graph that the engine was lowered from."""
    equalised = _equalised(manifest)
    # `requantise` leaves a float model as it is; from one with Q/DQ pairs, the engine was only
    # built after they had been removed.
    return prepare_model(model.data, "the exported model", equalised=equalised, requantise=True)[0]


def _decode(faces: FaceSet, batch: int, size: int) -> tuple[list[NDArray[np.uint8]], list[Skipped]]:
    skipped: list[Skipped] = []
    batches = [b.pixels for b in faces.stream(batch, size, skipped)]
    if not batches:
        reason = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "the set is empty"
        raise LpxError(f"no face of {faces.name} can be read", reason, "use another set of `faces`")
    return batches, skipped


def _notes(
    comparison: LayerComparison, against: Against, runtime: Runtime, skipped: list[Skipped]
) -> list[str]:
    notes = []
    seen = comparison.watched
    same = seen.integer_convolutions == seen.integer_convolutions_unwatched
    if seen.score_difference > 1e-5 or not same:
        left = f"{seen.integer_convolutions} of {seen.integer_convolutions_unwatched}"
        left = "" if same else f", and {left} integer convolutions remained"
        notes.append(
            f"exposing intermediate tensors changes how {NAMES[runtime]} runs: scores moved by up "
            f"to {seen.score_difference:.2g}{left}; the errors shown hold to about that much"
        )
    if against == "torch":
        notes.append(
            "layers are not run alone against torch, so a layer's own error cannot be separated "
            "from the error it inherits"
        )
    if comparison.unmatched and against == "torch":
        notes.append(
            f"{len(comparison.unmatched)} layers are not the output of a torch module, and are "
            "left out"
        )
    elif comparison.unmatched:
        names = ", ".join(layer.name for layer in comparison.unmatched[:3])
        where = "are not in the engine's graph"
        if runtime == "tensorrt":
            where = "were fused away by TensorRT, or are not in the engine's graph"
        notes.append(f"{len(comparison.unmatched)} layers {where}, and are left out: {names}")
    if skipped:
        notes.append(
            f"{len(skipped)} faces could not be read, the first: {skipped[0].name} "
            f"({skipped[0].reason})"
        )
    return notes


def _layer_name(error: LayerError | None) -> str | None:
    if error is None:
        return None
    return error.layer.name


def _layer_values(error: LayerError) -> dict[str, Any]:
    effect = None
    if error.effect is not None:
        effect = _finite_values(asdict(error.effect))
    return {
        **asdict(error.layer),
        "computes_in": error.computes_in,
        "stored_in": error.stored_in,
        "total": _error_values(error.total),
        "own": _error_values(error.own),
        "effect": effect,
        "runtime": _error_values(error.runtime),
    }


def _error_values(error: TensorError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return _finite_values({**asdict(error), "sqnr_db": error.sqnr_db})


def _finite_values(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in values.items()}


def _finite(value: float) -> float | None:
    # json.dumps would write Infinity and NaN, which other parsers refuse.
    if math.isfinite(value):
        return value
    return None
