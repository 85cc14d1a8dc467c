"""Limit of this process's memory, and a check that work fits into it.

A system that runs out of memory may kill a process without a message. Work that is certain to need
too much memory is therefore refused before it begins.
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
    """A limit on the memory of this process.

    Attributes:
        size: The limit, bytes.
        name: The limit in words, for errors.
    """

    size: int
    name: str


# Cached because every large pass is checked, and the limits are spread over a dozen files.
@lru_cache(maxsize=1)
def memory_limit(root: Path = Path("/"), address_space: int | None = None) -> Limit | None:
    """Return the lowest limit on this process's memory, None if none can be read.

    Limits are the machine's memory with its swap, those of the control groups (containers) that the
    process is in, and that of `ulimit -v`.

    Args:
        root: Root of the file system; tests use the recorded files of other machines.
        address_space: Limit of `ulimit -v`, bytes, or RLIM_INFINITY; None to ask the system.
    """
    if address_space is None:
        address_space, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min(_limits(root, address_space), key=lambda limit: limit.size, default=None)


def _limits(root: Path, address_space: int) -> Iterator[Limit]:
    lines = read_text(root / "proc/meminfo")
    sizes = re.findall(r"^(?:MemTotal|SwapTotal):\s*(\d+) kB", lines, re.M)
    if sizes:
        yield Limit(1024 * sum(map(int, sizes)), "the machine's memory with its swap")
    for place in _groups(root):
        # Without a limit, version 2 of control groups says "max", version 1 a number near 2^63.
        if (size := read_number(place)) is not None and size < 1 << 60:
            yield Limit(size, f"the limit of this container or service ({place.name})")
    if address_space != resource.RLIM_INFINITY:
        yield Limit(address_space, "the limit of `ulimit -v`")


def _groups(root: Path) -> Iterator[Path]:
    """Yield the files with the memory limits of this process's control groups and their parents."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        # HIERARCHY:CONTROLLERS:GROUP, with no controllers in version 2.
        if line.count(":") < 2:
            continue
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            home, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            home, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        # In a container this may be the path on the host: the root group is tried in any case.
        for part in (path, *path.parents):
            yield home / part / name


# Passes over fewer pixels in all are not checked: with 64 float32 channels for each pixel they take
# half a GiB, and inferring the shapes takes time.
SMALL_PIXELS = 1 << 21


def check_fits(needed: int, work: str, fix: str, limit: Limit | None = None) -> None:
    """Refuse work that needs more memory than this process may allocate.

    Args:
        needed: Least memory that it needs, bytes.
        work: Description of the work, which begins the error's sentence.
        fix: What to do.
        limit: Limit of the process's memory; None to ask the system.

    Raises:
        OutOfMemoryError: The work does not fit.
    """
    if limit is None:
        limit = memory_limit()
    if limit is not None and needed > limit.size:
        raise OutOfMemoryError(
            f"{work} needs at least {needed / 2**30:.1f} GiB of memory",
            f"{limit.name} is {limit.size / 2**30:.1f} GiB",
            fix,
        )
