"""A bundle as a workspace on the command line, and `--rebuild`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpx.bundle.probe import read_probe
from lpx.engines.manifest import read_manifest, write_manifest
from lpx.schema import sealed, unsealed

INT8, FP32 = "onnxruntime-int8", "onnxruntime-fp32"
CROPS = ("predict", "--crops", "crops", "--no-overlay", "-w", "detector.lpx")


@pytest.fixture
def bundle(lpx, workspace, crops):
    """detector.lpx, with an engine of TensorRT for a GPU that is not here."""
    folder = workspace.engines / "tensorrt-int8"
    folder.mkdir()
    engine = workspace.engines / INT8 / "engine.onnx"
    (folder / "engine.onnx").write_bytes(engine.read_bytes())
    manifest = read_manifest(workspace.engines / INT8)
    write_manifest(
        folder, replace(manifest, name="tensorrt-int8", target="tensorrt", options={"tensorrt": {}})
    )
    assert lpx("pack", "-o", "detector.lpx", "--checkpoint").code == 0
    Path("lpx-out").rename("packed")
    return Path("detector.lpx")


def change_scores(name):
    """Change what an engine of detector.lpx.d has to score."""
    path = Path("detector.lpx.d/probe/probe.json")
    values = unsealed(json.loads(path.read_text()))
    for engine in values["engines"].values():
        if engine["name"] == name:
            engine["scores"] = [1 - score for score in engine["scores"]]
    path.write_text(json.dumps(sealed(values)))


def test_predict_takes_a_bundle_and_says_where_it_writes(lpx, bundle):
    ran = lpx(*CROPS)
    assert ran.code == 0, ran.err
    assert "unpacking detector.lpx into detector.lpx.d" in ran.err
    assert "workspace detector.lpx.d, unpacked from detector.lpx" in ran.err
    assert "tensorrt-int8 is passed over: no NVIDIA GPU was found" in ran.err
    assert f"using {INT8}: of the engines that run here, it should be the fastest" in ran.err
    assert f"{INT8} scores 16 probe faces as expected" in ran.err
    assert "scores: detector.lpx.d/predictions/scores.csv" in ran.out
    again = lpx(*CROPS, "--json")
    assert "unpacking" not in again.err
    assert json.loads(again.out)["engine"] == INT8


def test_other_commands_take_a_bundle(lpx, bundle):
    assert lpx("build", "--int8", "--target", "onnxruntime", "-w", bundle).code == 0
    # The engine that was built with the same ranges has to give the same scores.
    assert f"{INT8} scores 16 probe faces as expected" in lpx(*CROPS).err
    ran = lpx("debug", INT8, "--limit", "2", "-w", bundle)
    assert ran.code in (0, 1), ran.err
    assert Path("detector.lpx.d/debug").is_dir()
    assert lpx("pack", "-o", "again.lpx", "-w", bundle).code == 0


def test_the_variable_may_name_a_bundle(lpx, bundle, monkeypatch):
    monkeypatch.setenv("LPX_WORKSPACE", "detector.lpx")
    ran = lpx("predict", "--crops", "crops", "--no-overlay")
    assert ran.code == 0, ran.err
    assert Path("detector.lpx.d/predictions/scores.csv").is_file()


def test_an_engine_whose_scores_differ_does_not_predict(lpx, bundle):
    assert lpx(*CROPS).code == 0
    Path("detector.lpx.d/predictions/scores.csv").unlink()
    change_scores(INT8)
    ran = lpx(*CROPS)
    assert ran.code == 1
    assert (
        f"error: engine {INT8} does not give probe faces the scores that they must get" in ran.err
    )
    assert "--engine" in ran.err
    assert ran.out == ""
    assert not Path("detector.lpx.d/predictions/scores.csv").exists()
    assert lpx(*CROPS, "--engine", FP32).code == 0


def test_bench_counts_it_as_failed(lpx, bundle):
    assert lpx(*CROPS).code == 0
    change_scores(INT8)
    ran = lpx(
        *("bench", "--dataset", "demo", "--limit", "8", "--latency-seconds", "0", "--no-stages"),
        *("-w", bundle),
    )
    assert ran.code == 1, ran.err
    assert f"{FP32} scores 16 probe faces as expected" in ran.err
    report = json.loads(Path("detector.lpx.d/report.json").read_text())
    assert [row["name"] for row in report["failed"]] == [INT8]
    assert "of 16 probe faces differ by more than" in report["failed"][0]["reason"]
    assert [row["name"] for row in report["not_run"]] == ["tensorrt-int8"]


@pytest.mark.parametrize("rebuild", ["auto", "ask", "never"])
def test_what_cannot_be_rebuilt_here_is_an_error(lpx, bundle, rebuild):
    ran = lpx(*CROPS, "--engine", "tensorrt-int8", "--rebuild", rebuild)
    assert ran.code == 2
    assert "error: engine tensorrt-int8 does not run here" in ran.err
    assert "no NVIDIA GPU was found" in ran.err


def test_unpack_says_that_the_faces_were_scored(lpx, bundle):
    ran = lpx("unpack", bundle, "-w", "board")
    assert ran.code == 0
    assert "probe faces: scored here as where they were packed" in ran.out
    ran = lpx("unpack", bundle, "-w", "unchecked", "--no-check")
    assert ran.code == 0
    assert "probe faces" not in ran.out


def test_unpack_does_not_take_a_bundle_for_its_folder(lpx, bundle, monkeypatch):
    ran = lpx("unpack", bundle, "-w", bundle)
    assert ran.code == 2
    assert "detector.lpx cannot be written" in ran.err
    assert not Path("detector.lpx.d").exists()


def test_what_was_packed_is_what_is_checked(lpx, bundle):
    lpx(*CROPS)
    probe = read_probe(Path("detector.lpx.d/probe"))
    assert len(probe.engines) == 3
    for expected in probe.engines.values():
        assert np.isfinite(expected.scores).all()
