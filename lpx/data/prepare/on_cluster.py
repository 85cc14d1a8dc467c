"""Cut videos on the workers of a cluster: the units are those of `workers`, crops come back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lpx.cluster.files import FileState, check_same, file_states
from lpx.cluster.options import RayOptions
from lpx.cluster.pool import Resources, WorkerPlan, run_units
from lpx.cluster.session import open_cluster
from lpx.data.prepare.cutting import CutResult, DiskFullError, Settings, is_full, remove_crops
from lpx.data.prepare.record import crop_folder
from lpx.data.prepare.workers import CuttingProcess, starting
from lpx.data.videos import Video
from lpx.errors import LpxError
from lpx.reporter import Reporter
from lpx.workspace import write_bytes


class _Unit(NamedTuple):
    video: Video
    # The video and its masks, as the machine that writes the set sees them.
    files: tuple[FileState, ...]


class _Crops(NamedTuple):
    cut: CutResult
    # Path relative to the set's folder, and content, of each crop.
    files: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class ClusterCutter:
    """Cuts videos on the workers of a cluster, as `lpx.data.prepare.workers.cut_videos` does here.

    Workers read videos from the same paths as this machine. Their crops come back, and are written
    here: nothing else writes into the set.

    Attributes:
        options: The cluster, and the resources of a worker.
        reporter: Receives notes and warnings.
    """

    options: RayOptions
    reporter: Reporter

    def __call__(self, settings: Settings, videos: Sequence[Video]) -> Iterator[CutResult]:
        """Cut videos, and yield each result as soon as it is there.

        Args:
            settings: Settings of the prepared set.
            videos: Videos to cut.

        Raises:
            DiskFullError: The disk of the set is full.
            LpxError: The set cannot be written, a node does not see a video, or workers died.
        """
        plan = WorkerPlan(
            _make_cutter, (settings,), Resources(), "video", _name_of, ("cv2", "onnxruntime")
        )
        with open_cluster(self.options, self.reporter) as cluster:
            self.reporter.say(
                "workers read the videos under their paths on this machine, and send crops back"
            )
            with closing(run_units(cluster, plan, Units(videos))) as results:
                for done in results:
                    crops: _Crops = done.value
                    self._write(settings, videos[done.unit], crops.files)
                    yield crops.cut

    def _write(
        self, settings: Settings, video: Video, files: tuple[tuple[str, bytes], ...]
    ) -> None:
        folder = settings.folder / crop_folder(video.name)
        # As before cutting here: an earlier run may have left other crops.
        remove_crops(folder)
        try:
            for name, data in files:
                write_bytes(settings.folder / name, data, durable=False)
        except LpxError as error:
            if is_full(error.__cause__):
                remove_crops(folder)
                raise DiskFullError from error
            raise


class Units(Sequence[_Unit]):
    """Units of videos; the state of files is read when a unit is given away, not before."""

    def __init__(self, videos: Sequence[Video]) -> None:
        self._videos = videos

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> _Unit:  # type: ignore[override]
        video = self._videos[index]
        paths = [video.path, *filter(None, (video.mask,)), *video.frames]
        return _Unit(video, file_states(paths))


def _name_of(unit: _Unit) -> str:
    return unit.video.name


class NodeCutter:
    """Cuts videos on a node, into a temporary folder, in a process that may crash.

    Args:
        settings: Settings of the prepared set.
        make_process: Starts a process that cuts.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        make_process: Callable[[Settings], CuttingProcess] = CuttingProcess,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lpx-crops-")
        self._settings = replace(settings, folder=Path(self._folder.name))
        self._make_process = make_process
        self._process: CuttingProcess | None = None

    def __call__(self, unit: _Unit) -> _Crops:
        """Cut the video of a unit."""
        check_same(unit.files)
        if self._process is None or self._process.dead:
            with starting():
                self._process = self._make_process(self._settings)
        self._process.give(unit.video)
        try:
            cut = self._process.receive()
        except DiskFullError:
            raise LpxError(
                f"the disk of {self._folder.name} on node {os.uname().nodename} is full",
                "crops are there until they are sent",
                "free some room there, or start Ray on that node with another TMPDIR",
                code="unwritable",
            ) from None
        files = []
        for row in cut.record.face_rows():
            files.append((row.file, (self._settings.folder / row.file).read_bytes()))
        remove_crops(self._settings.folder / crop_folder(unit.video.name))
        return _Crops(cut, tuple(files))


def _make_cutter(cpus: int, settings: Settings) -> NodeCutter:
    return NodeCutter(settings)
