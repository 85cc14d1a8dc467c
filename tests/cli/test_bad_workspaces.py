"""Errors about a workspace that is incomplete, altered, or in use."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lpx.artefacts.model import read_exported
from lpx.artefacts.select_engine import runnable
from lpx.data.face_sets.demo import CHECKPOINT, folder
from lpx.machine.machine import read_machine
from lpx.models.checkpoint import load_checkpoint, save_checkpoint
from lpx.workspace import read_sealed, write_sealed
from tests.support.processes import bounded

BENCH = ("bench", "--dataset", "demo", "--limit", 8, "--latency-seconds", 0)
INT8 = Path("lpx-out/engines/onnxruntime-int8")


@pytest.fixture
def refused(lpx, tree, workspace):
    """A function that runs a command, checks that it is a user error, and returns the message."""

    def run(*arguments):
        before = tree(".")
        ran = lpx(*arguments)
        assert ran.code == 2, ran.err
        assert ran.out == ""
        assert "Traceback" not in ran.err
        # What a value must be says what to do, too.
        assert "fix: " in ran.err or " must be " in ran.err
        assert tree(".") == before, "something was left behind"
        return ran.err

    return run


def edit(path, **values):
    write_sealed(path, read_sealed(path, "") | values)


@pytest.mark.parametrize("line", [["build", "--int8"], BENCH, ["predict", "."]], ids=lambda a: a[0])
def test_before_export(refused, line):
    shutil.rmtree("lpx-out")
    said = refused(*line)
    assert "workspace lpx-out holds no exported model" in said
    assert "`lpx export ckpt.pt`" in said


@pytest.mark.parametrize("line", [BENCH, ["predict", "lpx-out"]], ids=lambda a: a[0])
def test_before_build(refused, line):
    shutil.rmtree("lpx-out/engines")
    Path("lpx-out/face.png").write_bytes(b"looked at later")
    said = refused(*line)
    assert "workspace lpx-out has no engine that runs here" in said
    assert "none was built" in said
    assert "`lpx build --int8`" in said


@pytest.mark.parametrize(
    "line", [["build", "--fp32"], BENCH, ["predict", "."]], ids=lambda arguments: arguments[0]
)
def test_model_edited_after_export(refused, workspace, line):
    data = bytearray(workspace.model.read_bytes())
    data[len(data) // 2] ^= 1
    workspace.model.write_bytes(data)
    said = refused(*line)
    assert "lpx-out/model.onnx is not the model that was exported" in said
    assert "SHA-256" in said
    assert "run `lpx export` again" in said


def test_engine_altered(refused):
    with (INT8 / "engine.onnx").open("ab") as stream:
        stream.write(b"\0")
    said = refused(*BENCH)
    assert f"{INT8}/engine.onnx is not the engine that its manifest describes" in said
    assert "run `lpx build` again" in said


def test_engine_removed(refused):
    (INT8 / "engine.onnx").unlink()
    assert f"{INT8}/engine.onnx does not exist" in refused(*BENCH)


def test_engine_of_another_model(refused):
    edit(INT8 / "manifest.json", model_sha256="0" * 64)
    said = refused(*BENCH)
    assert "engine onnxruntime-int8 was built from another model than lpx-out/model.onnx" in said
    assert "`lpx build --int8 --target onnxruntime`" in said
    assert f"remove {INT8}" in said


def test_engine_of_an_earlier_export(refused, workspace, lpx):
    """After more training and another export, no engine of the old weights is measured."""
    detector = load_checkpoint(folder() / CHECKPOINT)
    next(detector.module.parameters()).data *= 1.01
    save_checkpoint(Path("trained.pt"), detector.module, detector.card)
    assert lpx("export", "trained.pt").code == 0
    assert "was built from another model" in refused(*BENCH)
    assert lpx("build", "--fp32", "--int8", "--target", "onnxruntime", "--limit", 4).code == 0
    assert lpx(*BENCH).code in (0, 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "is not a manifest"),
        ("{}", "is not as lpx wrote it"),
        ('{"checksum": 1}', "is not as lpx wrote it"),
    ],
)
def test_damaged_manifest(refused, text, said):
    (INT8 / "manifest.json").write_text(text)
    assert f"{INT8}/manifest.json {said}" in refused(*BENCH)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "is of another format"),
        ({"format": "lpx-engine/9"}, "is of another format"),
        ({"format": "lpx-engine/2"}, "lacks calibration"),
    ],
)
def test_manifest_of_something_else(refused, values, said):
    write_sealed(INT8 / "manifest.json", values)
    assert f"{INT8}/manifest.json {said}" in refused(*BENCH)


def test_manifest_of_a_newer_lpx(refused):
    edit(INT8 / "manifest.json", sparsity="2:4")
    said = refused(*BENCH)
    assert "unknown fields: sparsity" in said
    assert "update lpx" in said


@pytest.mark.parametrize("lost", ["format", "model_sha256", "card", "factory"])
def test_damaged_export_manifest(refused, lost):
    path = Path("lpx-out/model.json")
    values = read_sealed(path, "")
    del values[lost]
    write_sealed(path, values)
    assert "lpx-out/model.json was not written by this version of lpx" in refused(*BENCH)


def test_reference_replaced(refused, workspace):
    detector = load_checkpoint(workspace.reference)
    next(detector.module.parameters()).data += 0.01
    save_checkpoint(workspace.reference, detector.module, detector.card)
    said = refused(*BENCH)
    assert "lpx-out/reference.pt is not the checkpoint that was exported" in said
    assert "run `lpx export` again" in said


def test_reference_damaged(refused, workspace):
    workspace.reference.write_bytes(b"")
    said = refused(*BENCH)
    assert "lpx-out/reference.pt is not a readable PyTorch checkpoint" in said
    assert "run `lpx export` again" in said


def test_reference_missing(refused, workspace):
    workspace.reference.unlink()
    said = refused(*BENCH)
    assert "lpx-out/reference.pt does not exist" in said
    assert "run `lpx export` again" in said


@pytest.mark.parametrize("line", [["build", "--fp32"], BENCH], ids=lambda arguments: arguments[0])
def test_second_process_is_refused_and_told_which_is_first(refused, workspace, line):
    hold = (
        "import sys; from pathlib import Path; from lpx import Workspace\n"
        "with Workspace(Path('lpx-out')).lock(): print('held', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", hold],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    with bounded(first):
        assert first.stdout.readline() == "held\n"
        said = refused(*line)
        first.communicate("", timeout=60)
    assert f"workspace lpx-out is in use by process {first.pid}" in said
    assert "-w DIR" in said
    with workspace.lock():
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target", "x"], "--target must be one of auto, onnxruntime, onnxruntime-cuda"),
        (
            ["--int8", "--method", "x"],
            "--method must be one of max, percentile-99.999, percen",
        ),
        (["--int8", "--faces", "x"], "known data sets: demo, folder:DIR"),
        (["--int8", "--faces", "folder:x"], "x does not exist"),
        (["--int8", "--faces", "lpx-out"], "lpx-out holds no images"),
        (["--limit", "0"], "--limit must be >= 1 (got 0)"),
        (["--limit", "-2"], "--limit must be >= 1 (got -2)"),
        (["--workspace-mib", "-1"], "--workspace-mib must be >= 1 (got -1)"),
        (
            ["--target", "onnxruntime", "--compute-capability", "8.6"],
            "only tensorrt-rtx builds for GPUs that are not in this machine",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_build_options(refused, options, said):
    assert said in refused("build", *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dataset", "x"], "unknown data set 'x'"),
        (["--dataset", "x"], "known data sets: demo, folder:DIR"),
        (["--dataset", "folder:x"], "x does not exist"),
        (["--dataset", "folder:lpx-out/model.json"], "is a file, not a folder"),
        (["--dataset", "lpx-out"], "lpx-out holds no images"),
        (["--dataset", "demo", "--limit", "0"], "--limit must be >= 4 (got 0)"),
        (["--dataset", "demo", "--limit", "3"], "two real and two fake faces"),
        (["--dataset", "demo", "--limit", "-5"], "--limit must be >= 4 (got -5)"),
        (["--dataset", "demo", "--margin", "-0.1"], "--margin must be between 0 and 1 (got -0.1)"),
        (["--dataset", "demo", "--margin", "nan"], "--margin must be a finite number (got nan)"),
        (
            ["--dataset", "demo", "--latency-seconds", "-1"],
            "--latency-seconds must be >= 0 (got -1",
        ),
        (
            ["--dataset", "demo", "--latency-seconds", "nan"],
            "--latency-seconds must be a finite number (got nan)",
        ),
        (
            ["--dataset", "demo", "--latency-seconds", "inf"],
            "--latency-seconds must be a finite number (got inf)",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bench_options(refused, options, said):
    assert said in refused("bench", *options)


@pytest.mark.skipif(read_machine().jetson is not None, reason="its GPU is known from /sys, too")
def test_tensorrt_without_a_gpu(refused, monkeypatch):
    # Without nvidia-smi, lpx sees no GPU.
    monkeypatch.setenv("PATH", "")
    said = refused("build", "--target", "tensorrt")
    assert "target tensorrt cannot be built on this machine" in said
    assert "no NVIDIA GPU was found: nvidia-smi not found" in said
    assert "--target onnxruntime" in said
    assert "`lpx doctor`" in said


def test_scales_that_cannot_be_read(refused, workspace):
    workspace.scales.unlink()
    workspace.scales.mkdir()
    (workspace.scales / "x").touch()
    assert "lpx-out/scales.json cannot be read" in refused(
        "build", "--int8", "--target", "onnxruntime", "--limit", 4
    )


def test_copied_engine_has_a_name_of_its_own(lpx, workspace):
    """It was shown, scored and judged as the engine that it was copied from."""
    copied = workspace.engines / "kept-from-may"
    shutil.copytree(INT8, copied)
    edit(copied / "manifest.json", calibration=None)
    manifests = runnable(workspace, read_exported(workspace)).fit
    found = {manifest.name: manifest.calibration for manifest in manifests}
    assert set(found) == {"kept-from-may", "onnxruntime-fp32", "onnxruntime-int8"}
    assert found["kept-from-may"] is None
    assert found["onnxruntime-int8"] is not None


def test_engine_with_another_card(refused):
    values = read_sealed(INT8 / "manifest.json", "")
    edit(INT8 / "manifest.json", card=values["card"] | {"crop": "square-1.3"})
    assert "onnxruntime-int8 has another model card than the exported model" in refused(*BENCH)
