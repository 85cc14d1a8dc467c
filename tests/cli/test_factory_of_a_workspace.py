"""A factory that a workspace names runs only where the user allows it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lpx import Workspace
from lpx.artefacts.model import read_exported
from lpx.data.face_sets.demo import demo_set
from lpx.errors import LpxError
from lpx.models.checkpoint import ForeignModel, load_factory
from lpx.render.encode import encode_png
from lpx.workspace import read_sealed, write_sealed
from tests.conftest import environment
from tests.support.networks import copy_export, network

NETWORK = network("nn.Conv2d(3, 1, 4, 4)", "from pathlib import Path; Path('imported').touch()")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, shell):
    folder = tmp_path_factory.mktemp("factory")
    (folder / "workspace_network.py").write_text(NETWORK)
    ran = shell("export", "--factory", "workspace_network:make", "--input-size", 16, cwd=folder)
    assert ran.code == 0, ran.err
    ran = shell("build", "--fp32", "--target", "onnxruntime", cwd=folder)
    assert ran.code == 0, ran.err
    (folder / "face.png").write_bytes(encode_png(demo_set("test").faces[0].source.read()))
    (folder / "imported").unlink()
    return folder


BENCH = ("bench", "--dataset", "demo", "--limit", 8, "--latency-seconds", 0)
PREDICT = ("predict", "face.png", "--crops", "--engine", "torch")
DEBUG = ("debug", "onnxruntime-fp32", "--against", "torch", "--limit", 2)


@pytest.mark.parametrize("line", [BENCH, PREDICT, DEBUG], ids=lambda line: line[0])
def test_is_not_imported_unasked(exported, shell, line):
    ran = shell(*line, cwd=exported)
    assert ran.code == 2, ran.err
    assert "names the factory workspace_network:make" in ran.err
    assert "--allow-factory" in ran.err
    assert not (exported / "imported").exists()


def test_is_imported_where_it_is_allowed(exported, shell):
    ran = shell(*PREDICT, "--allow-factory", cwd=exported)
    assert ran.code == 0, ran.err
    assert (exported / "imported").exists()
    (exported / "imported").unlink()


def test_engines_of_its_model_run_without_it(exported, shell):
    ran = shell("predict", "face.png", "--crops", cwd=exported)
    assert ran.code == 0, ran.err
    assert not (exported / "imported").exists()


def test_current_folder_does_not_hide_the_environment(exported, shell, tmp_path):
    """A file beside the data may have the name of the package that the workspace means."""
    (tmp_path / "workspace_network.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\n"
    )
    # An installed package: the folder is searched after the current one, which comes first.
    installed = f"import sys; assert not sys.path[0]; sys.path.append({str(exported)!r})"
    face, workspace = exported / "face.png", exported / "lpx-out"
    line = ("predict", face, *PREDICT[2:], "--allow-factory", "-w", workspace)
    ran = shell(*line, "--out", "out", cwd=tmp_path, before=installed)
    assert ran.code == 0, ran.err
    assert (tmp_path / "imported").exists()
    assert not (tmp_path / "ran").exists()


def test_current_folder_is_searched_first_only_while_a_typed_factory_is_imported(tmp_path):
    (tmp_path / "typed_network.py").write_text(NETWORK)
    code = """
import sys
# As for the installed command, whose first folder is that of the script.
sys.path.remove("")
from lpx.models.checkpoint import ForeignModel, load_factory
load_factory("typed_network:make", None, ForeignModel("typed_network:make", input_size=16))
print(sys.path[0] != "", sys.path.count(""))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "True 1\n", done.stderr


@pytest.mark.parametrize(
    "spec", ["../evil:make", "a b:make", ":make", "os:", "os", "os:a.b", "os:make\n"]
)
def test_spec_that_names_no_function_is_not_imported(spec):
    with pytest.raises(LpxError, match="cannot be called"):
        load_factory(spec, None, ForeignModel(spec))


@pytest.mark.parametrize("factory", ["../evil:make", "os", 3, ["os:getcwd"], "other:make"])
def test_factory_edited_into_a_workspace(exported, tmp_path, factory):
    root = copy_export(exported / "lpx-out", tmp_path / "lpx-out")
    values = read_sealed(root / "model.json", "")
    write_sealed(root / "model.json", values | {"factory": factory})
    with pytest.raises(LpxError, match="factory"):
        read_exported(Workspace(root))
