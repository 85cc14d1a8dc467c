"""What this process may take, and the refusal of passes that cannot fit."""

from resource import RLIM_INFINITY

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from lpx.data.face_sets.demo import CHECKPOINT
from lpx.data.face_sets.demo import folder as demo_folder
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.torch import TorchEngine
from lpx.errors import OutOfMemoryError
from lpx.graph.footprint import check_pass, pass_bytes
from lpx.machine import memory_limit as memory
from lpx.machine.memory_limit import Limit, check_fits, memory_limit
from lpx.models.checkpoint import (
    ForeignModel,
    load_checkpoint,
    load_factory,
    save_checkpoint,
)
from lpx.models.detector import new_detector
from lpx.models.footprint import check_forward, forward_bytes

MIB = 1 << 20


@pytest.fixture
def small(monkeypatch):
    """A machine of 64 MiB."""
    monkeypatch.setattr(memory, "memory_limit", lambda: Limit(64 * MIB, "the machine's memory"))


def tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 8000 kB\nMemFree: 1 kB\nSwapTotal:  2000 kB\n"}


@pytest.mark.parametrize(
    ("files", "size", "name"),
    [
        (MEMINFO, 10_000 * 1024, "the machine's memory with its swap"),
        (
            {
                **MEMINFO,
                "proc/self/cgroup": "0::/a.slice/b\n",
                "sys/fs/cgroup/a.slice/memory.max": "5000\n",
                "sys/fs/cgroup/a.slice/b/memory.max": "max\n",
            },
            5000,
            "the limit of this container or service (memory.max)",
        ),
        (
            {
                **MEMINFO,
                "proc/self/cgroup": "12:cpu:/x\n7:memory:/docker/1\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "6000",
            },
            6000,
            "the limit of this container or service (memory.limit_in_bytes)",
        ),
        (
            {
                **MEMINFO,
                "proc/self/cgroup": "7:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": str((1 << 63) - 4096),
            },
            10_000 * 1024,
            "the machine's memory with its swap",
        ),
    ],
)
def test_lowest_limit_counts(tmp_path, files, size, name):
    assert memory_limit(tree(tmp_path, files), RLIM_INFINITY) == Limit(size, name)


def test_nothing_is_known(tmp_path):
    assert memory_limit(tree(tmp_path, {"proc/self/cgroup": "odd\n"}), RLIM_INFINITY) is None


def test_limit_of_the_shell(tmp_path):
    assert memory_limit(tree(tmp_path, MEMINFO), 4000) == Limit(4000, "the limit of `ulimit -v`")


def test_what_cannot_fit_is_refused_with_the_limit_named():
    box = Limit(2 << 30, "the limit of this box")
    check_fits(2 << 30, "a pass", "take less", box)
    with pytest.raises(
        OutOfMemoryError, match=r"a pass needs at least 3\.0 GiB of memory"
    ) as caught:
        check_fits(3 << 30, "a pass", "take less", box)
    assert caught.value.why == "the limit of this box is 2.0 GiB"


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 1)
        self.act = nn.ReLU(inplace=True)
        self.narrow = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        return self.narrow(self.act(self.wide(x))).mean((1, 2, 3))


@pytest.mark.parametrize("faces", [1, 5])
def test_largest_layer_counts(faces):
    # 16 channels in, 1 out: more than 3 in and 16 out would be, were they not 19 and 17.
    assert forward_bytes(Layers(), (faces, 3, 32, 32), torch.float32) == faces * 19 * 32 * 32 * 4


