"""What has no use for PyTorch does not wait for its import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import lpx
from lpx.data.face_sets.demo import CHECKPOINT, folder

BROKEN = """
import sys
class Missing:
    def find_spec(self, name, *_):
        if name in "{0}".split():
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Missing())
"""
# What lpx[export] installs.
EXPORT = "torch onnxscript onnxsim"


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
        "pack -o out.lpx --faces crops",
    ],
)
def test_it_runs_where_torch_cannot_be_imported(shell, workspace, crops, line):
    faces = line.split()[0] in ("build", "calibrate", "debug")
    ran = shell(
        *line.split(), *["--faces", "crops"] * faces, cwd=Path.cwd(), before=BROKEN.format(EXPORT)
    )
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    "line",
    [
        "export ckpt.pt",
        "bench --dataset demo",
        "predict --crops crops --engine torch",
        "debug onnxruntime-int8 --against torch --limit 4",
        "explain ckpt.pt demo",
        "train --data crops --out new.pt",
        "ablate --data crops --out ablation",
    ],
)
def test_commands_that_need_torch_say_how_to_install_it(shell, workspace, crops, line):
    Path("ckpt.pt").write_bytes((folder() / CHECKPOINT).read_bytes())
    ran = shell(*line.split(), cwd=Path.cwd(), before=BROKEN.format(EXPORT))
    assert ran.code == 2, ran.err
    assert 'pip install "lpx[export]"' in ran.err or 'pip install "lpx[train]"' in ran.err
    assert "Traceback" not in ran.err


def test_a_bundle_is_unpacked_where_torch_cannot_be_imported(shell, workspace, crops):
    workspace.pack("out.lpx", faces="crops")
    ran = shell("unpack", "out.lpx", "-w", "board", cwd=Path.cwd(), before=BROKEN.format(EXPORT))
    assert ran.code == 0, ran.err
    line = ("predict", "--crops", "board/faces", "-w", "board")
    ran = shell(*line, cwd=Path.cwd(), before=BROKEN.format(EXPORT))
    assert ran.code == 0, ran.err


BARE = """
import numpy as np
import lpx
with lpx.load("lpx-out/engines/onnxruntime-int8") as detector:
    size = detector.card.input_size
    prediction = detector(np.zeros((size, size, 3), np.uint8))
    print(prediction.score[0], prediction.patch_map.shape, detector.card.threshold)
"""
# All that the core installs but NumPy and ONNX Runtime, and what these need.
OTHERS = "click rich onnx onnx_ir cv2 scipy jinja2 markupsafe matplotlib " + EXPORT


def test_an_engine_scores_with_numpy_and_its_runtime_alone(workspace):
    command = [sys.executable, "-c", BROKEN.format(OTHERS) + BARE]
    environment = os.environ | {"PYTHONPATH": str(Path(lpx.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    score = float(done.stdout.split()[0])
    assert 0 <= score <= 1


def test_bench_takes_recorded_scores_where_torch_cannot_be_imported(shell, workspace, crops):
    line = ("bench", "--dataset", "crops", "--allow-overlap", "--latency-seconds", "0")
    line += ("--pixels", "nv12")
    live = shell(*line, cwd=Path.cwd())
    parity = json.loads(Path("lpx-out/report.json").read_text())
    assert parity["reference"]["recorded"] is None
    for more in ([], ["--reference", "recorded"]):
        ran = shell(*line, *more, cwd=Path.cwd(), before=BROKEN.format(EXPORT))
        assert (ran.code, ran.err and "Traceback" in ran.err) == (live.code, False), ran.err
        assert "its scores were recorded on" in " ".join(ran.out.split())
        again = json.loads(Path("lpx-out/report.json").read_text())
        assert again["reference"]["recorded"]["torch"] == metadata.version("torch")
        assert "torch" not in again["environment"]["versions"]
        for name in (
            "verdict",
            "auc_difference",
            "score_difference",
            "flips",
            "patch_map",
            "pixels",
        ):
            for then, now in zip(parity["candidates"], again["candidates"], strict=True):
                assert then[name] == now[name]


def test_predict_does_not_wait_for_what_only_graph_passes_use(shell, workspace, crops):
    ran = shell("predict", "--crops", "crops", cwd=Path.cwd(), before=BROKEN.format("onnx_ir"))
    assert ran.code == 0, ran.err


def test_every_public_name_is_there():
    for name in lpx.__all__:
        assert getattr(lpx, name) is not None
    assert set(lpx.__all__) <= set(dir(lpx))
    with pytest.raises(AttributeError, match="has no attribute 'frobnicate'"):
        _ = lpx.frobnicate
