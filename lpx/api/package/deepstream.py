"""What DeepStream needs to score the faces that it finds."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpx.api.package.content import choose_engine, choose_face, request_of, warn_if_weak
from lpx.artefacts.model import ExportedModel, read_exported
from lpx.deploy.cpp_project import TRTEXEC, SelfTest, check_free, new_folder
from lpx.deploy.deepstream.configs import FORMS, Form, Settings, engine_file, takes_nvinferserver
from lpx.deploy.deepstream.files.selftest import planes, score_of_graph
from lpx.deploy.deepstream.project import (
    GRAPH_FORMS,
    INTERFACE,
    DeepStreamContent,
    write_package,
)
from lpx.deploy.deepstream.recipes import check_recipe
from lpx.engines.build import make_graph
from lpx.engines.manifest import EngineManifest, Precision
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.tensorrt_options import DEFAULT_BATCHES, BatchRange, TensorRTOptions
from lpx.engines.trtexec import emit_trtexec, plan_name
from lpx.errors import NotAsAskedError
from lpx.reporter import SILENT, Reporter
from lpx.workspace import check_writable, read_sealed

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

# nvinfer's NVDSINFER_MAX_BATCH_SIZE.
_MAX_BATCH = 1024
# Name of the model of a precision in the repository that `lpx package --for triton` writes.
# It has to be what `ModelGroup.name_after` makes of `DEFAULT_NAME`.
_MODEL = "detector-tensorrt-{precision}"
# Dialects of the graphs for TensorRT 10 and 11, and for 8.
_TYPED, _WEAKLY_TYPED = "strongly-typed", "weakly-typed"


@dataclass(frozen=True)
class DeepStreamResult:
    """A package for DeepStream that was written.

    Attributes:
        folder: Its folder.
        engine: Name of the packaged engine; "" if none was built.
        precision: Precision of the engines that build.sh builds.
        engines: Files that build.sh builds, by form: "score" and "tensors".
        batch: Largest batch of these engines.
        crop: Crop recipe that the probe follows; "" if something else sets the boxes.
        nvinferserver: The package has a configuration for nvinferserver.
        expected_score: Score of the self-test's face.
        tolerance: Largest accepted |score difference| of the self-test.
    """

    folder: Path
    engine: str
    precision: Precision
    engines: dict[Form, str]
    batch: int
    crop: str
    nvinferserver: bool
    expected_score: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain values, for JSON."""
        return {**self.__dict__, "folder": str(self.folder), "engines": dict(self.engines)}


def package_deepstream(
    workspace: OpenedWorkspace,
    folder: Path,
    *,
    engine: str | None = None,
    own_crop: bool = False,
    reporter: Reporter = SILENT,
) -> DeepStreamResult:
    """Implement `lpx.Workspace.package`, which documents arguments and errors."""
    model = read_exported(workspace)
    check_free(folder)
    check_writable(folder)
    manifest = choose_engine(workspace, model, engine)
    if own_crop:
        reporter.warn(
            "the package leaves the boxes to your pipeline: faces cut in another way than in "
            f'training, by "{model.card.crop}", get wrong scores'
        )
    else:
        check_recipe(model.card)
    if manifest is None:
        reporter.say("no engine was built: the float32 graph is packaged")
    request = request_of(workspace, manifest, _builder_options(manifest))
    (profile,) = request.tensorrt.profiles
    graph, _ = make_graph(model.data, request, _TYPED)
    older, _ = make_graph(model.data, request, _WEAKLY_TYPED)
    test = choose_face(graph, model, request.precision, another=older)
    served = _MODEL.format(precision=request.precision)
    settings = Settings(model.card, request.precision, profile.maximum, served, own_crop)
    content = DeepStreamContent(settings, test, plan_name(request, profile))
    with new_folder(folder) as new:
        scripts = new / TRTEXEC
        emit_trtexec(
            model.data, model.card, (request,), scripts, forms=GRAPH_FORMS, interface=INTERFACE
        )
        # While the folder is still temporary: a package with wrong graphs must not appear.
        _check_scores(scripts, graph, test, model)
        write_package(new, content)
    warn_if_weak(test, reporter)
    return DeepStreamResult(
        folder=folder,
        engine="" if manifest is None else manifest.name,
        precision=request.precision,
        engines={form: engine_file(form, settings) for form in FORMS},
        batch=profile.maximum,
        crop="" if own_crop else model.card.crop,
        nvinferserver=takes_nvinferserver(model.card),
        expected_score=test.score,
        tolerance=test.tolerance,
    )


def _builder_options(manifest: EngineManifest | None) -> TensorRTOptions:
    """Return the options to build with: those of the engine, for the GPU and a range of batches.

    nvinfer uses one profile, and asks it for any number of faces.
    """
    if manifest is None or not manifest.batches:
        return TensorRTOptions(batches=DEFAULT_BATCHES)
    built = manifest.tensorrt
    largest = built.profiles[-1]
    maximum = min(largest.maximum, _MAX_BATCH)
    # Only options that hold here as well: the configurations are for a GPU, even if the engine is
    # for a DLA core.
    return TensorRTOptions(
        batches=BatchRange(1, min(largest.optimum, maximum), maximum),
        workspace_mib=built.workspace_mib,
        optimisation_level=built.optimisation_level,
        tf32=built.tf32,
    )


def _check_scores(folder: Path, graph: bytes, test: SelfTest, model: ExportedModel) -> None:
    """Check that the graphs in a folder give the self-test's face the score that they must.

    Args:
        folder: Graphs, as `emit_trtexec` wrote them.
        graph: The graph of lpx that they were made from, strongly typed.
        test: The face and its score.
        model: The exported model.

    Raises:
        NotAsAskedError: They do not: because of a bug in lpx, or a broken ONNX Runtime.
    """
    size = model.card.input_size
    # One face, as the others are run: the score may depend on the size of the batch.
    with closing(OnnxRuntimeEngine(graph, size, as_written=True)) as engine:
        expected = float(engine.infer(test.face[None]).score[0])
    face = planes(test.face.tobytes())
    for entry in read_sealed(folder / "manifest.json", "lpx package")["graphs"]:
        score = score_of_graph(folder / entry["file"], face, size)
        # Made for the same release, a graph must be equal to the last bit.
        bound = 0.0 if entry["dialect"] == _TYPED else test.tolerance
        if not abs(score - expected) <= bound:
            raise NotAsAskedError(
                f"the graph {entry['file']} gives a face another score than that of lpx",
                f"{score:.6f} instead of {expected:.6f}",
                "please report this with the checkpoint's backbone and cut",
                code="scores-differ",
            )
