"""The processes of a training: which of them this one is, and how they find each other.

Lightning starts one process for each device of this machine; other machines are reached by starting
the same command on each of them, by hand, by torchrun or by srun.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lpx import __version__, interrupts
from lpx.errors import LpxError, first_line
from lpx.reporter import Reporter
from lpx.training.recipe import Recipe

# Set for the processes that Lightning starts: the ID of the one that they belong to.
_PARENT = "LPX_TRAINING_PARENT"
# What Lightning sets when it starts processes. A later training of this process would take them
# for those of somebody who has started its other processes already.
_SET = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", _PARENT)
# What says which of several nodes this is.
_NEEDED = ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
# From these Lightning and PyTorch tell that a process is one of several.
_TOLD = (
    *_SET,
    "RANK",
    "GROUP_RANK",
    "TORCHELASTIC_RUN_ID",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "SLURM_NODEID",
    "JSM_NAMESPACE_RANK",
    "JSM_NAMESPACE_SIZE",
)
# Time between looks at who has come, s.
_LOOK_S = 0.1
# Time after which a message says what the process is waiting for, s.
_TELL_S = 20.0
# Time for the first process to be connected to, once it listens, s.
_CONNECT_S = 10.0
# Time that a process stays for the others to read its last word, s.
_LINGER_S = 5.0
# Time for what a failed process has to say, s.
_LAST_WORD_S = 1.0
# Key of what a failed process has to say.
_FAILED = "failed"


class Place(NamedTuple):
    """Which process of a training this one is.

    Attributes:
        first: Whether it is the first of all, which alone locks, writes and reports.
        is_child: Whether the first one of this machine has started it. That one receives the
            signals.
        of: Number of processes that torchrun or srun has started; 0 if neither has.
    """

    first: bool
    is_child: bool = False
    of: int = 0


FIRST = Place(first=True)


def read_place(nodes: int) -> Place:
    """Return which process this one is, as its environment says.

    Args:
        nodes: Number of machines.

    Raises:
        LpxError: The environment does not say, or is that of another number of machines.
    """
    if os.environ.get(_PARENT):
        return Place(first=False, is_child=True)
    try:
        if TorchElasticEnvironment.detect():
            started = TorchElasticEnvironment()
            return Place(started.global_rank() == 0, of=started.world_size())
        if SLURMEnvironment.detect():
            slurm = SLURMEnvironment(auto_requeue=False)
            return Place(slurm.global_rank() == 0, of=slurm.world_size())
        node, local = LightningEnvironment().node_rank(), LightningEnvironment().local_rank()
    except (KeyError, ValueError, RuntimeError) as error:
        # Lightning refuses a Slurm job with `--ntasks` but without `--ntasks-per-node`.
        raise LpxError(
            "the environment does not say which process of the training this is",
            f"of the variables that torchrun and srun set, one is missing or wrong: {error}",
            "start it with one of them, or unset their variables",
            code="invalid-argument",
        ) from error
    needed = [name for name in _NEEDED if name not in os.environ]
    if nodes > 1 and needed and "GROUP_RANK" not in os.environ:
        raise LpxError(
            f"`nodes` is {nodes}, but the environment does not say which of them this is",
            f"not set: {', '.join(needed)}",
            "set NODE_RANK (0 on the first), MASTER_ADDR and MASTER_PORT (those of the first) on "
            "each, or start it with torchrun or srun",
            code="invalid-argument",
        )
    if node >= nodes:
        raise LpxError(
            f"NODE_RANK is {node}, but `nodes` is {nodes}",
            "nodes are counted from 0",
            "give the number of all nodes with `nodes`, or unset NODE_RANK",
            code="invalid-argument",
        )
    return Place(node == local == 0)


def check_count(place: Place, count: int) -> None:
    """Check that a training has as many processes as were started for it.

    Args:
        place: Which of them this one is.
        count: Processes that it takes, over all nodes.

    Raises:
        LpxError: It has not.
    """
    # A script of sbatch that does not call srun is one process, whatever the number of tasks.
    alone = place.first and count == 1 and not TorchElasticEnvironment.detect()
    if place.of in (0, count) or alone:
        return
    raise LpxError(
        f"this is one of {place.of} processes, and `devices` and `nodes` make {count}",
        "torchrun or srun starts one process for each device",
        "start as many on each node as `devices`, on as many nodes as `nodes`",
        code="invalid-argument",
    )


@contextmanager
def own_environment() -> Iterator[None]:
    """Restore what Lightning sets when it starts processes: variables, and the rank."""
    before = {name: os.environ.get(name) for name in _SET}
    os.environ.setdefault(_PARENT, str(os.getpid()))
    with _own_rank():
        try:
            yield
        finally:
            _restore(before)


@contextmanager
def alone() -> Iterator[None]:
    """Hide from a training that the process is one of several, as on a Ray cluster under Slurm."""
    before = {name: os.environ.pop(name, None) for name in _TOLD}
    with _own_rank():
        rank_zero_only.rank = 0  # type: ignore[attr-defined]
        try:
            yield
        finally:
            _restore(before)


@contextmanager
def _own_rank() -> Iterator[None]:
    rank = getattr(rank_zero_only, "rank", 0)
    try:
        yield
    finally:
        rank_zero_only.rank = rank  # type: ignore[attr-defined]


def _restore(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def end_with_its_parent() -> None:
    """End this child of Lightning's when its parent ends, and at once if it already has."""
    if os.environ.get(_PARENT) != str(os.getppid()):
        os._exit(1)
    interrupts.follow_parent()


