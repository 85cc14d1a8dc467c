"""A project that runs an engine without Python."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpx.api.build import BuildOptions
from lpx.arguments import check_instance
from lpx.artefacts.model import ExportedModel, read_exported
from lpx.artefacts.select_engine import check_model, engine_folders
from lpx.calibration.scales import Scales, read_scales
from lpx.data.face_sets.demo import demo_set
from lpx.deploy.cpp_project import (
    TOLERANCES,
    TRTEXEC,
    ProjectContent,
    SelfTest,
    check_free,
    new_folder,
    write_project,
)
from lpx.engines.load import read_engine, read_graph
from lpx.engines.manifest import EngineManifest, Precision, read_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.trtexec import emit_trtexec, plan_name
from lpx.errors import InvalidArgumentError, LpxError
from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions
from lpx.reporter import SILENT, Reporter
from lpx.schema import SchemaError, read_record
from lpx.workspace import check_writable, read_sealed

if TYPE_CHECKING:
    from lpx.api.workspace import Workspace

# Preferred precisions of an engine that is not named, the fastest first.
_PREFERRED: tuple[Precision, ...] = ("int8", "fp16", "fp32")
# Number of demo faces among which that of the self-test is chosen.
_FACES = 64


@dataclass(frozen=True)
class PackageResult:
    """A project that was written.

    Attributes:
        folder: Its folder.
        engine: Name of the packaged engine; "" if none was built.
        precision: Precision of the engine.
        plan: The project holds a plan; otherwise `build.sh` builds it.
        options: Options that the program needs to load the plan.
        expected_score: Score of the self-test's face.
        tolerance: Largest accepted |score difference| of the self-test.
    """

    folder: Path
    engine: str
    precision: Precision
    plan: bool
    options: tuple[str, ...]
    expected_score: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {**self.__dict__, "folder": str(self.folder), "options": list(self.options)}


def package(
    workspace: Workspace,
    out: Path | None = None,
    *,
    engine: str | None = None,
    reporter: Reporter = SILENT,
) -> PackageResult:
    """Implement `lpx.Workspace.package`, which documents arguments and errors."""
    folder = out or workspace.root / "cpp"
    model = read_exported(workspace)
    check_free(folder)
    check_writable(folder)
    manifest = _choose(workspace, model, engine)
    with new_folder(folder) as new:
        if manifest is not None and manifest.target == "tensorrt":
            content = _with_plan(workspace, model, manifest)
        else:
            content = _with_graph(workspace, model, manifest, new / TRTEXEC, reporter)
        write_project(new, content)
    test = content.self_test
    if not test.detects_faults:
        reporter.warn(
            "the self-test may pass on a faulty engine: no demo face has a score that is more than "
            f"{test.tolerance:g} away from 0, from 1, and from its score with red and blue swapped"
        )
    return PackageResult(
        folder=folder,
        engine="" if manifest is None else manifest.name,
        precision=content.precision,
        plan=content.plan is not None,
        options=content.options,
        expected_score=test.score,
        tolerance=test.tolerance,
    )


def _choose(workspace: Workspace, model: ExportedModel, name: str | None) -> EngineManifest | None:
    """Return the manifest of a named engine, or of the best one; None if none was built.

    Raises:
        LpxError: The engine does not exist, or was built from another model.
    """
    check_instance("engine", name, str)
    if name is not None:
        manifest = read_manifest(workspace.engine(name))
    else:
        manifests = [read_manifest(folder) for folder in engine_folders(workspace)]
        if not manifests:
            return None
        # A plan first: it need not be built on the other machine.
        manifest = min(
            manifests,
            key=lambda one: (one.target != "tensorrt", _PREFERRED.index(one.precision), one.name),
        )
    check_model(workspace, manifest, model)
    return manifest


def _with_plan(
    workspace: Workspace, model: ExportedModel, manifest: EngineManifest
) -> ProjectContent:
    folder = workspace.engines / manifest.name
    _, plan = read_engine(folder)
    graph = read_graph(folder, manifest)
    test = choose_face(graph, model, manifest.precision)
    return ProjectContent(model.card, manifest.precision, test, plan=plan, manifest=manifest)


def _with_graph(
    workspace: Workspace,
    model: ExportedModel,
    manifest: EngineManifest | None,
    folder: Path,
    reporter: Reporter,
) -> ProjectContent:
    """Write the graphs and trtexec scripts of an engine's precision to a folder."""
    precision: Precision = "fp32"
    method, weights, scales = None, DEFAULT_WEIGHTS, None
    if manifest is None:
        reporter.say("no engine was built: the float32 graph is packaged")
    else:
        precision = manifest.precision
        weights = _weights_of(manifest)
        reporter.say(
            f"{manifest.name} is not a TensorRT plan: the {precision.upper()} graph for TensorRT "
            "is packaged, and build.sh builds the plan"
        )
        if manifest.calibration is not None:
            # Not those that `emit` would take: it may calibrate again, on other faces.
            scales = _ranges_of(workspace, manifest)
            method = manifest.calibration["method"]
    options = BuildOptions((precision,), method=method, weights=weights)
    request = options.request("tensorrt", precision, scales)
    emit_trtexec(model.data, model.card, (request,), folder)
    emitted = read_sealed(folder / "manifest.json", "lpx package")
    # ONNX Runtime runs the graph for TensorRT 10 and 11; the others state the same precision in
    # another way.
    graph = next(one for one in emitted["graphs"] if one["dialect"] == "strongly-typed")
    test = choose_face((folder / graph["file"]).read_bytes(), model, precision)
    (profile,) = options.tensorrt.profiles
    name = plan_name(request, profile)
    return ProjectContent(model.card, precision, test, trtexec_engine=name)