def test_a_module_that_needs_values_is_let_through():
    class Choosing(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    assert forward_bytes(Choosing(), (1, 3, 8, 8), torch.float32) is None
    check_forward(Choosing(), (1, 3, 4096, 4096))


def test_forward_pass_that_cannot_fit(small):
    check_forward(Layers(), (1, 3, 512, 512))
    with pytest.raises(
        OutOfMemoryError, match=r"a forward pass of 64 faces needs at least 1\.2 GiB"
    ):
        check_forward(Layers(), (64, 3, 512, 512))


def test_hooks_are_taken_off():
    module = Layers()
    forward_bytes(module, (1, 3, 8, 8), torch.float32)
    assert not any(layer._forward_hooks for layer in module.modules())


def graph(*nodes, constants=()):
    faces = helper.make_tensor_value_info("faces", TensorProto.FLOAT, ["N", 8, 8, 3])
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, None)
    made = helper.make_graph(list(nodes), "g", [faces], [score], list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


def test_pass_of_a_graph_by_its_largest_node():
    proto = graph(
        helper.make_node("Concat", ["faces", "faces"], ["two"], axis=3),
        helper.make_node("Relu", ["two"], ["score"]),
    )
    assert pass_bytes(proto, 4) == 4 * 8 * 8 * 12 * 4
    assert not proto.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value")


@pytest.mark.parametrize("kind", ["Resize", "Tile", "Expand", "Pad"])
def test_graph_that_grows(kind, small):
    many = 4000
    shape = np.array([1, 1, many, 1], np.int64)
    inputs, constants = {
        "Resize": (["faces", "", "scale"], {"scale": np.array([1, many, 1, 1], np.float32)}),
        "Tile": (["faces", "n"], {"n": np.array([1, 1, many, 1], np.int64)}),
        "Expand": (["thin", "n"], {"n": shape}),
        "Pad": (["faces", "n"], {"n": np.array([0, 0, 0, 0, 0, many * 8, 0, 0], np.int64)}),
    }[kind]
    nodes = [helper.make_node(kind, inputs, ["score"])]
    if kind == "Expand":
        nodes.insert(0, helper.make_node("ReduceMean", ["faces"], ["thin"], axes=[2]))
    proto = graph(
        *nodes, constants=[onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    )
    check_pass(proto, "model.onnx", 1)
    with pytest.raises(OutOfMemoryError, match=r"model.onnx: a pass of 256 faces needs at least"):
        check_pass(proto, "model.onnx", 256)


def test_damaged_graph_is_left_to_those_who_load_it():
    proto = graph(helper.make_node("Concat", ["faces", "faces"], ["score"], axis=9))
    assert pass_bytes(proto, 1) < 8 * 8 * 3 * 4 * 2


def test_engines_refuse_batches_that_cannot_fit(small):
    detector = load_checkpoint(demo_folder() / CHECKPOINT)
    size = detector.card.input_size
    engine = TorchEngine(detector)
    engine.infer(np.zeros((1, size, size, 3), np.uint8))
    with pytest.raises(OutOfMemoryError, match="a forward pass of 128 faces"):
        engine.infer(np.zeros((128, size, size, 3), np.uint8))


def test_onnx_runtime_refuses_batches_that_cannot_fit(small):
    proto = graph(
        helper.make_node("Tile", ["faces", "n"], ["wide"]),
        helper.make_node("ReduceMean", ["wide"], ["score"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("ReduceMean", ["wide"], ["patch_map"], axes=[3], keepdims=0),
        constants=[onnx.numpy_helper.from_array(np.array([1, 1, 1, 500], np.int64), "n")],
    )
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    proto.graph.node.insert(0, helper.make_node("Cast", ["faces"], ["cast"], to=TensorProto.FLOAT))
    proto.graph.node[1].input[0] = "cast"
    proto.graph.output.append(helper.make_tensor_value_info("patch_map", TensorProto.FLOAT, None))
    engine = OnnxRuntimeEngine(proto.SerializeToString(), 8)
    assert len(engine.infer(np.zeros((2, 8, 8, 3), np.uint8)).score) == 2
    with pytest.raises(OutOfMemoryError, match="the engine: a pass of 40000 faces"):
        engine.infer(np.zeros((40_000, 8, 8, 3), np.uint8))


def test_checkpoint_for_faces_that_cannot_fit(tmp_path, small):
    path = tmp_path / "ckpt.pt"
    save_checkpoint(path, *new_detector("resnet18", "layer1", input_size=2048))
    with pytest.raises(OutOfMemoryError, match="a forward pass of one face"):
        load_checkpoint(path)


def wide():
    return Layers()


def test_factory_for_faces_that_cannot_fit(small):
    with pytest.raises(OutOfMemoryError, match="a forward pass of 2 faces"):
        load_factory(f"{__name__}:wide", None, ForeignModel(architecture="x", input_size=2048))
