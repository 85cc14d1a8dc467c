"""`lpx package --for deepstream`: what is written, built, checked and refused."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import lpx
from lpx.card import METADATA_KEY, ModelCard
from lpx.deploy.deepstream.recipes import check_recipe
from lpx.engines.tensorrt_options import BatchRange
from lpx.errors import LpxError
from tests.support.limits import largest_file
from tests.support.packages import BAD, check_refusal, write_plan

SUPPORT = Path(__file__).parents[2] / "support" / "deepstream"
FILES = {
    "README.md",
    "build.sh",
    "card.json",
    "expected.json",
    "face.rgb",
    "face_boxes.h",
    "face_boxes.py",
    "labels.txt",
    "nvinfer_score.txt",
    "nvinfer_tensors.txt",
    "nvinferserver.txt",
    "pipeline.py",
    "selftest.py",
    "service_maker.py",
    "tensor_meta.py",
    "trtexec",
}


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


def properties(path):
    lines = Path(path).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.fixture(scope="session")
def package(squares, tmp_path_factory):
    """The INT8 engine's package; read only."""
    folder = tmp_path_factory.mktemp("deepstream") / "a package"
    return squares.package("deepstream", folder)


def test_files(package):
    assert names(package.folder) == FILES
    assert package.to_dict() == {
        "folder": str(package.folder),
        "engine": "onnxruntime-int8",
        "precision": "int8",
        "engines": {
            "score": "score.onnx_b32_gpu0_int8.engine",
            "tensors": "tensors.onnx_b32_gpu0_int8.engine",
        },
        "batch": 32,
        "crop": "square-1.3",
        "nvinferserver": True,
        "expected_score": package.expected_score,
        "tolerance": 0.05,
    }
    card = json.loads((package.folder / "card.json").read_text())
    assert card["crop"] == "square-1.3"
    assert (package.folder / "labels.txt").read_text() == "fake"
    text = (package.folder / "README.md").read_text()
    assert "{" not in text.replace("{\n", "")
    assert "It has not yet run in DeepStream" in text
    assert "recipe `square-1.3`" in text
    assert "--own-boxes" not in text
    assert "# The probe in face_boxes.py" in (package.folder / "nvinfer_score.txt").read_text()


def test_every_graph_takes_float32_planes(package):
    """A uint8 engine would be overrun by nvinfer: there is nothing to build one from."""
    paths = sorted(package.folder.rglob("*.onnx"))
    assert [path.name for path in paths] == [
        "score-int8-strongly-typed.onnx",
        "score-int8-weakly-typed.onnx",
        "tensors-int8-strongly-typed.onnx",
        "tensors-int8-weakly-typed.onnx",
    ]
    for path in paths:
        (faces,) = onnx.load(path).graph.input
        kind = faces.type.tensor_type
        assert kind.elem_type == TensorProto.FLOAT
        assert [size.dim_value for size in kind.shape.dim[1:]] == [3, 160, 160]
    assert not list(package.folder.rglob("*.plan"))
    assert not list(package.folder.rglob("*.engine"))
    for script in package.folder.glob("trtexec/*.sh"):
        assert "x160x160x3" not in script.read_text()


def test_expected_score_is_that_of_the_face(package, squares):
    expected = json.loads((package.folder / "expected.json").read_text())
    assert expected["score"] == package.expected_score
    face = np.fromfile(package.folder / "face.rgb", np.uint8).reshape(1, 160, 160, 3)
    with closing(lpx.load(squares.engine("onnxruntime-int8"))) as engine:
        # Another dialect of INT8, which rounds elsewhere.
        assert engine.infer(face).score[0] == pytest.approx(expected["score"], abs=0.1)
    assert expected["tolerance"] < expected["score"] < 1 - expected["tolerance"]


@pytest.fixture
def build(package, tmp_path):
    """Runs a copy of the package's build.sh with the stand-in for trtexec."""
    folder = tmp_path / "on the board"
    shutil.copytree(package.folder, folder)
    tool = tmp_path / "trtexec"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{SUPPORT / "trtexec.py"}" "$@"\n')
    tool.chmod(0o755)
    # Its python3 is the one that runs the tests.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(sys.executable)

    def run(*arguments, script="build.sh", **environment):
        command = ["sh", str(folder / script), *arguments]
        if script.endswith(".py"):
            command[0] = sys.executable
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "TRTEXEC": str(tool), **environment}
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    run.folder = folder
    return run


def built_in(folder):
    return {path.name for path in folder.glob("*.engine*")}


