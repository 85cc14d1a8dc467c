"""Layers of a float graph, their counterparts in a lowered graph, and graphs that expose them.

A layer is what every runtime computes in one kernel: a node with the activation after it. It is
identified by the tensor that it computes, whose name every pass of lpx keeps. A pass that rounds a
tensor to INT8 adds a Q/DQ pair after it, whose output is what other nodes read. An integer kernel
rounds its result itself, so its pair belongs to the layer that computes the tensor; after a layer
that computes in float, the pair is a layer of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lpx.graph.model_io import is_constant, name_nodes, parse, serialise
from lpx.graph.nodes import (
    ACTIVATIONS,
    COMPUTE,
    computed_values,
    name_of,
    nodes_by_name,
    producer_of,
)

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
# Prefix of the inputs of `cut_at_layers` and `resume_from`, before the name of their tensor.
FED = "fed"


@dataclass(frozen=True)
class Layer:
    """A node of the float graph, with the activation that is computed in the same kernel.

    Attributes:
        name: Name of the node.
        op_type: Its operator, such as "Conv", or "Conv+Clip" with its activation.
        tensor: Name of the tensor that it computes.
    """

    name: str
    op_type: str
    tensor: str


@dataclass(frozen=True)
class Place:
    """Counterpart of a layer in a lowered graph.

    Attributes:
        layer: The layer.
        read_as: Name of the tensor that other nodes read: the output of the Q/DQ pair if there is
            one.
        computes_in: "int8" if the node reads through Q/DQ pairs, its weight included, else the
            type of its result.
        stored_in: "int8" if there is a Q/DQ pair after it, else the type of its result.
    """

    layer: Layer
    read_as: str
    computes_in: str
    stored_in: str


def read_named(model: bytes, source: str) -> ir.Model:
    """Parse a model, and name its nodes as building does."""
    graph = parse(model, source)
    name_nodes(graph)
    return graph


def layers_of(model: ir.Model) -> tuple[Layer, ...]:
    """Return the layers of a float graph, in graph order.

    Args:
        model: A graph whose nodes are named and whose tensors have known types.
    """
    layers = []
    # Nodes that are computed together with the activation after them, by that activation.
    fused: dict[ir.Node, ir.Node] = {}
    for node in model.graph:
        activation = _activation_after(node)
        if activation is not None:
            fused[activation] = node
            continue
        name, kind = name_of(node), node.op_type
        if node in fused:
            name, kind = name_of(fused[node]), f"{fused[node].op_type}+{kind}"
        for index, output in enumerate(node.outputs):
            if output.dtype == ir.DataType.FLOAT and output.name:
                # A node may have several outputs, which need names of their own.
                layer = f"{name}.{index}" if index else name
                layers.append(Layer(layer, kind, output.name))
    return tuple(layers)


def _activation_after(node: ir.Node) -> ir.Node | None:
    """Return the activation that alone reads a node's result; None for an activation."""
    if node.op_type in ACTIVATIONS or len(node.outputs) != 1:
        return None
    if node.outputs[0].is_graph_output():
        return None
    readers = node.outputs[0].consumers()
    if len(readers) == 1 and readers[0].op_type in ACTIVATIONS:
        return readers[0]
    return None


def locate(layers: Sequence[Layer], lowered: ir.Model) -> tuple[Place, ...]:
    """Find each layer in a lowered graph; layers that it does not have are left out.

    A Q/DQ pair after a layer that computes in float has a place of its own: a layer of the same
    tensor, named after the QuantizeLinear.
    """
    values = computed_values(lowered.graph)
    nodes = nodes_by_name(lowered.graph)
    places = []
    for layer in layers:
        value = values.get(layer.tensor)
        if value is None or value.dtype not in _FLOATS:
            continue
        own = "fp16" if value.dtype == ir.DataType.FLOAT16 else "fp32"
        chain = _chain(value)
        read = chain[-1]
        node = nodes.get(layer.name) or value.producer()
        integer = node is not None and _reads_pairs(node)
        if read is value or integer:
            computes_in = "int8" if integer else own
            stored_in = own if read is value else "int8"
            places.append(Place(layer, str(read.name), computes_in, stored_in))
            continue
        quantise = chain[-2].producer()
        assert quantise is not None
        pair = Layer(name_of(quantise), quantise.op_type, layer.tensor)
        places.append(Place(layer, str(value.name), own, own))
        places.append(Place(pair, str(read.name), "int8", "int8"))
    return tuple(places)


