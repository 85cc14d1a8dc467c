"""The rules that repositories are checked with refuse what Triton refuses."""

from __future__ import annotations

import shutil

import pytest

from tests.support.triton_rules import (
    RefusedError,
    check_graph,
    check_profiles,
    check_repository,
    parse,
)

GRAPH = "detector-onnxruntime-fp32"
PLAN = "detector-tensorrt-fp16"
GRAPHS, NO_FILE = "optimization { cuda { graphs: true } }", 'default_model_filename: "a.plan"'
OLD_NEW = {
    "name": (GRAPH, f'name: "{GRAPH}"', 'name: "other"', "that of the folder"),
    "unknown field": (GRAPH, "backend:", "backends:", "no field named"),
    "wrong type": (GRAPH, "max_batch_size: 32", 'max_batch_size: "32"', "integer"),
    "enumeration": (GRAPH, "TYPE_UINT8", "TYPE_BYTE", "TYPE_BYTE"),
    "no type": (GRAPH, "data_type: TYPE_FP32\n", "", "has no type"),
    "platform": (GRAPH, "onnxruntime_onnx", "tensorrt_plan", "do not fit"),
    "backend": (GRAPH, 'backend: "onnxruntime"', 'backend: "onnx"', "unknown backend"),
    "no batch": (GRAPH, "max_batch_size: 32", "max_batch_size: 0", "empty reshape without"),
    "negative": (GRAPH, "max_batch_size: 32", "max_batch_size: -1", "negative"),
    "no dims": (GRAPH, "  dims: [1]\n", "", "no dims"),
    "zero dim": (GRAPH, "dims: [1]", "dims: [0]", ">= 1"),
    "reshape": (GRAPH, "dims: [1]\n", "dims: [2]\n", "differ in size"),
    "reshape of zero": (GRAPH, "reshape {", "reshape { shape: [0]", ">= 1"),
    "format": (GRAPH, ", 3]", "]", "three dims"),
    "CPU with GPU": (GRAPH, "KIND_CPU", "KIND_CPU gpus: [0]", "not on a GPU"),
    "profile": (GRAPH, "KIND_CPU", 'KIND_CPU profile: ["0"]', "only TensorRT"),
    "no instance": (GRAPH, "count: 1", "count: 0", "an instance"),
    "plan on a CPU": (PLAN, "KIND_GPU", "KIND_CPU", "runs on GPUs"),
    "profile name": (PLAN, "KIND_GPU", 'KIND_GPU profile: ["first"]', "a number"),
    "preferred": (GRAPH, "batching {", "batching { preferred_batch_size: [33]", "above"),
    "preferred zero": (GRAPH, "batching {", "batching { preferred_batch_size: [0]", "positive"),
    "graph": (PLAN, "graph_spec {", "graph_spec { batch_size: 99 } graph_spec {", "graph's"),
    "graphs of ONNX": (GRAPH, "instance_group", f"{GRAPHS} instance_group", "only TensorRT"),
    "warm-up": (GRAPH, 'name: "batch-32"\n  batch_size: 32', "batch_size: 64", "warm-up batch"),
    "warm-up name": (GRAPH, 'key: "faces"', 'key: "face"', "every input"),
    "warm-up file": (GRAPH, '"face.rgb"', '"other.rgb"', "missing"),
    "warm-up type": (GRAPH, "      data_type: TYPE_UINT8", "data_type: TYPE_FP32", "another type"),
    "warm-up noise": (GRAPH, 'input_data_file: "face.rgb"', "random_data: true", "without data"),
    "capability": (PLAN, 'key: "8.6"', 'key: "sm86"', "compute capability"),
    "plan": (PLAN, "model-sm86.plan", "model-sm87.plan", "no GPU loads"),
    "folder of a plan": (PLAN, "model-sm86.plan", "../model.plan", "version's folder"),
    "default plan": (PLAN, "cc_model", f"{NO_FILE} cc_model", "no GPU loads"),
    "no group": (GRAPH, "instance_group {\n  count: 1\n  kind: KIND_CPU\n}", "", "instance group"),
}


@pytest.fixture
def repository(package):
    return package / "models"


def test_what_lpx_writes_is_accepted(repository):
    assert PLAN in check_repository(repository)


@pytest.mark.parametrize("name", OLD_NEW)
def test_a_broken_configuration_is_refused(repository, name):
    model, old, new, why = OLD_NEW[name]
    path = repository / model / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(RefusedError, match=why):
        check_repository(repository)


def test_broken_folders_are_refused(repository):
    face = repository / GRAPH / "warmup" / "face.rgb"
    face.write_bytes(face.read_bytes()[1:])
    with pytest.raises(RefusedError, match="too small"):
        check_repository(repository)
    face.unlink()
    (repository / GRAPH / "1").rename(repository / GRAPH / "first")
    with pytest.raises(RefusedError, match="no version"):
        check_repository(repository)
    shutil.rmtree(repository / GRAPH)
    (repository / "README.md").touch()
    with pytest.raises(RefusedError, match="not a model's folder"):
        check_repository(repository)


def test_profiles_must_take_every_batch(repository):
    config = check_repository(repository)[PLAN]
    check_profiles(config, [(1, 32)])
    for profiles in ([(1, 16)], [(2, 32)], [(1, 1), (1, 32)]):
        with pytest.raises(RefusedError):
            check_profiles(config, profiles)
    config.instance_group[0].profile.extend(["0", "1"])
    check_profiles(config, [(1, 1), (2, 32)])
    with pytest.raises(RefusedError, match="no profile takes 2"):
        check_profiles(config, [(1, 1), (8, 32)])
    with pytest.raises(RefusedError, match="no such profile"):
        check_profiles(config, [(1, 32)])


def test_a_configuration_of_another_graph_is_refused(repository):
    text = (repository / GRAPH / "config.pbtxt").read_text()
    data = (repository / GRAPH / "1" / "model.onnx").read_bytes()
    check_graph(parse(text), data)
    for old, new in (
        ("FP32", "UINT8"),
        ('"score"', '"scores"'),
        ("dims: [10, 10]", "dims: [9, 9]"),
    ):
        assert old in text
        with pytest.raises(RefusedError):
            check_graph(parse(text.replace(old, new, 1)), data)