def test_build_sh_builds_the_engines_that_the_configurations_name(build, package):
    done = build()
    assert done.returncode == 0, done.stderr + done.stdout
    assert built_in(build.folder) == set(package.engines.values())
    for form, name in package.engines.items():
        assert properties(build.folder / f"nvinfer_{form}.txt")["model-engine-file"] == name
        assert f"passed: {name}.part gives" in done.stdout
        # Of three scripts, that for TensorRT 10 ran.
        graph = build.folder / "trtexec" / f"{form}-int8-strongly-typed.onnx"
        assert (build.folder / name).read_bytes() == graph.read_bytes()


@pytest.mark.parametrize(
    ("version", "dialect"), [("8601", "weakly-typed"), ("110000", "strongly-typed")]
)
def test_each_release_builds_from_its_graph(build, package, version, dialect):
    done = build("score", FAKE_VERSION=version)
    assert done.returncode == 0, done.stderr + done.stdout
    assert built_in(build.folder) == {package.engines["score"]}
    graph = build.folder / "trtexec" / f"score-int8-{dialect}.onnx"
    assert (build.folder / package.engines["score"]).read_bytes() == graph.read_bytes()


@pytest.mark.parametrize("score", ["0.0", "nan", "1.0"])
def test_engine_with_a_wrong_score_is_not_kept(build, score):
    done = build("tensors", FAKE_SCORE=score)
    assert done.returncode == 1
    assert "FAILED: tensors.onnx_b32_gpu0_int8.engine.part gives" in done.stdout
    assert "is not kept: its self-test did not pass" in done.stderr
    assert built_in(build.folder) == set()


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (("map",), {}, 2, "map is neither score nor tensors"),
        ((), {"FAKE_BREAK": "saveEngine"}, 1, "[E] no kernel found"),
        ((), {"FAKE_BREAK": "loadEngine"}, 1, "trtexec failed on score.onnx_b32"),
        ((), {"LPX_TENSORRT": "90100"}, 2, "is of TensorRT 9"),
        ((), {"TRTEXEC": "/no/such/trtexec", "LPX_TENSORRT": "100300"}, 2, "no trtexec"),
    ],
)
def test_build_sh_says_what_is_wrong(build, arguments, environment, code, message):
    done = build(*arguments, **environment)
    assert done.returncode == code
    assert message in done.stderr
    assert built_in(build.folder) == set()


def test_self_test_refuses_a_plan_of_the_workspace(build, squares):
    """Such a plan takes uint8, and nvinfer would write float32 into it."""
    plan = build.folder / "uint8.plan"
    shutil.copy(squares.engine("onnxruntime-fp32") / "engine.onnx", plan)
    done = build(str(plan), script="selftest.py")
    assert done.returncode == 2
    assert "input is tensor(uint8)" in done.stderr


def test_self_test_of_graphs(build, package):
    graphs = sorted(map(str, build.folder.glob("trtexec/*.onnx")))
    done = build(*graphs, script="selftest.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("passed: ") == 4
    expected = build.folder / "expected.json"
    values = json.loads(expected.read_text())
    expected.write_text(json.dumps(values | {"score": values["score"] - 0.2}))
    assert build(graphs[0], script="selftest.py").returncode == 1
    for bad in ("missing.onnx", "missing.engine"):
        assert build(str(build.folder / bad), script="selftest.py").returncode == 2
    assert build(script="selftest.py").returncode == 2


@pytest.mark.parametrize("form", ["tensors", "score", "nvinferserver"])
def test_pipeline(package, form):
    done = pipeline(package, "--form", form)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line[0] == "{"]
    # The face's own box, the second face is outside the frame, the other objects are no faces.
    assert lines == [
        {
            "source": 3,
            "frame": 41,
            "box": [100.0, 100.0, 50.0, 60.0],
            "score": 0.875,
            "fake": True,
        }
    ]
    seen = [line for line in done.stdout.splitlines() if line.startswith("# nvinfer sees")]
    assert seen[0] == "# nvinfer sees 86.0 92.0 78.0 78.0"
    assert seen[1] == "# nvinfer sees 300.0 100.0 50.0 60.0"
    assert seen[2] == "# nvinfer sees 0.0 0.0 0.0 0.0"
    assert "# state null" in done.stdout


