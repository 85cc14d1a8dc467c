"""Reading tensors in ONNX Runtime's own memory layout.

On CPUs, ONNX Runtime stores the activations of convolutions in blocks of channels: a tensor
[N, C, H, W] is [N, C / block, H, W, block] in memory. Its optimiser adds nodes (ReorderOutput) that
convert it to ONNX's layout for consumers that need that, such as an output.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpx.calibration.tally import BLOCKS

if TYPE_CHECKING:
    import onnxruntime

_REORDER = "ReorderOutput"


class BlockedModel(NamedTuple):
    """A model some of whose outputs are in ONNX Runtime's layout.

    Attributes:
        model: The optimised model; open it without optimising it again.
        sizes: Block sizes of the outputs that are in blocks, by name.
    """

    model: bytes
    sizes: dict[str, int]


def leave_blocked(
    model: bytes, channels: Mapping[str, int], block: int | None = None
) -> BlockedModel:
    """Optimise a model, and leave outputs in ONNX Runtime's layout if their blocks are full.

    Args:
        model: ONNX.
        channels: Number of channels of the outputs that may be left so, by name.
        block: Channels of a block; measured if None.
    """
    own = _optimise(model)
    size = block_size() if block is None else block
    # ONNX Runtime pads the last block if it is not full: its zeros would be counted as values.
    full = {name for name, count in channels.items() if size > 1 and count % size == 0}
    blocked = remove_reorders(own.graph, full)
    return BlockedModel(own.SerializeToString(), dict.fromkeys(blocked, size))


def open_session(
    model: bytes, *, threads: int = 1, optimise: bool = True, save: Path | None = None
) -> onnxruntime.InferenceSession:
    """Open a CPU session of ONNX Runtime whose threads sleep while they wait.

    Args:
        model: ONNX.
        threads: Number of threads per run.
        optimise: Optimise the model; False for one that is optimised already.
        save: File to write the optimised model to.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Spinning threads would take cores from the other sessions and from decoding.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def remove_reorders(graph: onnx.GraphProto, names: set[str]) -> list[str]:
    """Remove the nodes that convert outputs to ONNX's layout.

    Args:
        graph: Optimised graph, changed in place.
        names: Names of the outputs.

    Returns:
        The outputs that are left in ONNX Runtime's layout. Those that other nodes read too, in
        ONNX's layout, are not among them.
    """
    read: set[str] = set()
    for node in graph.node:
        read.update(node.input)
    last = [n for n in graph.node if n.op_type == _REORDER and n.output[0] in names - read]
    # The blocked tensor takes the output's name.
    renamed = {node.input[0]: node.output[0] for node in last}
    for node in last:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return list(renamed.values())


@functools.cache
def block_size() -> int:
    """Return the number of channels of a block on this processor; 1 if there are no blocks.

    It depends on the width of the processor's vectors, and no interface of ONNX Runtime says it.
    """
    return measure_block_size()


def measure_block_size(
    *,
    opener: Callable[..., onnxruntime.InferenceSession] = open_session,
    remover: Callable[[onnx.GraphProto, set[str]], list[str]] = remove_reorders,
) -> int:
    """Measure the block size from the memory of a small convolution's output.

    Args:
        opener: Opens the session, as `open_session`.
        remover: Removes the nodes that convert the layout, as `remove_reorders`.

    Returns:
        One of `BLOCKS`; 1 if there are no blocks, or they have another size.
    """
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
    if not remover(own.graph, {"y"}):
        return 1
    # The value of each channel is its number, at both pixels: in memory, each block of numbers
    # appears twice in a row.
    numbers = np.arange(width, dtype=np.float32).reshape(1, width, 1, 1)
    x = np.ascontiguousarray(np.broadcast_to(numbers, shape))
    session = opener(own.SerializeToString(), optimise=False)
    memory = session.run(["y"], {"x": x})[0]
    for size in BLOCKS:
        if (memory.reshape(-1, pixels, size) == numbers.reshape(-1, 1, size)).all():
            return size
    return 1


def _optimise(model: bytes) -> onnx.ModelProto:
    # ONNX Runtime gives the optimised graph only as a file.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        open_session(model, save=path)
        return onnx.load(path)
