"""ONNX Runtime: the default engine of a machine without an NVIDIA GPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lpx.engines.base import ON_THE_CPU, DeviceMemory, Faces, Prediction, check_faces
from lpx.errors import LpxError, out_of_memory
from lpx.machine.memory_limit import SMALL_PIXELS

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = ["CPUExecutionProvider"]
_INTEGER = frozenset(
    {
        "QLinearConv",
        "ConvInteger",
        "QLinearMatMul",
        "QGemm",
        "MatMulInteger",
        "MatMulIntegerToFloat",
    }
)


class OnnxRuntimeEngine:
    """Runs an ONNX model on the CPU. `infer` may be called from several threads.

    Args:
        model: ONNX.
        size: Side of a face, pixels.
        as_written: Compute every node as it stands, without ONNX Runtime's graph optimiser.
        shares_cores: Other threads want the same cores, as those that decode do while faces are
            scored. Predictions are the same; where it is alone the other setting is the default
            that its users know, and the one to time.
    """

    def __init__(
        self, model: bytes, size: int, *, as_written: bool = False, shares_cores: bool = False
    ) -> None:
        import onnxruntime

        self.size = size
        self._model = model
        self._fit = 0  # faces that are known to fit into memory
        options = _options()
        if as_written:
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        # Idle threads would go on spinning after a call, on cores that the next engine needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if shares_cores:
            # Within a call too a thread that spins takes its core from whoever decodes; and pieces
            # of equal size wait for the one thread that was put aside, small ones are shared out.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.add_session_config_entry("session.dynamic_block_base", "4")
        try:
            self.session = onnxruntime.InferenceSession(model, options, providers=PROVIDERS)
        except Exception as error:
            # Its errors share no base class but Exception.
            if short := out_of_memory(error):
                raise short from error
            raise LpxError(
                "ONNX Runtime cannot load the model",
                str(error).strip().splitlines()[0],
                "build the engine again, or update onnxruntime",
            ) from error

    @property
    def device_memory(self) -> DeviceMemory:
        """None of its own."""
        return ON_THE_CPU

    def infer(self, faces: Faces) -> Prediction:
        """Score faces, uint8 RGB [N, S, S, 3].

        Raises:
            LpxError: The faces do not fit, or ONNX Runtime fails on them.
        """
        check_faces(faces, self.size)
        if len(faces) > self._fit and len(faces) * self.size**2 >= SMALL_PIXELS:
            from lpx.graph.footprint import check_pass
            from lpx.graph.proto import parse_proto

            check_pass(parse_proto(self._model, "the graph"), "the engine", len(faces))
            self._fit = len(faces)
        try:
            score, patch_map = self.session.run(
                ("score", "patch_map"), {"faces": np.ascontiguousarray(faces)}
            )
        except Exception as error:  # its errors share no base class but Exception
            if short := out_of_memory(error):
                raise short from error
            raise LpxError(
                f"ONNX Runtime failed on {len(faces)} faces",
                str(error).strip().splitlines()[0],
                "try smaller batches; if one face fails too, build for another precision",
            ) from error
        return Prediction(score, patch_map)

    def close(self) -> None:
        """Free the session, and the model."""
        del self.session, self._model


def _options() -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # x86-64 without VNNI adds two products of uint8 and int8 in 16 bits, and saturates: scores of
    # the demo model were off by 0.07 on average. This keeps to kernels that are exact there.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def precision_of_nodes(model: bytes) -> dict[str, str]:
    """Precision of each node, as in `nodes_as_run`."""
    return {name: precision for name, (_, precision) in nodes_as_run(model).items()}


def count_convolutions(model: bytes) -> dict[str, int]:
    """How many of a graph's convolutions ONNX Runtime runs in integers, and how many in floats."""
    return convolutions_of(nodes_as_run(model))


def convolutions_of(nodes: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """How many convolutions are among nodes as `nodes_as_run` gives them, by precision."""
    counts = Counter(precision for kind, precision in nodes.values() if kind == "Conv")
    return {"int8": counts["int8"], "fp32": counts["fp32"]}


def nodes_as_run(model: bytes) -> dict[str, tuple[str, str]]:
    """Whether ONNX Runtime really computes each node of a graph in "int8" or in "fp32".

    Read off the graph as its optimiser leaves it: a Q/DQ pattern that it does not recognise runs in
    float between the pairs, silently. What the optimiser does to the layout of tensors afterwards
    is left out: it would rename nodes, and make convolutions of other operators.

    Args:
        model: Float ONNX, or with Q/DQ pairs.

    Returns:
        Operator and precision by name of the node, as `lpx.graph.model_io.name_nodes` names it.
    """
    # Imported here: what only runs engines, or prints help, does not wait for them.
    import onnx
    import onnxruntime

    from lpx.graph.model_io import name_nodes, parse, serialise

    graph = parse(model, "the graph")
    name_nodes(graph)
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(serialise(graph), options, providers=PROVIDERS)
        nodes = onnx.load(path).graph.node
    integer = {node.name for node in nodes if node.op_type in _INTEGER}
    return {
        str(node.name): (node.op_type, "int8" if node.name in integer else "fp32")
        for node in graph.graph
    }
