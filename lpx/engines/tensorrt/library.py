"""Find TensorRT and import it, only when something needs it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lpx.engines.base import Availability
from lpx.errors import LpxError

# Which library builds and runs a plan: a plan of one does not load in the other.
Flavour = Literal["tensorrt", "tensorrt-rtx"]

_MODULES: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
# TensorRT's lean runtime: it runs version-compatible plans, and builds none.
_LEAN = ("tensorrt_lean", "tensorrt_lean_bindings")
_INSTALL_LEAN = (
    "pip install tensorrt-lean-cu13-bindings tensorrt-lean-cu13-libs (cu12 for CUDA 12), of the "
    "release that built the plan or a later one"
)
_EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
_JETSON_MARK = Path("/etc/nv_tegra_release")


class _Search(NamedTuple):
    """A library's module and version; or None, and why it is not here."""

    trt: Any | None
    reason: str


def load(flavour: Flavour) -> Any:
    """Import the library of a flavour.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".

    Returns:
        The Python module of the bindings, to be held in a variable called `trt`.

    Raises:
        LpxError: The flavour is unknown, or its library is absent or does not import.
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
    """Say whether a flavour's library imports, without raising.

    A library that imports can still lack a GPU: TensorRT builds and runs on the GPU of
    this machine, TensorRT for RTX builds without one.

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
    """Import what runs a version-compatible plan: the library, or else its lean runtime.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx", which has no lean runtime.

    Returns:
        The Python module of the bindings, to be held in a variable called `trt`.

    Raises:
        LpxError: The flavour is unknown, or neither is there or imports.
    """
    trt, reason = _find_runtime(flavour)
    if trt is None:
        fix = _install_runtime(flavour)
        raise LpxError(f"{flavour} cannot be used here", why=reason, fix=fix, code="unsupported")
    return trt


def runtime_available(flavour: Flavour) -> Availability:
    """Say whether something here runs version-compatible plans of a flavour, without raising.

    Args:
        flavour: As for `load_runtime`.

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
        # The lean runtime is mentioned, as otherwise it would seem that no TensorRT is installed.
        if lean is not None:
            reason = f"{found} builds no plans, and runs version-compatible ones only ({reason})"
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
    """Return the first module that imports and holds a class, and its version; or None, and why."""
    reasons = []
    for name in names:
        try:
            trt = importlib.import_module(name)
        except (ImportError, OSError) as problem:  # OSError: a shared library is missing
            reasons.append(f"{name}: {problem}")
            continue
        if hasattr(trt, holding):
            return _Search(trt, f"{name} {trt.__version__}")
        # A folder called tensorrt on the path imports as an empty namespace package.
        reasons.append(f"{name}: imports, but holds no {holding}")
    return _Search(None, "; ".join(reasons))


def _install_runtime(flavour: Flavour) -> str:
    lean = f", or its lean runtime: {_INSTALL_LEAN}" if flavour == "tensorrt" else ""
    return install_advice(flavour) + lean


def install_advice(
    flavour: Flavour, jetson_mark: Path = _JETSON_MARK, in_environment: bool | None = None
) -> str:
    """Return how to install a flavour's library on this machine.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".
        jetson_mark: A file that only Jetsons have.
        in_environment: Whether Python runs in a virtual environment; None to find out.
    """
    if in_environment is None:
        in_environment = sys.prefix != sys.base_prefix
    command = f"pip install 'lpx[{_EXTRAS[flavour]}]'"
    if flavour != "tensorrt" or not jetson_mark.exists():
        return command
    # Outside a virtual environment JetPack's packages are visible, so what is not found is not
    # installed.
    if not in_environment:
        return "install JetPack's TensorRT: sudo apt install python3-libnvinfer"
    return (
        "JetPack's TensorRT is not seen from this virtual environment: "
        "create it again with python3 -m venv --system-site-packages"
    )
