"""`lpx predict` of live sources, and `lpx bench --streams`, as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lpx.data.face_sets.demo_clip import clip_path
from tests.conftest import MAIN, environment
from tests.support.processes import bounded
from tests.support.rtsp_server import wait_until

CLIP = clip_path()


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_as_a_live_source(lpx, workspace):
    ran = lpx("predict", CLIP, "--live", "--frames", 3)
    assert ran.code == 0, ran.err
    found = lines(ran.out)
    assert [line["kind"] for line in found] == ["connected", "frame", "frame", "frame", "ended"]
    assert found[1]["faces"][0]["score"] == found[1]["score"]
    assert found[-1]["frames"] == 3
    assert "3 frames were scored" in ran.err
    assert "connected to" in ran.err


def test_scores_are_those_of_the_file(lpx, workspace):
    """The same frames, found, cut and scored in the same way."""
    ran = lpx("predict", CLIP, "--no-overlay", "--frames", "all", "--json")
    expected = {face["frame"]: face["score"] for face in json.loads(ran.out)["files"][0]["faces"]}
    ran = lpx("predict", CLIP, "--live", "--frames", 5)
    found = {line["frame"]: line["score"] for line in lines(ran.out) if line["kind"] == "frame"}
    assert found
    for frame, score in found.items():
        assert score == pytest.approx(expected[frame % 60], abs=1e-6)


def test_lines_are_appended_whole_to_a_file(lpx, workspace):
    out = Path("out/scores.jsonl")
    out.parent.mkdir()
    # A run that was killed left this.
    out.write_text('{"kind": "fra')
    for _ in range(2):
        ran = lpx("predict", CLIP, "--live", "--frames", 1, "--out", out, "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["kind"] == "ended"
    first, *rest = out.read_text().splitlines()
    assert first == '{"kind": "fra'
    assert [json.loads(line)["kind"] for line in rest] == ["connected", "frame", "ended"] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(workspace, number, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "predict", str(CLIP), "--live", "--out", "x.jsonl"],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # A background process, which tests may run in, ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    with bounded(process):
        lines_of = Path("x.jsonl")
        wait_until(lambda: lines_of.exists() and lines_of.read_text().count("frame") > 2, 60)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    last = lines(Path("x.jsonl").read_text())[-1]
    assert (last["kind"], last["ended_by"]) == ("ended", signal.Signals(number).name)
    assert "scored and written" in err
    assert "Traceback" not in err
    # The decoding process has ended, too.
    found = subprocess.run(
        ["pgrep", "-f", str(tmp_path)], capture_output=True, check=False, timeout=120
    )
    assert found.stdout == b""


def test_a_reader_that_goes_away_ends_it(workspace):
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, "predict", str(CLIP), "--live"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with bounded(process):
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=60) == 141


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rtsp://u:secret@127.0.0.1:9/x"], "rtsp://***@127.0.0.1:9/x gives no frames"),
        (["ftp://u:secret@host/x"], "PATH must be camera:NUMBER, a file, or a URL of"),
        (["camera:x"], "PATH must be camera:NUMBER"),
        (["camera:250"], "camera:250 cannot be opened"),
        (["nothere.mp4", "--live"], "nothere.mp4 does not exist"),
        ([".", "--live"], "is a folder"),
        ([CLIP, "--live", "--limit", 3], "--limit has no meaning here"),
        ([CLIP, "--live", "--crops"], "--crops has no meaning here"),
        ([CLIP, "--live", "--no-overlay"], "--overlay has no meaning here"),
        ([CLIP, "--fps", 3], "--fps has no meaning here"),
        ([CLIP, "--wait"], "--wait has no meaning here"),
        ([CLIP, "--live", "--json"], "--json needs --out"),
        ([CLIP, "--live", "--fps", 0], "--fps must be > 0"),
        ([CLIP, "--live", "--seconds", -1], "--seconds must be > 0"),
        ([CLIP, "--live", "--timeout", 0], "--timeout must be"),
        ([CLIP, "--live", "--frames", 0], "--frames must be >= 1"),
        ([CLIP, "--live", "--engine", "none"], "engine none does not exist"),
        ([CLIP, "--live", "--detector", "none"], "--detector must be one of"),
        ([CLIP, "--live", "--out", "."], "cannot be written"),
        (["udp://127.0.0.1:9", "--wait", "--seconds", 0.2], "gave no frame"),
    ],
)
def test_mistakes_with_live_sources(lpx, workspace, arguments, said):
    ran = lpx("predict", *arguments)
    assert ran.code == 2, ran.err
    assert said in ran.err
    assert "secret" not in ran.err + ran.out
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--streams", "demo", "--dataset", "demo"], "--dataset has no meaning here"),
        (["--streams", "demo", "--energy"], "--energy has no meaning here"),
        (["--dataset", "demo", "--budget-ms", 5], "--budget-ms has no meaning here"),
        (["--streams", "nothere"], "nothere does not exist"),
        (["--streams", "demo", "--fps", 0], "--fps must be > 0"),
        (["--streams", "demo", "--budget-ms", 0], "--budget-ms must be > 0"),
        (["--streams", "demo", "--budget-watts", -5], "--budget-watts must be > 0"),
        (["--streams", "demo", "--batches", 0], "--batches must be >= 1"),
        (["--streams", "demo", "--stream-seconds", 0], "--stream-seconds must be"),
        (["--streams", "demo", "--most-streams", 0], "--most-streams must be >= 1"),
        (["--streams", "demo", "--candidates", "none"], "engine none does not exist"),
        (["--streams", "demo", "--detector", "none"], "--detector must be one of"),
        (["--streams", "demo", "--crop", "none"], "--crop must be one of"),
        (["--streams", "demo", "-w", "nothing"], "holds no exported model"),
        (["--streams", "noise"], "the videos have no face"),
        (["--streams", "broken.mp4"], "no video in broken.mp4 can be read"),
    ],
)
def test_mistakes_with_streams(lpx, workspace, arguments, said):
    import cv2

    Path("noise").mkdir()
    writer = cv2.VideoWriter("noise/a.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(3):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    Path("broken.mp4").write_bytes(b"x" * 100)
    ran = lpx("bench", *arguments)
    assert ran.code == 2, ran.err
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_budget_that_nothing_meets(lpx, workspace):
    ran = lpx(
        "bench",
        "--streams",
        CLIP,
        "--fps",
        100,
        "--budget-ms",
        0.001,
        "--batches",
        1,
        "--candidates",
        "onnxruntime-int8",
        "--stream-seconds",
        0.5,
    )
    assert ran.code == 1, ran.err
    assert "not even one stream holds the budget: best was onnxruntime-int8" in ran.out
    values = json.loads(Path("lpx-out/streams.json").read_text())
    assert values["recommended"] is None
    assert values["engines"][0]["streams"] == 0


def test_streams_as_json(lpx, workspace, tmp_path):
    shutil.copy(CLIP, tmp_path / "camera.mp4")
    ran = lpx(
        "bench",
        "--streams",
        tmp_path / "camera.mp4",
        "--fps",
        100,
        "--budget-ms",
        600_000,
        "--batches",
        2,
        "--candidates",
        "onnxruntime-int8",
        "--stream-seconds",
        0.5,
        "--most-streams",
        1,
        "--json",
    )
    assert ran.code == 0, ran.err
    values = json.loads(ran.out)
    assert values == json.loads(Path("lpx-out/streams.json").read_text())
    recommended = {"engine": "onnxruntime-int8", "batch": 2, "streams": 1, "reached_limit": True}
    assert values["recommended"] == recommended
    assert values["engines"][0]["auc"]["reason"].startswith("there is no bench report")
    assert os.path.samefile(values["videos"][0], tmp_path / "camera.mp4")
