"""Observe faces on the workers of a cluster: the units are those of `observe`."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

from lpx.calibration.observe import FaceObserver
from lpx.calibration.observer import Observer
from lpx.calibration.progress import ObservedRows
from lpx.cluster.options import RayOptions
from lpx.cluster.pool import Resources, WorkerPlan, run_units
from lpx.cluster.session import open_cluster
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.seen import check_seen
from lpx.reporter import Progress, Reporter

# Faces of a unit: several batches, so that a result, of megabytes whatever the number of faces,
# is not sent for each.
_ROWS = 64
# A worker's batches run in several threads, which share the model.
_CPUS = 4


@dataclass(frozen=True)
class ClusterObserver:
    """Observes a model on the workers of a cluster, see `lpx.calibration.observe.ObserveRows`.

    The model is sent to the workers, and faces are read there from the same paths as here.

    Attributes:
        options: The cluster, and the resources of a worker.
        reporter: Receives notes and warnings.
        model: ONNX, input `faces` uint8 [N, S, S, 3].
        faces: All faces.
        size: S, pixels.
    """

    options: RayOptions
    reporter: Reporter
    model: bytes
    faces: FaceSet
    size: int

    def __call__(
        self, ranges: Sequence[range], progress: Progress | None
    ) -> Generator[ObservedRows, None, None]:
        """Observe ranges of faces in units of fewer, and yield the result of each in order."""
        if not ranges:
            return
        units = []
        for rows in ranges:
            units += [rows[at : at + _ROWS] for at in range(0, len(rows), _ROWS)]
        # With the digests of the faces here, which are then compared with those there.
        self.faces.digest()
        plan = WorkerPlan(
            _make_observer,
            (self.model, self.faces, self.size),
            Resources(_CPUS),
            "faces",
            _name_of,
            ("cv2", "numpy", "onnxruntime"),
        )
        total = len(self.faces.faces)
        with open_cluster(self.options, self.reporter) as cluster:
            self.reporter.say(
                "the model is sent to the workers; they read the faces under their paths on this "
                "machine"
            )
            with closing(run_units(cluster, plan, units, ordered=True)) as results:
                for done in results:
                    part = _owned(done.value)
                    yield part
                    # After the caller has kept it.
                    if progress is not None:
                        progress(part.rows.stop, total)


def _owned(part: ObservedRows) -> ObservedRows:
    """Return a copy of a result: Ray's is a view of its object store, and read-only."""
    observers = {}
    for name, observer in part.observers.items():
        observers[name] = Observer(len(observer.mean.sums))
        observers[name].merge(observer)
    return part._replace(observers=observers)


def _name_of(rows: range) -> str:
    return f"{rows.start} to {rows.stop - 1}"


class _NodeObserver:
    def __init__(self, observer: FaceObserver) -> None:
        self._observer = observer

    def __call__(self, rows: range) -> ObservedRows:
        check_seen(self._observer.faces, rows)
        return self._observer.observe(rows)


def _make_observer(cpus: int, model: bytes, faces: FaceSet, size: int) -> _NodeObserver:
    return _NodeObserver(FaceObserver(model, faces, size, cores=cpus))
