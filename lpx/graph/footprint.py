"""Lower bound of the memory that a forward pass needs, computed without running it."""

from __future__ import annotations

import math

import onnx

from lpx.machine.memory_limit import check_fits

# Constants up to this size keep their values, which shapes may depend on.
_KEPT_BYTES = 4096


def pass_bytes(proto: onnx.ModelProto, faces: int) -> int:
    """Return the bytes read and written by the node that needs most, without weights.

    A pass needs at least these, as they all exist at the same time. Tensors whose size depends on
    the values of pixels count as 0.

    Args:
        proto: The model; it is not changed.
        faces: Size of every free dimension of an input.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    graph = bare.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.ByteSize() > _KEPT_BYTES:
            # Shape inference needs no values of weights, and would copy them.
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
    except Exception:
        # A damaged graph may raise anything here; it fails again, and is reported, when loaded.
        return 0
    sizes: dict[str, int] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes[value.name] = _bytes(value.type.tensor_type)
    largest = 0
    for node in inferred.node:
        # A set: a node may read a tensor twice.
        tensors = {*node.input, *node.output}
        largest = max(largest, sum(sizes.get(name, 0) for name in tensors))
    return largest


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
    """Refuse a model if a pass of `faces` faces cannot fit into this process's memory.

    Raises:
        OutOfMemoryError: It cannot.
    """
    number = "one face" if faces == 1 else f"{faces} faces"
    check_fits(
        pass_bytes(proto, faces),
        f"{source}: a pass of {number}",
        "use smaller batches, export for smaller faces, or use a machine with more memory",
    )
