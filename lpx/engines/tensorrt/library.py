"""Find and import TensorRT when it is needed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lpx.engines.base import Availability
from lpx.errors import LpxError

# The library that builds and runs a plan. Neither loads a plan of the other.
Flavour = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
# TensorRT's lean runtime: runs version-compatible plans, and cannot build any.
_LEAN = ("tensorrt_lean", "tensorrt_lean_bindings")
_INSTALL_LEAN = (
    "pip install tensorrt-lean-cu13-bindings tensorrt-lean-cu13-libs (cu12 for CUDA 12), in the "
    "release that built the plan or a later one"
)
_EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
_JETSON_MARK = Path("/etc/nv_tegra_release")


class _Search(NamedTuple):
    """A library's module and its version; or None and the reason why it cannot be imported."""

    trt: Any | None
    reason: str


def load(flavour: Flavour) -> Any:
    """Import the library of a flavour.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".

    Returns:
        The Python module of the bindings, to be assigned to a variable called `trt`.

    Raises:
        LpxError: The flavour is unknown, or its library is missing or does not import.
    """
    trt, reason = _find(flavour)
    if trt is None:
        raise LpxError(
            f"{flavour} cannot be used here",
            why=reason,
            fix=install_advice(flavour),
            code="unsupported",
        )
    return trt


def available(flavour: Flavour) -> Availability:
    """Return whether the library of a flavour imports, and the reason.

    TensorRT also needs a GPU, to build as well as to run; TensorRT for RTX only to run.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".

    Returns:
        (True, module and version), or (False, the reason and what to install).
    """
    trt, reason = _find(flavour)
    if trt is None:
        return Availability(False, f"{reason}; {install_advice(flavour)}")
    return Availability(True, reason)


def load_runtime(flavour: Flavour) -> Any:
    """Import a library that runs version-compatible plans: TensorRT, or else its lean runtime.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx", which has no lean runtime.

    Returns:
        The Python module of the bindings, to be assigned to a variable called `trt`.

    Raises:
        LpxError: The flavour is unknown, or no such library is installed and imports.
    """
    trt, reason = _find_runtime(flavour)
    if trt is None:
        fix = _install_runtime(flavour)
        raise LpxError(f"{flavour} cannot be used here", why=reason, fix=fix, code="unsupported")
    return trt


def runtime_available(flavour: Flavour) -> Availability:
    """Return whether `load_runtime` finds a library, and the reason.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".

    Returns:
        (True, module and version), or (False, the reason and what to install).
    """
    trt, reason = _find_runtime(flavour)
    if trt is None:
        return Availability(False, f"{reason}; {_install_runtime(flavour)}")
    return Availability(True, reason)


def _find(flavour: Flavour) -> _Search:
    if flavour not in _MODULES:
        known = ", ".join(_MODULES)
        raise LpxError(f"{flavour!r} is not a TensorRT flavour", why=f"lpx knows {known}")
    trt, reason = _first(_MODULES[flavour], "Builder")
    if trt is None and flavour == "tensorrt":
        lean, found = _first(_LEAN, "Runtime")
        # Without mention of the lean runtime it would seem that no TensorRT is installed.
        if lean is not None:
            reason = f"{found} cannot build plans, and runs only version-compatible ones ({reason})"
    return _Search(trt, reason)


def _find_runtime(flavour: Flavour) -> _Search:
    trt, reason = _find(flavour)
    if trt is None and flavour == "tensorrt":
        lean, found = _first(_LEAN, "Runtime")
        if lean is not None:
            return _Search(lean, found)
        return _Search(None, reason)
    return _Search(trt, reason)


def _first(names: tuple[str, ...], holding: str) -> _Search:
    """Return the first module that imports and has a class, or the reason why none does."""
    reasons = []
    for name in names:
        try:
            trt = importlib.import_module(name)
        except (ImportError, OSError) as problem:  # OSError: a shared library is missing
            reasons.append(f"{name}: {problem}")
            continue
        if hasattr(trt, holding):
            return _Search(trt, f"{name} {trt.__version__}")
        # A folder called "tensorrt" on the path imports as an empty namespace package.
        reasons.append(f"{name}: imports, but has no {holding}")
    return _Search(None, "; ".join(reasons))


def _install_runtime(flavour: Flavour) -> str:
    advice = install_advice(flavour)
    if flavour == "tensorrt":
        advice += f", or its lean runtime: {_INSTALL_LEAN}"
    return advice


def install_advice(
    flavour: Flavour, jetson_mark: Path = _JETSON_MARK, in_environment: bool | None = None
) -> str:
    """Return advice on installing the library of a flavour on this machine.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".
        jetson_mark: File that exists only on Jetsons.
        in_environment: True if Python runs in a virtual environment; None to find out.
    """
    if in_environment is None:
        in_environment = sys.prefix != sys.base_prefix
    command = f"pip install 'lpx[{_EXTRAS[flavour]}]'"
    if flavour != "tensorrt" or not jetson_mark.exists():
        return command
    # JetPack's packages are visible outside virtual environments: there it is not installed.
    if not in_environment:
        return "install JetPack's TensorRT: sudo apt install python3-libnvinfer"
    return (
        "JetPack's TensorRT is not visible in this virtual environment: "
        "create it again with python3 -m venv --system-site-packages"
    )
