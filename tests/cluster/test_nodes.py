"""Nodes that leave, are of another version, or are not there."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lpx
from lpx import RayOptions
from lpx.cluster.pool import run_units
from lpx.cluster.session import open_cluster
from tests.cluster import work
from tests.cluster.conftest import Notes
from tests.cluster.work import plan
from tests.conftest import environment


@pytest.fixture
def notes():
    return Notes()


def test_a_removed_node_costs_what_it_was_doing_alone(nodes, notes):
    with nodes.one_more() as third, open_cluster(RayOptions(nodes.address), notes) as cluster:
        assert len(cluster.nodes) == 3
        found = []
        for done in run_units(cluster, plan(work.make_slow, 0.3), list(range(20))):
            found.append(done.value)
            if len(found) == 4:
                nodes.remove(third)
        assert sorted(found) == list(range(20))


VERSIONS = """
import sys
from lpx import LpxError, RayOptions
from lpx.cluster.session import open_cluster
from lpx.reporter import SILENT
try:
    with open_cluster(RayOptions(sys.argv[1]), SILENT):
        pass
except LpxError as error:
    print(error.code, error.what)
"""


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ('__version__ = "0.0.9"', "has lpx 0.0.9"),
        # As one that is not there.
        ("raise ImportError('no module named lpx')", "has no lpx"),
    ],
)
def test_nodes_with_another_lpx_are_refused(nodes, tmp_path, code, said):
    package = tmp_path / "there" / "lpx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(code + "\n")
    # Not in the folder of this lpx, which Ray's workers would look into, too.
    with nodes.one_more(env_vars={"PYTHONPATH": str(package.parent)}):
        done = subprocess.run(
            [sys.executable, "-c", VERSIONS, nodes.address],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.stdout.startswith("unsupported node "), done.stderr
    assert f"{said}, and this machine has lpx {lpx.__version__}" in done.stdout


LOCAL = """
from lpx import RayOptions
from lpx.cluster.session import open_cluster
from lpx.reporter import SILENT
with open_cluster(RayOptions("local"), SILENT) as cluster:
    print(len(cluster.nodes))
"""


def test_a_cluster_of_this_machine_alone(ray_module):
    done = subprocess.run(
        [sys.executable, "-c", LOCAL],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
