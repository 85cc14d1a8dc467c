"""`lpx build --emit trtexec`: the folder is run with a trtexec that writes down its arguments.

As the real one, it takes only the options that its release has, fails on a timing cache of another
GPU or power mode, and lets a DLA core take nothing of a plan with a range of batch sizes, without
saying so.
"""

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
[ "$1" = --help ] && [ -n "${FAKE_SHORT_HELP:-}" ] && { echo "=== Model Options ==="; exit 0; }
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v$FAKE_VERSION] # trtexec $*"
[ "$1" = --help ] && exit 0
kind=Convolution
for argument in "$@"; do
    case $argument in
    --onnx=*) test -s "${argument#*=}" || exit 7 ;;
    --calib=*) test -s "${argument#*=}" || exit 8 ;;
    --saveEngine=* | --exportTimes=*) echo x >"${argument#*=}" ;;
    --exportLayerInfo=*) layers=${argument#*=} ;;
    --useDLACore=*) kind=DLA ;;
    --minShapes=*) least=${argument#*=} ;;
    --maxShapes=*) most=${argument#*=} ;;
    --optShapes=* | --shapes=* | --memPoolSize=* | --builderOptimizationLevel=*) ;;
    --versionCompatible | --hardwareCompatibilityLevel=* | --allowGPUFallback | --noTF32) ;;
    --timingCacheFile=*)
        mine="$FAKE_GPU $FAKE_MODE"
        [ "$(cat "${argument#*=}" 2>/dev/null || echo "$mine")" = "$mine" ] || exit 139
        echo "$mine" >"${argument#*=}"
        ;;
    --profilingVerbosity=* | --useCudaGraph | --useSpinWait | --duration=*) ;;
    --stronglyTyped) case $FAKE_VERSION in "?" | 10*) ;; *) exit 9 ;; esac ;;
    --fp16 | --int8) case $FAKE_VERSION in 11*) exit 9 ;; esac ;;
    *) echo "[E] Unknown option: $argument"; exit 1 ;;
    esac
