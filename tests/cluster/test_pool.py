"""Units on the workers of a real cluster, where workers and nodes die."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import replace

import numpy as np
import pytest

from lpx import RayOptions
from lpx.cluster.pool import UnitWorker, check_modules, run_units
from lpx.cluster.session import open_cluster
from lpx.errors import LpxError
from tests.cluster import work
from tests.cluster.conftest import Notes
from tests.cluster.work import plan


@pytest.fixture(scope="module")
def opened(nodes):
    with open_cluster(RayOptions(nodes.address), Notes()) as cluster:
        yield cluster


@pytest.fixture
def notes():
    return Notes()


@pytest.fixture
def cluster(opened, notes):
    return replace(opened, reporter=notes)


def values(results):
    return [done.value for done in results]


def test_results_arrive_for_all_units(cluster, notes):
    found = list(run_units(cluster, plan(work.make_doubler, 3), list(range(20))))
    assert sorted(done.unit for done in found) == list(range(20))
    assert all(done.value == 3 * done.unit for done in found)
    assert len(cluster.nodes) == 2


def test_results_in_order_whatever_takes_longest(cluster):
    found = values(run_units(cluster, plan(work.make_uneven), list(range(12)), ordered=True))
    assert found == list(range(12))


def test_in_any_order_a_slow_unit_holds_nothing_up(cluster):
    found = values(run_units(cluster, plan(work.make_uneven), list(range(6))))
    assert found[-1] == 0


def test_no_units_need_no_workers(cluster):
    assert list(run_units(cluster, plan(work.make_failing, "start"), [])) == []


def test_a_killed_worker_costs_its_unit_alone(cluster, notes, tmp_path):
    found = values(run_units(cluster, plan(work.make_dying, str(tmp_path), 1), list(range(8))))
    assert sorted(found) == list(range(8))
    (told,) = [text for text in notes.said if "died" in text]
    assert "died at number 3, which is done again" in told


def test_a_unit_that_kills_every_worker_is_named(cluster, tmp_path):
    with pytest.raises(LpxError, match="3 workers died at number 3") as caught:
        list(run_units(cluster, plan(work.make_dying, str(tmp_path), 99), list(range(8))))
    assert caught.value.code == "out-of-memory"


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("start", LpxError, "no start"),
        ("lpx", LpxError, "no unit"),
        ("other", RuntimeError, "ZeroDivisionError: by zero"),
    ],
)
def test_what_a_worker_raises_is_raised_here(cluster, kind, error, said):
    with pytest.raises(error, match=said) as caught:
        list(run_units(cluster, plan(work.make_failing, kind), [1, 2]))
    if error is LpxError:
        assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("versions", "kind", "said"),
    [
        ({"numpy": "0.1"}, "", " and the machine that started the run has numpy 0.1"),
        ({"torch": "0.1"}, "", " and the machine that started the run has torch 0.1"),
        ({}, "no torch", " needs torch, which cannot be imported"),
        ({}, "lpx", ""),
    ],
)
def test_packages_of_a_node(versions, kind, said):
    if "torch" in versions:
        pytest.importorskip("torch")
    started = UnitWorker().start(os.getcwd(), versions, work.make_failing, 1, kind)
    if not said:
        assert started == platform.node()
        return
    assert isinstance(started.error, LpxError)
    assert f"node {platform.node()}" in started.error.what
    assert said in started.error.what
    assert started.error.code == "unsupported"


def test_builds_of_one_version_are_alike():
    class Torch:
        __version__ = "2.13.0+cpu"

    sys.modules["lpx_test_torch"] = Torch
    try:
        check_modules({"lpx_test_torch": "2.13.0"})
        with pytest.raises(LpxError, match=r"has lpx_test_torch 2\.13\.0, and"):
            check_modules({"lpx_test_torch": "2.13.1"})
    finally:
        del sys.modules["lpx_test_torch"]


def test_results_larger_than_the_object_store(cluster):
    # 8 of 30 MB each, through two stores of 80 MB.
    for done in run_units(cluster, plan(work.make_large, 30), list(range(8)), ordered=True):
        assert done.value.nbytes == 30 << 20
        assert np.all(done.value[:: 1 << 20] == done.unit)


def test_shipped_values_larger_than_the_object_store(cluster):
    large = np.ones(100 << 20, np.uint8)
    found = values(run_units(cluster, plan(work.make_doubler, large), [np.uint8(2)]))
    assert found[0].sum() == 2 * large.size


def test_a_worker_that_no_node_has_room_for(cluster):
    with pytest.raises(LpxError, match="no node of the Ray cluster has room") as caught:
        list(run_units(cluster, plan(work.make_doubler, 1, gpus=1), [1]))
    assert "1 GPU" in caught.value.why


def test_cores_are_those_of_the_smallest_node(cluster):
    found = values(run_units(cluster, plan(work.make_cores, cpus=16), [1]))
    assert found == [1]


def test_an_abandoned_run_leaves_no_worker(cluster):
    results = run_units(cluster, plan(work.make_slow, 0.1), list(range(50)))
    next(results)
    results.close()
    # All cores are free again.
    assert values(run_units(cluster, plan(work.make_doubler, 1), [7])) == [7]


def test_a_cluster_that_a_program_is_connected_to_is_used_and_kept(cluster, notes):
    with open_cluster(RayOptions("127.0.0.1:9"), notes) as same:
        assert same.nodes == cluster.nodes
    assert notes.said[0].startswith("Ray nodes: ")
    assert cluster.ray.is_initialized()
