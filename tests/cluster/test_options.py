from __future__ import annotations

import socket
import sys

import pytest

from lpx import RayOptions, Workspace
from lpx.cluster import session
from lpx.cluster.session import open_cluster
from lpx.errors import InvalidArgumentError, LpxError
from lpx.reporter import SILENT
from tests.cluster.conftest import Notes


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("auto", None),
        ("local", None),
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("ray://head-node.example:10001", ("head-node.example", 10001)),
        ("ray://[fd00::1]:10001", ("fd00::1", 10001)),
    ],
)
def test_addresses(address, endpoint):
    assert RayOptions(address).endpoint() == endpoint


@pytest.mark.parametrize(
    "address",
    ["", "ffpp-c23", "host", "host:", ":1", "host:0", "host:65536", "http://host:1", "a b:1", None],
)
def test_what_is_no_address(address):
    with pytest.raises(InvalidArgumentError, match="address must be auto, local"):
        RayOptions(address)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workers": 0}, "workers must be >= 1"),
        ({"workers": 1.5}, "workers must be a whole number"),
        ({"cpus": 0}, "cpus must be >= 1"),
        ({"gpus": -1}, "gpus must be >= 0"),
        ({"gpus": 1.5}, "gpus must be whole if it is above 1"),
        ({"memory_gib": float("nan")}, "memory_gib must be"),
        ({"memory_gib": -1}, "memory_gib must be >= 0"),
    ],
)
def test_bad_resources(values, said):
    with pytest.raises(InvalidArgumentError, match=said):
        RayOptions(**values)


def test_an_address_is_no_option_of_a_workspace():
    with pytest.raises(InvalidArgumentError, match="ray must be RayOptions"):
        Workspace("x", ray="auto")


def test_shards_and_a_cluster_exclude_each_other():
    with pytest.raises(InvalidArgumentError, match="ray cannot be combined with shards"):
        Workspace("x", ray=RayOptions()).shard("0/2")


def test_without_ray_the_error_has_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LpxError) as caught, open_cluster(RayOptions(), SILENT):
        pass
    assert caught.value.code == "unsupported"
    assert 'pip install "lpx[cluster]"' in caught.value.fix


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_that_does_not_answer(address):
    pytest.importorskip("ray")
    with pytest.raises(LpxError) as caught, open_cluster(RayOptions(address), SILENT):
        pass
    assert caught.value.code == "unreachable"
    assert f"{address} does not answer" in caught.value.what
    assert "Connection refused" in caught.value.why


def test_an_address_of_something_else():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LpxError, match="does not answer") as caught:
            session.check_answers(RayOptions(f"127.0.0.1:{port}"), health_seconds=3)
    assert "does not speak Ray's protocol" in caught.value.why


class NoCluster:
    """Ray on a machine where no cluster runs."""

    def __init__(self):
        self.addresses = []

    def init(self, *, address, **options):
        self.addresses.append(address)
        if address == "auto":
            raise ConnectionError("Could not find any running Ray instance.\nMore words.")


def test_auto_starts_a_cluster_where_there_is_none():
    ray, notes = NoCluster(), Notes()
    session.connect(ray, RayOptions(), notes, environment={})
    assert ray.addresses == ["auto", "local"]
    assert "no Ray cluster is running here" in notes.said[0]


def test_auto_does_not_replace_a_cluster_that_was_asked_for():
    ray = NoCluster()
    with pytest.raises(LpxError) as caught:
        session.connect(ray, RayOptions(), Notes(), environment={"RAY_ADDRESS": "127.0.0.1:9"})
    assert ray.addresses == []
    assert "127.0.0.1:9 does not answer" in caught.value.what


def test_an_address_in_the_environment_that_is_none():
    with pytest.raises(InvalidArgumentError, match="RAY_ADDRESS must be"):
        session.connect(NoCluster(), RayOptions(), Notes(), environment={"RAY_ADDRESS": "nowhere"})
