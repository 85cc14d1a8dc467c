"""`lpx build --emit trtexec`: the folder is run with a trtexec that writes down its arguments."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess

import onnx
import pytest

from lpx.calibration.cache import read_cache

TRTEXEC = """#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v$FAKE_VERSION] # trtexec $*"
[ "$1" = --help ] && exit 0
for argument in "$@"; do
    case $argument in
    --onnx=*) test -s "${argument#*=}" || exit 7 ;;
    --calib=*) test -s "${argument#*=}" || exit 8 ;;
    --saveEngine=* | --exportTimes=*) echo x >"${argument#*=}" ;;
    esac
done
echo "$*" >>"$FAKE_RECORD"
[ -z "${FAKE_FAIL:-}" ] || { echo "[E] no kernel found"; exit 1; }
"""
VERSIONS = {8: "8601", 10: "101303", 11: "110401"}


@pytest.fixture
def emit(lpx, workspace, tmp_path):
    """Emits into tmp_path/"a folder" (a path with a space); returns the folder."""

    def run(*options):
        folder = tmp_path / "a folder"
        shutil.rmtree(folder, ignore_errors=True)
        ran = lpx("build", "--emit", "trtexec", "--out", folder, "-w", workspace.root, "--count",
                  "16", "--faces", "demo", *options)  # fmt: skip
        assert ran.code == 0, ran.err
        return folder

    return run


@pytest.fixture
def run(tmp_path):
    """Runs a script; returns exit status, messages and a list of trtexec's arguments a call."""

    def script(folder, major, *, shell="sh", version=None, **environment):
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        (tools / "trtexec").write_text(TRTEXEC)
        (tools / "trtexec").chmod(0o755)
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        done = subprocess.run(
            [shell, str(folder / f"build-tensorrt{major}.sh")],
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}",
                 "FAKE_VERSION": version or VERSIONS[major], "FAKE_RECORD": str(record),
                 **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        lines = record.read_text().splitlines() if record.exists() else []
        return done.returncode, done.stdout + done.stderr, [line.split() for line in lines]

    return script


def named(call):
    return call[[a.startswith("--saveEngine=") for a in call].index(True)].split("/")[-1]


PRECISION = {"--fp16", "--int8", "--stronglyTyped"}


@pytest.mark.parametrize(
    ("major", "flags"),
    [
        (8, {"fp32": set(), "fp16": {"--fp16"}, "int8": {"--fp16", "--int8"}}),
        (10, {key: {"--stronglyTyped"} for key in ("fp32", "fp16", "int8")}),
        (11, {key: set() for key in ("fp32", "fp16", "int8")}),
    ],
)
def test_each_release_gets_its_graph_and_flags(emit, run, major, flags):
    folder = emit("--fp32", "--fp16", "--int8", "--batch", "1,8", "--workspace-mib", "64")
    code, said, calls = run(folder, major)
    assert code == 0, said
    assert [named(call) for call in calls] == [
        f"tensorrt-{precision}-batch{size}.plan" for precision in flags for size in (1, 8)
    ]
    for call in calls:
        precision = named(call).split("-")[1]
        assert PRECISION & set(call) == flags[precision]
        size = named(call).removesuffix(".plan").split("batch")[1]
        for option in ("min", "opt", "max"):
            assert f"--{option}Shapes=faces:{size}x160x160x3" in call
        assert "--memPoolSize=workspace:64" in call
        assert "--profilingVerbosity=detailed" in call
        assert (folder / f"tensorrt{major}" / named(call)).exists()
        graph = next(a for a in call if a.startswith("--onnx=")).removeprefix("--onnx=")
        check_graph(folder / graph, precision, major)
        assert (folder / f"tensorrt{major}" / f"{named(call)[:-5]}.times.json").exists()


def check_graph(path, precision, major):
    model = onnx.load(path)
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    assert opset <= 17 if major == 8 else opset >= 19
    quantised = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert quantised == (precision == "int8")
    halves = any(w.data_type == onnx.TensorProto.FLOAT16 for w in model.graph.initializer)
    assert halves == (major != 8 and precision != "fp32")


