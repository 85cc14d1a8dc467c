"""Exit codes: 0 parity holds, 1 it or the precision does not, 2 user error, 3 internal error,
4 the checkpoint cannot tell the classes apart, 128 + its number interrupted by a signal.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import cv2
import numpy as np
import pytest

from lpx.cli.main import exit_code
from lpx.data.face_sets.demo import demo_set
from lpx.workspace import read_sealed, write_sealed
from tests.conftest import MAIN, environment
from tests.support.costs import UNTIMED
from tests.support.processes import bounded
from tests.support.reporting import StoppingReporter

BENCH = ("bench", "--dataset", "demo", "--latency-seconds", 0)


def test_parity_that_holds_exits_with_0(lpx, workspace):
    ran = lpx(*BENCH, "--limit", 300, "--candidates", "onnxruntime-fp32")
    assert ran.code == 0, ran.err
    assert "parity holds: " in ran.out


def test_a_checkpoint_that_cannot_tell_the_classes_apart_exits_with_4(lpx, workspace):
    rng = np.random.default_rng(1)
    for number in range(24):
        path = Path("noise") / ("real", "fake")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 256, (160, 160, 3), np.uint8))
    ran = lpx(
        "bench", "--dataset", "noise", "--latency-seconds", 0, "--candidates", "onnxruntime-fp32"
    )
    assert ran.code == 4
    assert "parity uninformative: " in ran.out
    assert "not shown to tell real from fake on these faces" in ran.out


def test_one_video_per_class_decides_nothing(lpx, workspace):
    Path("two").mkdir()
    rows = ["file,label,video"]
    for number, face in enumerate(demo_set("test").first(40).faces):
        name = f"{number}.png"
        cv2.imwrite(f"two/{name}", cv2.cvtColor(face.source.read(), cv2.COLOR_RGB2BGR))
        rows.append(f"{name},{face.label},video{face.label}")
    Path("two/faces.csv").write_text("\n".join(rows))
    ran = lpx("bench", "--dataset", "two", "--latency-seconds", 0)
    assert ran.code == 1
    assert "these faces have 1 real and 1 fake" in ran.out


def test_parity_that_fails_exits_with_1(lpx, workspace):
    """An engine whose ranges are far too small still runs, and tells nothing apart."""
    values = read_sealed(workspace.scales, "")
    for tensor in values["tensors"].values():
        tensor["peaks"] = {method: peak / 50 for method, peak in tensor["peaks"].items()}
    write_sealed(workspace.scales, values)
    built = lpx("build", "--int8", "--target", "onnxruntime", "--faces", "demo", "--limit", 16)
    assert "reusing lpx-out/scales.json (16 faces of demo)" in built.err
    ran = lpx(*BENCH, "--limit", 300, "--json")
    assert ran.code == 1
    report = json.loads(ran.out)
    verdicts = {entry["name"]: entry["verdict"] for entry in report["candidates"]}
    assert verdicts == {"onnxruntime-fp32": "holds", "onnxruntime-int8": "fails"}
    assert report["verdict"] == "fails"
    assert Path("lpx-out/report.html").is_file()


def test_parity_that_is_undecided_exits_with_1(lpx, workspace):
    ran = lpx(*BENCH, "--limit", 24, "--margin", 0)
    assert json.loads(Path("lpx-out/report.json").read_text())["verdict"] == "undecided"
    assert ran.code == 1
    assert "parity undecided: " in ran.out


@click.group()
def failing():
    """Commands that fail."""


@failing.command()
def build():
    from lpx.engines.tensorrt import LayerTable, PlanLayer, assert_precision

    layer = PlanLayer("Conv_3", "CaskConvolution", "fp32", convolution=True)
    assert_precision(LayerTable((layer,)), "fp16")


@failing.command()
def bench():
    raise RuntimeError("a bug")


def test_an_engine_of_another_precision_than_requested_exits_with_1(capsys):
    assert exit_code(failing, ["build"]) == 1
    err = capsys.readouterr().err
    assert "error: FP16 was requested, but the plan computes in FP32" in err
    assert "fp32  CaskConvolution  Conv_3" in err


def test_interruption_exits_with_130_and_leaves_only_the_scores(workspace, tree):
    # A shell that runs this in the background has made it, and what it starts, deaf to SIGINT.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{listen}\nfrom lpx.cli.main import main; main()"
    before = tree(".")
    line = ("bench", "--dataset", "demo", "--limit", "8", "--latency-seconds", "600")
    process = subprocess.Popen(
        [sys.executable, "-c", code, *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with bounded(process, 300):
        assert "scoring demo: done\n" in iter(process.stderr.readline, ""), "it ended by itself"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == (
        "interrupted by SIGINT: scores of finished batches are saved; run the same command to "
        "resume\n"
    )
    assert out == ""
    after = tree(".")
    assert {path: what for path, what in after.items() if "bench.partial" not in path} == before
    assert "lpx-out/bench.partial/of.json" in after
    with workspace.lock():
        pass


def test_internal_error_exits_with_3_and_asks_for_a_report(capsys):
    assert exit_code(failing, ["bench"]) == 3
    out, err = capsys.readouterr()
    assert "Traceback" in err
    assert "RuntimeError: a bug" in err
    assert "Please report" in err.splitlines()[-1]
    assert "`lpx doctor`" in err.splitlines()[-1]
    assert out == ""


def test_internal_error_leaves_only_the_scores(workspace, tree):
    before = tree(".")
    reporter = StoppingReporter("scoring", error=RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        workspace.bench("demo", limit=8, costs=UNTIMED, reporter=reporter)
    assert [path for path in tree(".") if path not in before and "bench.partial" not in path] == []
    with workspace.lock():
        pass


GONE = "import os; read, write = os.pipe(); os.close(read); os.dup2(write, {stream})"
"""Python that leaves a stream to a reader that is gone, as in `lpx doctor | head -1`."""
FULL = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), {stream})"
LINES = [["--help"], ["doctor"], ["doctor", "--json"], ["data", "info", "demo"]]


@pytest.mark.parametrize("line", LINES)
def test_reader_that_goes_away_is_not_an_internal_error(shell, line):
    ran = shell(*line, before=GONE.format(stream=1))
    assert ran.code == 141
    assert ran.err == ""


@pytest.mark.parametrize("line", LINES)
def test_output_that_cannot_be_written_is_a_user_error(shell, line):
    ran = shell(*line, before=FULL.format(stream=1))
    assert ran.code == 2
    assert ran.err.splitlines() == [
        "error: standard output cannot be written: No space left on device",
        "  the command itself is done, and its artefacts are saved",
    ]


@pytest.mark.parametrize("before", [GONE, FULL], ids=["gone", "full"])
@pytest.mark.parametrize("stream", [1, 2])
def test_work_goes_on_where_nobody_reads_of_it(shell, tmp_path, before, stream):
    """Progress is printed during the work, results after it."""
    line = ("demo", "--unpack", "made")
    few = "from lpx.data.face_sets import demo; demo.PAIRS |= {'train': 2, 'test': 2}"
    ran = shell(*line, cwd=tmp_path, before=f"{few}; {before.format(stream=stream)}")
    assert ran.code == {(1, GONE): 141, (1, FULL): 2}.get((stream, before), 0)
    assert "Traceback" not in ran.err
    assert (tmp_path / "made" / "ckpt.pt").is_file()


@pytest.mark.parametrize("closed", [(1,), (2,), (0, 1, 2)])
def test_closed_streams(closed, tmp_path):
    """As in `lpx demo --unpack made >&-`: no file that is made may take a stream's place."""
    few = "from lpx.data.face_sets import demo; demo.PAIRS |= {'train': 2, 'test': 2}"
    code = f"""
import os, sys
if len(sys.argv) == 1:
    [os.close(number) for number in {closed}]
    os.execv(sys.executable, [*sys.orig_argv, "demo", "--unpack", "made"])
{few}
{MAIN}"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "made" / "ckpt.pt").is_file()


def test_exit_code_of_the_command_prevails_over_a_reader_that_is_gone(shell, tmp_path):
    ran = shell("predict", "nowhere", cwd=tmp_path, before=GONE.format(stream=1))
    assert ran.code == 2
    fails = "from lpx.cli import doctor; doctor.doctor.callback = lambda **_: (print('x'), exit(1))"
    assert shell("doctor", before=f"{fails}; {GONE.format(stream=1)}").code == 1


def test_the_home_folder_in_a_workspaces_name(lpx, workspace, monkeypatch):
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.setenv("LPX_WORKSPACE", "~/lpx-out")
    ran = lpx("build", "--fp32", "--target", "onnxruntime")
    assert ran.code == 0, ran.err
    assert not Path("~").exists()
    assert "next: lpx bench" in ran.out
    assert " -w " not in ran.out


def test_terminal_that_lacks_characters_is_not_an_internal_error(shell, workspace):
    ascii_only = "import sys; sys.stdout.reconfigure(encoding='ascii')"
    ran = shell(*BENCH, "--limit", 8, "--margin", 0.1, before=ascii_only)
    assert ran.code in (0, 1), ran.err
    assert "parity " in ran.out
    assert ran.out.isascii()


@pytest.mark.parametrize("command", ["export", "build", "bench", "predict"])
def test_users_errors_leave_standard_output_empty(lpx, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    ran = lpx(
        command,
        *(["nothing"] if command in ("export", "predict") else []),
        "--json",
        *(["--dataset", "demo"] if command == "bench" else []),
    )
    assert ran.code == 2
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []
