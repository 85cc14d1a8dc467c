"""Steps that measure, score and explain."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lpx.api.workspace.arguments import StrPath, face_set, optional_path
from lpx.api.workspace.opened import OpenedWorkspace
from lpx.arguments import as_path, check_instance
from lpx.extras import needs_extras
from lpx.reporter import SILENT, Reporter

# Annotations only: PyTorch and ONNX Runtime take seconds to import, and are imported by the steps
# that need them.
if TYPE_CHECKING:
    from lpx.api.debug import DebugResult
    from lpx.api.debug_runtime import Runtime
    from lpx.api.explain import ExplainResult
    from lpx.api.search.sensitivity import SensitivityResult
    from lpx.artefacts.bench_reference import ReferenceKind
    from lpx.bench.performance.cost_plan import CostPlan
    from lpx.bench.report.document.report import Report
    from lpx.graph.qdq.weights import WeightOptions
    from lpx.predict.results import PredictionResult
    from lpx.streams.capacity.plan import CapacityOptions
    from lpx.streams.capacity.result import CapacityResult
    from lpx.streams.live.watch import LiveOptions, LiveWatch


class MeasuringSteps(OpenedWorkspace):
    """Steps that measure, score and explain. See `lpx.Workspace`."""

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
        stages: str | Sequence[str] = ("onnx", "graph"),
        allow_overlap: bool = False,
        reference: ReferenceKind = "auto",
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
            stages: What to score besides the engines. "onnx", the exported model, and "graph", each
                engine's graph, both in ONNX Runtime, show the stage that loses AUC.
                "pixels:PIPELINE" is each engine on the faces as another pipeline resizes them, a
                key of `lpx.data.pipelines.table.PIPELINES` such as "deepstream"; its verdict counts
                in the report's. () for none.
            allow_overlap: Accept, with a warning, faces that an engine was calibrated on.
            reference: "checkpoint": run it with PyTorch, and record its scores in `reference/`;
                "recorded": use the scores that an earlier bench of these faces recorded; "auto":
                the checkpoint if it and PyTorch are here, else recorded scores if there are any.
            reporter: Receives progress and warnings.

        Returns:
            The report; `report.json_path`, `report.html_path` and `report.markdown_path` are its
            files.

        Raises:
            LpxError: No engines, engines of another model, faces used for calibration, a set
                without labels or with one class, faces without a recorded score, or an unknown
                stage or pipeline.
        """
        from lpx.api.bench import BenchOptions, bench
        from lpx.bench.performance.cost_plan import CostPlan

        check_instance("costs", costs, CostPlan)
        options = BenchOptions(
            limit=limit,
            methods=methods,
            candidates=candidates,
            margin=margin,
            # Made here rather than as a default, which would import the module with this one.
            costs=costs or CostPlan(),
            stages=stages,
            allow_overlap=allow_overlap,
            reference=reference,
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
            out=optional_path("out", out),
            detector=detector,
            crop=crop,
            limit=limit,
            frames=frames,
            overlay=overlay,
        )
        return predict(self, as_path("path", path), options, reporter)

    @needs_extras
    def watch(
        self,
        source: StrPath,
        *,
        engine: str | None = None,
        detector: str = "blazeface",
        crop: str | None = None,
        frames: int | None = None,
        seconds: float | None = None,
        fps: float | None = None,
        options: LiveOptions | None = None,
        reporter: Reporter = SILENT,
    ) -> LiveWatch:
        """Score the faces of a live source, frame by frame, without end if no limit is given.

        The result is an iterator and a context manager. It gives scored frames and events, always
        for the newest frame; the source is opened when the first one is asked for, and opened
        again when it is lost. Memory does not grow.

        Args:
            source: A URL (rtsp, http, udp and others), "camera:0", or a video file, which is
                played at its own pace again and again.
            engine: Name of an engine, or "torch"; None for the fastest that runs here.
            detector: A face detector of `lpx.data.detect.DETECTORS`.
            crop: Recipe to crop faces by; None for the model card's.
            frames: Number of frames to score; None for no limit.
            seconds: Time after which to stop, s; None for no limit.
            fps: Maximum number of frames scored a second; None for as many as possible.
            options: Timeouts and reconnection; None for the defaults.
            reporter: Receives the choice of the engine, and warnings.

        Returns:
            The iterator. It raises LpxError if the source gives no frame at the beginning (code
            "unreachable"; "not-found" for a camera that is not there), or the engine returns NaN.

        Raises:
            InvalidArgumentError: A source, detector, recipe or limit that cannot be.
            LpxError: No exported model, a file that does not exist, or an engine that does not
                exist or run here.
        """
        from lpx.streams.live.open_watch import open_watch
        from lpx.streams.live.source import live_source
        from lpx.streams.live.watch import LiveLimits, LiveOptions
        from lpx.streams.scoring import ScorerOptions

        check_instance("options", options, LiveOptions)
        scorer = ScorerOptions(
            engine=engine,
            detector=detector,
            crop=crop,
            rebuild=self.rebuild,
            allow_host_code=self.allow_host_code,
            allow_factory=self.allow_factory,
        )
        limits = LiveLimits(frames=frames, seconds=seconds, fps=fps)
        return open_watch(
            self, live_source(source), scorer, limits, options or LiveOptions(), reporter
        )

    @needs_extras
    def capacity(
        self,
        videos: StrPath,
        *,
        fps: float = 10.0,
        budget_ms: float = 200.0,
        budget_watts: float | None = None,
        engines: str | Sequence[str] | None = None,
        batches: Sequence[int] = (1, 8),
        detector: str = "blazeface",
        crop: str | None = None,
        options: CapacityOptions | None = None,
        reporter: Reporter = SILENT,
    ) -> CapacityResult:
        """Measure how many cameras this machine carries, and with which engine and batch size.

        Videos stand for cameras. Their frames are released at fixed times, whether or not the
        machine keeps up, and each is timed from then until its faces are scored: decoding, face
        detection, cropping and scoring. The most streams are searched whose 99th percentile stays
        within the budget, without a backlog that grows.

        Args:
            videos: A video, a folder of videos, or "demo" for the clip that ships with lpx.
            fps: Frames a second of each camera.
            budget_ms: Largest 99th percentile of the time from a frame to its scores, ms.
            budget_watts: Largest mean power, W; None for any.
            engines: Engines to measure, by name; None for all that run here.
            batches: Maximum numbers of faces per call of an engine to try.
            detector: A face detector of `lpx.data.detect.DETECTORS`.
            crop: Recipe to crop faces by; None for the model card's.
            options: How it is measured; None for the defaults.
            reporter: Receives trials, progress and warnings.

        Returns:
            The capacity with each engine and batch size, and which to use; also in streams.json.

        Raises:
            InvalidArgumentError: A budget, batch size or name that cannot be.
            LpxError: No video or no face in them, no engine that runs here, or a budget of power
                where power cannot be read.
        """
        from lpx.streams.capacity.measure import CapacityRequest, measure_capacity
        from lpx.streams.capacity.plan import Budget, CapacityOptions
        from lpx.streams.scoring import ScorerOptions

        check_instance("options", options, CapacityOptions)
        scorer = ScorerOptions(
            detector=detector,
            crop=crop,
            rebuild=self.rebuild,
            allow_host_code=self.allow_host_code,
        )
        request = CapacityRequest(
            as_path("videos", videos),
            Budget(fps, budget_ms, budget_watts),
            scorer,
            engines,
            batches,
            options or CapacityOptions(),
        )
        return measure_capacity(self, request, reporter)

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
            faces=face_set("faces", faces),
            limit=limit,
            tolerance=tolerance,
            against=against,
            sensitivity=sensitivity,
            runtime=runtime,
            out=optional_path("out", out),
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
            optional_path("out", out) or self.root / "explain",
            limit=limit,
            # A workspace inside `source` has pictures that lpx drew, and they are not faces to
            # explain.
            skip=(self.root,),
            progress=reporter.progress(f"explaining {source}"),
        )

    @needs_extras
    def sensitivity(
        self,
        search_faces: StrPath | None = None,
        *,
        search_limit: int = 1024,
        target: str = "auto",
        faces: StrPath | None = None,
        limit: int = 512,
        method: str | None = None,
        weights: WeightOptions | None = None,
        blocks: bool = False,
        complete: bool = False,
        reporter: Reporter = SILENT,
    ) -> SensitivityResult:
        """Measure what each group of layers costs when it alone is in INT8.

        A group is a convolution with what is fused into it. Its pieces of the INT8 graph run on the
        float graph's tensors, in ONNX Runtime, whatever the target is. Finished scores are saved,
        so an interrupted measurement resumes.

        Args:
            search_faces: Labelled face set to measure on; None for the demo faces.
            search_limit: Maximum number of these faces, sampled evenly, at least 4.
            target: "auto", or one of `lpx.engines.manifest.TARGETS`, whose rules and rounding
                apply. It need not be installed.
            faces: Face set to calibrate on, as for `build`.
            limit: Maximum number of calibration faces, as for `build`.
            method: Calibration method, as for `build`.
            weights: Quantisation of weights; None for the defaults.
            blocks: Take a residual block as one group.
            complete: Measure every group on every face. By default, groups with small effects are
                measured on a fifth of them.
            reporter: Receives progress and warnings.

        Returns:
            Effects of all groups, the largest loss of AUC first.

        Raises:
            NotAsAskedError: The rules leave every layer in float.
            LpxError: No exported model, faces without labels or with one class, or faces that the
                ranges were calibrated on.
        """
        from lpx.api.search.sensitivity import SensitivityOptions, sensitivity
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        options = SensitivityOptions(
            search_faces=face_set("search_faces", search_faces),
            search_limit=search_limit,
            limit=limit,
            target=target,
            faces=face_set("faces", faces),
            method=method,
            weights=weights or DEFAULT_WEIGHTS,
            blocks=blocks,
            complete=complete,
        )
        return sensitivity(self, options, reporter)
