"""Scripts inside tests that run on a GPU only: what moved in lpx is noticed without a GPU."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

TESTS = Path(__file__).parents[1]


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and content of each text; what an f-string inserts becomes 0."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "0" for p in node.values]
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def scripts() -> Iterator[tuple[str, ast.Module]]:
    """Yield the programs that import lpx among the texts of tests that are marked gpu."""
    for path in sorted(TESTS.rglob("*.py")):
        source = path.read_text()
        if "mark.gpu" not in source and path.parent.name != "gpu":
            continue
        for line, text in texts(ast.parse(source)):
            if "\nfrom lpx" not in text:
                continue
            try:
                yield f"{path.name}:{line}", ast.parse(text)
            except SyntaxError:
                # A piece of a program.
                continue


SCRIPTS = dict(scripts())


def imported(script: ast.Module) -> dict[str, Any]:
    """Import what a script imports from lpx, by the names that it uses."""
    names: dict[str, Any] = {}
    for node in ast.walk(script):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lpx"):
            module = importlib.import_module(node.module or "")
            for one in node.names:
                if not hasattr(module, one.name):
                    importlib.import_module(f"{node.module}.{one.name}")
                names[one.asname or one.name] = getattr(module, one.name)
    return names


def test_there_are_such_scripts() -> None:
    assert len(SCRIPTS) >= 3


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_it_uses_of_lpx_exists(name: str) -> None:
    names = imported(SCRIPTS[name])
    for node in ast.walk(SCRIPTS[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of = names.get(node.value.id)
            if isinstance(of, ModuleType):
                assert hasattr(of, node.attr), f"{node.value.id}.{node.attr}"
