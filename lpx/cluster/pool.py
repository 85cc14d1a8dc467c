"""Workers on the nodes of a cluster, which do units of work and may die.

A unit whose worker or node died is done again by another worker. Values that all units need are
sent to each node once; a unit and its result travel with it. No more results are held than workers
have room for, so that neither the object store nor this process grows with the number of units.
"""

from __future__ import annotations

import heapq
import os
import platform
import re
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

from lpx import interrupts
from lpx.cluster.session import Cluster
from lpx.errors import LpxError, first_line
from lpx.extras import optional_packages

# Workers that may die at one unit, or in a row before they do any, until that is an error.
_DEATHS = 3
# Time between looks at signals and at nodes, s.
_LOOK_S = 1.0
# Time without a worker after which a message says what the run is waiting for, s.
_PATIENCE_S = 30.0
# Results that may wait for their turn, per worker.
_AHEAD = 2

# Escape sequences of terminals, in Ray's reports.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

Unit = TypeVar("Unit")
Result = TypeVar("Result")


class Resources(NamedTuple):
    """Resources of a worker, where the user's options leave them open.

    Attributes:
        cpus: CPU cores; fewer if some node has fewer. None for all of the smallest node.
        gpus: GPUs.
    """

    cpus: int | None = 1
    gpus: float = 0


@dataclass(frozen=True)
class WorkerPlan(Generic[Unit, Result]):
    """What workers do.

    Attributes:
        make: Called on the worker with its number of CPU cores and the values of `shipped`, once;
            returns the function that does a unit. A module's function, as it is sent by name.
        shipped: Values that all units need.
        resources: Resources of a worker, unless the options say otherwise.
        noun: What a unit is, for messages, such as "video".
        name: Returns the name of a unit, for messages.
        modules: Modules whose versions results depend on: those of a node must be those of here.
    """

    make: Callable[..., Callable[[Unit], Result]]
    shipped: tuple[Any, ...]
    resources: Resources
    noun: str
    name: Callable[[Unit], str]
    modules: tuple[str, ...] = ()


class Done(NamedTuple):
    """A unit that was done.

    Attributes:
        unit: Its index among the units.
        value: Its result.
        host: Name of the machine that did it.
    """

    unit: int
    value: Any
    host: str


class _Failed(NamedTuple):
    """What a unit raised: an error of lpx, or the text of another's traceback."""

    error: BaseException | str


class UnitWorker:
    """Does units on a node, one at a time: the class of Ray's actors."""

    def __init__(self) -> None:
        self._work: Callable[[Any], Any] | None = None

    def start(
        self,
        folder: str,
        versions: Mapping[str, str],
        make: Callable[..., Callable[[Any], Any]],
        cpus: int,
        *shipped: Any,
    ) -> Any:
        """Make what does the units; returns the name of the machine.

        Args:
            folder: Folder in which the run was started.
            versions: Versions of modules there.
            make: As in `WorkerPlan`.
            cpus: Number of CPU cores.
            shipped: Values that all units need.
        """
        # Not in the constructor: Ray would turn an error there into the text of one.
        try:
            # Relative paths mean the same as where the run was started, if they mean anything.
            with suppress(OSError):
                os.chdir(folder)
            with optional_packages(f"the work on node {platform.node()}"):
                check_modules(versions)
                self._work = make(cpus, *shipped)
        except LpxError as error:
            return _Failed(error)
        except Exception:
            return _Failed(traceback.format_exc())
        return platform.node()

    def run(self, unit: Any) -> Any:
        """Do one unit."""
        assert self._work is not None, "a worker is started first"
        try:
            return self._work(unit)
        except LpxError as error:
            return _Failed(error)
        except Exception:
            # As text: an exception may hold objects that cannot be pickled.
            return _Failed(traceback.format_exc())


def _module_versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of modules, without what names a build, such as "+cpu" of PyTorch's."""
    versions = {}
    for name in modules:
        versions[name] = str(import_module(name).__version__).partition("+")[0]
    return versions


def check_modules(versions: Mapping[str, str]) -> None:
    """Check that this node has the modules of the machine that started the run.

    Raises:
        LpxError: One has another version.
        ImportError: One is missing.
    """
    for name, here in _module_versions(versions).items():
        if here != versions[name]:
            raise LpxError(
                f"node {platform.node()} has {name} {here}, and the machine that started the run "
                f"has {name} {versions[name]}",
                "results of different versions must not be mixed",
                "install the same packages on all nodes",
                code="unsupported",
            )


