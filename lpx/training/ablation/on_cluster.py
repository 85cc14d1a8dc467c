"""Train the cells of an ablation on the workers of a cluster.

A worker trains in a temporary folder of its node. What a cell has in the folder of the ablation,
after an interruption, goes to the worker with it; its state comes back from time to time, and in
the end all of its files. Nothing but this process writes into the folder of the ablation.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from lpx.cluster.files import unlike
from lpx.cluster.options import RayOptions
from lpx.cluster.pool import Resources, WorkerPlan, run_units
from lpx.cluster.session import Cluster, open_cluster
from lpx.data.contents import UNREADABLE, file_digests
from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.errors import LpxError
from lpx.reporter import Reporter
from lpx.training.ablation.cells import CHECKPOINT, CellTraining, run_cell, write_result
from lpx.training.ablation.grid import CellResult
from lpx.training.finish import RESULT
from lpx.training.processes import alone
from lpx.training.run import RunOptions
from lpx.training.state import BEST, LAST, PREVIOUS
from lpx.workspace import atomic_path, write_bytes

# Cores of a worker without a GPU: a training scales well to a few.
_CPUS = 4
# Longest time between looks for states of cells at work, s.
_ASK_S = 5.0

_RUN = f"{CHECKPOINT}.run"
_RECIPE = f"{_RUN}/recipe.json"
# What makes a training go on where it was, or finished ones be taken as they are.
_CARRIED = (
    CHECKPOINT,
    _RECIPE,
    f"{_RUN}/{RESULT}",
    f"{_RUN}/{LAST}",
    f"{_RUN}/{PREVIOUS}",
)

# Contents of files by their paths relative to the folder of a cell.
Files = dict[str, bytes]


class _Unit(NamedTuple):
    number: int
    training: CellTraining
    files: Files


class _Trained(NamedTuple):
    result: CellResult
    files: Files


class _Weights(NamedTuple):
    name: str
    data: bytes


class _SeenFace(NamedTuple):
    """A face as a machine sees it.

    Attributes:
        file: Path relative to the folder of faces.
        identity: Person in the crop.
        split: Its split, "" if the folder does not say.
        points: SHA-256 of its landmarks.
        content: SHA-256 of its file.
    """

    file: str
    identity: str
    split: str
    points: bytes
    content: bytes


@dataclass(frozen=True)
class _Shared:
    """What all cells need.

    Attributes:
        folder: Folder of the faces.
        seen: What is in it.
        weights: What the backbones start from; None for random weights.
        options: Settings that do not change the result.
        mailbox: Actor that receives states of cells at work.
    """

    folder: Path
    seen: tuple[_SeenFace, ...]
    weights: _Weights | None
    options: RunOptions
    mailbox: Any


@dataclass(frozen=True)
class ClusterTrainer:
    """Trains cells on the workers of a cluster.

    Attributes:
        ray: The cluster, and the resources of a worker.
        out: Folder of the ablation.
        faces: Folder of real faces with landmarks.
        weights: File that the backbones start from.
        options: Settings that do not change the result.
        reporter: Receives notes and warnings.
    """

    ray: RayOptions
    out: Path
    faces: Path
    weights: Path | None
    options: RunOptions
    reporter: Reporter

    def __call__(self, trainings: Sequence[CellTraining]) -> Iterator[str]:
        """Train cells, write their files and results, and yield a line for each that is done.

        Raises:
            LpxError: As `lpx.training.fit.train`; a node does not see a face, or workers died.
        """
        if not trainings:
            return
        seen = _see(self.faces)
        weights = None
        if self.weights is not None:
            weights = _Weights(self.weights.name, self.weights.read_bytes())
        # The user's callbacks may not be sendable, and see nothing of this machine there.
        options = replace(self.options, devices=1, progress_bar=False, callbacks=())
        with open_cluster(self.ray, self.reporter) as cluster, _mailbox(cluster) as mailbox:
            self.reporter.say(
                "workers read the faces under their paths on this machine, and send trainings back"
            )
            shared = _Shared(
                Path(os.path.abspath(self.faces)), seen, weights, options, mailbox.actor
            )
            plan = WorkerPlan(
                _make_trainer,
                (shared,),
                _resources(cluster, options),
                "training",
                _name_of,
                ("cv2", "lightning", "numpy", "torch"),
            )
            finished: set[int] = set()

            def keep(index: int, files: Files) -> None:
                # The last state of a cell may come after its result.
                if index not in finished:
                    _keep_state(self.out / trainings[index].cell.name, files)

            look = _Looks(mailbox, keep, min(_ASK_S, options.save_every_s))
            for done in run_units(cluster, plan, _Units(self.out, trainings), each_look=look):
                training, trained = trainings[done.unit], done.value
                finished.add(done.unit)
                _write_files(self.out / training.cell.name, trained.files)
                write_result(self.out / training.cell.name, training, trained.result)
                yield f"{training.cell.name}, on node {done.host}"


def _resources(cluster: Cluster, options: RunOptions) -> Resources:
    """Return what a worker takes: a GPU, and cores to make images; or cores."""
    if any(node.gpus for node in cluster.nodes):
        return Resources(1 + options.workers, 1)
    return Resources(_CPUS)


def _name_of(unit: _Unit) -> str:
    return unit.training.cell.name


class _Units(Sequence[_Unit]):
    """Units of trainings; their files are read when a unit is given away, not before."""

    def __init__(self, out: Path, trainings: Sequence[CellTraining]) -> None:
        self._out, self._trainings = out, trainings

    def __len__(self) -> int:
        return len(self._trainings)

    def __getitem__(self, index: Any) -> Any:
        training = self._trainings[index]
        files = {}
        for name in _CARRIED:
            with suppress(FileNotFoundError):
                files[name] = (self._out / training.cell.name / name).read_bytes()
        return _Unit(index, training, files)


def _write_files(folder: Path, files: Files) -> None:
    """Write what a finished training has; the result of the training says that it is finished."""
    for name in sorted(files, key=lambda name: (name in (CHECKPOINT, f"{_RUN}/{RESULT}"), name)):
        write_bytes(folder / name, files[name])


def _keep_state(folder: Path, files: Files) -> None:
    """Write the state of a cell at work, and keep the one before it as the previous state."""
    last = folder / _RUN / LAST
    for name, data in files.items():
        if folder / name != last:
            write_bytes(folder / name, data)
    with atomic_path(last) as temporary:
        temporary.write_bytes(files[f"{_RUN}/{LAST}"])
        if last.exists():
            last.replace(last.with_name(PREVIOUS))


class Mailbox:
    """Holds the newest state of each cell at work until it is taken: the class of a Ray actor."""

    def __init__(self) -> None:
        self._states: dict[int, Files] = {}

    def put(self, index: int, files: Files) -> None:
        """Receive the state of a cell."""
        # What was not taken yet may hold the best weights, which did not change since.
        self._states[index] = self._states.get(index, {}) | files

    def take(self) -> dict[int, Files]:
        """Return what has come since the last call."""
        states, self._states = self._states, {}
        return states


class _Mail(NamedTuple):
    """A mailbox, and the module that reaches it."""

    ray: Any
    actor: Any


@contextmanager
def _mailbox(cluster: Cluster) -> Iterator[_Mail]:
    ray = cluster.ray
    # If its node dies, Ray restarts it on another, and at most one round of states is lost.
    actor = ray.remote(num_cpus=0, max_restarts=-1)(Mailbox).remote()
    try:
        yield _Mail(ray, actor)
    finally:
        # The connection may be gone.
        with suppress(Exception):
            ray.kill(actor)


class _Looks:
    """Takes states out of the mailbox at intervals, without waiting for them.

    Args:
        mail: The mailbox.
        keep: Receives the index of a cell, and files of its state.
        every_s: Time between looks, s.
    """

    def __init__(self, mail: _Mail, keep: Callable[[int, Files], None], every_s: float) -> None:
        self._mail, self._keep, self._every_s = mail, keep, every_s
        self._asked: Any = None
        self._asked_s = time.monotonic()

    def __call__(self) -> None:
        ray = self._mail.ray
        if self._asked is None:
            if time.monotonic() - self._asked_s >= self._every_s:
                self._asked, self._asked_s = self._mail.actor.take.remote(), time.monotonic()
            return
        ready, _ = ray.wait([self._asked], timeout=0)
        if not ready:
            return
        asked, self._asked = self._asked, None
        try:
            states = ray.get(asked)
        except ray.exceptions.RayError:
            # It is being restarted: the next state is taken.
            return
        for index, files in states.items():
            self._keep(index, files)


class _Sender(Callback):
    """Sends the state of a training to the mailbox, at intervals, if it has been written since.

    Args:
        folder: Folder of the cell.
        send: Sends files.
        every_s: Least time between states, s.
    """

    def __init__(self, folder: Path, send: Callable[[Files], None], every_s: float) -> None:
        self._folder, self._send, self._every_s = folder, send, every_s
        self._sent: dict[str, int] = {name: self._written(name) for name in (BEST, LAST)}
        self._sent_s = time.monotonic()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Send what has changed; lpx writes the state before other callbacks are called."""
        if time.monotonic() - self._sent_s < self._every_s:
            return
        written = {name: self._written(name) for name in (BEST, LAST)}
        if written[LAST] == self._sent[LAST]:
            return
        files = {_RECIPE: (self._folder / _RECIPE).read_bytes()}
        for name, when in written.items():
            if when != self._sent[name]:
                files[f"{_RUN}/{name}"] = (self._folder / _RUN / name).read_bytes()
        self._sent, self._sent_s = written, time.monotonic()
        self._send(files)

    def _written(self, name: str) -> int:
        try:
            return (self._folder / _RUN / name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0


class _NodeTrainer:
    """Trains cells on a node, each in a temporary folder."""

    def __init__(self, cpus: int, shared: _Shared) -> None:
        torch.set_num_threads(cpus)
        _check_faces(shared.folder, shared.seen)
        self._shared = shared
        self._folder = tempfile.TemporaryDirectory(prefix="lpx-ablation-")
        self._weights: Path | None = None
        if shared.weights is not None:
            self._weights = Path(self._folder.name) / shared.weights.name
            self._weights.write_bytes(shared.weights.data)

    def __call__(self, unit: _Unit) -> _Trained:
        shared = self._shared
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name, alone():
            folder = Path(name)
            for path, data in unit.files.items():
                write_bytes(folder / path, data, durable=False)

            def send(files: Files) -> None:
                # A training does not end because its state could not be sent.
                with suppress(Exception):
                    shared.mailbox.put.remote(unit.number, files)

            sender = _Sender(folder, send, shared.options.save_every_s)
            options = replace(shared.options, callbacks=(sender,))
            result = run_cell(unit.training, folder, shared.folder, self._weights, options)
            return _Trained(result, _files_of(folder))


def _make_trainer(cpus: int, shared: _Shared) -> _NodeTrainer:
    return _NodeTrainer(cpus, shared)


def _files_of(folder: Path) -> Files:
    files = {}
    for path in sorted(folder.rglob("*")):
        # The lock, and what writing left behind.
        if path.is_file() and not path.name.startswith("."):
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files


def _see(folder: Path) -> tuple[_SeenFace, ...]:
    """Return the faces of a folder as this machine sees them.

    Raises:
        LpxError: The folder does not have its tables, or faces that they list.
    """
    faces = load_landmarked(folder)
    contents = file_digests([os.fsencode(face.path) for face in faces])
    seen = []
    for face, content in zip(faces, map(bytes, contents), strict=True):
        points = hashlib.sha256(face.points.tobytes()).digest()
        file = face.path.relative_to(folder).as_posix()
        seen.append(_SeenFace(file, face.identity, face.split, points, content))
    return tuple(seen)


def _check_faces(folder: Path, seen: tuple[_SeenFace, ...]) -> None:
    """Check, on a node, that a folder holds the faces that the machine sees that started the run.

    Raises:
        LpxError: It does not; the file and the node are named.
    """
    try:
        here = _see(folder)
    except LpxError as error:
        raise unlike(str(folder), error.what) from error
    if [face[:3] for face in here] != [face[:3] for face in seen]:
        raise unlike(str(folder / "faces.csv"), "it lists other faces there")
    for mine, theirs in zip(here, seen, strict=True):
        if mine.points != theirs.points:
            raise unlike(str(folder / "landmarks.npz"), f"{mine.file} has other landmarks there")
        if mine.content != theirs.content:
            unreadable = mine.content == UNREADABLE
            why = "it cannot be read there" if unreadable else "it has another content there"
            raise unlike(str(folder / mine.file), why)