class Member(NamedTuple):
    """What all processes of a training must agree on.

    Attributes:
        host: Name of the machine.
        version: Version of lpx.
        recipe: Settings of the training.
        faces: Digest of its faces.
        step: Step that it begins at.
        validated: Whether the weights of that step were validated.
    """

    host: str
    version: str
    recipe: dict[str, Any]
    faces: str
    step: int
    validated: bool


def this_member(recipe: Recipe, faces: str, step: int, *, validated: bool) -> Member:
    """Return what this process trains."""
    return Member(platform.node(), __version__, recipe.to_dict(), faces, step, validated)


class Meeting(NamedTuple):
    """How the processes of a training meet.

    Attributes:
        member: What this process trains.
        wait_s: Longest time that one waits for another, seconds.
        reporter: Receives a note on what the process is waiting for.
    """

    member: Member
    wait_s: float
    reporter: Reporter


class Joined(DDPStrategy):
    """Lightning's strategy of a process for each device, with a start that ends.

    Lightning's own waits for the other processes within PyTorch: for half an hour, deaf to signals,
    and without saying for whom.

    Args:
        meeting: How the processes meet.
        name: Name of one of Lightning's strategies of this kind.
    """

    def __init__(self, meeting: Meeting, name: str) -> None:
        settings = StrategyRegistry[name]["init_params"]
        super().__init__(timeout=timedelta(seconds=meeting.wait_s), **settings)
        self._meeting = meeting
        self._store: Store | None = None

    def setup_distributed(self) -> None:
        """Meet the other processes; Lightning finds the group already there."""
        # Lightning installs handlers of its own.
        interrupts.take_back()
        self.set_world_ranks()
        if not distributed.is_initialized():
            self._store = self._meet()
            cuda = self.root_device.type == "cuda"
            try:
                distributed.init_process_group(
                    self.process_group_backend or ("nccl" if cuda else "gloo"),
                    store=PrefixStore("group", self._store),
                    rank=self.global_rank,
                    world_size=self.world_size,
                    timeout=timedelta(seconds=self._meeting.wait_s),
                    device_id=self.root_device if cuda else None,
                )
            except RuntimeError as error:
                raise LpxError(
                    "the processes of the training cannot connect to each other",
                    first_line(error),
                    "check that the nodes reach each other's ports; GLOO_SOCKET_IFNAME or "
                    "NCCL_SOCKET_IFNAME names the network interface",
                    code="unreachable",
                ) from error
        super().setup_distributed()

    def part(self) -> None:
        """Close the group, so that a later training of this process has one of its own."""
        if self._store is not None:
            distributed.destroy_process_group()
            self._store = None

    def tell(self, error: LpxError) -> None:
        """Tell the other processes why this one ends."""
        if self._store is not None:
            # They may have ended.
            with suppress(RuntimeError):
                self._store.set(_FAILED, f"{platform.node()}: {error.what}")

    def lost(self, error: Exception) -> LpxError | None:
        """Return the error to raise for one that says that another process is gone; else None."""
        text = str(error)
        gone = isinstance(error, distributed.DistError) or any(
            word in text for word in ("gloo", "NCCL", "Connection closed", "Connection reset")
        )
        if self._store is None or not gone:
            return None
        reason = "the connection to it was lost: it was killed, or the network failed"
        with suppress(RuntimeError):
            # The one that failed says so before it ends, but perhaps only just.
            waited = _Wait(_LAST_WORD_S)
            while not self._store.check([_FAILED]) and not waited.look():
                pass
            if self._store.check([_FAILED]):
                reason = self._store.get(_FAILED).decode()
        return LpxError(
            "another process of the training has ended, or does not answer",
            reason,
            "see its output, and run the command again on all nodes: it resumes from the last "
            "state",
            code="unreachable",
        )

    def _meet(self) -> Store:
        """Wait until all processes are there, and check that they train the same.

        Raises:
            LpxError: One did not come, or trains something else.
            Interrupted: A signal arrived.
        """
        waited = _Wait(self._meeting.wait_s)
        store = self._open_store(waited)
        rank, count = self.global_rank, self.world_size
        try:
            store.set(f"member-{rank}", json.dumps(self._meeting.member))
            missing = set(range(count))
            told = False
            while missing := {one for one in missing if not store.check([f"member-{one}"])}:
                if waited.look():
                    raise self._nobody(missing, waited)
                if not told and waited.seconds() >= _TELL_S:
                    told = True
                    self._meeting.reporter.say(
                        f"waiting for {len(missing)} of {count} processes of the training"
                    )
            members = [Member(*json.loads(store.get(f"member-{one}"))) for one in range(count)]
        except distributed.DistError as error:
            raise self._no_answer(first_line(error)) from error
        difference = next(filter(None, (_difference(members[0], one) for one in members)), None)
        if difference is not None:
            self._linger(store)
            raise difference
        return store

    def _open_store(self, waited: _Wait) -> Store:
        environment = self.cluster_environment
        assert environment is not None, "Lightning has chosen one"
        host, port = environment.main_address, environment.main_port
        # torchrun has one already.
        has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        serves = self.global_rank == 0 and not has_agent
        while not serves and not _listens(host, port):
            if waited.look():
                raise self._no_answer(f"nothing listens there after {waited.limit_s:g} s")
        try:
            store = TCPStore(
                host,
                port,
                self.world_size,
                serves,
                timeout=timedelta(seconds=min(_CONNECT_S, waited.limit_s)),
                wait_for_workers=False,
            )
        except RuntimeError as error:
            if not serves:
                raise self._no_answer(first_line(error)) from error
            raise LpxError(
                f"the first process of the training cannot listen at {host}:{port}",
                first_line(error),
                "set MASTER_ADDR to the name of this node, and MASTER_PORT to a free port, on all "
                "nodes",
                code="unreachable",
            ) from error
        store.set_timeout(timedelta(seconds=waited.limit_s))
        # The store of torchrun outlives the processes that it starts again.
        return PrefixStore(f"lpx/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    def _nobody(self, missing: set[int], waited: _Wait) -> LpxError:
        nodes = sorted({rank // self.num_processes for rank in missing})
        return LpxError(
            f"{len(missing)} of {self.world_size} processes of the training did not come within "
            f"{waited.limit_s:g} s",
            f"missing on node {', '.join(map(str, nodes))}",
            "start the same command on every node within that time, with the same MASTER_ADDR and "
            "MASTER_PORT; or wait longer with `wait_s`",
            code="unreachable",
        )

    def _no_answer(self, why: str) -> LpxError:
        environment = self.cluster_environment
        assert environment is not None, "Lightning has chosen one"
        return LpxError(
            f"the first process of the training does not answer at {environment.main_address}:"
            f"{environment.main_port}",
            why,
            "see its output; start the same command on node 0, with the same MASTER_ADDR and "
            "MASTER_PORT",
            code="unreachable",
        )

    def _linger(self, store: Store) -> None:
        """Keep the first process's store until the others have read it."""
        with suppress(RuntimeError):
            store.set(f"read-{self.global_rank}", "")
            waited = _Wait(_LINGER_S)
            others = [f"read-{one}" for one in range(self.world_size)]
            while self.global_rank == 0 and not store.check(others) and not waited.look():
                pass


class _Wait:
    """A wait that ends: pauses, signals, and a limit, s."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._began_s = time.monotonic()

    def seconds(self) -> float:
        return time.monotonic() - self._began_s

    def look(self) -> bool:
        """Pause, raise `Interrupted` if a signal has arrived, and return whether time is over."""
        interrupts.check()
        time.sleep(_LOOK_S)
        interrupts.check()
        return self.seconds() >= self.limit_s


def _listens(host: str, port: int) -> bool:
    # PyTorch would warn of every attempt.
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S):
            return True
    except OSError:
        return False


def _difference(first: Member, other: Member) -> LpxError | None:
    """Return the error for a process that trains something else than the first one."""
    fix = "run the same command on all nodes"
    if other.version != first.version:
        why = f"lpx {other.version} is there, and lpx {first.version} on {first.host}"
        fix = "install the same version on all nodes"
    elif other.recipe != first.recipe:
        why = "its settings differ"
    elif other.faces != first.faces:
        why = "its faces differ: other files, identities or landmarks"
        fix = "share one folder of faces with all nodes, or copy all of it"
    elif (other.step, other.validated) != (first.step, first.validated):
        why = f"it begins at step {other.step}, and {first.host} at step {first.step}"
        fix = "`out` must be in a folder that all nodes share: the state is read from there"
    else:
        return None
    return LpxError(
        f"node {other.host} trains something else than node {first.host}",
        why,
        fix,
        code="invalid-argument",
    )


def shared_maximum(value: int, strategy: Any) -> int:
    """Return the largest of the values that the processes of a training have."""
    if getattr(strategy, "world_size", 1) == 1:
        return value
    own = torch.tensor(float(value), device=strategy.root_device)
    return int(strategy.reduce(own, reduce_op="max"))
