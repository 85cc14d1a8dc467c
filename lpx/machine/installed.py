"""Disk space of lpx and the packages that it uses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import lpx

_MB = 1e6
# Name of a package at the beginning of a requirement, such as "torch>=2.8; extra == 'export'".
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
_EXTRA = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]""")
# Extras that only developers install.
_DEVELOPMENT = frozenset({"dev", "docs"})

Find = Callable[[str], metadata.Distribution]


@dataclass(frozen=True)
class InstalledSize:
    """Disk space of packages, in MB of 10^6 bytes.

    Attributes:
        core_mb: lpx and the packages that every installation needs.
        total_mb: The same, and all installed packages of its extras.
        packages_mb: Size by package, largest first.
    """

    core_mb: float
    total_mb: float
    packages_mb: dict[str, float]


def installed_size(find: Find = metadata.distribution) -> InstalledSize | None:
    """Measure lpx and all packages that it needs, directly or through others.

    Args:
        find: Returns an installed distribution, or raises `PackageNotFoundError`.

    Returns:
        The sizes; None if lpx was not installed, so that its requirements are unknown.
    """
    try:
        requirements = find("lpx").requires or []
    except metadata.PackageNotFoundError:
        return None
    core: set[str] = set()
    extra: set[str] = set()
    for text in requirements:
        name, wanted = _parse(text)
        if wanted is None:
            core.add(name)
        elif wanted not in _DEVELOPMENT and name != "lpx":
            extra.add(name)
    sizes = {"lpx": _folder_mb(Path(lpx.__file__).parent)}
    _add(core, sizes, find)
    core_mb = sum(sizes.values())
    _add(extra, sizes, find)
    ordered = dict(sorted(sizes.items(), key=lambda item: -item[1]))
    return InstalledSize(core_mb, sum(sizes.values()), ordered)


def _parse(requirement: str) -> tuple[str, str | None]:
    """Return the package that a requirement names, and the extra that it belongs to."""
    name, _, marker = requirement.partition(";")
    match = _NAME.match(name)
    extra = _EXTRA.search(marker)
    return _normalised(match[1]) if match else "", extra[1] if extra else None


def _normalised(name: str) -> str:
    """Return a name as pip compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _add(names: set[str], sizes: dict[str, float], find: Find) -> None:
    """Add the sizes of packages, and of those that they need, to `sizes`."""
    waiting = sorted(names)
    while waiting:
        name = waiting.pop()
        if name in sizes or not name:
            continue
        try:
            distribution = find(name)
        except metadata.PackageNotFoundError:
            # A package of an extra that is not installed, or for another platform.
            continue
        sizes[name] = _files_mb(distribution)
        for text in distribution.requires or []:
            needed, extra = _parse(text)
            if extra is None:
                waiting.append(needed)


def _files_mb(distribution: metadata.Distribution) -> float:
    """Return the size of a distribution's files; 0 if it does not list them."""
    return sum(_size(str(file.locate())) for file in distribution.files or []) / _MB


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        # A compiled file that was never made, or was removed.
        return 0


def _folder_mb(folder: Path) -> float:
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            total += _size(os.path.join(parent, name))
    return total / _MB