def _weights_of(manifest: EngineManifest) -> WeightOptions:
    """Return the weight options that an engine was built with.

    Raises:
        LpxError: A newer lpx built it, with options that this one does not know.
    """
    if manifest.calibration is None:
        # A float engine has one of them: its model may have been quantised.
        return WeightOptions(requantise=manifest.options.get("requantised") is True)
    try:
        return read_record(WeightOptions, manifest.calibration["weights"], "weights")
    except (SchemaError, InvalidArgumentError) as error:
        raise LpxError(
            f"engine {manifest.name} was built with weight options that this lpx does not know",
            str(error),
            f"run `lpx build --{manifest.precision} --target {manifest.target}` again",
        ) from error


def _ranges_of(workspace: Workspace, manifest: EngineManifest) -> Scales:
    """Return the ranges that an INT8 engine was built with.

    Raises:
        LpxError: The workspace has others: the graph would not be the one that was measured.
    """
    built = (manifest.calibration or {}).get("ranges_sha256")
    scales = read_scales(workspace.scales)
    if built == scales.summary()["ranges_sha256"]:
        return scales
    raise LpxError(
        f"engine {manifest.name} was built with other ranges than those in {workspace.scales}",
        "the packaged graph would differ from the engine",
        f"run `lpx build --{manifest.precision} --target {manifest.target}` again",
    )


def choose_face(graph: bytes, model: ExportedModel, precision: Precision) -> SelfTest:
    """Choose the demo face whose score is farthest from the scores of typical faults.

    Args:
        graph: ONNX graph of the engine.
        model: The exported model.
        precision: Precision of the engine, which decides the tolerance.

    Raises:
        LpxError: ONNX Runtime cannot run the graph, or a score is not finite.
    """
    size = model.card.input_size
    chosen = demo_set("test").first(_FACES)
    (batch,) = chosen.stream(_FACES, size, [])
    # As written: the optimiser of ONNX Runtime miscomputes graphs for TensorRT.
    with closing(OnnxRuntimeEngine(graph, size, as_written=True)) as engine:
        scores = engine.infer(batch.pixels).score
        swapped = engine.infer(np.ascontiguousarray(batch.pixels[..., ::-1])).score
    if not (np.isfinite(scores).all() and np.isfinite(swapped).all()):
        raise LpxError(
            f"the {precision.upper()} graph gives a demo face a score that is not finite",
            "such a score cannot be compared with that of an engine",
            "package another precision, with `engine`",
        )
    tests = []
    for row, index in enumerate(batch.indices.tolist()):
        tests.append(
            SelfTest(
                face=batch.pixels[row],
                name=chosen.faces[index].name,
                score=float(scores[row]),
                swapped_score=float(swapped[row]),
                source=f"the {precision.upper()} graph in ONNX Runtime on a CPU",
                tolerance=TOLERANCES[precision],
            )
        )
    return max(tests, key=lambda test: test.distance)
