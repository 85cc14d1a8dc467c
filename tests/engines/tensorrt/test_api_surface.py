"""Every TensorRT name that the package uses is in every release claimed, or behind a capability.

The package's convention makes this checkable: the library's module is always called `trt`, and
TensorRT's objects have the names in `CLASS_OF`.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from tensorrt_surfaces import LEAN, RELEASES, surface

import lpx.engines.tensorrt

PACKAGE = Path(lpx.engines.tensorrt.__file__).parent

CLASS_OF = {
    "builder": "Builder",
    "cache": "ITimingCache",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "kernel_cache": "IRuntimeCache",
    "network": "INetworkDefinition",
    "network_layer": "ILayer",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "runtime_config": "IRuntimeConfig",
    "tensor": "ITensor",
}

GUARDED = {
    "BuilderFlag.ERROR_ON_TIMING_CACHE_MISS": "error_on_timing_cache_miss",
    "BuilderFlag.FP16": "fp16_flag",
    "BuilderFlag.INT8": "int8_flag",
    "ComputeCapability": "set_compute_capability",
    "CudaGraphStrategy": "builtin_cuda_graphs",
    "CudaGraphStrategy.DISABLED": "builtin_cuda_graphs",
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE": "builtin_cuda_graphs",
    "DynamicShapesKernelSpecializationStrategy": "compiles_at_run",
    "DynamicShapesKernelSpecializationStrategy.EAGER": "compiles_at_run",
    "IBuilderConfig.int8_calibrator": "calibrators",
    "IBuilderConfig.num_compute_capabilities": "set_compute_capability",
    "IBuilderConfig.progress_monitor": "progress_monitor",
    "IBuilderConfig.set_compute_capability": "set_compute_capability",
    "ICudaEngine.create_runtime_config": "builtin_cuda_graphs",
    "IDebugListener": "debug_tensors",
    "IExecutionContext.set_all_tensors_debug_state": "debug_tensors",
    "IExecutionContext.set_debug_listener": "debug_tensors",
    "IInt8EntropyCalibrator2": "calibrators",
    "INetworkDefinition.mark_debug": "debug_tensors",
    "IProgressMonitor": "progress_monitor",
    "IRuntimeCache.deserialize": "compiles_at_run",
    "IRuntimeCache.serialize": "compiles_at_run",
    "IRuntimeConfig.create_runtime_cache": "compiles_at_run",
    "IRuntimeConfig.cuda_graph_strategy": "builtin_cuda_graphs",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy": "compiles_at_run",
    "IRuntimeConfig.set_runtime_cache": "compiles_at_run",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": "explicit_batch_flag",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": "strongly_typed_flag",
    "ParserError.node_name": "parser_node_name",
    "ParserError.node_operator": "parser_node_name",
}


@dataclass(frozen=True)
class Use:
    """One name of TensorRT's in the source.

    `guards` are the capabilities asked by the `if` statements around it, `function` is the
    outermost function that holds it.
    """

    name: str
    guards: frozenset[str]
    function: str
    where: str


class _Walker(ast.NodeVisitor):
    def __init__(self, file: str) -> None:
        self.file = file
        self.guards: list[str] = []
        self.functions: list[str] = []
        self.uses: list[Use] = []
        self.calls: list[tuple[str, frozenset[str]]] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.functions.append(node.name)
        self.generic_visit(node)
        self.functions.pop()

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        asked = _asked(node.test)
        self.guards += asked
        for child in node.body:
            self.visit(child)
        del self.guards[len(self.guards) - len(asked) :]
        for child in node.orelse:
            self.visit(child)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self.calls.append((node.func.id, frozenset(self.guards)))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = _tensorrt_name(node)
        if name is not None and "__" not in name:
            function = self.functions[0] if self.functions else ""
            where = f"{self.file}:{node.lineno}"
            self.uses.append(Use(name, frozenset(self.guards), function, where))
        self.generic_visit(node)


def _asked(test: ast.expr) -> list[str]:
    """The capabilities that must hold for a test to hold."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return [name for part in test.values for name in _asked(part)]
    if isinstance(test, ast.Attribute) and _last_name(test.value) == "capabilities":
        return [test.attr]
    return []


def _last_name(node: ast.expr) -> str:
    name = {ast.Name: "id", ast.Attribute: "attr"}.get(type(node))
    return str(getattr(node, name)).lstrip("_") if name else ""


def _tensorrt_name(node: ast.Attribute) -> str | None:
    """`trt.A` is "A", `trt.A.B` and `<object of class A>.B` are "A.B", all else is None."""
    if _last_name(node.value) == "trt":
        return node.attr
    if isinstance(node.value, ast.Attribute) and _last_name(node.value.value) == "trt":
        return f"{node.value.attr}.{node.attr}"
    if isinstance(node.value, ast.Attribute | ast.Name):
        holder = CLASS_OF.get(_last_name(node.value))
        return f"{holder}.{node.attr}" if holder else None
    return None


