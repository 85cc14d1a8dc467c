"""Steps that prepare faces and make models, ranges and engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lpx.api.workspace.arguments import StrPath, crop_recipe, face_set, optional_path
from lpx.api.workspace.opened import OpenedWorkspace
from lpx.arguments import check_at_least, check_instance, several
from lpx.extras import needs_extras
from lpx.reporter import SILENT, Reporter

# Annotations only: PyTorch and ONNX Runtime take seconds to import, and are imported by the steps
# that need them.
if TYPE_CHECKING:
    from lpx.api.calibrate import CalibrationResult
    from lpx.api.export import ExportResult
    from lpx.api.search.outcome import SearchResult
    from lpx.data.prepare import PrepareResult
    from lpx.engines.manifest import EngineManifest, Precision
    from lpx.engines.tensorrt_options import TensorRTOptions
    from lpx.graph.qdq.plan import PrecisionPlan
    from lpx.graph.qdq.weights import WeightOptions
    from lpx.models.checkpoint import ForeignModel


class MakingSteps(OpenedWorkspace):
    """Steps that prepare faces and make models, ranges and engines. See `lpx.Workspace`."""

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
        from functools import partial

        from lpx.data import prepare
        from lpx.data.prepare.on_cluster import ClusterCutter
        from lpx.data.prepare.preparing import CutVideos
        from lpx.data.prepare.workers import cut_videos

        check_at_least("processes", processes, 1)
        cut: CutVideos = partial(cut_videos, processes=processes)
        if self.ray is not None:
            cut = ClusterCutter(self.ray, reporter)
        return prepare.prepare(
            name,
            places=self.places,
            split=split,
            methods=several("methods", methods),
            frames=frames,
            crop=crop_recipe(self, crop, reporter),
            detector=detector,
            cut=cut,
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
            optional_path("checkpoint", checkpoint),
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
        from lpx.api.calibrate import CalibrateOptions, calibrate
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        options = CalibrateOptions(
            limit=limit,
            select=select,
            method=method,
            seed=seed,
            curve=curve,
            weights=weights or DEFAULT_WEIGHTS,
        )
        return calibrate(
            self,
            face_set("faces", faces),
            options,
            reporter,
            model_path=optional_path("model", model),
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
        plan: StrPath | PrecisionPlan | None = None,
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
            plan: Precision of single layers, for int8, or its file; for fp16, only layers in
                float32 count. None for the rules of the target.
            reporter: Receives progress and warnings.

        Returns:
            The engines' manifests, in the order of `precisions`.

        Raises:
            NotAllBuiltError: Some of several precisions cannot be built; the others are.
            DeadEngineError: An engine gives every face the same score; it is kept for inspection.
            NotAsAskedError: The engine would not compute in the requested precision.
            LpxError: No exported model, an unknown precision or target, faces that cannot be read,
                or a plan of another model.
        """
        from lpx.api.build import BuildOptions, build, checked_precisions, opened_plan
        from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        check_instance("tensorrt", tensorrt, TensorRTOptions)
        options = BuildOptions(
            checked_precisions(precisions),
            target=target,
            faces=face_set("faces", faces),
            limit=limit,
            method=method,
            weights=weights or DEFAULT_WEIGHTS,
            tensorrt=tensorrt or DEFAULT_TENSORRT,
            plan=opened_plan(plan),
        )
        return build(self, options, reporter)

    @needs_extras
    def search(
        self,
        search_faces: StrPath | None = None,
        *,
        search_limit: int = 2048,
        margin: float = 0.005,
        confidence: float = 0.95,
        budget_minutes: float | None = None,
        target: str = "auto",
        faces: StrPath | None = None,
        limit: int = 512,
        method: str | None = None,
        weights: WeightOptions | None = None,
        tensorrt: TensorRTOptions | None = None,
        blocks: bool = False,
        reporter: Reporter = SILENT,
    ) -> SearchResult:
        """Search for the fastest INT8 engine whose AUC holds, and build it.

        Half of the faces measure layers; finished engines are judged on the other half, which
        shares no video and no person with the first. What was measured is saved, so an interrupted
        search resumes.

        Args:
            search_faces: Labelled face set; None for the demo faces.
            search_limit: Maximum number of faces of both halves, sampled evenly.
            margin: Largest accepted loss of AUC, in (0, 0.5].
            confidence: Confidence of its interval.
            budget_minutes: Time after which no further engine is built; None for no limit. One is
                built in any case.
            target: As for `build`.
            faces: Face set to calibrate on, as for `build`.
            limit: Maximum number of calibration faces, as for `build`.
            method: Calibration method, as for `build`.
            weights: Quantisation of weights; None for the defaults.
            tensorrt: Options of TensorRT's builder; None for the defaults.
            blocks: Take a residual block as one group.
            reporter: Receives progress and warnings.

        Returns:
            The outcome, the engines that were built, and the plan of the one that was kept.

        Raises:
            NotAsAskedError: The rules leave every layer in float.
            LpxError: No exported model, faces without labels or with one class, faces that the
                ranges were calibrated on, or too few faces for the margin.
        """
        from lpx.api.search.options import SearchOptions
        from lpx.api.search.search import search
        from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        check_instance("tensorrt", tensorrt, TensorRTOptions)
        options = SearchOptions(
            search_faces=face_set("search_faces", search_faces),
            search_limit=search_limit,
            limit=limit,
            target=target,
            faces=face_set("faces", faces),
            method=method,
            weights=weights or DEFAULT_WEIGHTS,
            blocks=blocks,
            margin=margin,
            confidence=confidence,
            budget_minutes=budget_minutes,
            tensorrt=tensorrt or DEFAULT_TENSORRT,
        )
        return search(self, options, reporter)

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
        plan: StrPath | PrecisionPlan | None = None,
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
            plan: As for `build`.
            reporter: Receives progress and warnings.

        Returns:
            The folder. It needs no Python on the machine that it is copied to.

        Raises:
            LpxError: As for `build`, or a folder that cannot be written.
        """
        from lpx.api.build import BuildOptions, checked_precisions, opened_plan
        from lpx.api.emit import emit
        from lpx.engines.tensorrt_options import DEFAULT_TENSORRT, TensorRTOptions
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        check_instance("tensorrt", tensorrt, TensorRTOptions)
        options = BuildOptions(
            checked_precisions(precisions),
            faces=face_set("faces", faces),
            limit=limit,
            method=method,
            weights=weights or DEFAULT_WEIGHTS,
            tensorrt=tensorrt or DEFAULT_TENSORRT,
            plan=opened_plan(plan),
        )
        return emit(self, options, optional_path("out", out), reporter)
