"""`lpx.load` takes an engine's folder, a workspace or a bundle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lpx
from lpx.errors import LpxError
from tests.conftest import environment

INT8, FP32 = "onnxruntime-int8", "onnxruntime-fp32"
# All that lpx depends on but NumPy and ONNX Runtime.
OTHERS = "torch onnx onnx_ir cv2 scipy jinja2 markupsafe matplotlib click rich"
BARE = """
import sys
class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in "{0}".split():
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
import numpy, lpx
with lpx.load(sys.argv[1]) as engine:
    print(engine.infer(numpy.zeros((1, engine.size, engine.size, 3), numpy.uint8)).score.shape)
"""


@pytest.fixture
def face(drawn):
    return drawn[0][0]


def scores_of(path, face, **options):
    with lpx.load(path, **options) as engine:
        return engine(face).score


def test_all_of_them_give_the_same_score(board, face, heard):
    wanted = scores_of(board.engines / INT8, face)
    assert np.array_equal(scores_of("board", face), wanted)
    assert np.array_equal(scores_of("detector.lpx", face, reporter=heard), wanted)
    assert "unpacking detector.lpx into detector.lpx.d" in heard
    assert f"{INT8} scores 16 probe faces as expected" in heard
    assert Path("detector.lpx.d/model.onnx").is_file()


def test_an_engine_is_named(board, face):
    wanted = scores_of(board.engines / FP32, face)
    assert np.array_equal(scores_of("detector.lpx", face, engine=FP32), wanted)


def test_an_engine_of_its_own_folder_is_not_compared(board, face, heard):
    scores_of(board.engines / INT8, face, reporter=heard)
    assert heard.said == []


def test_a_folder_with_an_engine_only_needs_its_runtime_only(built):
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(OTHERS), str(built.engines / INT8)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(1,)\n", done.stderr


def test_a_bundle_needs_no_torch(board):
    done = subprocess.run(
        [sys.executable, "-c", BARE.format("torch onnxscript onnxsim"), "detector.lpx"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(1,)\n", done.stderr


def test_a_workspace_without_a_model(tmp_path):
    (tmp_path / "engines").mkdir()
    with pytest.raises(LpxError) as caught:
        lpx.load(tmp_path)
    assert caught.value.code == "not-found"


def test_an_engine_file_is_no_bundle(board):
    with pytest.raises(LpxError, match="is not a folder") as caught:
        lpx.load(board.engines / INT8 / "engine.onnx")
    assert caught.value.code == "not-found"


@pytest.mark.parametrize("size", [0, 1, 1000])
def test_a_bundle_that_is_cut_off(board, size):
    Path("detector.lpx").write_bytes(Path("detector.lpx").read_bytes()[:size])
    with pytest.raises(LpxError) as caught:
        lpx.load("detector.lpx")
    assert caught.value.code == "damaged"
    assert not Path("detector.lpx.d").exists()
