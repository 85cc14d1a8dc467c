"""A project that runs an engine without Python."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpx.api.package.content import choose_engine, choose_face, request_of, warn_if_weak
from lpx.artefacts.model import ExportedModel, read_exported
from lpx.deploy.cpp_project import (
    TRTEXEC,
    ProjectContent,
    check_free,
    new_folder,
    write_project,
)
from lpx.engines.load import read_engine, read_graph
from lpx.engines.manifest import EngineManifest, Precision
from lpx.engines.trtexec import emit_trtexec, plan_name
from lpx.reporter import SILENT, Reporter
from lpx.workspace import check_writable, read_sealed

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace


@dataclass(frozen=True)
class CppResult:
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


def package_cpp(
    workspace: OpenedWorkspace,
    folder: Path,
    *,
    engine: str | None = None,
    reporter: Reporter = SILENT,
) -> CppResult:
    """Implement `lpx.Workspace.package`, which documents arguments and errors."""
    model = read_exported(workspace)
    check_free(folder)
    check_writable(folder)
    manifest = choose_engine(workspace, model, engine)
    with new_folder(folder) as new:
        if manifest is not None and manifest.target == "tensorrt":
            content = _with_plan(workspace, model, manifest)
        else:
            content = _with_graph(workspace, model, manifest, new / TRTEXEC, reporter)
        write_project(new, content)
    test = content.self_test
    warn_if_weak(test, reporter)
    return CppResult(
        folder=folder,
        engine="" if manifest is None else manifest.name,
        precision=content.precision,
        plan=content.plan is not None,
        options=content.options,
        expected_score=test.score,
        tolerance=test.tolerance,
    )


def _with_plan(
    workspace: OpenedWorkspace, model: ExportedModel, manifest: EngineManifest
) -> ProjectContent:
    folder = workspace.engines / manifest.name
    _, plan = read_engine(folder)
    graph = read_graph(folder, manifest)
    test = choose_face(graph, model, manifest.precision)
    return ProjectContent(model.card, manifest.precision, test, plan=plan, manifest=manifest)


def _with_graph(
    workspace: OpenedWorkspace,
    model: ExportedModel,
    manifest: EngineManifest | None,
    folder: Path,
    reporter: Reporter,
) -> ProjectContent:
    """Write the graphs and trtexec scripts of an engine's precision to a folder."""
    if manifest is None:
        reporter.say("no engine was built: the float32 graph is packaged")
    else:
        reporter.say(
            f"{manifest.name} is not a TensorRT plan: the {manifest.precision.upper()} graph for "
            "TensorRT is packaged, and build.sh builds the plan"
        )
    request = request_of(workspace, manifest)
    emit_trtexec(model.data, model.card, (request,), folder)
    emitted = read_sealed(folder / "manifest.json", "lpx package")
    # ONNX Runtime runs the graph for TensorRT 10 and 11; the others state the same precision in
    # another way.
    graphs = {}
    for entry in emitted["graphs"]:
        graphs[entry["dialect"]] = (folder / entry["file"]).read_bytes()
    test = choose_face(
        graphs["strongly-typed"], model, request.precision, another=graphs["weakly-typed"]
    )
    (profile,) = request.tensorrt.profiles
    name = plan_name(request, profile)
    return ProjectContent(model.card, request.precision, test, trtexec_engine=name)
