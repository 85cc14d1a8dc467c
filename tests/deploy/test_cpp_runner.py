"""The C++ runner, compiled against stub headers, with a library that plays TensorRT and CUDA.

`tests/support/tensorrt_cpp` has both. The runner is compiled as its CMakeLists.txt says, but with
-Werror, and with sanitizers if there are any.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from tests.support.processes import bounded

SUPPORT = Path(__file__).parents[1] / "support" / "tensorrt_cpp"
SOURCES = Path(str(resources.files("lpx.deploy") / "cpp"))
PUBLISHED = Path(__file__).parents[1] / "fixtures" / "tensorrt_api"
COMPILER = shutil.which("g++")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
SIZE, ROWS, COLUMNS = 4, 2, 3

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no g++ to compile the runner")


def compile_runner(target, release, *options):
    return subprocess.run(
        [
            str(COMPILER),
            "-std=c++17",
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            *options,
            f"-DFAKE_TENSORRT={release}",
            f"-I{SUPPORT}",
            str(SOURCES / "main.cpp"),
            str(SUPPORT / "fake_runtime.cpp"),
            "-o",
            str(target),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """The runner for TensorRT 10, with sanitizers where the compiler has them."""
    target = tmp_path_factory.mktemp("runner") / "detector"
    done = compile_runner(target, 10, *SANITIZERS)
    if done.returncode != 0 and re.search("cannot find.*(asan|ubsan)", done.stderr):
        done = compile_runner(target, 10)
    assert done.returncode == 0, done.stderr
    return target


@dataclass(frozen=True)
class Ran:
    """What the runner printed, as objects, its messages and exit code."""

    code: int
    lines: list[dict]
    err: str


@pytest.fixture
def project(tmp_path):
    """A folder with a plan for batches 1 to 4, a card whose threshold is 0.5, and a self-test."""
    folder = tmp_path / "a project"
    folder.mkdir()
    write_plan(folder, (1, 4))
    # Keys in objects within the card are not the card's.
    card = {"provenance": {"threshold": 0.9, "a": ['"threshold": 0.8', {"input_size": 9}]}}
    card |= {"input_size": SIZE, "threshold_source": "threshold", "threshold": 0.5}
    (folder / "card.json").write_text(json.dumps(card, indent=2))
    (folder / "face.rgb").write_bytes(bytes([51]) * SIZE * SIZE * 3)
    (folder / "expected.json").write_text(json.dumps({"score": 0.205, "tolerance": 0.01}))
    return folder


def write_plan(folder, *profiles, host_code=False, fixed=-1):
    numbers = [int(host_code), 0, SIZE, ROWS, COLUMNS, fixed, len(profiles)]
    for profile in profiles:
        numbers += profile
    (folder / "engine.plan").write_text("lpx-fake " + " ".join(map(str, numbers)))


@pytest.fixture
def run(program, project, tmp_path):
    """Runs the runner in its project; keywords are environment variables."""

    def call(*options, data=b"", **environment):
        done = subprocess.run(
            [str(program), "--model", str(project), *map(str, options)],
            input=data,
            capture_output=True,
            check=False,
            env={**os.environ, "FAKE_LOG": str(tmp_path / "log"), **environment},
            timeout=60,
        )
        text = done.stdout.decode()
        assert text == "" or text.endswith("\n")
        lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
        return Ran(done.returncode, lines, done.stderr.decode())

    return call


@pytest.fixture
def runs(tmp_path):
    """The (profile, batch) pairs of all runs of the engine."""

    def read():
        lines = (tmp_path / "log").read_text().splitlines()
        return [tuple(map(int, line.split())) for line in lines]

    return read


def some_faces(count):
    return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def scores_of(faces):
    return faces.reshape(len(faces), -1).mean(1) / 255


@pytest.mark.parametrize("release", [8, 10, 11])
def test_compiles_without_warnings_for_each_release(release, tmp_path):
    done = compile_runner(tmp_path / "detector", release)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_calls_only_what_every_release_has():
    """The names of the stubs exist in the Python bindings of 8.6 to 11.4."""
    # C++ names that the bindings spell as properties, or otherwise.
    other = {
        "getNbIOTensors": "num_io_tensors",
        "getTensorIOMode": "get_tensor_mode",
        "getTensorDataType": "get_tensor_dtype",
        "getNbOptimizationProfiles": "num_optimization_profiles",
        "getProfileShape": "get_tensor_profile_shape",
        "enqueueV3": "execute_async_v3",
        "setDLACore": "DLA_core",
        "getDLACore": "DLA_core",
        "setEngineHostCodeAllowed": "engine_host_code_allowed",
    }
    source = (SOURCES / "detector.h").read_text()
    called = set(re.findall(r"(?:runtime_|engine_|context_)->(\w+)\(", source))
    assert called >= {"enqueueV3", "setInputShape", "deserializeCudaEngine"} | other.keys()
    files = sorted(PUBLISHED.glob("tensorrt-[0-9]*.json"))
    assert len(files) >= 6
    for file in files:
        module = json.loads(file.read_text())["classes"]
        names = {*module["Runtime"], *module["ICudaEngine"], *module["IExecutionContext"]}
        for name in called:
            python = other.get(name) or re.sub("([A-Z])", r"_\1", name).lower()
            assert python in names, f"{name} is not in {file.name}"


def test_scores_are_those_of_the_engine_and_fake_from_the_threshold_on(run):
    faces = np.stack([np.full((SIZE, SIZE, 3), value, np.uint8) for value in (0, 127, 128, 255)])
    ran = run(data=faces.tobytes())
    assert (ran.code, ran.err) == (0, "")
    assert [line["face"] for line in ran.lines] == [0, 1, 2, 3]
    np.testing.assert_allclose([line["score"] for line in ran.lines], scores_of(faces), rtol=1e-6)
    assert [line["fake"] for line in ran.lines] == [False, False, True, True]
    assert ran.lines[0].keys() == {"face", "score", "fake"}


def test_map_is_a_list_of_rows(run, tmp_path):
    faces = some_faces(5)
    (tmp_path / "faces.rgb").write_bytes(faces.tobytes())
    ran = run("--map", tmp_path / "faces.rgb")
    assert ran.code == 0, ran.err
    parts = np.arange(1, ROWS * COLUMNS + 1).reshape(ROWS, COLUMNS) / (ROWS * COLUMNS)
    wanted = scores_of(faces)[:, None, None] * parts
    np.testing.assert_allclose([line["map"] for line in ran.lines], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("profiles", "options", "count", "expected"),
    [
        ([(1, 4)], [], 9, [(0, 4), (0, 4), (0, 1)]),
        ([(1, 4)], [], 8, [(0, 4), (0, 4)]),
        ([(1, 4)], ["--batch", "1"], 3, [(0, 1)] * 3),
        ([(1, 4)], ["--batch", "99"], 5, [(0, 4), (0, 1)]),
        # A profile per batch size: the last faces take the smallest that holds them.
        ([(1, 1), (4, 4)], [], 5, [(1, 4), (0, 1)]),
        ([(1, 1), (4, 4)], [], 6, [(1, 4), (1, 4)]),
        # Padding would more than double the batch.
        ([(1, 1), (5, 5)], [], 7, [(1, 5), (0, 1), (0, 1)]),
        # No profile takes one face: the batch is padded.
        ([(4, 8)], [], 1, [(0, 4)]),
        ([(2, 2), (8, 16)], [], 17, [(1, 16), (0, 2)]),
    ],
)
def test_inputs_are_split_by_the_profiles(run, runs, project, profiles, options, count, expected):
    write_plan(project, *profiles)
    faces = some_faces(count)
    ran = run(*options, data=faces.tobytes())
    assert ran.code == 0, ran.err
    assert runs() == expected
    np.testing.assert_allclose([line["score"] for line in ran.lines], scores_of(faces), rtol=1e-6)


def test_network_without_dynamic_batch(run, runs, project):
    write_plan(project, fixed=3)
    faces = some_faces(4)
    ran = run(data=faces.tobytes())
    assert ran.code == 0, ran.err
    assert runs() == [(0, 3), (0, 3)]
    np.testing.assert_allclose([line["score"] for line in ran.lines], scores_of(faces), rtol=1e-6)


def test_short_reads_of_a_pipe_are_put_together(program, project):
    faces = some_faces(3)
    data = faces.tobytes()
    process = subprocess.Popen(
        [program, "--model", project, "--batch", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    with bounded(process):
        for part in (data[:10], data[10:50], data[50:100]):
            process.stdin.write(part)
        # The first two faces are scored while the input is still open.
        first = [json.loads(process.stdout.readline())["score"] for _ in range(2)]
        np.testing.assert_allclose(first, scores_of(faces)[:2], rtol=1e-6)
        out, _ = process.communicate(data[100:], timeout=60)
        assert process.returncode == 0
        assert json.loads(out)["face"] == 2


def test_input_that_ends_within_a_face(run):
    faces = some_faces(6)
    ran = run(data=faces.tobytes()[:-5])
    assert ran.code == 2
    assert len(ran.lines) == 5
    assert ran.err == "error: the input ends within face 5: it has 43 of 48 bytes, uint8 RGB\n"


def test_empty_input(run):
    ran = run()
    assert ran.code == 2
    assert ran.err == "error: the input is empty: expected faces, uint8 RGB\n"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("createInferRuntime", "TensorRT cannot start"),
        ("deserializeCudaEngine", "TensorRT cannot load the plan"),
        ("createExecutionContext", "TensorRT cannot create an execution context"),
        ("setOptimizationProfileAsync", "TensorRT cannot choose profile 0"),
        ("setInputShape", "TensorRT cannot set the input's shape for a batch of 4"),
        ("setTensorAddress", "TensorRT cannot set the tensors' addresses"),
        ("setTensorAddress:3", "TensorRT cannot set the tensors' addresses"),
        ("enqueueV3", "TensorRT cannot run the engine for a batch of 4"),
        ("enqueueV3:2", "TensorRT cannot run the engine for a batch of 2"),
        ("cudaStreamCreate", "CUDA cannot create a stream: invalid argument"),
        ("cudaMalloc", "CUDA cannot allocate 192 bytes for faces: out of memory"),
        ("cudaMalloc:2", "CUDA cannot allocate 16 bytes for scores: out of memory"),
        ("cudaMalloc:3", "CUDA cannot allocate 96 bytes for maps: out of memory"),
        ("cudaMemsetAsync", "CUDA cannot clear memory: invalid argument"),
        ("upload", "CUDA cannot copy faces to the GPU: invalid argument"),
        ("download", "CUDA cannot copy scores from the GPU: invalid argument"),
        ("download:2", "CUDA cannot copy maps from the GPU: invalid argument"),
        ("cudaStreamSynchronize", "CUDA cannot finish inference: invalid argument"),
    ],
)
def test_call_that_fails_is_named_and_nothing_leaks(run, call, message):
    ran = run(data=some_faces(6).tobytes(), FAKE_FAIL=call)
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith(f"error: {message}")
    assert "ERROR" not in ran.err, "a sanitizer's report"
    assert len(ran.lines) == (4 if call == "enqueueV3:2" else 0)


def test_messages_of_tensorrt_are_shown_but_for_its_notes(run):
    ran = run(data=some_faces(1).tobytes(), FAKE_FAIL="enqueueV3")
    assert ran.err.splitlines()[0] == "TensorRT: kernel failed"
    assert "note" not in ran.err


def test_score_that_is_not_finite_is_an_error(run):
    ran = run(data=some_faces(3).tobytes(), FAKE_NAN="1")
    assert ran.code == 2
    assert len(ran.lines) == 1
    assert ran.err == "error: face 1 has a score or map that is not finite\n"


def test_host_code_is_only_loaded_where_it_is_allowed(run, project):
    write_plan(project, (1, 4), host_code=True)
    ran = run(data=some_faces(1).tobytes())
    assert ran.code == 2
    assert "a version-compatible one needs --allow-host-code" in ran.err
    assert run("--allow-host-code", data=some_faces(1).tobytes()).code == 0


def test_dla_core(run):
    assert run("--dla", "1", data=some_faces(1).tobytes()).code == 0
    ran = run("--dla", "5", data=some_faces(1).tobytes())
    assert ran.code == 2
    assert "cannot use this DLA core" in ran.err


def test_self_test(run, project):
    ran = run("--self-test")
    assert (ran.code, ran.err) == (0, "")
    (line,) = ran.lines
    assert line["self_test"] == "passed"
    assert line["score"] == pytest.approx(0.2)
    (project / "expected.json").write_text(json.dumps({"score": 0.22, "tolerance": 0.01}))
    ran = run("--self-test")
    assert ran.code == 1
    assert ran.lines[0]["self_test"] == "failed"
    assert "off by 0.02" in ran.err


def edit(name, text):
    return lambda project: (project / name).write_text(text)


DAMAGED = {
    "no plan": (lambda project: (project / "engine.plan").unlink(), "engine.plan cannot be read"),
    "no card": (lambda project: (project / "card.json").unlink(), "card.json cannot be read"),
    "plan of another program": (edit("engine.plan", "garbage"), "cannot load the plan"),
    "empty plan": (edit("engine.plan", ""), "cannot load the plan"),
    "card without size": (edit("card.json", '{"a": {"input_size": 4}}'), 'no number "input_size"'),
    "card that is cut off": (edit("card.json", '{"input_size'), 'no number "input_size"'),
    "card that ends in an escape": (edit("card.json", '{"a\\'), 'no number "input_size"'),
    "text for a number": (edit("card.json", '{"input_size": "x"}'), 'no number "input_size"'),
    "another size": (edit("card.json", '{"input_size": 5}'), "of another size"),
    "huge size": (edit("card.json", '{"input_size": 1e300}'), "outside 1 to 4096"),
    "size NaN": (edit("card.json", '{"input_size": nan}'), 'no number "input_size"'),
    "no threshold": (edit("card.json", '{"input_size": 4}'), 'no number "threshold"'),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_projects(run, project, name):
    damage, message = DAMAGED[name]
    damage(project)
    ran = run(data=some_faces(1).tobytes())
    assert ran.code == 2
    assert message in ran.err.splitlines()[-1]
    assert ran.lines == []


def test_self_test_without_its_files(run, project):
    (project / "face.rgb").write_bytes(b"short")
    assert "face.rgb is cut off" in run("--self-test").err
    (project / "expected.json").write_text("{}")
    ran = run("--self-test")
    assert ran.code == 2
    assert 'no number "score"' in ran.err


def test_engine_with_other_tensors(run):
    ran = run(data=some_faces(1).tobytes(), FAKE_TYPE="float")
    assert ran.code == 2
    assert "not an engine of lpx: it must take faces (uint8" in ran.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch needs a whole number from 1 on"),
        (["--batch", "two"], "--batch needs a whole number"),
        (["--batch"], "--batch needs a whole number"),
        (["--dla", "-1"], "--dla needs a whole number from 0 on"),
        (["--nonsense"], "unexpected argument --nonsense"),
        (["--model"], "unexpected argument --model"),
        (["one", "two"], "unexpected argument two"),
        (["--self-test", "face.rgb"], "--self-test scores its own face"),
        (["nowhere.rgb"], "nowhere.rgb cannot be read: No such file"),
        (["/"], "the input cannot be read: Is a directory"),
    ],
)
def test_bad_command_lines(run, options, message):
    ran = run(*options)
    assert ran.code == 2
    assert message in ran.err
    assert ran.lines == []


def test_output_that_cannot_be_written(program, project):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [program, "--model", project],
            input=some_faces(1).tobytes(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=120,
        )
    assert done.returncode == 2
    assert b"error: cannot write: No space left" in done.stderr
