"""What has no use for PyTorch does not wait for its import."""

from __future__ import annotations

from pathlib import Path

import pytest

import lpx

BROKEN = """
import sys
class Missing:
    def find_spec(self, name, *_):
        if name == "{0}":
            raise ImportError("{0} is imported")
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    "line",
    [
        "build --int8 --fp32",
        "build --int8 --emit trtexec",
        "calibrate --limit 8",
        "predict --crops crops",
        "debug onnxruntime-int8 --limit 4",
        "explain-graph",
        "doctor",
    ],
)
def test_it_runs_where_torch_cannot_be_imported(shell, workspace, crops, line):
    faces = line.split()[0] in ("build", "calibrate", "debug")
    ran = shell(
        *line.split(), *["--faces", "crops"] * faces, cwd=Path.cwd(), before=BROKEN.format("torch")
    )
    assert ran.code == 0, ran.err


def test_predict_does_not_wait_for_what_only_graph_passes_use(shell, workspace, crops):
    ran = shell("predict", "--crops", "crops", cwd=Path.cwd(), before=BROKEN.format("onnx_ir"))
    assert ran.code == 0, ran.err


def test_every_public_name_is_there():
    for name in lpx.__all__:
        assert getattr(lpx, name) is not None
    assert set(lpx.__all__) <= set(dir(lpx))
    with pytest.raises(AttributeError, match="has no attribute 'frobnicate'"):
        _ = lpx.frobnicate
