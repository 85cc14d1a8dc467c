"""`--shard` and `lpx merge` on the command line, as jobs on a cluster use them."""

from __future__ import annotations

import json
import shlex

import pytest

BENCH = ("bench", "--dataset", "demo", "--limit", 24, "--allow-overlap")
SLURM = {"MIN": "1", "MAX": "2", "COUNT": "2", "STEP": "1"}


def test_a_calibration_in_two_shards(lpx, workspace, crops):
    before = workspace.scales.read_bytes()
    line = ("calibrate", "--faces", crops, "--limit", 12)
    ran = lpx(*line, "--shard", "0/2")
    assert ran.code == 0, ran.err
    assert "shard 0/2: 8 of 12 faces, in lpx-out/shards/calibrate/0-of-2" in ran.out
    merge = "lpx merge lpx-out/shards/calibrate"
    assert f"next, once all shards have finished: {merge}" in ran.out
    ran = lpx("merge", "lpx-out/shards/calibrate")
    assert ran.code == 2
    assert "1 part of 2 is missing: 1/2" in ran.err
    ran = lpx(*line, "--shard", "1/2", "--json")
    assert json.loads(ran.out)["part"] == "lpx-out/shards/calibrate/1-of-2"
    assert workspace.scales.read_bytes() == before
    ran = lpx("merge", "lpx-out/shards/calibrate", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["faces"] == 12
    merged = workspace.scales.read_bytes()
    assert lpx(*line).code == 0
    assert workspace.scales.read_bytes() == merged


def test_a_bench_in_two_shards(lpx, workspace, monkeypatch):
    for task in ("1", "2"):
        for name, value in {**SLURM, "ID": task}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
        ran = lpx(*BENCH, "--shard", "auto")
        assert ran.code == 0, ran.err
    ran = lpx("merge", "lpx-out/shards/bench/1-of-2", "lpx-out/shards/bench/0-of-2")
    assert ran.code == 0, ran.err
    assert (
        "24 faces scored by torch, onnxruntime-fp32, onnxruntime-int8, onnx, in 2 parts" in ran.out
    )
    following = next(line for line in ran.out.splitlines() if line.startswith("next: "))
    words = following.removeprefix("next: lpx ").split()
    ran = lpx(*words, "--latency-seconds", 0)
    assert ran.code in (0, 1), ran.err
    assert "resuming interrupted bench" in ran.err
    assert "note: scores were computed in 2 parts on: " in ran.out


def test_faces_in_two_shards(lpx, tmp_path, monkeypatch):
    from tests.data.trees import ffpp_tree

    monkeypatch.chdir(tmp_path)
    for name in ("LPX_DATA", "LPX_FACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    root = ffpp_tree(tmp_path / "ffpp", frames=2)
    line = ("data", "prepare", "ffpp-c23", "--methods", "Deepfakes", "--frames", 1)
    places = ("--data-root", root, "--processes", 1)
    for index in range(2):
        ran = lpx(*line, *places, "--shard", f"{index}/2", "--out", f"part{index}")
        assert ran.code == 0, ran.err
        assert f"shard {index}/2: 4 of 8 videos, in part{index}" in ran.out
        assert "next, once all shards have finished: lpx merge PART..." in ran.out
    ran = lpx("merge", "part0", "part1", "--store", "store")
    assert ran.code == 0, ran.err
    assert "store/ffpp-c23-square-1.3-1: 8 faces of 8 videos, crop square-1.3" in ran.out
    ran = lpx("merge", "part0", "part1", "--store", "store", "--json")
    assert json.loads(ran.out)["faces"] == 8


def test_the_next_command_names_the_places_that_this_one_had(lpx, tmp_path, monkeypatch):
    """Without its --store, it would merge into another set."""
    from tests.data.trees import ffpp_tree

    monkeypatch.chdir(tmp_path)
    for name in ("LPX_DATA", "LPX_FACE_STORE"):
        monkeypatch.delenv(name, raising=False)
    root = ffpp_tree(tmp_path / "ffpp", frames=2)
    line = ("data", "prepare", "ffpp-c23", "--methods", "Deepfakes", "--frames", 1)
    places = ("--data-root", root, "--store", "my store", "--processes", 1)
    ran = lpx(*line, *places, "--shard", "0/1")
    assert ran.code == 0, ran.err
    following = next(one for one in ran.out.splitlines() if one.startswith("next: "))
    ran = lpx(*shlex.split(following.removeprefix("next: lpx ")))
    assert ran.code == 0, ran.err
    assert "my store/ffpp-c23-square-1.3-1: 8 faces of 8 videos" in ran.out
    assert not (tmp_path / "lpx-faces").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("calibrate", "--shard", "7/7"), "--shard must be I/N"),
        (("calibrate", "--shard", "0/0"), "--shard must be I/N"),
        (("bench", "--dataset", "demo", "--shard", "two"), "--shard must be I/N"),
        (("data", "prepare", "ffpp-c23", "--shard", "1"), "--shard must be I/N"),
        (("calibrate", "--shard", "auto"), "--shard auto is for tasks of a Slurm array"),
        (("calibrate", "--out", "x"), "it needs --shard"),
        (("bench", "--dataset", "demo", "--out", "x"), "it needs --shard"),
        (("calibrate", "--shard", "0/2", "--curve"), "--curve cannot be combined with --shard"),
        (("calibrate", "x.onnx", "--shard", "0/2"), "cannot be combined with --shard"),
        (("calibrate", "--shard", "0/2", "--select", "coverage"), "--select must be"),
        (("bench", "--dataset", "demo", "--shard", "0/2", "--energy"), "--energy cannot be"),
        (("bench", "--dataset", "demo", "--shard", "0/2", "--margin", "0.1"), "--margin cannot be"),
        (("bench", "--streams", "demo", "--shard", "0/2"), "--streams cannot be combined"),
        (("merge",), "Missing argument 'PART...'"),
        (("merge", "nowhere"), "nowhere is not a part"),
    ],
)
def test_mistakes(lpx, workspace, monkeypatch, line, said):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    ran = lpx(*line)
    assert ran.code == 2, ran.out + ran.err
    assert said in ran.err
    assert not (workspace.root / "shards").exists()


def test_faces_are_no_matter_of_prepared_parts(lpx, workspace, tmp_path):
    from lpx.reporter import SILENT
    from lpx.shards.part import open_part
    from lpx.shards.shard import Shard

    with open_part(tmp_path / "part", "prepare", Shard(0, 1), {}, SILENT) as work:
        work.seal([], {})
    ran = lpx("merge", tmp_path / "part", "--faces", "demo")
    assert ran.code == 2
    assert "--faces cannot be used with parts of `lpx data prepare`" in ran.err


def test_shards_do_not_prepare_a_set(lpx, workspace, tmp_path):
    from tests.data.trees import ffpp_tree

    places = ("--data-root", ffpp_tree(tmp_path / "ffpp", frames=2), "--store", "store")
    for line in (("bench", "--dataset", "ffpp-c23"), ("calibrate", "--faces", "ffpp-c23")):
        ran = lpx(*line, *places, "--shard", "0/2")
        assert ran.code == 2
        assert "were not prepared" in ran.err
        assert "lpx data prepare ffpp-c23" in ran.err
    assert not (tmp_path / "store").exists()
