"""Contents of every package: an engine, its graph and ranges, and a face with its score."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpx.api.build import BuildOptions
from lpx.api.workspace.opened import OpenedWorkspace
from lpx.arguments import check_instance
from lpx.artefacts.model import ExportedModel
from lpx.artefacts.select_engine import check_model, engine_folders
from lpx.calibration.scales import Scales, read_scales
from lpx.data.face_sets.demo import demo_set
from lpx.deploy.cpp_project import TOLERANCES, SelfTest
from lpx.engines.manifest import EngineManifest, Precision, read_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
from lpx.errors import InvalidArgumentError, LpxError
from lpx.graph.qdq.weights import WeightOptions
from lpx.reporter import Reporter
from lpx.schema import SchemaError, read_record

# Preferred precisions of an engine that is not named, the fastest first.
_PREFERRED: tuple[Precision, ...] = ("int8", "fp16", "fp32")
# Number of demo faces among which that of the self-test is chosen.
_FACES = 64


def choose_engine(
    workspace: OpenedWorkspace, model: ExportedModel, name: str | None
) -> EngineManifest | None:
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


def weights_of(manifest: EngineManifest) -> WeightOptions:
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


def ranges_of(workspace: OpenedWorkspace, manifest: EngineManifest) -> Scales:
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


@dataclass(frozen=True)
class DemoFaces:
    """Faces of the demo set, among which that of a self-test is chosen.

    Attributes:
        pixels: uint8 RGB [N, S, S, 3].
        names: Names of the faces in their set.
    """

    pixels: NDArray[np.uint8]
    names: tuple[str, ...]


def demo_faces(size: int) -> DemoFaces:
    """Return demo faces: the same ones every time.

    Args:
        size: Side of a face, pixels.
    """
    chosen = demo_set("test").first(_FACES)
    (batch,) = chosen.stream(_FACES, size, [])
    names = tuple(chosen.faces[index].name for index in batch.indices.tolist())
    return DemoFaces(batch.pixels, names)


def request_of(
    workspace: OpenedWorkspace,
    manifest: EngineManifest | None,
    tensorrt: TensorRTOptions = DEFAULT_TENSORRT,
) -> BuildRequest:
    """Return the request for a TensorRT plan of an engine's precision, weights, ranges and layers.

    Args:
        workspace: The workspace.
        manifest: Manifest of the engine; None for float32.
        tensorrt: Options of TensorRT's builder.

    Raises:
        LpxError: As `weights_of` and `ranges_of`.
    """
    if manifest is None:
        return BuildOptions(("fp32",), tensorrt=tensorrt).request("tensorrt", "fp32")
    method, scales = None, None
    weights = weights_of(manifest)
    if manifest.calibration is not None:
        # Not those that `emit` would take: it may calibrate again, on other faces.
        scales = ranges_of(workspace, manifest)
        method = manifest.calibration["method"]
    options = BuildOptions(
        (manifest.precision,),
        method=method,
        weights=weights,
        tensorrt=tensorrt,
        plan=manifest.precision_plan,
    )
    return options.request("tensorrt", manifest.precision, scales)


def choose_face(
    graph: bytes, model: ExportedModel, precision: Precision, *, another: bytes | None = None
) -> SelfTest:
    """Choose the demo face whose score is farthest from the scores of typical faults.

    Args:
        graph: ONNX graph of the engine, for TensorRT.
        model: The exported model.
        precision: Precision of the engine, which decides the tolerance.
        another: Graph of the same precision for another release of TensorRT. Faces that it scores
            differently are avoided: there, levels of INT8 flip where graphs round differently, and
            a plan of either would miss the tolerance for no fault.

    Raises:
        LpxError: ONNX Runtime cannot run the graph, or a score is not finite.
    """
    faces = demo_faces(model.card.input_size)
    tests = demo_tests(graph, faces, precision)
    steady = tests
    if another is not None:
        steady = []
        for test, other in zip(tests, demo_tests(another, faces, precision), strict=True):
            # A quarter of the tolerance leaves the rest to the GPU.
            if abs(other.score - test.score) <= test.tolerance / 4:
                steady.append(test)
    return max(steady or tests, key=lambda test: test.distance)


def demo_tests(
    graph: bytes, faces: DemoFaces, precision: Precision, *, as_written: bool = True
) -> list[SelfTest]:
    """Return demo faces with the scores that an engine must give them.

    Args:
        graph: ONNX graph of the engine.
        faces: The faces.
        precision: Precision of the engine, which decides the tolerance.
        as_written: Compute every node as it stands: the optimiser of ONNX Runtime miscomputes
            graphs for TensorRT. False for a graph that ONNX Runtime is to run.

    Raises:
        LpxError: ONNX Runtime cannot run the graph, or a score is not finite.
    """
    pixels = faces.pixels
    with closing(OnnxRuntimeEngine(graph, pixels.shape[1], as_written=as_written)) as engine:
        scores = engine.infer(pixels).score
        swapped = engine.infer(np.ascontiguousarray(pixels[..., ::-1])).score
    if not (np.isfinite(scores).all() and np.isfinite(swapped).all()):
        raise LpxError(
            f"the {precision.upper()} graph gives a demo face a score that is not finite",
            "such a score cannot be compared with that of an engine",
            "package engines of another precision",
        )
    tests = []
    for row, name in enumerate(faces.names):
        tests.append(
            SelfTest(
                face=pixels[row],
                name=name,
                score=float(scores[row]),
                swapped_score=float(swapped[row]),
                source=f"the {precision.upper()} graph in ONNX Runtime on a CPU",
                tolerance=TOLERANCES[precision],
            )
        )
    return tests


def warn_if_weak(test: SelfTest, reporter: Reporter, before: str = "") -> None:
    """Warn of a self-test that typical faults pass.

    Args:
        test: The self-test.
        reporter: Receives the warning.
        before: Beginning of the warning.
    """
    if not test.detects_faults:
        reporter.warn(
            f"{before}the self-test may pass on a faulty engine: no demo face has a score that is "
            f"more than {test.tolerance:g} away from 0, from 1, and from its score with red and "
            "blue swapped"
        )
