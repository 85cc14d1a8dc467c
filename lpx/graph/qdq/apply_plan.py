"""Precision plans and graphs: whether one fits the other, and what it means for ranges."""

from __future__ import annotations

from difflib import get_close_matches

import onnx_ir as ir

from lpx.errors import LpxError, NotAsAskedError
from lpx.graph.nodes import COMPUTE, name_of
from lpx.graph.qdq.placement import Placement
from lpx.graph.qdq.plan import PrecisionPlan

# Unknown names that an error lists, and similar names that it suggests for each.
_NAMED, _SIMILAR = 3, 2


def check_plan(plan: PrecisionPlan, model: ir.Model, model_sha256: str) -> None:
    """Check that a plan is for a model.

    Args:
        plan: The plan.
        model: The float graph, with every node named.
        model_sha256: SHA-256 of the exported model.

    Raises:
        LpxError: It was made for another model, or names nodes that are not convolutions or matrix
            products of this one.
    """
    if plan.model_sha256 and plan.model_sha256 != model_sha256:
        raise LpxError(
            f"the precision plan was made for model {plan.model_sha256[:12]}, and this is "
            f"{model_sha256[:12]}",
            "layers of another export may have the same names, and other ranges",
            'use a plan for this model; or set "model_sha256" to "" in the plan, which applies it '
            "to any model that has these layers",
        )
    layers = [name_of(node) for node in model.graph if node.op_type in COMPUTE]
    known = set(layers)
    unknown = [name for name in plan.layers if name not in known]
    if not unknown:
        return
    shown = []
    for name in unknown[:_NAMED]:
        similar = get_close_matches(name[:200], layers, _SIMILAR)
        hint = f" (similar: {', '.join(similar)})" if similar else ""
        shown.append(name[:200] + hint)
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    raise LpxError(
        f"the precision plan names what is not a layer of this model: {', '.join(shown)}{more}",
        "a plan is for convolutions and matrix products, by the names of their nodes",
        "correct the names: `lpx explain-graph` lists those of all nodes",
    )


def check_float32_layers(plan: PrecisionPlan, model: ir.Model, *, typed: bool, fp16: bool) -> None:
    """Refuse layers in float32 that an engine would compute in float16 nevertheless.

    Args:
        plan: The plan.
        model: The float graph, with every node named.
        typed: Types in the engine's graph decide the precision of a layer.
        fp16: The engine is FP16, not INT8.

    Raises:
        NotAsAskedError: The engine is to be FP16, and all its layers stay in float32.
        LpxError: Types in the graph do not decide.
    """
    named = plan.float32_layers
    if named and not typed:
        raise LpxError(
            f"the precision plan keeps {len(named)} layers in float32, such as {min(named)}, which "
            "graphs for TensorRT before 10.3 and for its DLA cannot express",
            "these releases choose float16 or float32 for each layer themselves",
            'set the "precision" of these layers to "float" in the plan, or run `lpx build` on a '
            "machine with TensorRT 10.3 or later, for its GPU",
            code="unsupported",
        )
    layers = {name_of(node) for node in model.graph if node.op_type in COMPUTE}
    if fp16 and layers <= named:
        raise NotAsAskedError(
            "the precision plan leaves no layer in FP16",
            f"it keeps all {len(layers)} convolutions and matrix products in float32",
            "build FP32 instead",
        )


def tensor_methods(placement: Placement, plan: PrecisionPlan) -> dict[str, str]:
    """Return the calibration method of each tensor for which a plan names one.

    A layer's method is for its input, and for all tensors that share the scale of its input. Where
    several layers read these, those that name no method follow those that do.

    Args:
        placement: Placement of the Q/DQ pairs, made with the plan.
        plan: The plan.

    Raises:
        LpxError: Two layers ask for different methods, and their inputs share a scale.
    """
    methods: dict[str, str] = {}
    asked_by: dict[str, str] = {}
    quantised = set(placement.convolutions)
    for tensor, node, index in placement.uses:
        layer = plan.layers.get(node)
        if layer is None or layer.method is None or index != 0 or node not in quantised:
            continue
        for name in _sharing(tensor, placement):
            if methods.setdefault(name, layer.method) != layer.method:
                raise LpxError(
                    f"the precision plan asks for two calibration methods of one scale: "
                    f"{methods[name]} for {asked_by[name]}, {layer.method} for {node}",
                    f"both read {name}, or tensors that share its scale",
                    'give both the same "method" in the plan, or leave it out for one of them',
                )
            asked_by.setdefault(name, node)
    return methods


def _sharing(tensor: str, placement: Placement) -> list[str]:
    """Return a tensor and all others that share its scale."""
    sharing = {tensor}
    before = 0
    # Groups may overlap: as long as one adds tensors, others may add more.
    while before != len(sharing):
        before = len(sharing)
        for group in placement.shared:
            if not sharing.isdisjoint(group):
                sharing.update(group)
    return sorted(sharing)
