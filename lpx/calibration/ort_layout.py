"""A model as ONNX Runtime runs it, with tensors handed out in its own layout.

On CPUs, ONNX Runtime keeps the activations of convolutions in blocks of channels: a tensor
[N, C, H, W] lies in memory as [N, C / block, H, W, block]. Its optimiser adds nodes that bring
them into ONNX's order where something else, such as an output, wants that.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpx.calibration.tally import BLOCKS

if TYPE_CHECKING:
    import onnxruntime

_REORDER = "ReorderOutput"


def leave_blocked(model: bytes, channels: Mapping[str, int]) -> tuple[bytes, dict[str, int]]:
    """Optimise a model, and have it give outputs as they lie, where their blocks are full.

    Args:
        model: ONNX.
        channels: How many channels the outputs have that may come so, by name.

    Returns:
        The optimised model, which no session need optimise again; and the outputs that come in
        blocks, with the size of those.
    """
    own = _optimise(model)
    size = block_size()
    full = {name: size for name, count in channels.items() if size > 1 and count % size == 0}
    given = _take_out(own.graph, set(full))
    return own.SerializeToString(), {name: full[name] for name in given}


@functools.cache
def block_size() -> int:
    """Channels of a block on this processor; 1 where there are none, or of no size in `BLOCKS`."""
    width, pixels = 64, 2
    weight = np.eye(width, dtype=np.float32).reshape(width, width, 1, 1)
    shape = [1, width, pixels, 1]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "weight")],
    )
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    own = _optimise(proto.SerializeToString())
    if not _take_out(own.graph, {"y"}):
        return 1
    # Each channel holds its own number, at both pixels: the first block comes twice in a row.
    numbers = np.arange(width, dtype=np.float32).reshape(1, width, 1, 1)
    x = np.ascontiguousarray(np.broadcast_to(numbers, shape))
    memory = open_session(own.SerializeToString(), optimise=False).run(["y"], {"x": x})[0]
    fitting = (
        size
        for size in BLOCKS
        if (memory.reshape(-1, pixels, size) == numbers.reshape(-1, 1, size)).all()
    )
    return next(fitting, 1)


def open_session(
    model: bytes, *, threads: int = 1, optimise: bool = True, save: Path | None = None
) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the CPU that leaves cores to others while it waits.

    Args:
        model: ONNX.
        threads: Threads of one run.
        optimise: Whether to optimise the model; not, where it comes optimised.
        save: Where to write the optimised model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _optimise(model: bytes) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        open_session(model, save=path)
        return onnx.load(path)


def _take_out(graph: onnx.GraphProto, names: set[str]) -> list[str]:
    """Take out nodes that bring some of the outputs into order; returns which."""
    read = {name for node in graph.node for name in node.input}
    last = [n for n in graph.node if n.op_type == _REORDER and n.output[0] in names - read]
    renamed = {node.input[0]: node.output[0] for node in last}
    for node in last:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return list(renamed.values())
