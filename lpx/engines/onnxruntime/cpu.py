"""ONNX Runtime: the default engine of a machine without an NVIDIA GPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lpx.card import ModelCard
from lpx.engines.base import Engine, Faces, Prediction
from lpx.engines.onnxruntime.failure import ort_errors
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


class OnnxRuntimeEngine(Engine):
    """Run an ONNX model on the CPU. `infer` may be called from several threads.

    Args:
        model: ONNX.
        size: Side of a face, pixels.
        card: Model card; None if it is not needed.
        as_written: Compute every node as it stands, without ONNX Runtime's graph optimiser.
        shares_cores: Other threads need the same cores, such as those that decode images while
            faces are scored. Predictions are the same; the default is what users of ONNX Runtime
            know, and the setting to time.

    Raises:
        LpxError: ONNX Runtime cannot load the model.
    """

    def __init__(
        self,
        model: bytes,
        size: int,
        *,
        card: ModelCard | None = None,
        as_written: bool = False,
        shares_cores: bool = False,
    ) -> None:
        import onnxruntime

        super().__init__(size, card)
        self._model = model
        self._fit = 0  # faces that are known to fit into memory
        options = _options()
        if as_written:
            # Graphs that are to be run node by node must not have any of them fused.
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        # Idle threads would keep spinning after a call, on cores that the next engine needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if shares_cores:
            # Within a call too a thread that spins takes its core from whoever decodes; and pieces
            # of equal size wait for the one thread that was put aside, small ones are shared out.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            options.add_session_config_entry("session.dynamic_block_base", "4")
        with ort_errors(
            "ONNX Runtime cannot load the model", "build the engine again, or update onnxruntime"
        ):
            self.session = onnxruntime.InferenceSession(model, options, providers=PROVIDERS)

    def _infer(self, faces: Faces) -> Prediction:
        # Only when the batch grows: counting the memory of a pass takes longer than a small pass.
        if len(faces) > self._fit and len(faces) * self.size**2 >= SMALL_PIXELS:
            # Imported here, as small batches never need it.
            from lpx.graph.footprint import check_pass
            from lpx.graph.proto import parse_proto

            check_pass(parse_proto(self._model, "the graph"), "the engine", len(faces))
            self._fit = len(faces)
        with ort_errors(
            f"ONNX Runtime failed on {len(faces)} faces",
            "try smaller batches; if one face fails too, build for another precision",
        ):
            # ONNX Runtime reads the memory as it lies, and a view may have strides.
            score, patch_map = self.session.run(
                ("score", "patch_map"), {"faces": np.ascontiguousarray(faces)}
            )
        return Prediction(score, patch_map)

    def _release(self) -> None:
        # The session frees its memory when the last reference goes.
        del self.session, self._model


def _options() -> onnxruntime.SessionOptions:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Level 3 is "error": its warnings are about graphs, and arrive on standard error with no
    # context.
    options.log_severity_level = 3
    # x86-64 without VNNI adds two products of uint8 and int8 in 16 bits, and saturates: scores of
    # the demo model were off by 0.07 on average. This keeps to kernels that are exact there.
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def precision_of_nodes(model: bytes) -> dict[str, str]:
    """Return the precision of each node by name, as in `nodes_as_run`."""
    return {name: precision for name, (_, precision) in nodes_as_run(model).items()}


def count_convolutions(model: bytes) -> dict[str, int]:
    """Count a graph's convolutions that ONNX Runtime runs in integers, and in floats."""
    return convolutions_of(nodes_as_run(model))


def convolutions_of(nodes: Mapping[str, tuple[str, str]]) -> dict[str, int]:
    """Count the convolutions among the nodes of `nodes_as_run`, by precision."""
    counts = Counter(precision for kind, precision in nodes.values() if kind == "Conv")
    return {"int8": counts["int8"], "fp32": counts["fp32"]}


def nodes_as_run(model: bytes) -> dict[str, tuple[str, str]]:
    """Return whether ONNX Runtime really computes each node of a graph in "int8" or in "fp32".

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
    # The last level before ONNX Runtime changes the layout of tensors, which renames nodes and
    # makes convolutions of other operators.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        # Creating the session writes the optimised graph; nothing is run.
        onnxruntime.InferenceSession(serialise(graph), options, providers=PROVIDERS)
        nodes = onnx.load(path).graph.node
    integer = {node.name for node in nodes if node.op_type in _INTEGER}
    return {
        str(node.name): (node.op_type, "int8" if node.name in integer else "fp32")
        for node in graph.graph
    }
