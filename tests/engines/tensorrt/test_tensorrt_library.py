"""Finding the library: lazily, with the reason and what to install where it is absent."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lpx.engines.tensorrt.library import (
    available,
    install_advice,
    load,
    load_runtime,
    runtime_available,
)
from lpx.errors import LpxError

NAMES = (
    *("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"),
    *("tensorrt_lean", "tensorrt_lean_bindings"),
)


class Finder(MetaPathFinder, Loader):
    """Imports these modules in place of TensorRT's; a value that is an exception is raised."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        if name not in NAMES:
            return None
        if name not in self.found:
            raise ModuleNotFoundError(f"No module named {name!r}")
        if isinstance(self.found[name], Exception):
            raise self.found[name]
        return ModuleSpec(name, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module: ModuleType = self.found[spec.name]
        return module

    def exec_module(self, module: ModuleType) -> None:
        pass


@pytest.fixture
def modules() -> Iterator[dict[str, Any]]:
    """Modules that can be imported, by name; a value that is an exception is raised."""
    finder = Finder()
    imported = {name: sys.modules.pop(name) for name in NAMES if name in sys.modules}
    sys.meta_path.insert(0, finder)
    yield finder.found
    sys.meta_path.remove(finder)
    for name in NAMES:
        sys.modules.pop(name, None)
    sys.modules.update(imported)


def lean(name: str, version: str = "11.4.0.106") -> ModuleType:
    module = ModuleType(name)
    module.__version__ = version
    module.Runtime = object
    return module


def bindings(name: str, version: str = "10.3.0") -> ModuleType:
    module = ModuleType(name)
    module.__version__ = version
    module.Builder = object
    return module


def test_importing_the_package_imports_no_library() -> None:
    code = (
        "import sys, lpx.engines.tensorrt; "
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings', 'cuda', 'pycuda')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_tensorrt_is_found(modules: dict[str, Any]) -> None:
    modules["tensorrt"] = bindings("tensorrt")
    assert load("tensorrt") is modules["tensorrt"]
    assert available("tensorrt") == (True, "tensorrt 10.3.0")


@pytest.mark.parametrize("present", [("tensorrt_rtx",), ("tensorrt_rtx_bindings",)])
def test_rtx_is_found_under_either_name(modules: dict[str, Any], present: tuple[str, ...]) -> None:
    for name in present:
        modules[name] = bindings(name, "1.7.1.116")
    assert load("tensorrt-rtx") is modules[present[0]]
    assert available("tensorrt-rtx") == (True, f"{present[0]} 1.7.1.116")


def test_the_whole_rtx_package_comes_before_its_bindings(modules: dict[str, Any]) -> None:
    for name in ("tensorrt_rtx_bindings", "tensorrt_rtx"):
        modules[name] = bindings(name)
    assert load("tensorrt-rtx") is modules["tensorrt_rtx"]


@pytest.mark.parametrize(("flavour", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")])
def test_an_absent_library_says_what_to_install(
    modules: dict[str, Any], flavour: Any, extra: str
) -> None:
    usable, reason = available(flavour)
    assert not usable
    assert "No module named" in reason
    assert f"pip install 'lpx[{extra}]'" in reason
    with pytest.raises(LpxError) as caught:
        load(flavour)
    assert caught.value.fix == f"pip install 'lpx[{extra}]'"


def test_a_missing_shared_library_is_a_reason_not_a_crash(modules: dict[str, Any]) -> None:
    modules["tensorrt"] = OSError("libnvinfer.so.10: cannot open shared object file")
    assert "libnvinfer.so.10" in available("tensorrt")[1]


def test_an_empty_folder_of_that_name_is_not_the_library(modules: dict[str, Any]) -> None:
    modules["tensorrt"] = ModuleType("tensorrt")
    assert available("tensorrt")[0] is False


@pytest.mark.parametrize(
    ("in_environment", "advice"), [(True, "--system-site-packages"), (False, "apt install")]
)
def test_on_jetson_the_advice_fits_the_environment(
    tmp_path: Path, in_environment: bool, advice: str
) -> None:
    mark = tmp_path / "nv_tegra_release"
    mark.touch()
    assert advice in install_advice("tensorrt", mark, in_environment)
    assert "lpx[rtx]" in install_advice("tensorrt-rtx", mark, in_environment)


def test_an_unknown_flavour_is_refused() -> None:
    with pytest.raises(LpxError, match="tensorflow"):
        load("tensorflow")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_lean_bindings"])
def test_the_lean_runtime_runs_where_the_whole_library_is_not(
    modules: dict[str, Any], name: str
) -> None:
    modules[name] = lean(name)
    assert load_runtime("tensorrt") is modules[name]
    assert runtime_available("tensorrt") == (True, f"{name} 11.4.0.106")
    modules["tensorrt"] = bindings("tensorrt")
    assert load_runtime("tensorrt") is modules["tensorrt"]
    assert runtime_available("tensorrt") == (True, "tensorrt 10.3.0")


def test_the_lean_runtime_is_no_library_to_build_with(modules: dict[str, Any]) -> None:
    modules["tensorrt_lean"] = lean("tensorrt_lean")
    usable, reason = available("tensorrt")
    assert not usable
    assert "tensorrt_lean 11.4.0.106 cannot build plans" in reason
    with pytest.raises(LpxError, match="cannot be used here") as caught:
        load("tensorrt")
    assert "only version-compatible ones" in caught.value.why
    assert caught.value.fix == "pip install 'lpx[tensorrt]'"


def test_without_either_both_are_named(modules: dict[str, Any]) -> None:
    with pytest.raises(LpxError) as caught:
        load_runtime("tensorrt")
    assert "pip install 'lpx[tensorrt]'" in caught.value.fix
    assert "pip install tensorrt-lean-cu13-bindings tensorrt-lean-cu13-libs" in caught.value.fix


def test_rtx_has_no_lean_runtime(modules: dict[str, Any]) -> None:
    modules["tensorrt_lean"] = lean("tensorrt_lean")
    usable, reason = runtime_available("tensorrt-rtx")
    assert not usable
    assert "lean" not in reason


def test_a_folder_called_tensorrt_lean_is_not_the_runtime(modules: dict[str, Any]) -> None:
    modules["tensorrt_lean"] = ModuleType("tensorrt_lean")
    assert runtime_available("tensorrt")[0] is False
