"""How much memory this process may take, and the refusal of work that cannot fit into it.

A system that lacks memory may end a process without a word, so what is sure to be too much is
refused before it begins.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from lpx.errors import OutOfMemoryError
from lpx.machine.probe import read_number, read_text


@dataclass(frozen=True)
class Limit:
    """The most memory that this process may take.

    Attributes:
        size: Bytes.
        name: What sets the limit.
    """

    size: int
    name: str


@lru_cache(maxsize=1)
def memory_limit(root: Path = Path("/")) -> Limit | None:
    """The lowest of the limits on this process's memory; None where none can be read.

    These are the machine's memory with its swap, those of the control groups (containers) that the
    process is in, and that of `ulimit -v`.

    Args:
        root: Where the file system's tree begins: a recorded tree stands in for a machine.
    """
    return min(_limits(root), key=lambda limit: limit.size, default=None)


def _limits(root: Path) -> Iterator[Limit]:
    lines = read_text(root / "proc/meminfo")
    sizes = re.findall(r"^(?:MemTotal|SwapTotal):\s*(\d+) kB", lines, re.M)
    if sizes:
        yield Limit(1024 * sum(map(int, sizes)), "the machine's memory with its swap")
    for place in _groups(root):
        # "max", or a number near 2^63, is not a limit.
        if (size := read_number(place)) is not None and size < 1 << 60:
            yield Limit(size, f"the limit of this container or service ({place.name})")
    space, _ = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY:
        yield Limit(space, "the limit of `ulimit -v`")


def _groups(root: Path) -> Iterator[Path]:
    """Files with the memory limits of the control groups of this process, and of those above."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2) if line.count(":") > 1 else ("", "-", "/")
        if controllers == "":
            home, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            home, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        # Within a container the group's path may be that outside: the top is tried in any case.
        for part in (path, *path.parents):
            yield home / part / name


SMALL_PIXELS = 1 << 21
"""Passes over fewer pixels in all need not be looked at: at 64 float32 channels for each pixel they
take half a GiB, and working out the shapes takes time."""


def check_fits(needed: int, work: str, fix: str) -> None:
    """Refuse work that needs more memory than this process may take.

    Args:
        needed: Bytes that it needs at the least.
        work: What needs them, as the beginning of a sentence.
        fix: What to do.

    Raises:
        OutOfMemoryError: It cannot fit.
    """
    limit = memory_limit()
    if limit is not None and needed > limit.size:
        raise OutOfMemoryError(
            f"{work} needs at least {needed / 2**30:.1f} GiB of memory",
            f"{limit.name} is {limit.size / 2**30:.1f} GiB",
            fix,
        )
