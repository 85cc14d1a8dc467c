"""The connection to a Ray cluster: its address, its nodes, and what is installed on them."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lpx
from lpx import interrupts
from lpx.cluster import probe
from lpx.cluster.options import AUTO, LOCAL, RayOptions
from lpx.errors import LpxError, first_line
from lpx.extras import optional_packages
from lpx.reporter import Reporter

# Time for an address to accept a connection.
_CONNECT_S = 5.0
# Time for a node to answer what it has installed: the first import there may read from a slow disk.
_PROBE_S = 120.0


@dataclass(frozen=True)
class Node:
    """A node of the cluster.

    Attributes:
        id: Its ID in Ray.
        host: Name of the machine.
        machine: Its system and processor, in words.
        cpus: CPU cores that Ray may use there.
        gpus: GPUs that Ray may use there.
    """

    id: str
    host: str
    machine: str
    cpus: int
    gpus: int


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        ray: The module.
        options: Options of the run.
        nodes: Its nodes when it was opened; others may have joined since.
        reporter: Receives notes and warnings.
    """

    ray: Any
    options: RayOptions
    nodes: tuple[Node, ...]
    reporter: Reporter

    def machines(self) -> tuple[str, ...]:
        """Return the kinds of machines, in words, without repeats."""
        return tuple(dict.fromkeys(node.machine for node in self.nodes))


@contextmanager
def open_cluster(
    options: RayOptions, reporter: Reporter, *, probe_seconds: float = _PROBE_S
) -> Iterator[Cluster]:
    """Connect to a cluster, and disconnect at the end of the block.

    A connection that the calling program has made already is used, and kept.

    Args:
        options: Address and resources.
        reporter: Receives what was found.
        probe_seconds: Time for each node to say what it has installed, s.

    Raises:
        LpxError: Ray is not installed, the address does not answer, or a node has another version
            of lpx or Python than this process.
    """
    with optional_packages("ray"):
        import ray
    mine = not ray.is_initialized()
    if mine:
        _connect(ray, options, reporter)
    try:
        # Ray installs handlers of its own.
        interrupts.take_back()
        nodes = _nodes(ray, probe_seconds)
        _describe(nodes, reporter)
        yield Cluster(ray, options, nodes, reporter)
    finally:
        if mine:
            with interrupts.deferred():
                ray.shutdown()


def _connect(ray: Any, options: RayOptions, reporter: Reporter) -> None:
    endpoint = options.endpoint()
    if endpoint is not None:
        _check_answers(options.address, *endpoint)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # A cluster of one's own sends no statistics of its use, unless the user has decided otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if options.address == AUTO:
            try:
                ray.init(address="auto", **quiet)
                return
            except ConnectionError:
                if os.environ.get("RAY_ADDRESS"):
                    raise
            reporter.say("no Ray cluster is running here: one of this machine's cores is started")
        if options.address in (AUTO, LOCAL):
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=options.address, **quiet)
    except Exception as error:
        # Ray raises ConnectionError, RuntimeError, ValueError and others, by the cause and by the
        # kind of address.
        raise _unreachable(options.address, first_line(error)) from error


def _check_answers(address: str, host: str, port: int) -> None:
    # Ray itself tries for a minute, and then names a component of its own.
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S):
            pass
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, why: str) -> LpxError:
    return LpxError(
        f"the Ray cluster at {address} does not answer",
        why,
        "start it with `ray start --head`; from a machine outside the cluster use "
        "ray://HOST:10001, and HOST:6379 on one that has joined it with `ray start --address`",
        code="unreachable",
    )


def _nodes(ray: Any, probe_seconds: float) -> tuple[Node, ...]:
    """Ask every node what it has installed.

    Raises:
        LpxError: One has another version of lpx or Python, or does not answer.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # By value: where lpx is missing or another one, the function could not be imported.
    ray.cloudpickle.register_pickle_by_value(probe)
    ask = ray.remote(num_cpus=0, max_retries=0)(probe.read_node)
    asked = []
    for entry in ray.nodes():
        if entry["Alive"]:
            there = NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
            asked.append((entry, ask.options(scheduling_strategy=there).remote()))
    nodes = []
    for entry, answer in asked:
        name = entry.get("NodeManagerHostname") or entry["NodeManagerAddress"]
        try:
            host, machine, python, version = ray.get(answer, timeout=probe_seconds)
        except Exception as error:
            # Ray's errors have no common type beside Exception in all its versions.
            raise LpxError(
                f"node {name} of the Ray cluster cannot run anything",
                first_line(error),
                "see the logs of Ray there (/tmp/ray/session_latest/logs), or remove the node",
                code="unreachable",
            ) from error
        _check_versions(host, python, version)
        resources = entry["Resources"]
        cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
        nodes.append(Node(entry["NodeID"], host, machine, cpus, gpus))
    return tuple(nodes)


def _check_versions(host: str, python: str, version: str) -> None:
    if version != lpx.__version__:
        theirs = f"has lpx {version}" if version else "has no lpx"
        raise LpxError(
            f"node {host} {theirs}, and this machine has lpx {lpx.__version__}",
            "results of different versions must not be mixed",
            f'on every node: pip install "lpx[cluster]=={lpx.__version__}"',
            code="unsupported",
        )
    here = platform.python_version()
    if python.split(".")[:2] != here.split(".")[:2]:
        raise LpxError(
            f"node {host} has Python {python}, and this machine has Python {here}",
            "objects that Python sends from one to the other need the same version",
            "use one version of Python on all of them",
            code="unsupported",
        )


def _describe(nodes: tuple[Node, ...], reporter: Reporter) -> None:
    hosts = []
    for node in nodes:
        gpus = f", {node.gpus} GPU" if node.gpus else ""
        hosts.append(f"{node.host} ({node.cpus} CPU{gpus})")
    listed = ", ".join(hosts[:4])
    if len(hosts) > 4:
        listed += f" and {len(hosts) - 4} more"
    reporter.say(f"Ray nodes: {listed}")