def test_range_is_one_engine_timed_at_the_best(emit, run):
    _, _, (call,) = run(emit("--fp16", "--batch-range", "2:4:16"), 10)
    assert named(call) == "tensorrt-fp16-batch2to16.plan"
    assert "--minShapes=faces:2x160x160x3" in call
    assert "--shapes=faces:4x160x160x3" in call
    assert "--maxShapes=faces:16x160x160x3" in call


def test_dla_takes_a_cache_with_the_header_of_the_release(emit, run):
    folder = emit("--fp16", "--int8", "--dla", "0")
    for major in (8, 10):
        code, said, calls = run(folder, major)
        assert code == 0, said
        half, whole = calls
        cache = f"--calib=tensorrt{major}/int8.cache"
        assert {"--useDLACore=0", "--allowGPUFallback", "--fp16", "--int8", cache} <= set(whole)
        assert {"--useDLACore=0", "--fp16"} <= set(half)
        assert not any(a.startswith("--calib") for a in half)
        text = (folder / f"tensorrt{major}" / "int8.cache").read_text()
        assert text.startswith(f"TRT-{VERSIONS[major]}-EntropyCalibration2\n")
        assert read_cache(text, "") == read_cache((folder / "int8.cache").read_text(), "")
    code, said, calls = run(folder, 11)
    assert code == 0, said
    assert "--onnx=int8-dla-explicit.onnx" in calls[1]
    assert not any("--calib" in argument for argument in calls[1])
    assert "DLA core 0" in (folder / "README.txt").read_text()


def test_compatible_plans_and_level(emit, run):
    options = ("--version-compatible", "--hardware-compatible", "--optimisation-level", "4")
    _, _, (call,) = run(emit("--fp32", *options), 11)
    assert {"--versionCompatible", "--hardwareCompatibilityLevel=ampere+"} <= set(call)
    assert "--builderOptimizationLevel=4" in call


def test_script_of_another_release_stops_before_it_builds(emit, run):
    folder = emit("--fp32")
    code, said, calls = run(folder, 8, version="101303")
    assert (code, calls) == (2, [])
    assert "is of TensorRT 10, this script is for 8" in said


def test_failing_trtexec_is_told_with_its_last_words(emit, run):
    code, said, calls = run(emit("--fp32", "--fp16"), 10, FAKE_FAIL="1")
    assert (code, len(calls)) == (1, 1)
    assert "trtexec failed on tensorrt-fp32-batch1to32" in said
    assert "[E] no kernel found" in said


def test_missing_trtexec_is_told(emit, run):
    code, said, _ = run(emit("--fp32"), 10, TRTEXEC="nowhere")
    assert code == 2
    assert "no trtexec on PATH" in said


@pytest.mark.parametrize("dla", [(), ("--dla", "0")])
def test_manifest_names_every_file_with_its_hash(emit, dla):
    folder = emit("--fp16", "--int8", "--equalise", *dla)
    manifest = json.loads((folder / "manifest.json").read_text())
    hashes = {g["file"]: g["sha256"] for g in manifest["graphs"]} | manifest["files"]
    assert {p.name for p in folder.iterdir()} == {*hashes, "README.txt", "manifest.json"}
    for name, digest in hashes.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert manifest["calibration"]["weights"]["equalise"]
    assert manifest["calibration"]["face_count"] == 16


@pytest.mark.parametrize("options", [("--fp32", "--int8"), ("--int8", "--dla", "1")])
def test_scripts_are_clean_shell(emit, options):
    folder = emit(*options)
    for path in folder.glob("*.sh"):
        assert subprocess.run(["sh", "-n", str(path)], check=False).returncode == 0
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "-s", "sh", str(path)], check=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "onnxruntime"), "--target says nothing to --emit trtexec"),
        (("--builds", "2"), "--builds says nothing"),
        (("--batch", "1", "--batch-range", "1:2:3"), "say the same thing"),
    ],
)
def test_options_that_do_not_go_together(lpx, workspace, options, said):
    ran = lpx("build", "--emit", "trtexec", "-w", workspace.root, *options)
    assert ran.code == 2
    assert said in ran.err
    assert not (workspace.root / "trtexec").exists()