def run_units(
    cluster: Cluster,
    plan: WorkerPlan[Unit, Result],
    units: Sequence[Unit],
    *,
    ordered: bool = False,
    each_look: Callable[[], None] | None = None,
) -> Generator[Done, None, None]:
    """Do units on the workers of a cluster, and yield each result as soon as it may be used.

    Closing the generator ends the workers.

    Args:
        cluster: The cluster.
        plan: What workers do.
        units: The units.
        ordered: Yield results in the order of the units.
        each_look: Called at least about once a second, while units are done.

    Raises:
        LpxError: No node has the resources of a worker, one unit cost several workers, or the
            unit's own error.
        RuntimeError: A unit failed with an error that is not lpx's.
    """
    if not units:
        return
    run = _Run(cluster, plan, units, ordered)
    try:
        run.start()
        while run.open:
            if each_look is not None:
                each_look()
            yield from run.step()
    finally:
        with interrupts.deferred():
            run.end()


@dataclass
class _Worker:
    actor: Any
    host: str = ""


@dataclass
class _Run:
    """One run over units: which are waiting, at work, and done."""

    cluster: Cluster
    plan: WorkerPlan[Any, Any]
    units: Sequence[Any]
    ordered: bool
    waiting: list[int] = field(init=False)
    # Units that have not been yielded.
    open: int = field(init=False)
    due: int = 0
    early: dict[int, Done] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    failed_starts: int = 0
    starting: dict[Any, _Worker] = field(default_factory=dict)
    busy: dict[Any, tuple[_Worker, int]] = field(default_factory=dict)
    idle: list[_Worker] = field(default_factory=list)
    count: int = 0
    asked: dict[str, Any] = field(default_factory=dict)
    cpus: int = 1
    shipped: list[Any] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    noticed_s: float = field(default_factory=time.monotonic)
    has_told: bool = False

    def __post_init__(self) -> None:
        # A heap: a unit that is done again comes before those that have not begun.
        self.waiting = list(range(len(self.units)))
        self.open = len(self.units)

    def start(self) -> None:
        """Decide on the workers, ship what they need, and start them."""
        options, wanted = self.cluster.options, self.plan.resources
        # Every node that has cores takes part, however few. The head may be set to have none.
        smallest = min((node.cpus for node in self.cluster.nodes if node.cpus), default=1)
        self.cpus = options.cpus or min(wanted.cpus or smallest, smallest)
        gpus = wanted.gpus if options.gpus is None else options.gpus
        self.asked = {"num_cpus": self.cpus, "num_gpus": gpus}
        if options.memory_gib:
            self.asked["memory"] = int(options.memory_gib * 2**30)
        room = self._room()
        if not room:
            raise self._no_room()
        self.count = min(room, options.workers or room, len(self.units))
        each = "1 core" if self.cpus == 1 else f"{self.cpus} cores"
        self.cluster.reporter.say(f"Ray workers: {self.count}, with {each} each")
        self.versions = _module_versions(self.plan.modules)
        ray = self.cluster.ray
        try:
            self.shipped = [ray.put(value) for value in self.plan.shipped]
        except ray.exceptions.RayError as error:
            raise LpxError(
                "the object store of Ray on this machine has no room for what workers need",
                first_line(error),
                "give it more memory: `ray start --object-store-memory BYTES`",
                code="out-of-memory",
            ) from error
        for _ in range(self.count):
            self._new_worker()

    def _room(self) -> int:
        """Return the number of workers that the nodes have room for, if nobody else uses them."""
        room = 0
        for entry in self.cluster.ray.nodes():
            if entry["Alive"]:
                there = entry["Resources"]
                here = int(there.get("CPU", 0) // self.asked["num_cpus"])
                if self.asked["num_gpus"]:
                    here = min(here, int(there.get("GPU", 0) / self.asked["num_gpus"]))
                if memory := self.asked.get("memory"):
                    here = min(here, int(there.get("memory", 0) // memory))
                room += here
        return room

    def _no_room(self) -> LpxError:
        needs = f"{self.cpus} CPU cores"
        if self.asked["num_gpus"]:
            needs += f", {self.asked['num_gpus']:g} GPUs"
        if memory := self.asked.get("memory"):
            needs += f", {memory / 2**30:g} GiB of memory"
        return LpxError(
            "no node of the Ray cluster has room for a worker",
            f"a worker takes {needs}",
            "lower `cpus`, `gpus` or `memory_gib`, or add a node",
            code="unsupported",
        )

    def _new_worker(self) -> None:
        actor = self.cluster.ray.remote(max_restarts=0, **self.asked)(UnitWorker).remote()
        started = actor.start.remote(
            os.getcwd(), self.versions, self.plan.make, self.cpus, *self.shipped
        )
        self.starting[started] = _Worker(actor)

    def step(self) -> Iterator[Done]:
        """Give work to idle workers, wait for something to happen, and yield what is due."""
        self._give()
        ray = self.cluster.ray
        refs = [*self.busy, *self.starting]
        ready, _ = ray.wait(refs, num_returns=1, timeout=_LOOK_S) if refs else ([], [])
        interrupts.check()
        if not ready:
            self._check_nodes()
        for ref in ready:
            self.noticed_s = time.monotonic()
            if ref in self.starting:
                self._started(ref)
            else:
                self._finished(ref)
        while (done := self.early.pop(self._next(), None)) is not None:
            self.due += 1
            self.open -= 1
            yield done

    def _next(self) -> int:
        """Return the index of the unit to yield next; any that is done if the order is free."""
        if self.ordered:
            return self.due
        return next(iter(self.early), -1)

    def _give(self) -> None:
        while self.idle and self.waiting:
            # Results ahead of a slow unit wait in memory: their number is bounded.
            if self.ordered and self.waiting[0] >= self.due + _AHEAD * self.count:
                return
            worker, index = self.idle.pop(), heapq.heappop(self.waiting)
            self.busy[worker.actor.run.remote(self.units[index])] = (worker, index)

    def _started(self, ref: Any) -> None:
        worker = self.starting.pop(ref)
        value = self._get(ref)
        if isinstance(value, _Dead):
            self.failed_starts += 1
            if self.failed_starts >= _DEATHS * self.count:
                raise LpxError(
                    "workers of the Ray cluster die while they start",
                    value.reason,
                    "see the logs of Ray (/tmp/ray/session_latest/logs on the node)",
                    code="unreachable",
                )
            self._replace(worker)
            return
        worker.host = self._checked(value)
        self.failed_starts = 0
        self.idle.append(worker)

    def _finished(self, ref: Any) -> None:
        worker, index = self.busy.pop(ref)
        value = self._get(ref)
        if isinstance(value, _Dead):
            self._count_death(worker, index, value.reason)
            heapq.heappush(self.waiting, index)
            self._replace(worker)
            return
        self.early[index] = Done(index, self._checked(value), worker.host)
        self.idle.append(worker)

    def _get(self, ref: Any) -> Any:
        ray = self.cluster.ray
        try:
            return ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            # Not of the unit, whose errors are values: a result that cannot be sent, for one.
            raise RuntimeError(f"a worker failed:\n{error}") from error
        except ray.exceptions.RayError as error:
            # A worker, a node or a result on it was lost, each of which has several types.
            return _Dead(_reason(error))

    @staticmethod
    def _checked(value: Any) -> Any:
        if isinstance(value, _Failed):
            if isinstance(value.error, str):
                raise RuntimeError(f"a worker failed:\n{value.error}")
            raise value.error
        return value

    def _count_death(self, worker: _Worker, index: int, reason: str) -> None:
        name, noun = self.plan.name(self.units[index]), self.plan.noun
        count = self.deaths.get(index, 0) + 1
        self.deaths[index] = count
        if count >= _DEATHS:
            raise LpxError(
                f"{count} workers died at {noun} {name}",
                f"the last on node {worker.host}: {reason}",
                "memory may have run out: use fewer workers, or more memory for each; then run the "
                "command again, it resumes where it stopped",
                code="out-of-memory",
            )
        self.cluster.reporter.say(
            f"a worker on node {worker.host} died at {noun} {name}, which is done again: {reason}"
        )

    def _replace(self, worker: _Worker) -> None:
        self._kill(worker)
        self._new_worker()

    def _check_nodes(self) -> None:
        """Notice that nothing can happen, or tell what is waited for."""
        if self.busy or self.idle:
            return
        if not self._room():
            raise LpxError(
                "no node of the Ray cluster is left that has room for a worker",
                "nodes were removed, or died",
                "add a node, and run the command again: it resumes where it stopped",
                code="unreachable",
            )
        if not self.has_told and time.monotonic() - self.noticed_s >= _PATIENCE_S:
            self.has_told = True
            self.cluster.reporter.say(
                f"waiting for the Ray cluster: other jobs use the {self.cpus} CPU cores that a "
                "worker takes"
            )

    def end(self) -> None:
        """End all workers."""
        workers = [*self.starting.values(), *(worker for worker, _ in self.busy.values())]
        for worker in [*workers, *self.idle]:
            self._kill(worker)
        self.starting.clear()
        self.busy.clear()
        self.idle.clear()

    def _kill(self, worker: _Worker) -> None:
        # It may be dead, or the connection gone.
        with suppress(Exception):
            self.cluster.ray.kill(worker.actor)


def _reason(error: Exception) -> str:
    """Return why a worker died, in one line of Ray's report."""
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    # A traceback ends with what was raised; other reports begin with what happened.
    return lines[-1] if "creation task" in lines[0] else lines[0]


class _Dead(NamedTuple):
    """A worker died, or its result was lost."""

    reason: str
