"""Shards of long steps, for several machines, and the merging of their parts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lpx.api.workspace.arguments import StrPath, crop_recipe, face_set, optional_path
from lpx.api.workspace.opened import OpenedWorkspace
from lpx.arguments import as_path, check_at_least, check_instance, several
from lpx.errors import InvalidArgumentError
from lpx.extras import needs_extras
from lpx.reporter import SILENT, Reporter

# Annotations only: PyTorch and ONNX Runtime take seconds to import, and are imported by the steps
# that need them.
if TYPE_CHECKING:
    from lpx.api.sharding.merge import MergeResult
    from lpx.artefacts.bench_reference import ReferenceKind
    from lpx.graph.qdq.weights import WeightOptions
    from lpx.shards.part import Kind, PartResult
    from lpx.shards.shard import Shard


class WorkspaceShard:
    """One of several shares of a workspace's long steps, from `lpx.Workspace.shard`.

    Each method leaves a part: a folder, by default `shards/STEP/I-of-N`, in the workspace or, of
    prepared faces, in their folder. Nothing else is written, and the workspace is not locked: all
    shards may run at the same time, on machines that share the workspace or have copies of it.
    An interrupted shard resumes. `lpx.Workspace.merge` joins the parts.

    Attributes:
        shard: Its number and the number of shares.
        out: Folder of the part; None for the default.
    """

    def __init__(self, workspace: OpenedWorkspace, shard: Shard, out: Path | None) -> None:
        self.shard = shard
        self.out = out
        self._workspace = workspace

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
    ) -> PartResult:
        """Cut the faces out of this share of the videos. See `lpx.Workspace.prepare_faces`.

        Args:
            name: Data set.
            split: "train", "val" or "test"; None for all.
            methods: Manipulation methods; () for the usual ones of the set.
            frames: Number of frames of each video, sampled evenly.
            crop: Crop recipe; None for that of the exported model's card.
            detector: A face detector.
            processes: Maximum number of processes; None for one per core.
            strict: Raise an error if a video is missing.
            reporter: Receives progress and warnings.

        Returns:
            The part.

        Raises:
            LpxError: As for `lpx.Workspace.prepare_faces`, or the folder holds something else.
        """
        from functools import partial

        from lpx.data.prepare.preparing import open_preparation
        from lpx.data.prepare.workers import cut_videos
        from lpx.shards.prepare import prepare_part

        check_at_least("processes", processes, 1)
        preparation = open_preparation(
            name,
            places=self._workspace.places,
            split=split,
            methods=several("methods", methods),
            frames=frames,
            crop=crop_recipe(self._workspace, crop, reporter),
            detector=detector,
            strict=strict,
        )
        folder = self._folder("prepare", preparation.settings.folder)
        cut = partial(cut_videos, processes=processes)
        return prepare_part(folder, self.shard, preparation, reporter, cut=cut)

    @needs_extras
    def calibrate(
        self,
        faces: StrPath | None = None,
        *,
        limit: int = 512,
        select: str = "stratified",
        method: str = "auto",
        seed: int = 0,
        weights: WeightOptions | None = None,
        reporter: Reporter = SILENT,
    ) -> PartResult:
        """Observe this share of the calibration faces. See `lpx.Workspace.calibrate`.

        Args:
            faces: Face set to choose from; None for the demo faces.
            limit: Maximum number of calibration faces, of all shards together.
            select: "stratified" or "random".
            method: Calibration method that the merge keeps.
            seed: Random seed for face selection.
            weights: Quantisation of weights; None for the defaults.
            reporter: Receives progress and warnings.

        Returns:
            The part.

        Raises:
            LpxError: As for `lpx.Workspace.calibrate`, or the folder holds something else.
        """
        from lpx.api.calibrate import CalibrateOptions
        from lpx.api.sharding.calibrate import calibrate_shard
        from lpx.graph.qdq.weights import DEFAULT_WEIGHTS, WeightOptions

        check_instance("weights", weights, WeightOptions)
        options = CalibrateOptions(
            limit=limit, select=select, method=method, seed=seed, weights=weights or DEFAULT_WEIGHTS
        )
        folder = self._folder("calibrate", self._workspace.root)
        chosen = face_set("faces", faces)
        return calibrate_shard(self._workspace, self.shard, folder, chosen, options, reporter)

    @needs_extras
    def bench(
        self,
        dataset: StrPath,
        *,
        limit: int | None = None,
        methods: str | Sequence[str] | None = None,
        candidates: str | Sequence[str] | None = None,
        stages: str | Sequence[str] = ("onnx", "graph"),
        allow_overlap: bool = False,
        reference: ReferenceKind = "auto",
        reporter: Reporter = SILENT,
    ) -> PartResult:
        """Score this share of the faces with checkpoint and engines. See `lpx.Workspace.bench`.

        Costs are not measured: the bench after the merge does that. No engine is rebuilt.

        Args:
            dataset: A labelled face set.
            limit: Maximum number of faces, of all shards together; None for all.
            methods: Manipulation methods to include.
            candidates: Engines to score, by name; None for all that run here.
            stages: What to score besides the engines: "onnx", "graph" and "pixels:PIPELINE".
            allow_overlap: Accept faces that an engine was calibrated on.
            reference: "checkpoint", "recorded" or "auto".
            reporter: Receives progress and warnings.

        Returns:
            The part; its notes name engines that failed.

        Raises:
            LpxError: As for `lpx.Workspace.bench`, or the folder holds something else.
        """
        from lpx.api.bench import BenchOptions
        from lpx.api.sharding.bench import bench_shard

        options = BenchOptions(
            limit=limit,
            methods=methods,
            candidates=candidates,
            stages=stages,
            allow_overlap=allow_overlap,
            reference=reference,
        )
        folder = self._folder("bench", self._workspace.root)
        source = str(as_path("dataset", dataset))
        return bench_shard(self._workspace, self.shard, folder, source, options, reporter)

    def _folder(self, kind: Kind, place: Path) -> Path:
        from lpx.shards.part import FOLDER

        return self.out or place / FOLDER / kind / self.shard.folder_name


class ShardingSteps(OpenedWorkspace):
    """Shards of long steps, and the merging of their parts. See `lpx.Workspace`."""

    def shard(self, shard: str, *, out: StrPath | None = None) -> WorkspaceShard:
        """Return one of several shares of the long steps, for one of several machines.

        Args:
            shard: "I/N", such as "0/7" for the first of seven; "auto" for the task of a Slurm array
                that this process is.
            out: Folder of the part; None for `shards/STEP/I-of-N`.

        Returns:
            An object with `prepare_faces`, `calibrate` and `bench`.

        Raises:
            InvalidArgumentError: `shard` has another form, or I is not below N.
            LpxError: "auto" outside a Slurm array (code "not-found").
        """
        from lpx.shards.shard import parse_shard

        if self.ray is not None:
            raise InvalidArgumentError(
                "ray", "cannot be combined with shards", self.ray, "Ray divides the work itself"
            )
        return WorkspaceShard(self, parse_shard(shard), optional_path("out", out))

    @needs_extras
    def merge(
        self,
        parts: StrPath | Iterable[StrPath],
        *,
        faces: StrPath | None = None,
        reporter: Reporter = SILENT,
    ) -> MergeResult:
        """Join the parts of all shards of a step, to the bytes of a run on one machine.

        Parts of `prepare_faces` become the prepared set; those of `calibrate` become
        `scales.json`, after the methods were ranked here; those of `bench` become the scores of an
        interrupted bench, from which the next `bench` makes its report, with costs of the machine
        that it runs on. The parts are kept.

        Args:
            parts: Folders of the parts, in any order; or a folder that holds them all.
            faces: The face set of the parts, if it has another place here than it had there.
            reporter: Receives progress and warnings.

        Returns:
            A `PrepareResult`, a `CalibrationResult` or a `MergedScores`, by what the parts are of.

        Raises:
            LpxError: A part is missing, given twice, unfinished, damaged, or of another model, face
                list, version or option than the others or than there are here.
        """
        from lpx.api.sharding.merge import merge

        # First, as a str is an iterable, too: of letters.
        if isinstance(parts, (str, Path)):
            parts = (parts,)
        if not isinstance(parts, Iterable):
            raise InvalidArgumentError("parts", "must be a folder or several folders", parts)
        folders = [as_path("parts", part) for part in parts]
        return merge(self, folders, face_set("faces", faces), reporter)