def _reads_pairs(node: ir.Node) -> bool:
    """Return True if a node computes in integers."""
    # A node that multiplies by a weight computes in integers only if the weight has a pair too.
    inputs = node.inputs[1:2] if node.op_type in COMPUTE else node.inputs
    for value in inputs:
        producer = producer_of(value)
        if producer is not None and producer.op_type == "DequantizeLinear":
            return True
    return False


def _chain(value: ir.Value) -> list[ir.Value]:
    """Return the tensors from a value to what others read: through a Q/DQ pair and Casts."""
    for node in value.consumers():
        if node.op_type == "QuantizeLinear":
            for reader in node.outputs[0].consumers():
                if reader.op_type == "DequantizeLinear":
                    return [value, node.outputs[0], reader.outputs[0]]
        if node.op_type == "Cast" and node.outputs[0].dtype in _FLOATS:
            after = _chain(node.outputs[0])
            if len(after) > 1:
                return [value, *after]
    return [value]


def with_outputs(model: bytes, source: str, names: Sequence[str]) -> bytes:
    """Return the model with additional outputs.

    Args:
        model: ONNX.
        source: Name of the model for errors.
        names: Tensors to add to the outputs.
    """
    graph = read_named(model, source)
    values = computed_values(graph.graph)
    for name in names:
        if not values[name].is_graph_output():
            graph.graph.outputs.append(values[name])
    return serialise(graph)


def cut_at_layers(model: bytes, source: str, places: Sequence[Place]) -> bytes:
    """Return the model cut before every layer, so that each layer reads inputs of the model.

    Before: a lowered graph. After: its outputs are `read_as` of every place; nodes that read the
    tensor of a layer, before or after its Q/DQ pair, read the input `fed_name` of that tensor
    instead, and so does a pair that has a place of its own.

    Args:
        model: ONNX.
        source: Name of the model for errors.
        places: Counterparts of the layers.
    """
    graph = read_named(model, source)
    values = computed_values(graph.graph)
    outputs = [values[place.read_as] for place in places]
    places_of = Counter(place.layer.tensor for place in places)
    for place in places:
        chain = _chain(values[place.layer.tensor])
        # A pair that belongs to the layer stays connected to it.
        inside: set[ir.Node | None] = set()
        if places_of[place.layer.tensor] == 1:
            inside = {value.producer() for value in chain[1:]}
        for value in (chain[0], chain[-1]):
            readers = [use for use in value.uses() if use.node not in inside]
            if readers:
                fed = _input(graph.graph, value, place.layer.tensor)
                for node, index in readers:
                    node.replace_input_with(index, fed)
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(outputs)
    return _without_idle_inputs(graph)


def resume_from(model: bytes, source: str, tensor: str, output: str) -> bytes:
    """Return the model with a tensor as its input, and one output.

    Args:
        model: ONNX.
        source: Name of the model for errors.
        tensor: Tensor that is replaced by the input `fed_name`.
        output: Name of the output to keep.
    """
    graph = read_named(model, source)
    value = computed_values(graph.graph)[tensor]
    fed = _input(graph.graph, value, tensor)
    for node, index in tuple(value.uses()):
        node.replace_input_with(index, fed)
    kept = [v for v in graph.graph.outputs if v.name == output]
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(kept)
    return _without_idle_inputs(graph)


def fed_name(tensor: str, *, half: bool) -> str:
    """Return the name of the input that replaces a tensor, in float16 or float32."""
    return f"{FED}{16 if half else 32}.{tensor}"


def _input(graph: ir.Graph, like: ir.Value, tensor: str) -> ir.Value:
    name = fed_name(tensor, half=like.dtype == ir.DataType.FLOAT16)
    for value in graph.inputs:
        if value.name == name:
            return value
    value = ir.Value(name=name, shape=like.shape, type=like.type)
    graph.inputs.append(value)
    return value


def _without_idle_inputs(graph: ir.Model) -> bytes:
    """Serialise without unused inputs, for which a runtime would ask values."""
    # Serialising removes unused nodes, which shows the unused inputs.
    serialise(graph)
    for value in tuple(graph.graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.graph.inputs.remove(value)
    return serialise(graph)


def parents(model: ir.Model, layers: Sequence[Layer]) -> dict[str, frozenset[str]]:
    """Return the layers' tensors that each layer's tensor depends on, directly or indirectly."""
    tensors = {layer.tensor for layer in layers}
    known: dict[str, frozenset[str]] = {}
    for node in model.graph:
        reached: set[str] = set()
        for value in node.inputs:
            if value is None or is_constant(value):
                continue
            reached |= known.get(str(value.name), frozenset())
            if value.name in tensors:
                reached.add(str(value.name))
        for output in node.outputs:
            known[str(output.name)] = frozenset(reached)
    return {name: known[name] for name in tensors}
