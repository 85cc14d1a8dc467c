"""Result of building an engine for one target, before its manifest is written."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import lpx


@dataclass(frozen=True)
class BuiltEngine:
    """An engine before its manifest.

    Attributes:
        data: Contents of the engine file.
        file: Name of the engine file.
        convolutions: Number of convolutions per precision; empty if the runtime reports none.
        versions: Versions of lpx and of the libraries that built it.
        warnings: Notes for the user.
        options: Options of the build and their outcome, for the manifest.
        computed_in: For INT8, the precision of convolutions and matrix products by name of the
            node; empty if the runtime does not report it.
    """

    data: bytes
    file: str
    convolutions: dict[str, int]
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    computed_in: dict[str, str] = field(default_factory=dict)


def tf32_switched_off() -> bool:
    """Return True if the environment switches TF32 off, which overrides all options."""
    return os.environ.get("NVIDIA_TF32_OVERRIDE") == "0"


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of lpx and of installed packages."""
    versions = {"lpx": lpx.__version__}
    for package in packages:
        versions[package] = metadata.version(package)
    return versions
