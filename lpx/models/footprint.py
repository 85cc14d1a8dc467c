"""The memory that a forward pass needs at the least, found without computing anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lpx.machine.memory_limit import SMALL_PIXELS, check_fits

_SMALLER = "take smaller faces (--input-size) or smaller batches, or a machine with more memory"


def forward_bytes(module: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> int | None:
    """Bytes that the largest layer of a forward pass reads and writes, without weights.

    A pass needs at least these: all of them exist at the same time. The module runs on PyTorch's
    "meta" device, which computes shapes alone.

    Args:
        module: Takes one tensor.
        shape: Of its input.
        dtype: Of its input.

    Returns:
        None where the module does not run without values, as one does whose control flow depends
        on them.
    """
    peak = 0

    # Hooks rather than a TorchDispatchMode, which would import torch._dynamo: seconds.
    def note(_: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        nonlocal peak
        # By storage: a view takes no memory, nor does what is computed in place.
        storages = {
            (storage := tensor.untyped_storage())._cdata: storage.nbytes()
            for tensor in _tensors((arguments, output))
        }
        peak = max(peak, sum(storages.values()))

    tensors = [*module.named_parameters(), *module.named_buffers()]
    empty = {name: tensor.detach().to("meta") for name, tensor in tensors}
    faces = torch.empty(shape, dtype=dtype, device="meta")
    hooks = [
        layer.register_forward_hook(note)
        for layer in module.modules()
        if not any(True for _ in layer.children())
    ]
    try:
        with torch.no_grad():
            torch.func.functional_call(module, empty, (faces,))
    except Exception:  # any code may be in a forward pass
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
        module: Takes one tensor.
        shape: Of its input: faces first, height and width last.
        dtype: Of its input.

    Raises:
        OutOfMemoryError: It cannot fit.
    """
    # PyTorch takes seconds to import what it needs for shapes alone.
    if shape[0] * math.prod(shape[-2:]) < SMALL_PIXELS:
        return
    needed = forward_bytes(module, shape, dtype)
    if needed is not None:
        faces = "one face" if shape[0] == 1 else f"{shape[0]} faces"
        check_fits(needed, f"a forward pass of {faces}", _SMALLER)
