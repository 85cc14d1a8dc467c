"""`lpx package`: the project is written, built and run, with a stand-in for TensorRT and CUDA."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import lpx
from lpx.deploy.cpp_project import new_folder
from lpx.engines.manifest import read_manifest, write_manifest
from lpx.graph.qdq.weights import WeightOptions
from lpx.workspace import read_sealed, write_sealed
from tests.support.packages import BAD, check_refusal, write_plan

SUPPORT = Path(__file__).parents[1] / "support" / "tensorrt_cpp"
FILES = {"CMakeLists.txt", "detector.h", "main.cpp", "card.json", "face.rgb", "expected.json"}
FILES |= {"README.md"}
# Stands for trtexec of TensorRT 10.3: writes its arguments in place of a plan.
TRTEXEC = """#!/bin/sh
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100300] # trtexec $*"
[ "$1" = --help ] && exit 0
[ -z "${FAKE_BREAK:-}" ] || { echo "[E] no kernel found"; exit 1; }
for argument in "$@"; do
    case $argument in
    --saveEngine=*) echo "$*" >"${argument#*=}" ;;
    --exportLayerInfo=*) echo "{}" >"${argument#*=}" ;;
    esac
done
"""


@pytest.fixture
def add_plan(workspace):
    """Adds a TensorRT engine to the workspace, whose plan is text."""

    def add(precision="fp32", plan=b"a plan", **options):
        gpus = {"gpus": [{"name": "Orin"}]}
        name = f"tensorrt-{precision}"
        write_plan(workspace, name, precision, machine=gpus, plan=plan, options=options)

    return add


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_plan_is_packaged_with_a_face_and_its_score(workspace, add_plan):
    add_plan()
    result = workspace.package("cpp", "project")
    assert (result.engine, result.plan, result.options) == ("tensorrt-fp32", True, ())
    assert names(result.folder) == FILES | {"engine.plan"}
    assert Path("project/engine.plan").read_bytes() == b"a plan"
    expected = json.loads(Path("project/expected.json").read_text())
    card = json.loads(Path("project/card.json").read_text())
    size = card["input_size"]
    face = np.frombuffer(Path("project/face.rgb").read_bytes(), np.uint8)
    face = face.reshape(1, size, size, 3)
    with closing(lpx.load(workspace.engine("onnxruntime-fp32"))) as engine:
        assert engine.infer(face).score[0] == pytest.approx(expected["score"], abs=1e-4)
        swapped = engine.infer(np.ascontiguousarray(face[..., ::-1])).score[0]
    assert abs(swapped - expected["score"]) > expected["tolerance"]
    # An engine that gives every face 0, or 1, must not pass.
    assert expected["tolerance"] < expected["score"] < 1 - expected["tolerance"]
    text = Path("project/README.md").read_text()
    assert "built by TensorRT 10.3.0 on Orin" in text
    assert "not yet run on a GPU" in text
    assert "build.sh" not in text
    assert not text.count("{size}")


def test_options_of_a_plan_are_in_the_commands(workspace, add_plan):
    add_plan(version_compatible=True, dla_core=1)
    result = workspace.package("cpp", "project")
    assert result.options == ("--allow-host-code", "--dla", "1")
    text = Path("project/README.md").read_text()
    assert "./build/detector --self-test --allow-host-code --dla 1\n" in text
    assert "only use it if you trust its source" in text


@pytest.mark.parametrize(
    ("precisions", "chosen"),
    [(["fp32"], "tensorrt-fp32"), (["fp32", "fp16"], "tensorrt-fp16")],
)
def test_best_plan_is_chosen(workspace, add_plan, precisions, chosen):
    for precision in precisions:
        add_plan(precision)
    assert workspace.package("cpp", "project").engine == chosen
    assert workspace.package("cpp", "another", engine="tensorrt-fp32").engine == "tensorrt-fp32"


@pytest.fixture
def build_script(tmp_path):
    """Runs a project's build.sh with the stand-in for trtexec."""
    tool = tmp_path / "tools" / "trtexec"
    tool.parent.mkdir()
    tool.write_text(TRTEXEC)
    tool.chmod(0o755)

    def run(folder, **environment):
        return subprocess.run(
            ["sh", str(folder / "build.sh")],
            env={**os.environ, "TRTEXEC": str(tool), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


def test_without_a_plan_the_graph_is_packaged_and_build_sh_builds_it(workspace, lpx, build_script):
    ran = lpx("package", "--for", "cpp", "-o", "a project")
    assert ran.code == 0, ran.err
    assert "onnxruntime-int8 is not a TensorRT plan" in ran.err
    assert ran.out.splitlines()[0] == "written: a project"
    folder = Path("a project")
    assert names(folder) == FILES | {"build.sh", "trtexec"}
    assert json.loads((folder / "expected.json").read_text())["tolerance"] == 0.05
    assert "sh build.sh\n" in (folder / "README.md").read_text()
    done = build_script(folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("written: engine.plan\n")
    # Of three scripts, that for TensorRT 10 ran.
    assert "int8-strongly-typed.onnx" in (folder / "engine.plan").read_text()


def test_build_sh_passes_on_what_trtexec_says(workspace, build_script):
    folder = workspace.package("cpp", "project", engine="onnxruntime-fp32").folder
    done = build_script(folder, FAKE_BREAK="1")
    assert done.returncode == 1
    assert "[E] no kernel found" in done.stderr
    assert "this script is for" not in done.stderr
    done = build_script(folder, LPX_TENSORRT="90100")
    assert done.returncode == 2
    assert "TensorRT 9" in done.stderr
    assert not (folder / "engine.plan").exists()


def test_without_engines_the_float32_graph_is_packaged(workspace):
    shutil.rmtree(workspace.engines)
    result = workspace.package("cpp")
    assert (result.engine, result.precision, result.plan) == ("", "fp32", False)
    assert result.folder == workspace.root / "cpp"
    assert (result.folder / "trtexec" / "fp32-strongly-typed.onnx").exists()


def test_json(workspace, add_plan, lpx):
    add_plan()
    ran = lpx("package", "--for", "cpp", "--json", "-o", "project")
    value = json.loads(ran.out)
    assert (value["folder"], value["engine"], value["plan"]) == ("project", "tensorrt-fp32", True)


def test_calibration_that_was_replaced_is_refused(workspace):
    workspace.calibrate("demo", limit=4, method="max")
    with pytest.raises(lpx.LpxError, match="built with other ranges"):
        workspace.package("cpp", "project")
    assert not Path("project").exists()


@pytest.fixture
def quantised(workspace):
    """The workspace, with a model that holds Q/DQ pairs, built in FP32 and INT8 without them."""
    data = (workspace.engine("onnxruntime-int8") / "engine.onnx").read_bytes()
    workspace.model.write_bytes(data)
    path = workspace.model.with_suffix(".json")
    values = read_sealed(path, "") | {"model_sha256": hashlib.sha256(data).hexdigest()}
    write_sealed(path, values)
    workspace.build(
        target="onnxruntime", faces="demo", limit=4, weights=WeightOptions(requantise=True)
    )
    return workspace


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_engine_without_the_pairs_of_its_model_is_packaged_without_them(quantised, precision):
    result = quantised.package("cpp", "project", engine=f"onnxruntime-{precision}")
    graph = onnx.load(result.folder / f"trtexec/{precision}-strongly-typed.onnx").graph
    assert result.precision == precision
    assert any(node.op_type == "QuantizeLinear" for node in graph.node) == (precision == "int8")


def test_weight_options_of_a_newer_lpx_are_refused(workspace):
    folder = workspace.engine("onnxruntime-int8")
    manifest = read_manifest(folder)
    calibration = {**manifest.calibration, "weights": {"newer": True}}
    write_manifest(folder, replace(manifest, calibration=calibration))
    with pytest.raises(lpx.LpxError, match="weight options that this lpx does not know"):
        workspace.package("cpp", "project", engine="onnxruntime-int8")
    assert not Path("project").exists()


@pytest.mark.parametrize("name", BAD)
def test_bad_input(workspace, name, tree):
    check_refusal(workspace, "cpp", BAD[name], tree)


def test_command_without_a_language(lpx, workspace):
    ran = lpx("package")
    assert ran.code == 2
    assert "--for" in ran.err


def test_folder_of_a_project_that_fails_is_removed(tmp_path):
    def fail(folder):
        with new_folder(folder) as new:
            (new / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(tmp_path / "project")
    assert not (tmp_path / "project").exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(RuntimeError):
        fail(tmp_path / "mine")
    assert names(tmp_path / "mine") == set()


CMAKE = shutil.which("cmake")
COMPILER = shutil.which("g++")


@pytest.fixture
def toolkit(tmp_path):
    """A folder that CMake takes for CUDA's, and one that it takes for TensorRT's."""
    cuda = tmp_path / "cuda"
    for name in ("bin", "include", "lib64"):
        (cuda / name).mkdir(parents=True)
    nvcc = cuda / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.68'\n")
    nvcc.chmod(0o755)
    (cuda / "include" / "cuda_runtime.h").touch()
    shutil.copy(SUPPORT / "cuda_runtime_api.h", cuda / "include")
    tensorrt = tmp_path / "tensorrt"
    (tensorrt / "include").mkdir(parents=True)
    (tensorrt / "lib").mkdir()
    shutil.copy(SUPPORT / "NvInfer.h", tensorrt / "include")
    # One library plays both.
    library = tensorrt / "lib" / "libnvinfer.so"
    compile_it = (str(COMPILER), "-std=c++17", "-shared", "-fPIC", f"-I{SUPPORT}")
    source = str(SUPPORT / "fake_runtime.cpp")
    subprocess.run([*compile_it, source, "-o", str(library)], check=True, timeout=120)
    shutil.copy(library, cuda / "lib64" / "libcudart.so")
    return cuda, tensorrt


def cmake(*arguments):
    return subprocess.run(
        [str(CMAKE), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="there is no CMake, or no g++")
def test_project_is_configured_built_and_tested_by_cmake(workspace, add_plan, toolkit):
    card = read_manifest(workspace.engine("onnxruntime-fp32")).model_card()
    numbers = (0, 0, card.input_size, *card.grid, -1, 1, 1, 8)
    add_plan(plan=("lpx-fake " + " ".join(map(str, numbers))).encode())
    folder = workspace.package("cpp", "a project").folder
    # The stand-in scores the brightness of a face.
    face = np.frombuffer((folder / "face.rgb").read_bytes(), np.uint8)
    expected = {"score": face.mean() / 255, "tolerance": 1e-6}
    (folder / "expected.json").write_text(json.dumps(expected))
    cuda, tensorrt = toolkit
    options = (f"-DCUDAToolkit_ROOT={cuda}", f"-DTensorRT_ROOT={tensorrt}")
    done = cmake("-S", folder, "-B", folder / "build", *options)
    assert done.returncode == 0, done.stderr
    done = cmake("--build", folder / "build")
    assert done.returncode == 0, done.stdout + done.stderr
    done = cmake("--build", folder / "build", "--target", "test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100% tests passed" in done.stdout


@pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="there is no CMake, or no g++")
def test_cmake_says_that_tensorrt_is_missing(workspace, add_plan, toolkit):
    add_plan()
    folder = workspace.package("cpp", "project").folder
    done = cmake("-S", folder, "-B", folder / "build", f"-DCUDAToolkit_ROOT={toolkit[0]}")
    assert done.returncode != 0
    assert "TensorRT was not found: install" in " ".join(done.stderr.split())
