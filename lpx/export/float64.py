"""A detector in float64, and rounded otherwise: how coarse its float32 results are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
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