done
[ "$least" = "$most" ] || [ $kind != DLA ] || kind=Convolution
[ -z "${FAKE_NO_DLA:-}" ] || kind=Convolution
printf '{"Layers": [{"Name": "a", "LayerType": "%s"}]}' $kind >"$layers"
echo "$*" >>"$FAKE_RECORD"
[ -z "${FAKE_FAIL:-}" ] || { echo "[E] no kernel found"; exit 1; }
"""
TOOLS = {
    "nvidia-smi": '#!/bin/sh\n[ -n "$FAKE_GPU" ] && echo "$FAKE_GPU"\n',
    "nvpmodel": '#!/bin/sh\n[ -n "$FAKE_MODE" ] && printf "NV Power Mode: $FAKE_MODE\\n0\\n"\n',
}
VERSIONS = {8: "8601", 10: "101303", 11: "110401"}


@pytest.fixture
def emit(lpx, workspace, tmp_path):
    """Emits into tmp_path/"a folder" (a path with a space); returns the folder."""

    def run(*options):
        folder = tmp_path / "a folder"
        shutil.rmtree(folder, ignore_errors=True)
        ran = lpx(
            "build",
            "--emit",
            "trtexec",
            "--out",
            folder,
            "-w",
            workspace.root,
            "--limit",
            "16",
            "--faces",
            "demo",
            *options,
        )
        assert ran.code == 0, ran.err
        return folder

    return run


@pytest.fixture
def run(tmp_path):
    """Runs a script; returns exit status, messages and a list of trtexec's arguments a call."""

    def script(folder, major, *, shell="sh", version=None, **environment):
        tools = tmp_path / "tools"
        tools.mkdir(exist_ok=True)
        for name, text in (("trtexec", TRTEXEC), *TOOLS.items()):
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        done = subprocess.run(
            [shell, str(folder / f"build-tensorrt{major}.sh")],
            env={
                **os.environ,
                "PATH": f"{tools}:{os.environ['PATH']}",
                "FAKE_VERSION": version or VERSIONS[major],
                "FAKE_RECORD": str(record),
                "FAKE_GPU": "",
                "FAKE_MODE": "",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
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


@pytest.mark.parametrize("major", [8, 10, 11])
def test_tf32_is_left_on_or_switched_off_and_the_folder_says_which(emit, run, major):
    for options, off in (((), False), (("--no-tf32",), True)):
        folder = emit("--fp32", "--fp16", *options)
        code, said, calls = run(folder, major)
        assert code == 0, said
        assert [("--noTF32" in call) for call in calls] == [off, off]
        assert json.loads((folder / "manifest.json").read_text())["tensorrt"]["tf32"] is not off
        assert f"TF32 is {'off' if off else 'on'}" in (folder / "README.txt").read_text()


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


def test_dla_gets_static_batches_by_default_and_never_a_range(emit, run, lpx, workspace):
    folder = emit("--dla", "0")
    options = json.loads((folder / "manifest.json").read_text())["tensorrt"]
    assert options["batches"] == {"minimum": 1, "optimum": 1, "maximum": 1}
    code, said, calls = run(folder, 10)
    assert code == 0, said
    assert [named(call) for call in calls] == [
        "tensorrt-fp16-dla0-batch1.plan",
        "tensorrt-int8-dla0-batch1.plan",
    ]
    ran = lpx(
        "build",
        "--emit",
        "trtexec",
        "-w",
        workspace.root,
        "--dla",
        "0",
        "--int8",
        "--batch-range",
        "1:4:8",
    )
    assert ran.code == 2
    assert "--batch 1,4" in ran.err
    ran = lpx("build", "--emit", "trtexec", "-w", workspace.root, "--dla", "0", "--fp32")
    assert ran.code == 2
    assert "a DLA core cannot run FP32" in ran.err


def test_dla_that_takes_no_layer_is_an_error(emit, run):
    code, said, _ = run(emit("--fp16", "--dla", "0"), 10, FAKE_NO_DLA="1")
    assert code == 1
    assert "tensorrt-fp16-dla0-batch1 runs on the GPU alone" in said


def test_hardware_compatible_engines_are_refused_on_a_jetson(emit, run, tmp_path):
    folder = emit("--fp32", "--hardware-compatible")
    script = folder / "build-tensorrt10.sh"
    mark = tmp_path / "nv_tegra_release"
    text = script.read_text()
    assert "/etc/nv_tegra_release" in text
    script.write_text(text.replace("/etc/nv_tegra_release", str(mark)))
    code, said, _ = run(folder, 10)
    assert code == 0, said
    mark.touch()
    code, said, calls = run(folder, 10)
    assert (code, calls) == (2, [])
    assert "does not support hardware-compatible engines with JetPack" in said
    model = tmp_path / "model"
    model.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    script.write_text(text.replace("/proc/device-tree/model", str(model)))
    assert run(folder, 10)[0] == 2


def test_each_gpu_and_power_mode_has_kernel_times_of_its_own(emit, run):
    folder = emit("--fp16")
    machines = [("", ""), ("Orin (nvgpu)", "15W"), ("Orin (nvgpu)", "MAXN"), ("NVIDIA L4", "")]
    for gpu, mode in (*machines, *machines):
        code, said, _ = run(folder, 10, FAKE_GPU=gpu, FAKE_MODE=mode)
        assert code == 0, said
    names = {path.name for path in (folder / "tensorrt10").glob("timing*")}
    assert len(names) == len(machines)
    assert {"timing-Orin-nvgpu-15W.cache", "timing.cache"} <= names


def test_compatible_plans_and_level(emit, run):
    options = ("--version-compatible", "--hardware-compatible", "--optimisation-level", "4")
    _, _, (call,) = run(emit("--fp32", *options), 11)
    assert {"--versionCompatible", "--hardwareCompatibilityLevel=ampere+"} <= set(call)
    assert "--builderOptimizationLevel=4" in call


def test_script_of_another_release_stops_before_it_builds(emit, run):
    folder = emit("--fp32")
    code, said, calls = run(folder, 8, version="101303")
    assert (code, calls) == (2, [])
    assert "is of TensorRT 10, and this script is for 8" in said


@pytest.mark.parametrize("major", [8, 10, 11])
def test_version_is_found_where_the_help_does_not_name_it(emit, run, major):
    folder = emit("--fp32")
    code, said, calls = run(folder, major, FAKE_SHORT_HELP="1")
    assert (code, len(calls)) == (0, 1), said
    other = VERSIONS[10 if major != 10 else 11]
    code, said, calls = run(folder, major, version=other, FAKE_SHORT_HELP="1")
    assert (code, calls) == (2, [])
    assert f"this script is for {major}" in said


@pytest.mark.parametrize(("stated", "code"), [("101303", 0), ("110401", 2), ("10.13.3", 2)])
def test_trtexec_that_names_no_version_is_run_only_as_it_is_said_to_be(emit, run, stated, code):
    folder = emit("--fp32")
    unnamed, said, calls = run(folder, 10, version="?")
    assert (unnamed, calls) == (2, [])
    assert "LPX_TENSORRT" in said
    assert run(folder, 10, version="?", LPX_TENSORRT=stated)[0] == code


def test_failing_trtexec_is_told_with_its_last_words(emit, run):
    code, said, calls = run(emit("--fp32", "--fp16"), 10, FAKE_FAIL="1")
    assert (code, len(calls)) == (1, 1)
    assert "trtexec failed on tensorrt-fp32-batch1to32" in said
    assert "[E] no kernel found" in said


def test_one_engine_can_be_built_alone(emit, run):
    folder = emit("--fp32", "--fp16")
    code, said, calls = run(folder, 10, ONLY="tensorrt-fp16-batch1to32")
    assert code == 0, said
    assert len(calls) == 1
    assert "--onnx=fp16-strongly-typed.onnx" in calls[0]
    # A plan of an earlier folder must not pass for the one that is missing.
    (folder / "tensorrt10" / "tensorrt-int8-batch1to32.plan").write_text("an old plan")
    code, said, calls = run(folder, 10, ONLY="tensorrt-int8-batch1to32")
    assert code == 2
    assert "this script builds no engine named tensorrt-int8-batch1to32" in said
    assert calls == []


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
        assert subprocess.run(["sh", "-n", str(path)], check=False, timeout=120).returncode == 0
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "-s", "sh", str(path)], check=True, timeout=120)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--target", "onnxruntime"), "--target cannot be combined with --emit trtexec"),
        (("--builds", "2"), "--builds must be 1 for trtexec (got 2)"),
        (("--batch", "9999999999"), "--batch must be between 1 and 1048576"),
        (("--batch", "1", "--batch-range", "1:2:3"), "mutually exclusive"),
    ],
)
def test_options_that_do_not_go_together(lpx, workspace, options, said):
    ran = lpx("build", "--emit", "trtexec", "-w", workspace.root, *options)
    assert ran.code == 2
    assert said in ran.err
    assert not (workspace.root / "trtexec").exists()
