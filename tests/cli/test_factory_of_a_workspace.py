"""A factory that a workspace names runs only where the user allows it."""

from __future__ import annotations

import pytest

from lpx import Workspace
from lpx.artefacts.model import read_exported
from lpx.artefacts.reference import read_reference
from lpx.data.face_sets.demo import demo_set
from lpx.errors import LpxError
from lpx.models.checkpoint import ForeignModel, load_factory
from lpx.render.encode import encode_png
from lpx.workspace import read_sealed, write_sealed
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


def test_current_folder_does_not_hide_the_environment(exported, tmp_path, monkeypatch):
    """A file beside the data may bear the name of the package that the workspace means."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "workspace_network.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.path", ["", *_without_here(), str(exported)])
    monkeypatch.delitem(__import__("sys").modules, "workspace_network", raising=False)
    workspace = Workspace(exported / "lpx-out")
    detector = read_reference(workspace, read_exported(workspace), allow_factory=True)
    assert detector.card.architecture == "workspace_network:make"
    assert not (here / "ran").exists()


def test_current_folder_is_searched_first_only_while_a_typed_factory_is_imported(
    tmp_path, monkeypatch
):
    import sys

    (tmp_path / "typed_network.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", _without_here())
    load_factory("typed_network:make", None, ForeignModel("typed_network:make", input_size=16))
    assert sys.path[0] != ""
    assert sys.path.count("") == 1


@pytest.mark.parametrize(
    "spec", ["../evil:make", "a b:make", ":make", "os:", "os", "os:a.b", "os:make\n"]
)
def test_spec_that_names_no_function_is_not_imported(spec):
    with pytest.raises(LpxError, match="cannot be called"):
        load_factory(spec, None, ForeignModel(spec))


def _without_here():
    import sys

    return [entry for entry in sys.path if entry]


@pytest.mark.parametrize("factory", ["../evil:make", "os", 3, ["os:getcwd"], "other:make"])
def test_factory_edited_into_a_workspace(exported, tmp_path, factory):
    root = copy_export(exported / "lpx-out", tmp_path / "lpx-out")
    values = read_sealed(root / "model.json", "")
    write_sealed(root / "model.json", values | {"factory": factory})
    with pytest.raises(LpxError, match="factory"):
        read_exported(Workspace(root))