def pipeline(package, *arguments, **environment):
    options = ("--detector", "faces.txt", "--size", "640x480", *arguments)
    script = str(package.folder / "pipeline.py")
    return subprocess.run(
        [sys.executable, script, *options, "clip.mp4", "rtsp://camera/1"],
        env={**os.environ, "PYTHONPATH": str(SUPPORT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_description_of_the_pipeline(package):
    done = pipeline(package, "--tracker", "tracker.yml", "--own-boxes", FAKE_ERROR="1")
    assert done.returncode == 1
    assert "error: no such file" in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("# nvstreammux")]
    chain = [part.split()[0] for part in line.removeprefix("# ").split(" ! ")]
    assert chain[:5] == ["nvstreammux", "nvinfer", "nvtracker", "nvinfer", "fakesink"]
    assert "batch-size=2 width=640 height=480" in line
    assert "live-source=1" in line
    assert f'uri="{Path("clip.mp4").resolve().as_uri()}" ! mux.sink_0' in line
    assert 'uri="rtsp://camera/1" rtsp-reconnect-interval=10 ! mux.sink_1' in line
    assert f'"{package.folder / "nvinfer_tensors.txt"}"' in line
    # The boxes are left as they are.
    assert "# nvinfer sees 100.0 100.0 50.0 60.0" in done.stdout


@pytest.mark.parametrize("score", ["nan", "7"])
def test_pipeline_fails_on_a_score_that_is_none(package, score):
    done = pipeline(package, FAKE_SCORE=score)
    assert done.returncode == 1
    assert "is not a probability" in done.stderr
    assert '"score"' not in done.stdout


def test_pipeline_prints_no_scores_of_boxes_that_were_not_enlarged(package):
    """The frame is on its way when the first probe fails, and the second one sees it."""
    done = pipeline(package, FAKE_BREAK="1")
    assert done.returncode == 1
    assert done.stderr == "error: no metadata\n"
    assert '"score"' not in done.stdout


def test_pipeline_checks_its_options(package):
    done = pipeline(package, "--size", "1920")
    assert done.returncode == 2
    assert "argument --size" in done.stderr


def test_service_maker(package):
    """Its operators do what the probes of pyds do."""
    script = """
import sys
from types import SimpleNamespace as N
sys.path.insert(0, sys.argv[1])
from service_maker import operators
rect = N(left=100.0, top=100.0, width=50.0, height=60.0)
frame = N(source_id=0, frame_number=1, pipeline_width=640, pipeline_height=480,
          object_items=[N(rect_params=rect)])
batch = N(frame_items=[frame])
before, after = operators(object, "square-1.3")
before.handle_metadata(batch)
print(list(vars(rect).values()))
after.handle_metadata(batch)
print(list(vars(rect).values()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(package.folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == ["[86.0, 92.0, 78.0, 78.0]", "[100.0, 100.0, 50.0, 60.0]"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_precisions(workspace, precision):
    result = workspace.package("deepstream", "out", engine=f"onnxruntime-{precision}")
    assert (result.precision, result.tolerance) == (
        precision,
        {"fp32": 0.01, "fp16": 0.02}[precision],
    )
    assert result.engines["score"] == f"score.onnx_b32_gpu0_{precision}.engine"
    assert Path("out/trtexec", f"score-{precision}-strongly-typed.onnx").exists()


def test_without_engines_the_float32_graph_is_packaged(workspace, lpx):
    shutil.rmtree(workspace.engines)
    ran = lpx("package", "--for", "deepstream")
    assert ran.code == 0, ran.err
    assert "no engine was built: the float32 graph is packaged" in ran.err
    assert ran.out.splitlines()[0] == f"written: {workspace.root / 'deepstream'}"
    assert (workspace.root / "deepstream" / "nvinfer_score.txt").exists()


def test_json(workspace, lpx):
    ran = lpx("package", "--for", "deepstream", "--json", "-o", "out")
    value = json.loads(ran.out)
    assert (value["folder"], value["crop"], value["nvinferserver"]) == ("out", "square-1.3", True)


@pytest.fixture
def plan(workspace):
    """Adds a TensorRT engine, whose plan is text, to the workspace."""

    def add(**options):
        write_plan(workspace, "tensorrt-fp32", "fp32", plan=b"a uint8 plan", options=options)

    return add


@pytest.mark.parametrize(
    ("batches", "shapes", "batch"),
    [
        (BatchRange(2, 4, 16), ("1x3", "4x3", "16x3"), 16),
        ((1, 8, 64), ("1x3", "64x3", "64x3"), 64),
        # More than nvinfer takes.
        (BatchRange(1, 2048, 4096), ("1x3", "1024x3", "1024x3"), 1024),
    ],
)
def test_plan_is_never_packaged_but_its_options_are_used(workspace, plan, batches, shapes, batch):
    plan(batches=batches, tf32=False, workspace_mib=512, optimisation_level=4)
    result = workspace.package("deepstream", "out")
    assert (result.engine, result.batch) == ("tensorrt-fp32", batch)
    assert properties("out/nvinfer_score.txt")["batch-size"] == str(batch)
    content = [path.read_bytes() for path in Path("out").rglob("*") if path.is_file()]
    assert not any(b"a uint8 plan" in data for data in content)
    text = Path("out/trtexec/build-tensorrt10.sh").read_text()
    for option, shape in zip(("min", "opt", "max"), shapes, strict=True):
        assert f"--{option}Shapes=faces:{shape}x160x160" in text
    assert "--noTF32" in text
    assert "--memPoolSize=workspace:512" in text
    assert "--builderOptimizationLevel=4" in text


def test_dla_engine_is_packaged_for_the_gpu(workspace, plan):
    """nvinfer would need `enable-dla`, and INT8 there other scales."""
    plan(dla_core=1)
    result = workspace.package("deepstream", "out")
    assert result.batch == 1
    assert "--useDLACore" not in Path("out/trtexec/build-tensorrt10.sh").read_text()


def spoil_card(workspace, **changes):
    """Change the card of the exported model, and let the workspace take it for its own."""
    from lpx.workspace import read_sealed, write_sealed

    model = onnx.load(workspace.model)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = json.dumps({**json.loads(entry.value), **changes})
    data = model.SerializeToString()
    workspace.model.write_bytes(data)
    path = workspace.model.with_suffix(".json")
    values = read_sealed(path, "")
    values["model_sha256"] = hashlib.sha256(data).hexdigest()
    values["card"].update(changes)
    write_sealed(path, values)
    shutil.rmtree(workspace.engines)


RECIPES = {
    "aligned-1.3-256": ("unsupported", "cannot be made in DeepStream", "it turns faces"),
    "square-1.75-landmarks": ("unsupported", "cannot be made in DeepStream", "it needs landmarks"),
    "unknown": ("invalid-input", "does not say how its faces were cropped", "bare box"),
    "dlib-2.0": ("invalid-input", '"dlib-2.0", which lpx does not know', "bare box"),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_that_boxes_cannot_make_is_refused(workspace, lpx, recipe, tree):
    code, what, why = RECIPES[recipe]
    spoil_card(workspace, crop=recipe)
    before = tree(".")
    with pytest.raises(LpxError) as caught:
        workspace.package("deepstream", "out")
    error = caught.value
    assert error.code == code
    assert what in error.what
    assert why in error.why
    assert "`own_crop=True`" in error.fix
    ran = lpx("package", "--for", "deepstream", "-o", "out")
    assert ran.code == 2
    assert "set --own-crop if something else in your pipeline sets the boxes" in ran.err
    assert tree(".") == before
    result = workspace.package("deepstream", "out", own_crop=True)
    assert result.crop == ""
    text = Path("out/README.md").read_text()
    assert f"of the crops of the training: `{recipe}`" in text
    assert "--size 1920x1080 --own-boxes video.mp4" in text
    assert "something else in your pipeline must set" in text
    for name in ("nvinfer_score.txt", "nvinfer_tensors.txt", "nvinferserver.txt"):
        assert "# Your pipeline must set the boxes" in Path("out", name).read_text()
    done = pipeline(result)
    assert done.returncode == 2
    assert f"error: the crop recipe {recipe} cannot be made from a box" in done.stderr
    assert pipeline(result, "--own-boxes").returncode == 0


def test_only_recipes_of_boxes_pass():
    card = ModelCard("resnet18", "layer1", "mean_prob", 64, crop="square-1.3")
    check_recipe(card)
    with pytest.raises(lpx.LpxError):
        check_recipe(replace(card, crop="square-1.30"))


MORE = {
    "no ranges": (lambda w: w.scales.unlink(), {}, "not-found", "scales.json"),
    "own_crop": (lambda w: None, {"own_crop": "yes"}, "invalid-argument", "own_crop must be"),
}


@pytest.mark.parametrize("name", [*BAD, *MORE])
def test_bad_input(workspace, name, tree):
    check_refusal(workspace, "deepstream", (BAD | MORE)[name], tree)


def test_own_crop_is_for_deepstream(workspace, lpx):
    with pytest.raises(LpxError, match="own_crop must be left out") as caught:
        workspace.package("cpp", "out", own_crop=True)
    assert caught.value.code == "invalid-argument"
    ran = lpx("package", "--for", "cpp", "--own-crop", "-o", "out")
    assert ran.code == 2
    assert "--own-crop must be left out for --for cpp" in ran.err
    assert not Path("out").exists()


def test_ranges_that_were_replaced_are_refused(workspace):
    workspace.calibrate("demo", limit=4, method="max")
    with pytest.raises(lpx.LpxError, match="built with other ranges"):
        workspace.package("deepstream", "out")
    assert not Path("out").exists()


def test_disk_that_is_full_leaves_nothing(workspace, tree):
    before = tree(".")
    with largest_file(200_000), pytest.raises(lpx.LpxError) as caught:
        workspace.package("deepstream", "out")
    assert caught.value.code == "unwritable"
    assert tree(".") == before