def walk(source: str, file: str = "source") -> _Walker:
    walker = _Walker(file)
    walker.visit(ast.parse(source))
    return walker


def problems(walkers: list[_Walker], releases: Sequence[str] = RELEASES) -> list[str]:
    """What is not in every release and does not stand behind its capability."""
    calls = [call for walker in walkers for call in walker.calls]
    found = []
    for use in (use for walker in walkers for use in walker.uses):
        lacking = [release for release in releases if not _has(release, use.name)]
        if not lacking:
            continue
        capability = GUARDED.get(use.name)
        if capability is None:
            found.append(f"{use.where}: {use.name} is not in {', '.join(lacking)}")
        elif not _guarded(use, capability, calls):
            found.append(f"{use.where}: {use.name} is not behind capabilities.{capability}")
    return found


def _has(release: str, name: str) -> bool:
    holder, _, member = name.partition(".")
    members = surface(release).get(holder)
    return members is not None and (not member or member in members)


def _guarded(use: Use, capability: str, calls: list[tuple[str, frozenset[str]]]) -> bool:
    """Guarded where it stands, or wherever the function that holds it is called."""
    if capability in use.guards:
        return True
    guards = [guards for name, guards in calls if name == use.function]
    return bool(guards) and all(capability in held for held in guards)


@pytest.fixture(scope="module")
def walkers() -> list[_Walker]:
    return [walk(path.read_text(), path.name) for path in sorted(PACKAGE.rglob("*.py"))]


def test_every_name_is_in_every_release_or_behind_its_capability(walkers: list[_Walker]) -> None:
    assert problems(walkers) == []


def test_what_runs_plans_needs_no_more_than_the_lean_runtime(walkers: list[_Walker]) -> None:
    running = {f"{name}.py" for name in ("capabilities", "logger", "profiles", "runtime", "slot")}
    chosen = [walker for walker in walkers if walker.file in running]
    assert len(chosen) == len(running)
    assert problems(chosen, (*RELEASES, *LEAN)) == []
    assert problems(walkers, LEAN), "what builds them needs more"


def test_the_walk_sees_the_package(walkers: list[_Walker]) -> None:
    names = {use.name for walker in walkers for use in walker.uses}
    assert len(names) > 60
    assert names >= {
        "BuilderFlag.FP16",
        "Builder.build_serialized_network",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address",
        "ILogger.WARNING",
        "Runtime.deserialize_cuda_engine",
    }


def test_the_allow_list_has_no_dead_entries(walkers: list[_Walker]) -> None:
    names = {use.name for walker in walkers for use in walker.uses}
    assert set(GUARDED) - names == set()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("trt.Builder.made_up", "Builder.made_up is not in tensorrt-8.6.1"),
        ("config.made_up = 1", "IBuilderConfig.made_up is not in tensorrt-8.6.1"),
        ("self._engine.made_up()", "ICudaEngine.made_up is not in"),
        ("lane.context.execute_async_v2(b)", "IExecutionContext.execute_async_v2 is not in"),
        ("self.trt.MadeUp", "MadeUp is not in"),
        ("trt.BuilderFlag.FP16", "is not behind capabilities.fp16_flag"),
        (
            "if capabilities.int8_flag:\n    config.set_flag(trt.BuilderFlag.FP16)",
            "is not behind capabilities.fp16_flag",
        ),
        (
            "if capabilities.fp16_flag:\n    pass\nelse:\n    trt.BuilderFlag.FP16",
            "is not behind capabilities.fp16_flag",
        ),
        (
            "if capabilities.fp16_flag or wanted:\n    trt.BuilderFlag.FP16",
            "is not behind capabilities.fp16_flag",
        ),
        (
            "def f(trt):\n    trt.BuilderFlag.FP16\nif capabilities.fp16_flag:\n    f(trt)\nf(trt)",
            "is not behind capabilities.fp16_flag",
        ),
    ],
)
def test_a_name_that_some_release_lacks_is_caught(source: str, problem: str) -> None:
    (found,) = problems([walk(source)])
    assert problem in found


@pytest.mark.parametrize(
    "source",
    [
        "if capabilities.fp16_flag and wanted:\n    config.set_flag(trt.BuilderFlag.FP16)",
        "if self._capabilities.fp16_flag:\n    trt.BuilderFlag.FP16",
        "def f(trt):\n    trt.BuilderFlag.FP16\nif capabilities.fp16_flag:\n    f(trt)",
        "faces.made_up",
    ],
)
def test_a_guarded_name_passes(source: str) -> None:
    assert problems([walk(source)]) == []
