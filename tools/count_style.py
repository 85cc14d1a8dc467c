"""Count properties that make the code of lpx easy or hard to read.

    python tools/count_style.py [FOLDER]

Prints a table in Markdown, for docs/architecture.md. FOLDER is that of a package; lpx by default.
"""

from __future__ import annotations

import ast
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_MANY_FIELDS = 12
_REPORT_COMMANDS = ("cli/bench.py", "cli/bench_tables.py", "cli/compare.py", "cli/demo.py")
_OPTIONS = {
    "compute_capabilities",
    "workspace_mib",
    "optimisation_level",
    "version_compatible",
    "hardware_compatible",
    "dla_core",
    "frozen_timing_cache",
    "tf32",
}
# A place that names at least this many of the options counts as a list of them.
_SOME = 4


def count(root: Path) -> dict[str, str]:
    """Return the counts of a package, by their names."""
    paths = sorted(root.rglob("*.py"))
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    lines = comments = 0
    for path in paths:
        code, own_line = _lines(path)
        lines += code
        comments += own_line
    functions = [node for node in nodes if isinstance(node, _FUNCTIONS)]
    outside = [
        node
        for path, tree in trees.items()
        if root / "cli" not in path.parents
        for node in ast.walk(tree)
        if isinstance(node, _FUNCTIONS)
    ]
    tuples = sum(_returns_tuple(node) for node in functions)
    skips = sum(path.read_text(encoding="utf-8").count("# fmt: skip") for path in paths)
    folders = Counter(
        path.parent for path in paths if path.name != "__init__.py" and path.parent != root / "cli"
    )
    largest, modules = folders.most_common(1)[0]
    return {
        "modules": str(len(paths)),
        "lines of code": str(lines),
        "most modules in one folder but cli": f"{modules} ({largest.relative_to(root.parent)})",
        "comment lines per 100 lines of code": f"{100 * comments / lines:.1f}",
        "comprehensions per 1,000 lines": _rate(nodes, _COMPREHENSIONS, lines),
        "conditional expressions per 1,000 lines": _rate(nodes, (ast.IfExp,), lines),
        "functions that return a bare tuple": f"{100 * tuples / len(functions):.1f} %",
        "most parameters of a function outside cli": str(max(map(_parameters, outside))),
        f"dataclasses of more than {_MANY_FIELDS} fields": str(
            sum(_fields(node) > _MANY_FIELDS for node in nodes)
        ),
        "boolean parameters that can be passed by position": str(
            sum(_positional_booleans(node) for node in outside)
        ),
        "string subscripts into reports": str(_report_subscripts(root, trees)),
        "places that list TensorRT's options": str(sum(map(_lists_options, trees.values()))),
        "`# fmt: skip`": str(skips),
        "`monkeypatch.setattr` in tests": _patches(root.parent / "tests"),
    }


def _positional_booleans(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    count = 0
    for argument in (*node.args.posonlyargs, *node.args.args):
        kind = argument.annotation
        count += isinstance(kind, ast.Name) and kind.id == "bool"
    return count


def _report_subscripts(root: Path, trees: dict[Path, ast.Module]) -> int:
    """Count subscripts by a literal string in the modules that read reports."""
    count = 0
    for path, tree in trees.items():
        name = path.relative_to(root).as_posix()
        if name.startswith("bench/report/") or name in _REPORT_COMMANDS:
            for node in ast.walk(tree):
                if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                    count += isinstance(node.slice.value, str)
    return count


def _lists_options(tree: ast.Module) -> int:
    """Count classes, functions, dicts and calls that name several of TensorRT's options."""
    count = 0
    for node in ast.walk(tree):
        names: set[str] = set()
        if isinstance(node, ast.ClassDef):
            names = {n.target.id for n in node.body if _is_field(n)}  # type: ignore[attr-defined]
        elif isinstance(node, _FUNCTIONS):
            given = node.args
            names = {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
        elif isinstance(node, ast.Dict):
            names = {k.value for k in node.keys if isinstance(k, ast.Constant)}  # type: ignore[misc]
        elif isinstance(node, ast.Call):
            names = {keyword.arg or "" for keyword in node.keywords}
        count += len(names & _OPTIONS) >= _SOME
    return count


def _is_field(node: ast.stmt) -> bool:
    return isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)


def _patches(tests: Path) -> str:
    count = 0
    for path in tests.rglob("*.py"):
        count += path.read_text(encoding="utf-8").count("monkeypatch.setattr")
    return str(count)


def _lines(path: Path) -> tuple[int, int]:
    """Return the number of lines with code, and of comments on a line of their own."""
    code: set[int] = set()
    comments = 0
    with path.open("rb") as stream:
        for token in tokenize.tokenize(stream.readline):
            if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
                comments += 1
            elif token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING):
                code.update(range(token.start[0], token.end[0] + 1))
    return len(code), comments


def _rate(nodes: list[ast.AST], kinds: tuple[type[ast.AST], ...], lines: int) -> str:
    return f"{1000 * sum(isinstance(node, kinds) for node in nodes) / lines:.1f}"


def _returns_tuple(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    kind = node.returns
    return (
        isinstance(kind, ast.Subscript)
        and isinstance(kind.value, ast.Name)
        and kind.value.id == "tuple"
        # tuple[X, ...] is a sequence, not several results.
        and not (isinstance(kind.slice, ast.Tuple) and _is_open(kind.slice))
    )


def _is_open(given: ast.Tuple) -> bool:
    last = given.elts[-1]
    return isinstance(last, ast.Constant) and last.value is Ellipsis


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = node.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return sum(name not in ("self", "cls") for name in names)


def _fields(node: ast.AST) -> int:
    if not isinstance(node, ast.ClassDef) or not any(_is_dataclass(d) for d in node.decorator_list):
        return 0
    return sum(isinstance(one, ast.AnnAssign) for one in node.body)


def _is_dataclass(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id == "dataclass"


def table(counts: dict[str, str]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the counts."""
    yield "| | |"
    yield "|---|---|"
    for name, value in counts.items():
        yield f"| {name} | {value} |"


if __name__ == "__main__":
    package = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "lpx"
    print("\n".join(table(count(package))))
