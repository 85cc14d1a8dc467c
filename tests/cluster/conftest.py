"""A real Ray cluster of two nodes, on this machine."""

from __future__ import annotations

from contextlib import contextmanager

import pytest


@pytest.fixture(scope="session")
def ray_module():
    return pytest.importorskip("ray")


class Nodes:
    """A cluster to which nodes can be added, and from which they can be taken.

    Attributes:
        address: HOST:PORT.
    """

    def __init__(self, nodes):
        from ray.cluster_utils import Cluster

        # Without a dashboard, and with little memory: both take time to start.
        options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
        # A node that is gone refuses each look at once: it is found out after 5 s rather than 15.
        options["_system_config"] = {"health_check_period_ms": 1000}
        self._cluster = Cluster(initialize_head=True, head_node_args=options)
        for _ in range(nodes - 1):
            self.add()
        self.address = self._cluster.address

    def add(self, **options):
        options = {"num_cpus": 1, "object_store_memory": 80 * 2**20} | options
        return self._cluster.add_node(**options)

    def remove(self, node):
        self._cluster.remove_node(node, allow_graceful=False)

    @contextmanager
    def one_more(self, **options):
        """Add a node for the block, which may remove it itself."""
        node = self.add(**options)
        try:
            yield node
        finally:
            # It may be gone already.
            if node in self._cluster.worker_nodes:
                self._cluster.remove_node(node)
            # The head takes a while to notice, and the next test would ask a node that is gone.
            self._cluster.wait_for_nodes()

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
def nodes(ray_module):
    """Two nodes of one core each. A test that adds others removes them: starting takes seconds."""
    started = Nodes(2)
    yield started
    started.close()
