"""The layers of a float graph, where a lowered graph computes each, and graphs that look at them.

A layer is what every runtime computes in one kernel: a node with the activation behind it. It is
known by the tensor that it makes, whose name every pass of lpx keeps. A pass that rounds a tensor
to INT8 adds a Q/DQ pair behind it: what its readers read then comes out of that pair. An integer
kernel rounds its result itself, so there the rounding belongs to the layer that made the tensor;
behind a layer that computes in float the pair is a layer of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lpx.graph.model_io import is_constant, name_nodes, parse, serialise
from lpx.graph.nodes import ACTIVATIONS, COMPUTE, name_of

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
FED = "fed"
"""What the inputs of `cut` and `resumed` are called, before the name of their tensor."""


@dataclass(frozen=True)
class Layer:
    """A node of the float graph, with the activation that is computed along with it.

    Attributes:
        name: Name of the node.
        op_type: Its operator, as "Conv", or "Conv+Clip" with its activation.
        tensor: The tensor that it makes.
    """

    name: str
    op_type: str
    tensor: str


@dataclass(frozen=True)
class Place:
    """Where a lowered graph computes a layer.

    Attributes:
        layer: The layer.
        read_as: The tensor that its readers see: behind the Q/DQ pair where there is one.
        computes_in: "int8" where the node reads through Q/DQ pairs, its weight included, else the
            type of its result.
        stored_in: "int8" where such a pair stands behind it, else the type of its result.
    """

    layer: Layer
    read_as: str
    computes_in: str
    stored_in: str


def read_named(model: bytes, source: str) -> ir.Model:
    """Parse a model, and give every node the name that building gives it."""
    graph = parse(model, source)
    name_nodes(graph)
    return graph


def layers_of(model: ir.Model) -> tuple[Layer, ...]:
    """The layers of a float graph, in its order.

    Args:
        model: Every node named; types of all tensors known.
    """
    found = []
    before: dict[ir.Node, ir.Node] = {}
    for node in model.graph:
        activation = _activation_behind(node)
        if activation is not None:
            before[activation] = node
            continue
        first = before.get(node)
        name = name_of(first or node)
        kind = f"{first.op_type}+{node.op_type}" if first is not None else node.op_type
        for index, output in enumerate(node.outputs):
            if output.dtype == ir.DataType.FLOAT and output.name:
                suffix = f".{index}" if index else ""
                found.append(Layer(name + suffix, kind, output.name))
    return tuple(found)


def _activation_behind(node: ir.Node) -> ir.Node | None:
    """The activation that alone reads what a node makes; an activation itself has none."""
    if node.op_type in ACTIVATIONS or len(node.outputs) != 1:
        return None
    readers = node.outputs[0].consumers()
    alone = len(readers) == 1 and not node.outputs[0].is_graph_output()
    return readers[0] if alone and readers[0].op_type in ACTIVATIONS else None


def places(layers: Sequence[Layer], lowered: ir.Model) -> tuple[Place, ...]:
    """Where a lowered graph computes each layer; those that it has not are left out.

    Behind a layer that computes in float, its Q/DQ pair has a place of its own: a layer named after
    the QuantizeLinear, of the same tensor.
    """
    values, nodes = _values(lowered), {name_of(node): node for node in lowered.graph}
    found = []
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
            stored_in = own if read is value else "int8"
            found.append(Place(layer, str(read.name), "int8" if integer else own, stored_in))
            continue
        quantise = chain[-2].producer()
        assert quantise is not None
        pair = Layer(name_of(quantise), quantise.op_type, layer.tensor)
        found.append(Place(layer, str(value.name), own, own))
        found.append(Place(pair, str(read.name), "int8", "int8"))
    return tuple(found)


def _reads_pairs(node: ir.Node) -> bool:
    """Whether a node computes in integers: where it multiplies by a weight, that has a pair too."""
    inputs = node.inputs[1:2] if node.op_type in COMPUTE else node.inputs
    makers = [value.producer() for value in inputs if value is not None]
    return any(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)


def _values(model: ir.Model) -> dict[str, ir.Value]:
    return {str(v.name): v for node in model.graph for v in node.outputs}


def _chain(value: ir.Value) -> list[ir.Value]:
    """From a tensor to what its readers read: through a Q/DQ pair, with a Cast before it or not."""
    for node in value.consumers():
        if node.op_type == "QuantizeLinear":
            for reader in node.outputs[0].consumers():
                if reader.op_type == "DequantizeLinear":
                    return [value, node.outputs[0], reader.outputs[0]]
        if node.op_type == "Cast" and node.outputs[0].dtype in _FLOATS:
            behind = _chain(node.outputs[0])
            if len(behind) > 1:
                return [value, *behind]
    return [value]


def watched(model: bytes, source: str, names: Sequence[str]) -> bytes:
    """The model with more outputs; those that it has stay.

    Args:
        model: ONNX.
        source: What the model is called in errors.
        names: Tensors to hand out.
    """
    graph = read_named(model, source)
    values = _values(graph)
    for name in names:
        if not values[name].is_graph_output():
            graph.graph.outputs.append(values[name])
    return serialise(graph)


def cut(model: bytes, source: str, found: Sequence[Place]) -> bytes:
    """The model cut before every layer: each reads inputs in place of what others computed.

    Before: a lowered graph. After: its outputs are `read_as` of every place; whatever reads the
    tensor of a layer, before or behind its Q/DQ pair, reads the input `fed_name` of that tensor,
    and so does a pair that has a place of its own.

    Args:
        model: ONNX.
        source: What the model is called in errors.
        found: Where it computes each layer.
    """
    graph = read_named(model, source)
    values = _values(graph)
    outputs = [values[place.read_as] for place in found]
    places_of = Counter(place.layer.tensor for place in found)
    for place in found:
        chain = _chain(values[place.layer.tensor])
        apart = places_of[place.layer.tensor] > 1
        inside = set() if apart else {value.producer() for value in chain[1:]}
        for value in (chain[0], chain[-1]):
            readers = [use for use in value.uses() if use.node not in inside]
            if readers:
                fed = _input(graph.graph, value, place.layer.tensor)
                for node, index in readers:
                    node.replace_input_with(index, fed)
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(outputs)
    return _without_idle_inputs(graph)


def resumed(model: bytes, source: str, tensor: str, output: str) -> bytes:
    """The model with one of its tensors given from outside, and one output.

    Args:
        model: ONNX.
        source: What the model is called in errors.
        tensor: The tensor whose readers read the input `fed_name` instead.
        output: The one output to keep.
    """
    graph = read_named(model, source)
    value = _values(graph)[tensor]
    fed = _input(graph.graph, value, tensor)
    for node, index in tuple(value.uses()):
        node.replace_input_with(index, fed)
    kept = [v for v in graph.graph.outputs if v.name == output]
    graph.graph.outputs.clear()
    graph.graph.outputs.extend(kept)
    return _without_idle_inputs(graph)


def fed_name(tensor: str, half: bool) -> str:
    """Name of the input that stands for a tensor, in float16 or float32."""
    return f"{FED}{16 if half else 32}.{tensor}"


def _input(graph: ir.Graph, like: ir.Value, tensor: str) -> ir.Value:
    name = fed_name(tensor, like.dtype == ir.DataType.FLOAT16)
    for value in graph.inputs:
        if value.name == name:
            return value
    value = ir.Value(name=name, shape=like.shape, type=like.type)
    graph.inputs.append(value)
    return value


def _without_idle_inputs(graph: ir.Model) -> bytes:
    """Serialise; a runtime would ask for values of inputs that nothing reads."""
    serialise(graph)
    for value in tuple(graph.graph.inputs):
        if not value.uses() and not value.is_graph_output():
            graph.graph.inputs.remove(value)
    return serialise(graph)


def parents(model: ir.Model, layers: Sequence[Layer]) -> dict[str, frozenset[str]]:
    """Tensors of all layers that each layer's tensor is computed from, over any distance."""
    tensors = {layer.tensor for layer in layers}
    known: dict[str, frozenset[str]] = {}
    for node in model.graph:
        sources = [v for v in node.inputs if v is not None and not is_constant(v)]
        reached = frozenset().union(*(known.get(str(v.name), frozenset()) for v in sources))
        own = frozenset(str(v.name) for v in sources if v.name in tensors)
        known |= {str(v.name): reached | own for v in node.outputs}
    return {name: known[name] for name in tensors}
