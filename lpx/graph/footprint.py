"""The memory that a pass of a graph needs at the least, found without running it."""

from __future__ import annotations

import math

import onnx

from lpx.machine.memory_limit import check_fits

_KEPT_BYTES = 4096
"""Constants up to this size keep their values, which shapes may depend on."""


def pass_bytes(proto: onnx.ModelProto, faces: int) -> int:
    """Bytes that the node with the most of them reads and writes, without weights.

    A pass needs at least these: all of them exist at the same time. Tensors whose size depends on
    what faces show count as nothing.

    Args:
        proto: The model; it is left as it is.
        faces: Every dimension of an input that is free.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    graph = bare.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.ByteSize() > _KEPT_BYTES:
            # Shapes need none of the weights' values, and inference copies what there is.
            shape, kind, name = list(tensor.dims), tensor.data_type, tensor.name
            tensor.Clear()
            tensor.dims.extend(shape)
            tensor.data_type, tensor.name = kind, name
    for value in graph.input:
        for dimension in value.type.tensor_type.shape.dim:
            if not dimension.HasField("dim_value"):
                dimension.dim_value = faces
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    except Exception:  # a damaged graph fails in any way here, and again where it is loaded
        return 0
    sizes = {
        value.name: _bytes(value.type.tensor_type)
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    return max(
        (sum(sizes.get(name, 0) for name in {*node.input, *node.output}) for node in inferred.node),
        default=0,
    )


def _bytes(kind: onnx.TypeProto.Tensor) -> int:
    if not kind.HasField("shape") or not all(d.HasField("dim_value") for d in kind.shape.dim):
        return 0
    try:
        size = int(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize)
    except (KeyError, TypeError, ValueError):
        return 0
    values: int = math.prod(max(d.dim_value, 0) for d in kind.shape.dim)
    return values * size


def check_pass(proto: onnx.ModelProto, source: str, faces: int) -> None:
    """Refuse a model of which not even these faces fit into this process's memory.

    Raises:
        OutOfMemoryError: They do not.
    """
    number = "one face" if faces == 1 else f"{faces} faces"
    check_fits(
        pass_bytes(proto, faces),
        f"{source}: a pass of {number}",
        "take smaller batches, export for smaller faces, or use a machine with more memory",
    )
