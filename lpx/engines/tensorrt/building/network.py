"""Create a TensorRT network and its profiles from an ONNX model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from lpx.engines.tensorrt.building.plan_request import PlanRequest
from lpx.engines.tensorrt.capabilities import Capabilities
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions
from lpx.errors import LpxError


def create_network(trt: Any, builder: Any, capabilities: Capabilities, request: PlanRequest) -> Any:
    """Create an empty network, strongly or weakly typed as the request needs it."""
    strongly_typed = request.strongly_typed(capabilities)
    flags = 0
    if capabilities.explicit_batch_flag:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if capabilities.strongly_typed_flag and strongly_typed:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return builder.create_network(flags)


def parse(trt: Any, logger: Any, network: Any, capabilities: Capabilities, model: bytes) -> None:
    """Parse a serialized ONNX model into a network.

    Raises:
        LpxError: TensorRT does not support the model; contains the node and the parser's message.
    """
    parser = trt.OnnxParser(network, logger)
    if parser.parse(model):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        raise LpxError("TensorRT did not parse the ONNX model", why="it gave no reason")
    parser_error = errors[0]
    more = ""
    if len(errors) > 1:
        more = f" (and {len(errors) - 1} more nodes)"
    raise LpxError(
        f"TensorRT refused {_where(parser_error, capabilities, model)}{more}",
        why=_without_noise(parser_error.desc()),
        fix="export the model again, or build the graph dialect of this release: "
        f"{capabilities.dialect}",
    )


def _where(parser_error: Any, capabilities: Capabilities, model: bytes) -> str:
    if capabilities.parser_node_name:
        name, operator = parser_error.node_name(), parser_error.node_operator()
        return f"node {name!r} ({operator})" if operator else "the ONNX model"
    return _node_by_index(model, parser_error.node())


def _node_by_index(model: bytes, index: int) -> str:
    import onnx

    try:
        node = onnx.load_from_string(model).graph.node[index]
    except Exception:
        # The model is damaged, which the parser's own message says.
        return f"node {index}"
    return f"node {node.name!r} ({node.op_type})"


def _without_noise(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if "catchCudaError" not in line)


def find_input(network: Any, name: str) -> Any:
    """Return an input tensor of a network by its name.

    Raises:
        LpxError: There is none, or a dimension other than the batch is dynamic.
    """
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    for tensor in tensors:
        if tensor.name == name:
            if -1 in tuple(tensor.shape)[1:]:
                raise LpxError(
                    f"input {name!r} has shape {tuple(tensor.shape)}",
                    why="only the batch may be dynamic: plans are tuned for one face size",
                    fix="export the model with a fixed height and width",
                )
            return tensor
    have = ", ".join(repr(tensor.name) for tensor in tensors)
    raise LpxError(f"the ONNX model has no input {name!r}", why=f"its inputs are {have}")


def add_profiles(builder: Any, config: Any, tensor: Any, options: TensorRTOptions) -> None:
    """Add a profile for each requested batch range to a builder configuration.

    Raises:
        LpxError: The model has a fixed batch, and another one is requested; or TensorRT refuses.
    """
    batch, *face = tuple(tensor.shape)
    spans = options.profiles
    if batch != -1:
        if spans != (BatchRange(batch, batch, batch),):
            raise LpxError(
                f"batch sizes {_sizes(spans)} for a model with a fixed batch of {batch}",
                fix=f"build for batch {batch}, or export the model with a dynamic batch",
            )
        return
    for span in spans:
        profile = builder.create_optimization_profile()
        sizes = (span.minimum, span.optimum, span.maximum)
        try:
            profile.set_shape(tensor.name, *((size, *face) for size in sizes))
        except RuntimeError as error:
            raise LpxError(f"TensorRT refused batch sizes {_sizes(spans)}", str(error)) from error
        if config.add_optimization_profile(profile) < 0:
            raise LpxError(
                f"TensorRT refused batch sizes {_sizes(spans)}", "their profile is not valid"
            )


def _sizes(spans: tuple[BatchRange, ...]) -> str:
    """Return batch sizes as users write them: "1, 8" or "1:8:32"."""
    texts = []
    for span in spans:
        if span.minimum == span.maximum:
            texts.append(str(span.maximum))
        else:
            texts.append(f"{span.minimum}:{span.optimum}:{span.maximum}")
    return ", ".join(texts)


def watch_tensors(network: Any, capabilities: Capabilities, names: Collection[str]) -> None:
    """Mark tensors between the layers as debug tensors or, before TensorRT 10, as outputs.

    Outputs prevent fusions, since they must be written to memory. Debug tensors need not be if
    there is no listener: TensorRT for RTX 1.7 builds 36 layers for the demo model in INT8 and 21 in
    FP16, whether none of its 27 tensors is marked or all. As outputs they lead to 37 and 39.

    Args:
        network: A parsed network.
        capabilities: Capabilities of the library.
        names: Names of the tensors. Those that are missing, or are outputs anyway, are ignored.
    """
    if not names:
        return
    for index in range(network.num_layers):
        network_layer = network.get_layer(index)
        for number in range(network_layer.num_outputs):
            tensor = network_layer.get_output(number)
            if tensor.name not in names or tensor.is_network_output:
                continue
            if capabilities.debug_tensors:
                network.mark_debug(tensor)
            else:
                network.mark_output(tensor)
