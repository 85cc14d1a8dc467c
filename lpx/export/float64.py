"""Detector and exported graph in float64, and with perturbed weights, to measure noise."""

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
    """Runs every operation in float64, even if a module asks for float32 or half explicitly."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Reinterpreting bits gives nonsense in a wider type, so such a model is not measured at
        # all.
        if func is torch.ops.aten.view.dtype:
            raise TypeError("the bits of a float32 are not those of a float64")
        args, kwargs = tree_map(_widened, (args, kwargs or {}))
        # The results are widened as well: an operation with an explicit dtype returns float32
        # otherwise.
        return tree_map(_widened, func(*args, **kwargs))


class _Arguments(TorchFunctionMode):
    """Widens arguments before PyTorch checks that an input and its weights have the same dtype."""

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
    if isinstance(value, Tensor) and value.dtype in _FLOATS:
        return value.to(torch.float64)
    # Explicit dtypes in a module's code, as in `x.to(torch.float32)`, would narrow everything
    # again.
    if isinstance(value, torch.dtype) and value in _FLOATS:
        return torch.float64
    return value


def in_float64(module: nn.Module, inputs: Tensor) -> tuple[Tensor, ...] | None:
    """Run a module with every operation in float64.

    Args:
        module: Module; it is not changed: copies of its weights are widened.
        inputs: Its only input.

    Returns:
        Its outputs, float64; None if it cannot be run so, such as a module with code of its own
        below PyTorch's operations.
    """
    state: dict[str, Tensor] = {}
    # functional_call takes the widened copies, so that the module itself stays in float32.
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        state[name] = _widened(tensor)
    try:
        with torch.no_grad(), _Float64(), _Arguments():  # type: ignore[no-untyped-call]
            outputs = _as_tuple(torch.func.functional_call(module, state, (inputs,)))
    except Exception:
        # A user's module may raise anything if it cannot be run in float64.
        return None
    # A result that is still narrow was computed by something that the modes do not see.
    if any(value.dtype != torch.float64 for value in outputs):
        return None
    return outputs


def with_perturbed_weights(module: nn.Module, inputs: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Run a module whose float32 weights are moved by up to one unit in the last place.

    Args:
        module: Module; it is not changed.
        inputs: Its only input.
        seed: Random seed of the perturbation.

    Returns:
        Its outputs. They are as correct as those of the original weights: folding a batch norm, or
        adding in another order, changes results as much.
    """
    # Seeded, so that a verification that passes does so again.
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for name, parameter in (*module.named_parameters(), *module.named_buffers()):
        # Detached from the graph of gradients, as the values are only read.
        tensor = parameter.detach()
        if tensor.dtype == torch.float32:
            uniform = 2 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64) - 1
            # Moved in float64 and rounded once: in float32, three of eight factors would already
            # round to 1. 2**-23 is the distance from 1 to the next float32.
            tensor = (tensor * (1 + uniform * 2.0**-23)).to(torch.float32)
        state[name] = tensor
    with torch.no_grad():
        return _as_tuple(torch.func.functional_call(module, state, (inputs,)))


def _as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    if isinstance(outputs, (tuple, list)):
        return tuple(outputs)
    return (outputs,)


def graph_in_float64(
    model: bytes, outputs: Sequence[str], inputs: dict[str, NDArray[Any]]
) -> list[NDArray[np.float64]] | None:
    """Run an ONNX model with every operation in float64, by ONNX's reference evaluator.

    Args:
        model: ONNX; its float32 and half weights are widened, and so are its casts.
        outputs: Names of the outputs to return.
        inputs: Values by name. The evaluator is slow: pass one face at a time.

    Returns:
        The outputs, float64; None if the evaluator cannot run the model so.
    """
    # The evaluator is needed only when a difference exceeds the tolerance.
    from onnx.reference import ReferenceEvaluator

    try:
        proto = onnx.load_model_from_string(model)
        _widen(proto.graph)
        values: Any = ReferenceEvaluator(proto).run(list(outputs), inputs)
    except Exception:
        # The evaluator lacks an operator, or supports it only in float32.
        return None
    if any(value.dtype != np.float64 for value in values):
        return None
    return list(values)


_ONNX_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _widen(graph: onnx.GraphProto) -> None:
    """Change the weights, constants and casts of a graph to float64, in place."""
    tensors = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                # Branches of If and bodies of Loop have weights and casts of their own.
                _widen(attribute.g)
            elif attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
            elif attribute.name in ("to", "dtype") and attribute.i in _ONNX_FLOATS:
                attribute.i = onnx.TensorProto.DOUBLE
    for tensor in tensors:
        if tensor.data_type in _ONNX_FLOATS:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
