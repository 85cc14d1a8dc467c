"""Multiply-accumulates of a network, node by node, and the share done in integers."""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.engines.manifest import UNKNOWN, percent, share_in_integers
from lpx.graph.model_io import name_nodes, parse, serialise
from lpx.graph.qdq.placement import Decision

# An INT8 engine that does less of its work in integers gets a warning.
HALF = 0.5
_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
}
_REASONS = 3
_COUNTS = re.compile(r"^\d+ -> \d+ channels, | with \d+ channels")


def multiply_accumulates(model: bytes) -> dict[str, int]:
    """Count the multiply-accumulates of each convolution and matrix product, for one face.

    ONNX Runtime runs the graph, without optimising it, and reports the shapes of all tensors: none
    has to be known beforehand.

    Args:
        model: A float ONNX model whose batch is the one dynamic dimension of its inputs.

    Returns:
        Count by name of the node, in graph order; names as `lpx.graph.model_io.name_nodes` gives
        them. Empty if the graph does not run with a batch of one.
    """
    graph = parse(model, "the float model")
    name_nodes(graph)
    counts = {}
    for event in _profile(serialise(graph)):
        count = _count(event["args"])
        if count:
            counts[event["name"].removesuffix("_kernel_time")] = count
    return counts


def _profile(model: bytes) -> list[dict[str, Any]]:
    """Return ONNX Runtime's profile of every node of a graph, run on one black face."""
    import onnxruntime

    # Level 3 is "error": warnings are of no use for a graph that is run once.
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The optimiser fuses nodes, which could then no longer be found by name.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_profiling = True
    # The profiler does not report the shapes of prepacked weights.
    options.add_session_config_entry("session.disable_prepacking", "1")
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        try:
            session.run(None, {entry.name: _zeros(entry) for entry in session.get_inputs()})
        except Exception:
            # ONNX Runtime's errors have no base class of their own. If a graph does not run with
            # one face, nothing is counted, and the build continues.
            return []
        finally:
            path = session.end_profiling()
        # The profile is complete only after the session has stopped profiling.
        try:
            events: list[dict[str, Any]] = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError:
            return []  # truncated: the disk was full
    return [e for e in events if str(e.get("name")).endswith("_kernel_time") and "args" in e]


def _zeros(entry: Any) -> NDArray[Any]:
    """Return zeros for a session's input, with every dynamic dimension 1."""
    shape = []
    for size in entry.shape:
        # A dynamic dimension has a name in place of a size.
        shape.append(size if isinstance(size, int) else 1)
    zeros: NDArray[Any] = np.zeros(shape, _TYPES.get(entry.type, np.dtype(np.float32)))
    return zeros


def _count(node: Mapping[str, Any]) -> int:
    """Return the multiply-accumulates of a node in a profile; 0 for operators without any."""
    kind = node.get("op_name")
    if kind not in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        return 0
    first, second = (_shape(entry) for entry in node["input_type_shape"][:2])
    output = _shape(node["output_type_shape"][0])
    if kind == "Conv":
        return math.prod(output) * math.prod(second[1:])
    if kind == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    if kind == "Gemm":
        return math.prod(output) * (math.prod(first) // max(output[0], 1))
    return math.prod(output) * first[-1]


def _shape(entry: Mapping[str, Sequence[int]]) -> list[int]:
    """Return the shape in an entry such as {"float": [1, 16, 8, 8]}."""
    (shape,) = entry.values()
    return list(shape)


def by_precision(work: Mapping[str, int], computed_in: Mapping[str, str]) -> dict[str, int]:
    """Sum multiply-accumulates by precision, the most frequent first.

    Args:
        work: Count by name of the node, as `multiply_accumulates` returns it.
        computed_in: Precision by name of the node; nodes that are missing count as `UNKNOWN`.
    """
    counts: Counter[str] = Counter()
    for name, count in work.items():
        counts[computed_in.get(name, UNKNOWN)] += count
    return dict(counts.most_common())


def warning_of_share(
    work: Mapping[str, int], computed_in: Mapping[str, str], decisions: Sequence[Decision]
) -> str:
    """Return a warning for an INT8 engine that does little in integers; "" for any other.

    Args:
        work: Count by name of the node, as `multiply_accumulates` returns it.
        computed_in: Precision by name of the node.
        decisions: Reasons why nodes were quantised or not.
    """
    share = share_in_integers(by_precision(work, computed_in))
    if share is None or share >= HALF:
        return ""
    total = sum(work.values())
    known = {decision.node: decision for decision in decisions}
    reasons: Counter[str] = Counter()
    nodes: Counter[str] = Counter()
    for name, count in work.items():
        if computed_in.get(name) != "int8":
            reason = _reason(known.get(name))
            reasons[reason] += count
            nodes[reason] += 1
    largest = []
    for reason, count in reasons.most_common(_REASONS):
        plural = "s" * (nodes[reason] != 1)
        largest.append(f"{percent(count / total)} ({nodes[reason]} node{plural}): {reason}")
    listed = "; ".join(largest)
    return (
        f"only {percent(share)} of the multiply-accumulates run in integers, so this engine is "
        f"hardly an INT8 one: bench a float engine beside it. Computed in float: {listed}"
    )


def _reason(decision: Decision | None) -> str:
    if decision is None:
        return "added by a graph pass"
    if not decision.quantised:
        return _COUNTS.sub("", decision.reason)
    _, _, note = decision.reason.partition("; ")
    return note or "quantised, but the runtime computes it in float"
