"""The connection to a Ray cluster: its address, its nodes, and what is installed on them."""

from __future__ import annotations

import logging
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import lpx
from lpx import interrupts
from lpx.cluster import probe
from lpx.cluster.options import AUTO, LOCAL, RayOptions
from lpx.errors import InvalidArgumentError, LpxError, first_line
from lpx.extras import optional_packages
from lpx.reporter import Reporter

# Time for an address to accept a connection.
_CONNECT_S = 5.0
# Time for the head of a cluster to say that it is well.
_HEALTH_S = 20.0
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
        connect(ray, options, reporter)
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


def connect(
    ray: Any,
    options: RayOptions,
    reporter: Reporter,
    *,
    environment: Mapping[str, str] = os.environ,
) -> None:
    """Connect this process to a cluster, or start one.

    Args:
        ray: The module.
        options: Address of the cluster.
        reporter: Receives a note if one is started.
        environment: Environment variables, for RAY_ADDRESS.

    Raises:
        LpxError: The address does not answer.
    """
    if options.address == AUTO and (named := environment.get("RAY_ADDRESS", "")) != "":
        try:
            options = replace(options, address=named)
        except InvalidArgumentError as error:
            rest = error.what.removeprefix(error.argument).strip()
            raise InvalidArgumentError("RAY_ADDRESS", rest.partition(" (got")[0], named) from None
    check_answers(options)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    # A cluster of one's own sends no statistics of its use, unless the user has decided otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if options.address == AUTO:
            try:
                ray.init(address="auto", **quiet)
                return
            except ConnectionError:
                reporter.say("no Ray cluster is running here: one of this machine is started")
        if options.address in (AUTO, LOCAL):
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=options.address, **quiet)
    except Exception as error:
        # Ray raises ConnectionError, RuntimeError, ValueError and others, by the cause and by the
        # kind of address.
        raise _unreachable(options.address, first_line(error)) from error


def check_answers(options: RayOptions, *, health_seconds: float = _HEALTH_S) -> None:
    """Check in bounded time that a cluster is there; Ray itself tries for minutes.

    Args:
        options: Address of the cluster; one that names no host passes.
        health_seconds: Time for its head to say that it is well, s.

    Raises:
        LpxError: It is not.
    """
    address, endpoint = options.address, options.endpoint()
    if endpoint is None:
        return
    try:
        with socket.create_connection(endpoint, timeout=_CONNECT_S):
            pass
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error
    if address.startswith("ray://"):
        # Its client gives up by itself.
        return
    # In a process, as nothing ends the attempt from inside.
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, timeout=health_seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise _unreachable(address, "what listens there does not speak Ray's protocol") from error
    if done.returncode:
        raise _unreachable(address, "its head is not healthy, or another program listens there")


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
        gpus = f", {_counted(node.gpus, 'GPU')}" if node.gpus else ""
        hosts.append(f"{node.host} ({_counted(node.cpus, 'core')}{gpus})")
    listed = ", ".join(hosts[:4])
    if len(hosts) > 4:
        listed += f" and {len(hosts) - 4} more"
    reporter.say(f"Ray nodes: {listed}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
