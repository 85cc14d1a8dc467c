"""Cache of the kernels that TensorRT for RTX compiles, in a file beside the plan.

Plans of TensorRT for RTX contain no kernels: they are compiled when a plan first runs on a GPU,
which takes seconds. A cache is valid for one GPU, driver and release; any other refuses it, and the
kernels are compiled again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lpx.errors import LpxError, first_line
from lpx.workspace import read_regular, write_bytes


@dataclass
class KernelCache:
    """Compiled kernels of one engine, which its contexts share.

    Attributes:
        path: File in the folder of the engine.
        notes: Receives failures, none of which stops the engine.
        made: An `IRuntimeCache`; None before the first context is created.
        known: Contents of the file; b"" if there is none.
    """

    path: Path
    notes: list[str] = field(default_factory=list)
    made: Any = None
    known: bytes = b""


def use_kernels(runtime_config: Any, kernels: KernelCache) -> None:
    """Let the contexts of a configuration read kernels from a cache, and add new ones to it.

    Args:
        runtime_config: An `IRuntimeConfig`.
        kernels: The cache. Its file is read when it is first used, which needs a CUDA context.
    """
    # Created for the first context, and shared by all others.
    if kernels.made is None:
        kernels.made = kernel_cache = runtime_config.create_runtime_cache()
        kernels.known = _read(kernels)
        if kernels.known and not kernel_cache.deserialize(kernels.known):
            kernels.notes.append(
                f"{kernels.path.name} belongs to another GPU, driver or release of TensorRT for "
                "RTX: kernels are compiled again"
            )
    if not runtime_config.set_runtime_cache(kernels.made):
        kernels.notes.append("TensorRT for RTX refused the cache: kernels are compiled in each run")


def save_kernels(kernels: KernelCache) -> None:
    """Write a cache to its file, if it has changed; a failure is added to the notes."""
    # Removed first, so that a second close does not save it again.
    kernel_cache, kernels.made = kernels.made, None
    if kernel_cache is None:
        return
    data = b""
    try:
        serialized = kernel_cache.serialize()
        if serialized is not None:
            data = bytes(serialized)
    except Exception as error:
        # After CUDA was lost every call fails, and the rest of the engine must still be released.
        kernels.notes.append(f"compiled kernels were not kept: {first_line(error)}")
        return
    # No kernel is missing from the file.
    if not data or data == kernels.known:
        return
    try:
        # Not flushed to the disk: after a crash the kernels are compiled again.
        write_bytes(kernels.path, data, durable=False)
    except (OSError, LpxError) as error:
        kernels.notes.append(f"compiled kernels were not kept in {kernels.path}: {error}")


def _read(kernels: KernelCache) -> bytes:
    try:
        return read_regular(kernels.path, inside=kernels.path.parent)
    # No note, as there is no file before the first run.
    except FileNotFoundError:
        return b""
    except OSError as error:
        kernels.notes.append(f"{kernels.path} cannot be read: {error.strerror or error}")
        return b""
