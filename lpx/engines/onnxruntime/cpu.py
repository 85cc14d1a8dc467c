"""Engines that ONNX Runtime runs on the CPU: the default on a machine without an NVIDIA GPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lpx.card import ModelCard
from lpx.engines.base import Engine, Faces, Prediction
from lpx.engines.onnxruntime.failure import ort_errors
from lpx.machine.machine import has_vnni
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
        as_written: Run the graph node by node, without ONNX Runtime's graph optimiser.
        shares_cores: Other threads need the same cores, such as those that decode images while
            faces are scored. Predictions are the same. The default is that of ONNX Runtime, and
            the one for measuring latency.
        threads: Threads of a call; 0 for as many as ONNX Runtime chooses.

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
        threads: int = 0,
    ) -> None:
        import onnxruntime

        super().__init__(size, card)
        self._model = model
        self._fit = 0  # faces that are known to fit into memory
        options = session_options(vnni=_vnni())
        options.intra_op_num_threads = threads
        if as_written:
            # The optimiser would fuse nodes.
            level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.graph_optimization_level = level
        # Otherwise idle threads keep spinning after a call, on cores that the next engine needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if shares_cores:
            # During a call, threads that spin take cores from the decoders.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            # With blocks of equal size, all threads wait for one that the system has suspended;
            # with blocks that get smaller, the others take over its share.
            options.add_session_config_entry("session.dynamic_block_base", "4")
        with ort_errors(
            "ONNX Runtime cannot load the model", "build the engine again, or update onnxruntime"
        ):
            self.session = onnxruntime.InferenceSession(model, options, providers=PROVIDERS)

    def _infer(self, faces: Faces) -> Prediction:
        # Only if the batch grows, since counting the memory of a pass takes longer than a small
        # pass.
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
            # ONNX Runtime reads contiguous memory, and a view may have strides.
            score, patch_map = self.session.run(
                ("score", "patch_map"), {"faces": np.ascontiguousarray(faces)}
            )
        return Prediction(score, patch_map)

    def _release(self) -> None:
        # The session frees its memory when its last reference is deleted.
        del self.session, self._model


def session_options(*, vnni: bool | None) -> onnxruntime.SessionOptions:
    """Return options with which ONNX Runtime computes INT8 exactly on the CPU.

    Args:
        vnni: True if the processor has VNNI, see `has_vnni`; None if that is unknown.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Level 3 is "error": warnings are about the graph, and appear on standard error without
    # context.
    options.log_severity_level = 3
    # On x86-64 without VNNI, products of uint8 and int8 are added in pairs in 16 bits, which
    # saturates: scores of the demo model were off by 0.07 on average. This selects kernels that
    # are exact. With VNNI the default ones are too, and take half the time, but ONNX Runtime
    # replaces them on every processor with AVX2.
    if not vnni:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


@cache
def _vnni() -> bool | None:
    # Read once: the file has a paragraph for each core.
    return has_vnni()


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
    """Return the precision in which ONNX Runtime really computes each node, "int8" or "fp32".

    It is read from the optimised graph, because ONNX Runtime silently computes in float, between
    the pairs, if it does not recognise a Q/DQ pattern. Optimisations of the memory layout are left
    out, since they rename nodes and turn other operators into convolutions.

    Args:
        model: Float ONNX, or with Q/DQ pairs.

    Returns:
        Operator and precision by name of the node, as `lpx.graph.model_io.name_nodes` names it.
    """
    # Imported here, so that running engines and printing help do not have to wait.
    import onnx
    import onnxruntime

    from lpx.graph.model_io import name_nodes, parse, serialise

    graph = parse(model, "the graph")
    name_nodes(graph)
    options = session_options(vnni=_vnni())
    # The highest level without changes to the memory layout.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        # Creating the session writes the optimised graph; nothing is run.
        onnxruntime.InferenceSession(serialise(graph), options, providers=PROVIDERS)
        nodes = onnx.load(path).graph.node
    integer = {node.name for node in nodes if node.op_type in _INTEGER}
    as_run = {}
    for node in graph.graph:
        precision = "fp32"
        if node.name in integer:
            precision = "int8"
        as_run[str(node.name)] = (node.op_type, precision)
    return as_run
