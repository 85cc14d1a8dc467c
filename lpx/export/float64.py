"""A detector and its export in float64, and rounded otherwise: how coarse float32 results are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


class _Float64(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation in float64, also where a module asks for float32 or half by name."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.ops.aten.view.dtype:
            raise TypeError("the bits of a float32 are not those of a float64")
        args, kwargs = tree_map(_widened, (args, kwargs or {}))
        return tree_map(_widened, func(*args, **kwargs))


class _Arguments(TorchFunctionMode):
    """Widens what PyTorch compares before it comes to an operation: an input and its weights."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        args, kwargs = tree_map(_widened, (args, kwargs or {}))
        return func(*args, **kwargs)


def _widened(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(torch.float64) if value.dtype in _FLOATS else value
    return torch.float64 if isinstance(value, torch.dtype) and value in _FLOATS else value


def in_float64(module: nn.Module, inputs: Tensor) -> tuple[Tensor, ...] | None:
    """The outputs of a module with every operation in float64.

    Args:
        module: Left as it is: its float32 weights are widened on the way.
        inputs: Its only input.

    Returns:
        Its outputs, float64; None where it cannot be run so (a module with code of its own below
        PyTorch's operations, say).
    """
    state = {
        name: _widened(tensor)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    try:
        with torch.no_grad(), _Float64(), _Arguments():  # type: ignore[no-untyped-call]
            outputs = torch.func.functional_call(module, state, (inputs,))
    except Exception:
        # Whatever a user's module cannot do in float64, the answer is the same.
        return None
    found = tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
    return found if all(value.dtype == torch.float64 for value in found) else None


def rounded_otherwise(module: nn.Module, inputs: Tensor, seed: int) -> tuple[Tensor, ...]:
    """The outputs of a module whose float32 weights are off by up to one unit in the last place.

    As right as those of the weights themselves: folding a batch norm, or adding up in another
    order, moves results as far.

    Args:
        module: Left as it is.
        inputs: Its only input.
        seed: Of the rounding.
    """
    generator = torch.Generator().manual_seed(seed)

    def moved(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float32:
            return tensor
        uniform = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
        return (tensor * (1 + uniform * 2.0**-23)).to(torch.float32)

    state = {
        name: moved(tensor.detach())
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    with torch.no_grad():
        outputs = torch.func.functional_call(module, state, (inputs,))
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def graph_in_float64(
    model: bytes, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]
) -> list[NDArray[np.float64]] | None:
    """The outputs of an ONNX model with every operation in float64, by ONNX's own evaluator.

    Args:
        model: Its float32 and half weights are widened, and so are its casts.
        outputs: Names of what to return.
        inputs: Values by name. The evaluator is slow: a face at a time.

    Returns:
        The outputs, float64; None where the evaluator cannot run the model so.
    """
    from onnx.reference import ReferenceEvaluator

    try:
        proto = onnx.load_model_from_string(model)
        _widen(proto.graph)
        found: Any = ReferenceEvaluator(proto).run(list(outputs), inputs)
    except Exception:
        # An operator that the evaluator lacks, or has in float32 only.
        return None
    return list(found) if all(value.dtype == np.float64 for value in found) else None


_ONNX_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _widen(graph: onnx.GraphProto) -> None:
    """Turn the weights, constants and casts of a graph into float64."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _widen(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i in _ONNX_FLOATS:
                attribute.i = onnx.TensorProto.DOUBLE
    for tensor in tensors:
        if tensor.data_type in _ONNX_FLOATS:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
