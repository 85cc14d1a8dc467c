"""The scripts and the notebook in examples/ run."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from lpx.data.face_sets.demo import CHECKPOINT, PAIRS, demo_set, folder
from lpx.render.encode import encode_png

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def fewer_faces(monkeypatch, tmp_path):
    for split in PAIRS:
        monkeypatch.setitem(PAIRS, split, 8)
    monkeypatch.chdir(tmp_path)
    # As where a script is run from the command line.
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def unpack(split):
    """A folder of the demo's faces, with labels."""
    for number, face in enumerate(demo_set(split).faces):
        path = Path(split, "fake" if face.label else "real", f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(face.source.read()))
    return split


def test_own_model(monkeypatch, capsys):
    run(monkeypatch, "own_model.py", "work")
    out = capsys.readouterr().out
    assert "exported: work/model.onnx" in out
    assert "onnxruntime-int8" in out


def test_own_faces(monkeypatch, capsys):
    run(monkeypatch, "own_faces.py", folder() / CHECKPOINT, unpack("train"), unpack("test"))
    out = capsys.readouterr().out
    assert "percentile-99.99" in out
    assert "onnxruntime-int8: " in out
    assert Path("own-faces/report.html").is_file()


def test_read_engine(monkeypatch, capsys, workspace):
    face = unpack("test") + "/real/0.png"
    run(monkeypatch, "read_engine.py", workspace.engine("onnxruntime-int8"), face)
    out = capsys.readouterr().out
    assert "onnxruntime-int8: int8 for onnxruntime" in out
    assert "nodes: " in out
    assert f"{face}: 0." in out


def test_notebook_runs_and_is_stored_without_output():
    notebook = json.loads((EXAMPLES / "walkthrough.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    for number, cell in enumerate(cells, 1):
        assert cell["outputs"] == []
        exec(compile("".join(cell["source"]), f"walkthrough.ipynb, cell {number}", "exec"), names)
