"""`lpx.Workspace`: the steps from a checkpoint to verified engines, as methods."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lpx.arguments import as_path, check_at_least, check_instance, several
from lpx.data.roots import DataPlaces
from lpx.errors import InvalidArgumentError
from lpx.extras import needs_extras
from lpx.reporter import SILENT, Reporter
from lpx.workspace import DEFAULT, WorkspaceFolder

# Annotations only: PyTorch and ONNX Runtime take seconds to import, and are imported by the steps
# that need them.
if TYPE_CHECKING:
    from lpx.api.calibrate import CalibrationResult
    from lpx.api.debug import DebugResult
    from lpx.api.debug_runtime import Runtime
    from lpx.api.explain import ExplainResult
    from lpx.api.export import ExportResult
    from lpx.api.package import PackageResult
    from lpx.artefacts.bench_reference import ReferenceKind
    from lpx.bench.performance.costs import CostPlan
    from lpx.bench.report.document.report import Report
    from lpx.bundle.pack import PackResult
    from lpx.data.prepare import PrepareResult
    from lpx.engines.manifest import EngineManifest, Precision
    from lpx.engines.tensorrt_options import TensorRTOptions
    from lpx.graph.qdq.weights import WeightOptions
    from lpx.healing import Rebuild
    from lpx.models.checkpoint import ForeignModel
    from lpx.predict.results import PredictionResult

StrPath = str | os.PathLike[str]


class Workspace(WorkspaceFolder):
    """A folder with one exported model, its engines and reports, and the steps that make them.

    Each step leaves its artefacts in the folder, where the next one finds them. All steps check
    what they read against what it was made from.

    Args:
        root: The folder, created when something is first written. The file of a bundle is unpacked
            into a folder beside it, `<bundle>.d`, unless that was done before.
        data_root: Folder of public data sets' videos. By default LPX_DATA, or what `lpx.toml` says.
        face_store: Folder of faces prepared from these. By default LPX_FACE_STORE, or what
            `lpx.toml` says, or `lpx-faces`.
        allow_host_code: Load version-compatible TensorRT plans. They contain host code: only for a
            workspace from a source you trust.
        allow_factory: Import and call the factory that the workspace names to make its PyTorch
            model. Only for a workspace from a source you trust.
        reporter: Receives progress while a bundle is unpacked.

    Raises:
        LpxError: A bundle that is damaged, or cannot be unpacked beside itself.
    """

    def __init__(
        self,
        root: StrPath = DEFAULT,
        *,
        data_root: StrPath | None = None,
        face_store: StrPath | None = None,
        allow_host_code: bool = False,
        allow_factory: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        super().__init__(root)
        if self.root.is_file():
            from lpx.bundle.beside import workspace_of

            self.root = workspace_of(self.root, reporter)
        self.places = DataPlaces(
            _optional("data_root", data_root), _optional("face_store", face_store)
        )
        self.allow_host_code = allow_host_code
        self.allow_factory = allow_factory

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    def engine(self, name: str) -> Path:
        """Return the folder of an engine, for `lpx.load`.

        Args:
            name: Name of the engine, such as "onnxruntime-int8".

        Raises:
            LpxError: The workspace has no such engine (code "not-found").
        """
        from lpx.artefacts.select_engine import find_engine

        return find_engine(self, name)

    def engine_names(self) -> tuple[str, ...]:
        """Return the names of all engines in the workspace, sorted."""
        from lpx.artefacts.select_engine import engine_folders

        return tuple(folder.name for folder in engine_folders(self))

    @needs_extras
    def prepare_faces(
        self,
        name: str,
        *,
        split: str | None = None,
        methods: str | Sequence[str] = (),
        frames: int = 32,
        crop: str | None = None,
        detector: str = "blazeface",
        processes: int | None = None,
        strict: bool = False,
        reporter: Reporter = SILENT,
    ) -> PrepareResult:
        """Cut the faces out of the videos of a public data set, into the face store.

        An interrupted run resumes, and a later run for another split adds to the set. With more
        than one process, a script needs an `if __name__ == "__main__"` guard.

        Args:
            name: Data set, such as "ffpp-c23"; see `lpx data prepare --help`.
            split: "train", "val" or "test"; None for all.
            methods: Manipulation methods; () for the usual ones of the set.
            frames: Number of frames of each video, sampled evenly.
            crop: Crop recipe; None for that of the exported model's card, or "square-1.3"
                without a model.
            detector: A face detector of `lpx.data.detect.DETECTORS`.
            processes: Maximum number of processes; None for one per core.
            strict: Raise an error if a video is missing.
            reporter: Receives progress and warnings.

        Returns:
            Folder and counts of the prepared set.

        Raises:
            LpxError: An unknown set, recipe or detector, no videos, no faces, or a full disk.
        """
        from lpx.data import prepare

        if crop is None:
            # Said aloud, as scores on faces cut in another way can be far off.
            choice = prepare.recipe_for(prepare.exported_card(self))
            reporter.say(f"crop {choice.recipe}: {choice.reason}")
            crop = choice.recipe
        return prepare.prepare(
            name,
            places=self.places,
            split=split,
            methods=several("methods", methods),
            frames=frames,
            crop=crop,
            detector=detector,
            processes=processes,
            strict=strict,
            progress=reporter.progress(f"preparing {name}, videos"),
        )

    @needs_extras
    def export(
        self,
        checkpoint: StrPath | None = None,
        *,
        opset: int | None = None,
        foreign: ForeignModel | None = None,
        factory: str | None = None,
        weights_key: str | None = None,
        tolerance: float | None = None,
        verify_faces: int = 8,
        reporter: Reporter = SILENT,
    ) -> ExportResult:
        """Export a checkpoint to `model.onnx`, and verify it against PyTorch on faces.

        Args:
            checkpoint: An lpx checkpoint, or a state dict described by `foreign`. None with a
                `factory` that loads its own weights.
            opset: ONNX opset, by default the newest that lpx writes.
            foreign: Description of a model that lpx did not train.
            factory: A callable that makes the module, as "package.module:function".
            weights_key: Key of the weights in a checkpoint that holds several.
            tolerance: Largest accepted |score difference| to PyTorch, in (0, 1]; None for the
                rounding error measured on the model itself.
            verify_faces: Number of demo faces to verify on, at least 2.
            reporter: Receives progress and warnings.

        Returns:
            Paths, digest, card and verification of the exported model.

        Raises:
            LpxError: The checkpoint cannot be loaded or exported, or the export differs from it.
        """
        from lpx.api.export import export
        from lpx.export.to_onnx import OPSET
        from lpx.models.checkpoint import ForeignModel

        # Checked here, before the steps import PyTorch, so that a typing error shows at once.
        check_at_least("opset", opset, 1)
        check_instance("foreign", foreign, ForeignModel)
        check_instance("factory", factory, str)
        check_instance("weights_key", weights_key, str)

        return export(
            self,
            _optional("checkpoint", checkpoint),
            opset=OPSET if opset is None else opset,
            foreign=foreign,
            factory=factory,
            weights_key=weights_key,
            tolerance=tolerance,
            verify_faces=verify_faces,
            reporter=reporter,
        )

    @needs_extras
    def calibrate(
        self,
        faces: StrPath | None = None,
        *,
        model: StrPath | None = None,
        limit: int = 512,
        select: str = "stratified",
        method: str = "auto",
        seed: int = 0,
        curve: bool = False,
        weights: WeightOptions | None = None,
        reporter: Reporter = SILENT,
    ) -> CalibrationResult:
        """Choose calibration faces, observe them, and keep the method with the smallest error.

        Args:
            faces: Face set to choose from: a data set's name or a folder. None for the demo faces.
            model: An ONNX model that lpx exported; None for the workspace's.
            limit: Maximum number of calibration faces.
            select: "stratified", "random" or "coverage".
            method: A method of `lpx.calibration.methods`, or "auto" to judge all on held-out faces.
            seed: Random seed for face selection.
            curve: Also measure the error against the number of faces.
            weights: Quantisation of weights; None for the defaults.
            reporter: Receives progress and warnings.

        Returns:
            The scales, and evidence for every method.

        Raises:
            LpxError: No exported model, faces that cannot be read, or an unknown option.
        """
        from lpx.api.calibrate import calibrate
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        return calibrate(
            self,
            _face_set("faces", faces),
            model_path=_optional("model", model),
            limit=limit,
            select=select,
            method=method,
            seed=seed,
            curve=curve,
            weights=weights or DEFAULT_WEIGHTS,
            reporter=reporter,
        )

    @needs_extras
    def build(
        self,
        precisions: Precision | Sequence[Precision] = ("fp32", "int8"),
        *,
        target: str = "auto",
        faces: StrPath | None = None,
        limit: int = 512,
        method: str | None = None,
        weights: WeightOptions | None = None,
        tensorrt: TensorRTOptions | None = None,
        reporter: Reporter = SILENT,
    ) -> tuple[EngineManifest, ...]:
        """Build engines of the exported model.

        Args:
            precisions: "fp32", "fp16" or "int8": one, or several.
            target: "auto", or one of `lpx.engines.manifest.TARGETS`.
            faces: Face set to calibrate on, for int8. None for the ranges in the workspace, else
                the demo faces, with a warning.
            limit: Maximum number of calibration faces, sampled evenly.
            method: Calibration method, for int8. None for the one that `calibrate` chose.
            weights: Quantisation of weights, for int8; None for the defaults.
            tensorrt: Options of TensorRT's builder; None for the defaults.
            reporter: Receives progress and warnings.

        Returns:
            The engines' manifests, in the order of `precisions`.

        Raises:
            NotAllBuiltError: Some of several precisions cannot be built; the others are.
            DeadEngineError: An engine gives every face the same score; it is kept for inspection.
            NotAsAskedError: The engine would not compute in the requested precision.
            LpxError: No exported model, an unknown precision or target, or faces that cannot be
                read.
        """
        from lpx.api.build import BuildOptions, build, checked_precisions
        from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        check_instance("tensorrt", tensorrt, TensorRTOptions)
        options = BuildOptions(
            checked_precisions(precisions),
            target=target,
            faces=_face_set("faces", faces),
            limit=limit,
            method=method,
            weights=weights or DEFAULT_WEIGHTS,
            tensorrt=tensorrt or DEFAULT_TENSORRT,
        )
        return build(self, options, reporter)

    @needs_extras
    def emit(
        self,
        precisions: Precision | Sequence[Precision] = ("fp32", "int8"),
        *,
        out: StrPath | None = None,
        faces: StrPath | None = None,
        limit: int = 512,
        method: str | None = None,
        weights: WeightOptions | None = None,
        tensorrt: TensorRTOptions | None = None,
        reporter: Reporter = SILENT,
    ) -> Path:
        """Write graphs, and scripts that build and time engines with trtexec.

        Args:
            precisions: As for `build`.
            out: Folder to write; None for `trtexec` in the workspace.
            faces: As for `build`.
            limit: As for `build`.
            method: As for `build`.
            weights: As for `build`.
            tensorrt: As for `build`.
            reporter: Receives progress and warnings.

        Returns:
            The folder. It needs no Python on the machine that it is copied to.

        Raises:
            LpxError: As for `build`, or a folder that cannot be written.
        """
        from lpx.api.build import BuildOptions, checked_precisions
        from lpx.api.emit import emit
        from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        check_instance("tensorrt", tensorrt, TensorRTOptions)
        options = BuildOptions(
            checked_precisions(precisions),
            faces=_face_set("faces", faces),
            limit=limit,
            method=method,
            weights=weights or DEFAULT_WEIGHTS,
            tensorrt=tensorrt or DEFAULT_TENSORRT,
        )
        return emit(self, options, _optional("out", out), reporter)

    def package(
        self,
        out: StrPath | None = None,
        *,
        engine: str | None = None,
        reporter: Reporter = SILENT,
    ) -> PackageResult:
        """Write a C++ project that scores faces with TensorRT, without Python.

        It holds a TensorRT plan. If the workspace has none, it holds the graph of the engine's
        precision, and a script that builds the plan with trtexec where the project is copied to.

        Args:
            out: Folder to write, new or empty; None for `cpp` in the workspace.
            engine: Name of the engine. None for a TensorRT plan if there is one, else for the
                engine of the lowest precision, else for the float32 graph.
            reporter: Receives progress and warnings.

        Returns:
            The project's folder, and the score that its self-test expects.

        Raises:
            LpxError: No exported model, no such engine, an engine of another model, or a folder
                that is not empty.
        """
        from lpx.api.package import package

        return package(self, _optional("out", out), engine=engine, reporter=reporter)

    @needs_extras
    def bench(
        self,
        dataset: StrPath,
        *,
        limit: int | None = None,
        methods: str | Sequence[str] | None = None,
        candidates: str | Sequence[str] | None = None,
        margin: float = 0.005,
        costs: CostPlan | None = None,
        trtexec_times: Sequence[tuple[StrPath, str | None]] = (),
        stages: bool = True,
        allow_overlap: bool = False,
        reference: ReferenceKind = "auto",
        rebuild: Rebuild = "auto",
        reporter: Reporter = SILENT,
    ) -> Report:
        """Measure every engine that runs here against the checkpoint.

        In the workspace of a bundle, an engine whose scores of the probe faces are not those that
        they must be counts as failed.

        Scores are saved as they come, so an interrupted bench resumes.

        Args:
            dataset: A labelled face set: a data set's name or a folder.
            limit: Maximum number of faces, sampled evenly; None for all.
            methods: Manipulation methods to include; real faces are always included.
            candidates: Engines to measure, by name; None for all.
            margin: Largest accepted loss of AUC, in (0, 1).
            costs: Which costs to measure, and for how long; None for latency at batch 1 and 8.
            trtexec_times: Files of `trtexec --exportTimes` to show, each with the name of its
                engine or None.
            stages: Also score the exported model and each engine's graph in ONNX Runtime, which
                shows the stage that loses AUC.
            allow_overlap: Accept, with a warning, faces that an engine was calibrated on.
            reference: "checkpoint": run it with PyTorch, and record its scores in `reference/`;
                "recorded": use the scores that an earlier bench of these faces recorded; "auto":
                the checkpoint if it and PyTorch are here, else recorded scores if there are any.
            rebuild: Whether to rebuild candidates that do not run here, or an engine if none does:
                "auto", "ask" (on the terminal) or "never".
            reporter: Receives progress and warnings.

        Returns:
            The report; `report.json_path`, `report.html_path` and `report.markdown_path` are its
            files.

        Raises:
            LpxError: No engines, engines of another model, faces used for calibration, a set
                without labels or with one class, or faces without a recorded score.
        """
        from lpx.api.bench import BenchOptions, bench
        from lpx.bench.performance.costs import CostPlan

        check_instance("costs", costs, CostPlan)
        options = BenchOptions(
            limit=limit,
            methods=methods,
            candidates=candidates,
            margin=margin,
            # Made here rather than as a default, which would import the module with this one.
            costs=costs or CostPlan(),
            trtexec_times=_times(trtexec_times),
            stages=stages,
            allow_overlap=allow_overlap,
            reference=reference,
            rebuild=rebuild,
        )
        return bench(self, os.fspath(as_path("dataset", dataset)), options, reporter)

    @needs_extras
    def predict(
        self,
        path: StrPath,
        *,
        engine: str | None = None,
        out: StrPath | None = None,
        detector: str | None = "blazeface",
        crop: str | None = None,
        limit: int | None = None,
        frames: int | None = 32,
        overlay: bool = True,
        rebuild: Rebuild = "auto",
        reporter: Reporter = SILENT,
    ) -> PredictionResult:
        """Score the faces in images and videos, and draw heat maps.

        Args:
            path: An image, a video, or a folder of these.
            engine: Name of an engine, or "torch"; None for the fastest that runs here.
            out: Folder for pictures and tables; None for `predictions` in the workspace.
            detector: A face detector of `lpx.data.detect.DETECTORS`. None if the images are
                already face crops.
            crop: Recipe to crop faces by; None for the model card's.
            limit: Maximum number of files, sampled evenly; None for all.
            frames: Maximum number of frames per video, sampled evenly; None for all.
            overlay: Draw heat maps, and each video's scores over time.
            rebuild: Whether to rebuild the engine if it does not run here, or none does: "auto",
                "ask" (on the terminal) or "never".
            reporter: Receives progress and warnings.

        Returns:
            Scores of every file, and the paths of the tables.

        Raises:
            NotAsAskedError: The engine gives the bundle's probe faces other scores than it must
                (code "scores-differ").
            LpxError: Nothing to score or nothing readable, an unknown engine, detector or recipe,
                or an engine that returns NaN.
        """
        from lpx.api.predict import PredictOptions, predict

        options = PredictOptions(
            engine=engine,
            out=_optional("out", out),
            detector=detector,
            crop=crop,
            limit=limit,
            frames=frames,
            overlay=overlay,
            rebuild=rebuild,
        )
        return predict(self, as_path("path", path), options, reporter)

    @needs_extras
    def debug(
        self,
        engine: str,
        *,
        faces: StrPath | None = None,
        limit: int = 16,
        tolerance: float | None = None,
        against: Literal["onnx", "torch"] = "onnx",
        sensitivity: bool = False,
        runtime: Runtime | None = None,
        out: StrPath | None = None,
        reporter: Reporter = SILENT,
    ) -> DebugResult:
        """Compare every layer of an engine with the float32 graph, on the same faces.

        Args:
            engine: Name of the engine.
            faces: Face set; None for the demo faces.
            limit: Maximum number of faces to compare, sampled evenly.
            tolerance: Largest accepted relative error of a layer; None for the precision's default.
            against: "onnx", the exported graph, or "torch", the checkpoint.
            sensitivity: Also measure the effect of each layer alone on the score; "onnx" only.
            runtime: Runtime used to compute intermediate tensors. None for TensorRT if the engine
                is TensorRT's and runs here, else ONNX Runtime.
            out: Folder to write; None for `debug/<engine>` in the workspace.
            reporter: Receives progress and warnings.

        Returns:
            The comparison, layer by layer, and the first layer beyond the tolerance.

        Raises:
            LpxError: No such engine, no face that can be read, an option out of range, or a
                runtime that cannot be used here.
        """
        from lpx.api.debug import DebugOptions, debug

        options = DebugOptions(
            faces=_face_set("faces", faces),
            limit=limit,
            tolerance=tolerance,
            against=against,
            sensitivity=sensitivity,
            runtime=runtime,
            out=_optional("out", out),
        )
        return debug(self, engine, options, reporter)

    @needs_extras
    def explain(
        self,
        checkpoint: StrPath,
        source: StrPath,
        *,
        out: StrPath | None = None,
        limit: int | None = 200,
        reporter: Reporter = SILENT,
    ) -> ExplainResult:
        """Show where a checkpoint looks, face by face.

        Args:
            checkpoint: An lpx checkpoint.
            source: An image of a cropped face, a folder of them, or a data set's name.
            out: Folder to write; None for `explain` in the workspace.
            limit: Maximum number of faces, sampled evenly; None for all.
            reporter: Receives progress and warnings.

        Returns:
            Explanations of every face, and the paths of the page and the maps.

        Raises:
            LpxError: No lpx checkpoint, no readable image, or a folder that cannot be written.
        """
        from lpx.api.explain import explain

        return explain(
            as_path("checkpoint", checkpoint),
            str(as_path("source", source)),
            _optional("out", out) or self.root / "explain",
            limit=limit,
            skip=(self.root,),
            progress=reporter.progress(f"explaining {source}"),
        )

    def pack(
        self,
        out: StrPath,
        *,
        faces: StrPath | None = None,
        limit: int | None = 1000,
        engines: str | Sequence[str] | None = None,
        checkpoint: bool = False,
        reporter: Reporter = SILENT,
    ) -> PackResult:
        """Pack what another machine needs into one file, for `lpx.unpack`.

        The bundle has the exported model with its card, calibrated ranges, engines, a few probe
        faces with their scores, and a face set. The same contents give the same bytes.

        Args:
            out: File to write, such as "detector.lpx".
            faces: Face set to bench on there: a data set's name or a folder. None for none.
            limit: Maximum number of faces, sampled evenly; None for all.
            engines: Engines to include, by name; None for all of the exported model.
            checkpoint: Include the PyTorch checkpoint, which `bench` compares engines with.
            reporter: Receives progress and warnings.

        Returns:
            Path and size of the bundle, what it contains, and what was left out.

        Raises:
            LpxError: No exported model, an unknown or altered engine, faces that cannot be read,
                or a file that cannot be written.
        """
        from lpx.bundle.pack import PackOptions, pack

        options = PackOptions(
            out=as_path("out", out),
            faces=_face_set("faces", faces),
            limit=limit,
            engines=engines,
            checkpoint=checkpoint,
        )
        return pack(self, options, places=self.places, reporter=reporter)


def _optional(name: str, value: StrPath | None) -> Path | None:
    """A path that may be left out."""
    return None if value is None else as_path(name, value)


def _times(files: Sequence[tuple[StrPath, str | None]]) -> list[tuple[Path, str | None]]:
    """Check files of trtexec's times, each with the name of an engine."""
    times = []
    for pair in files:
        # A text is a sequence as well: "ab" would pass as a pair.
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InvalidArgumentError("trtexec_times", "must be pairs of a path and a name", pair)
        path, name = pair
        check_instance("trtexec_times", name, str)
        times.append((as_path("trtexec_times", path), name))
    return times


def _face_set(name: str, value: StrPath | None) -> str | None:
    """The name of a face set, or the path of its folder, as `open_set` takes them."""
    return None if value is None else os.fspath(as_path(name, value))
