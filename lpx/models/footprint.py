"""The memory that a forward pass needs at least, found from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lpx.machine.memory_limit import SMALL_PIXELS, check_fits

_SMALLER = "use a smaller `input_size`, smaller batches, or a machine with more memory"


def forward_bytes(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> int | None:
    """Return the bytes that the largest layer of a forward pass reads and writes.

    Weights are not counted.

    Args:
        module: Module of one input.
        shape: Shape of the input.
        dtype: Type of the input.

    Returns:
        The bytes, or None if the module does not run without values, as a module whose control flow
        depends on them.
    """
    peak = 0

    # Hooks rather than a TorchDispatchMode, which would import torch._dynamo: that takes seconds.
    def note(_: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        nonlocal peak
        # By storage: a view takes no memory, nor does an operation in place. Inputs and outputs of
        # a layer exist at the same time, so a pass needs at least their sum.
        sizes: dict[int, int] = {}
        for tensor in _tensors((arguments, output)):
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        peak = max(peak, sum(sizes.values()))

    # The "meta" device computes shapes and no values.
    tensors = [*module.named_parameters(), *module.named_buffers()]
    empty = {name: tensor.detach().to("meta") for name, tensor in tensors}
    faces = torch.empty(shape, dtype=dtype, device="meta")
    # Layers alone: a container would be counted as one large layer.
    layers = [part for part in module.modules() if next(part.children(), None) is None]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            torch.func.functional_call(module, empty, (faces,))
    except Exception:
        # A forward pass may contain any code, and raise anything.
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return peak


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)


def check_forward(
    module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> None:
    """Refuse a forward pass that cannot fit into this process's memory.

    Args:
        module: Module of one input.
        shape: Shape of the input: faces first, height and width last.
        dtype: Type of the input.

    Raises:
        OutOfMemoryError: It cannot fit.
    """
    # PyTorch takes seconds to import its code for the meta device.
    if shape[0] * math.prod(shape[-2:]) < SMALL_PIXELS:
        return
    needed = forward_bytes(module, shape, dtype)
    if needed is not None:
        faces = "one face" if shape[0] == 1 else f"{shape[0]} faces"
        check_fits(needed, f"a forward pass of {faces}", _SMALLER)
