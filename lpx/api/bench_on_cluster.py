"""Score the faces of a bench on the workers of a cluster; costs are measured here, afterwards."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lpx.api.bench import (
    THIS_HOST,
    BenchOptions,
    BenchSubject,
    OpenedBench,
    open_graphs,
)
from lpx.artefacts.load_engines import EngineLoader
from lpx.artefacts.model import read_exported
from lpx.artefacts.select_engine import survey
from lpx.bench.parity.pixels import PixelPlan
from lpx.bench.parity.run import scorers
from lpx.bench.parity.score import Failure, score_rows, with_pixels
from lpx.bench.parity.score_store import BATCH, ScoreStore, UnitScores
from lpx.bench.parity.stage_names import choose_stages
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.cluster.pool import Resources, WorkerPlan, run_units
from lpx.cluster.session import Cluster, open_cluster
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.seen import check_seen
from lpx.engines.base import ON_THE_CPU, Engine
from lpx.engines.manifest import EngineManifest
from lpx.engines.targets import can_run
from lpx.errors import LpxError
from lpx.machine.machine import read_machine
from lpx.reporter import Progress, Reporter
from lpx.shards.bench import note_machines, read_joined, score_digests
from lpx.workspace import WorkspaceFolder, read_regular, write_bytes

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

# Faces of a unit: large enough that giving it away costs nothing beside it.
_ROWS = 8 * BATCH


class _Unit(NamedTuple):
    rows: range
    # Index of the first face that each engine has not scored, by name.
    done: dict[str, int]


class _ScoredUnit(NamedTuple):
    scores: UnitScores
    failed: list[Failure]


@dataclass(frozen=True)
class _Subject:
    """What a worker scores with.

    Attributes:
        files: The files of the workspace that it needs, by their paths in it.
        names: Names of the engines.
        options: Options of the bench.
        with_reference: Whether it scores with the checkpoint, too.
        allow_host_code: As for `lpx.Workspace`.
        allow_factory: Likewise.
    """

    files: dict[str, bytes]
    names: tuple[str, ...]
    options: BenchOptions
    with_reference: bool
    allow_host_code: bool
    allow_factory: bool


def score_on_cluster(
    workspace: OpenedWorkspace,
    subject: BenchSubject,
    opened: OpenedBench,
    options: BenchOptions,
    store: ScoreStore,
    progress: Progress,
    reporter: Reporter,
) -> None:
    """Score the faces that have no scores yet, into the store of an interrupted bench.

    An engine that fails on a worker is left to the bench that follows here.

    Args:
        workspace: Contains model and engines, which are sent to the workers, and says where these
            are.
        subject: What the bench is about.
        opened: What scores faces here.
        options: Options of the bench.
        store: Receives the scores; only this process writes to it.
        progress: Receives the number of faces scored, and their total.
        reporter: Receives notes and warnings.

    Raises:
        LpxError: As for `lpx.bench.parity.score.score`; a node does not see a face, or cannot run
            an engine; or workers died.
    """
    faces, total = subject.faces, len(subject.faces.faces)
    pixels = PixelPlan(opened.stages.pipelines, tuple(opened.loaded))
    lost = {failure.name for failure in with_pixels(opened.broken, pixels)}
    with_reference = isinstance(opened.reference, Engine)
    if not with_reference:
        lost.add(REFERENCE)
    digests = score_digests(subject.model, subject.chosen.fit, opened.stages)
    done = {name: store.next_row(name) for name in digests if name not in lost}
    units = []
    for first in range(min(done.values(), default=total), total, _ROWS):
        units.append(_Unit(range(first, min(first + _ROWS, total)), done))
    if not units:
        return
    plan = WorkerPlan(
        _make_scorer,
        (_ship(workspace, subject, opened, options, with_reference=with_reference), faces),
        _resources(opened),
        "faces",
        _name_of,
        ("cv2", "numpy", "onnxruntime", *(("torch",) if with_reference else ())),
    )
    assert workspace.ray is not None, "only a workspace with a cluster comes here"
    with open_cluster(workspace.ray, reporter) as cluster:
        reporter.say(
            "the model and its engines are sent to the workers; they read the faces under their "
            "paths on this machine"
        )
        _note_machines(store, cluster, len(units), has_scores=any(done.values()))
        with closing(run_units(cluster, plan, units, ordered=True)) as results:
            for finished in results:
                scored: _ScoredUnit = finished.value
                _keep(scored.scores, store, lost)
                for failure in scored.failed:
                    if failure.name not in lost:
                        reporter.warn(
                            f"{failure.name} failed on node {finished.host}: {failure.reason}"
                        )
                lost |= {failure.name for failure in with_pixels(scored.failed, pixels)}
                progress(units[finished.unit].rows.stop, total)


def _keep(scores: UnitScores, store: ScoreStore, lost: set[str]) -> None:
    """Append the scores of a unit to the store, but for engines that failed in an earlier one."""
    store.skip(scores.skipped)
    for name, indices, prediction in scores.batches:
        # After a gap a bench would take an engine for one that has scored everything.
        if name not in lost:
            store.add(name, indices, prediction)


def _note_machines(store: ScoreStore, cluster: Cluster, parts: int, *, has_scores: bool) -> None:
    """Note where scores come from, before the first that was not computed here."""
    earlier = read_joined(store.folder)
    machines = [*earlier.machines, *cluster.machines()]
    if has_scores and not earlier.parts:
        machines.insert(0, read_machine().words)
    note_machines(store.folder, earlier.parts + parts, dict.fromkeys(machines))


def _name_of(unit: _Unit) -> str:
    return f"{unit.rows.start} to {unit.rows.stop - 1}"


def _resources(opened: OpenedBench) -> Resources:
    """Return what a worker takes: a GPU if something runs on one, else all cores of a node."""
    engines = [one.engine for one in opened.loaded.values()]
    if isinstance(opened.reference, Engine):
        engines.append(opened.reference)
    if any(engine.device_memory != ON_THE_CPU for engine in engines):
        return Resources(1, 1)
    # Engines on the CPU use all of its cores, wherever they run.
    return Resources(None)


def _ship(
    workspace: OpenedWorkspace,
    subject: BenchSubject,
    opened: OpenedBench,
    options: BenchOptions,
    *,
    with_reference: bool,
) -> _Subject:
    paths = [workspace.model, workspace.model.with_suffix(".json")]
    if with_reference:
        paths.append(workspace.reference)
    for name in opened.loaded:
        paths += [path for path in sorted((workspace.engines / name).iterdir()) if path.is_file()]
    files = {}
    for path in paths:
        files[path.relative_to(workspace.root).as_posix()] = read_regular(path)
    return _Subject(
        files,
        tuple(opened.loaded),
        options,
        with_reference,
        workspace.allow_host_code,
        workspace.allow_factory,
    )


class _NodeScorer:
    """Scores faces on a node, with a copy of the workspace in a temporary folder."""

    def __init__(self, subject: _Subject, faces: FaceSet) -> None:
        self._faces = faces
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lpx-workspace-"))
        workspace = WorkspaceFolder(folder)
        for name, data in subject.files.items():
            write_bytes(workspace.root / name, data, durable=False)
        model = read_exported(workspace)
        manifests = _manifests(workspace, subject.names)
        loader = EngineLoader(
            workspace.engines, THIS_HOST.load, subject.allow_host_code, lambda *_: ""
        )
        loaded, self._broken = loader.load_all(manifests, self._stack)
        engines: dict[str, Engine] = {name: one.engine for name, one in loaded.items()}
        self._needed: tuple[str, ...] = ()
        if subject.with_reference:
            # Here, as they import PyTorch, which a bench with recorded scores does not need.
            from lpx.artefacts.reference import read_reference
            from lpx.engines.torch import TorchEngine

            detector = read_reference(workspace, model, allow_factory=subject.allow_factory)
            reference = self._stack.enter_context(closing(TorchEngine(detector)))
            engines, self._needed = {REFERENCE: reference, **engines}, (REFERENCE,)
        chosen = choose_stages(subject.options.stages)
        graphs = open_graphs(workspace, model, manifests, chosen, self._stack)
        self._pixels = PixelPlan(chosen.pipelines, tuple(loaded))
        self._scoring = self._stack.enter_context(scorers(engines, loaded, graphs))
        self._size = model.card.input_size

    def __call__(self, unit: _Unit) -> _ScoredUnit:
        check_seen(self._faces, unit.rows)
        scores = UnitScores(unit.done)
        failed = score_rows(
            self._scoring,
            self._faces,
            self._size,
            unit.rows,
            scores,
            needed=self._needed,
            pixels=self._pixels,
        )
        return _ScoredUnit(scores, [*self._broken, *failed])


def _manifests(workspace: WorkspaceFolder, names: Sequence[str]) -> list[EngineManifest]:
    """Read the manifests of engines, in the order of their names here.

    Raises:
        LpxError: One does not run on this node.
    """
    machine = read_machine()
    found = survey(
        workspace, read_exported(workspace), machine, lambda manifest: can_run(manifest, machine)
    )
    for one in found.unfit:
        raise LpxError(
            f"engine {one.manifest.name} does not run on node {platform.node()}",
            one.reason,
            "choose `candidates` that run on all nodes, or leave that node out of the cluster",
            code="unsupported",
        )
    fit = {manifest.name: manifest for manifest in found.fit}
    return [fit[name] for name in names]


def _make_scorer(cpus: int, subject: _Subject, faces: FaceSet) -> _NodeScorer:
    return _NodeScorer(subject, faces)
