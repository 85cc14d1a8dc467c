"""A real Ray cluster of two nodes, on this machine."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def ray_module():
    return pytest.importorskip("ray")


class Nodes:
    """A cluster to which nodes can be added, and from which they can be taken.

    Attributes:
        address: HOST:PORT.
    """

    def __init__(self, nodes, **head):
        from ray.cluster_utils import Cluster

        # Without a dashboard, and with little memory: both take time to start.
        options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=options | head)
        self.added = [self.add() for _ in range(nodes - 1)]
        self.address = self._cluster.address

    def add(self, **options):
        options = {"num_cpus": 1, "object_store_memory": 80 * 2**20} | options
        return self._cluster.add_node(**options)

    def remove(self, node):
        self._cluster.remove_node(node, allow_graceful=False)

    def close(self):
        self._cluster.shutdown()


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)

    warn = say

    def progress(self, label):
        return lambda done, total: None


@pytest.fixture(scope="session")
def new_nodes(ray_module):
    """Starts a cluster with a number of nodes; all are ended with the tests."""
    opened = []

    def start(nodes, **head):
        opened.append(Nodes(nodes, **head))
        return opened[-1]

    yield start
    for nodes in opened:
        nodes.close()


@pytest.fixture(scope="session")
def nodes(new_nodes):
    """Two nodes of one core each."""
    return new_nodes(2)
