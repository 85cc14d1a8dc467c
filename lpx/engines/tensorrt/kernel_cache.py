"""Kernels that TensorRT for RTX compiles where a plan runs, kept beside the plan between runs.

Its plans hold no kernels for a GPU: those are compiled when a plan first runs there, which takes
seconds. A cache of one GPU, driver and release is refused by the others, and then made again.
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
        path: Where they are kept; the folder is the engine's.
        notes: Receives what went wrong; the engine runs all the same.
        made: An `IRuntimeCache`; None before the first context is made.
        known: What the file holds; b"" where there is none.
    """

    path: Path
    notes: list[str] = field(default_factory=list)
    made: Any = None
    known: bytes = b""


def use_kernels(runtime_config: Any, kernels: KernelCache) -> None:
    """Let the contexts that a configuration makes take their kernels from a cache, and add to it.

    Args:
        runtime_config: An `IRuntimeConfig`.
        kernels: The cache; filled from its file when it is first used, with CUDA's context current.
    """
    # Made by the first context; those that follow share it.
    if kernels.made is None:
        kernels.made = kernel_cache = runtime_config.create_runtime_cache()
        kernels.known = _read(kernels)
        if kernels.known and not kernel_cache.deserialize(kernels.known):
            kernels.notes.append(
                f"{kernels.path.name} is of another GPU, driver or release of TensorRT for RTX: "
                "kernels are compiled again"
            )
    if not runtime_config.set_runtime_cache(kernels.made):
        kernels.notes.append("TensorRT for RTX took no cache: kernels are compiled in each run")


def save_kernels(kernels: KernelCache) -> None:
    """Write a cache to its file, if it grew; one that cannot be written is noted and given up."""
    # Taken out at once, so that a second close does not save again.
    kernel_cache, kernels.made = kernels.made, None
    if kernel_cache is None:
        return
    try:
        held = kernel_cache.serialize()
        data = b"" if held is None else bytes(held)
    except Exception as error:
        # A lost GPU makes anything fail, and the engine is being closed: the rest must be released.
        kernels.notes.append(f"compiled kernels were not kept: {first_line(error)}")
        return
    # Nothing was compiled that the file lacks.
    if not data or data == kernels.known:
        return
    try:
        # Not durable: a cache that is lost is compiled again.
        write_bytes(kernels.path, data, durable=False)
    except (OSError, LpxError) as error:
        kernels.notes.append(f"compiled kernels were not kept in {kernels.path}: {error}")


def _read(kernels: KernelCache) -> bytes:
    try:
        return read_regular(kernels.path, inside=kernels.path.parent)
    # The first run on a machine has no file, which needs no note.
    except FileNotFoundError:
        return b""
    except OSError as error:
        kernels.notes.append(f"{kernels.path} cannot be read: {error.strerror or error}")
        return b""
