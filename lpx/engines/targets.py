"""Targets that this machine can build for and run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lpx.arguments import check_choice
from lpx.engines.base import Availability
from lpx.engines.compatibility import differences, refusal
from lpx.engines.manifest import TARGETS, EngineManifest, Precision, Target
from lpx.engines.onnxruntime.gpu import provider_available
from lpx.engines.tensorrt import (
    Flavour,
    TensorRTLibrary,
    available,
    open_library,
    runtime_available,
)
from lpx.errors import LpxError
from lpx.machine.machine import Machine

# Targets for GPUs whose engines are built without one.
_BUILT_ANYWHERE = ("tensorrt-rtx", "onnxruntime-tensorrt-rtx")


@dataclass(frozen=True)
class Installed:
    """Functions that look for what is installed here.

    Attributes:
        tensorrt: Looks for a TensorRT library.
        runtime: Looks for what runs version-compatible plans, TensorRT's lean runtime included.
        provider: Looks for a GPU provider of ONNX Runtime.
        open: Imports a TensorRT library.
    """

    tensorrt: Callable[[Flavour], Availability] = available
    runtime: Callable[[Flavour], Availability] = runtime_available
    provider: Callable[[Target], Availability] = provider_available
    open: Callable[[Flavour], TensorRTLibrary] = open_library

    def library(self, target: Target) -> Availability:
        """Return whether a target's library is here, and why (not)."""
        if target == "tensorrt" or target == "tensorrt-rtx":
            return self.tensorrt(target)
        return self.provider(target)


INSTALLED = Installed()


@dataclass(frozen=True)
class ResolvedTarget:
    """A target as this machine has it, resolved once for a build.

    Attributes:
        name: The target.
        reason: Why it was chosen.
        library: Its TensorRT library; None for targets that ONNX Runtime runs.
    """

    name: Target
    reason: str = ""
    library: TensorRTLibrary | None = None

    @property
    def tensorrt(self) -> TensorRTLibrary:
        """Return the TensorRT library of a target that has one."""
        assert self.library is not None, f"{self.name} is not TensorRT's"
        return self.library

    def dialect(self, precision: Precision, dla_core: int | None = None) -> str:
        """Return the form of graph to build from, one of `lpx.engines.build.DIALECTS`.

        Args:
            precision: Precision of the engine.
            dla_core: DLA core that runs it; None for the GPU.
        """
        if self.name == "onnxruntime" or self.name == "onnxruntime-cuda":
            return "onnxruntime"
        if self.library is None:
            return "strongly-typed"
        capabilities = self.library.capabilities
        # A build for a DLA core is refused later if the library has no DLA.
        if dla_core is None or capabilities.dla_dialect is None:
            return capabilities.dialect
        if precision == "int8":
            return capabilities.dla_dialect
        return "strongly-typed" if capabilities.strongly_typed_only else "weakly-typed"


def resolve_target(
    asked: str, machine: Machine, installed: Installed = INSTALLED
) -> ResolvedTarget:
    """Resolve the target to build for: TensorRT if "auto" finds it, else ONNX Runtime's CPU.

    Args:
        asked: A target, or "auto".
        machine: The machine at hand.
        installed: What is installed here.

    Raises:
        InvalidArgumentError: The target is unknown.
        LpxError: It cannot be built for here (with what to install).
    """
    check_choice("target", asked, ("auto", *TARGETS))
    if asked == "auto":
        usable, reason = can_build("tensorrt", machine, installed)
        if usable:
            return ResolvedTarget("tensorrt", f"found {reason}", installed.open("tensorrt"))
        return ResolvedTarget("onnxruntime", f"TensorRT cannot be used here ({reason})")
    target = next(known for known in TARGETS if known == asked)
    usable, reason = can_build(target, machine, installed)
    if not usable:
        raise LpxError(
            f"target {target} cannot be built on this machine",
            reason,
            'fix that, or use `target="onnxruntime"`, which builds everywhere; `lpx doctor` '
            "shows what this machine has",
            code="unsupported",
        )
    library = None
    if target == "tensorrt" or target == "tensorrt-rtx":
        library = installed.open(target)
    return ResolvedTarget(target, "as requested", library)


def can_build(target: Target, machine: Machine, installed: Installed = INSTALLED) -> Availability:
    """Return whether engines of a target can be built here, and why (not)."""
    if target == "onnxruntime":
        return Availability(True, "onnxruntime is always there")
    if target not in _BUILT_ANYWHERE and not machine.gpus:
        return Availability(False, _no_gpu(machine))
    return installed.library(target)


def _no_gpu(machine: Machine) -> str:
    return ": ".join(filter(None, ("no NVIDIA GPU is seen", machine.no_gpu_reason)))


def can_run(
    manifest: EngineManifest, machine: Machine, installed: Installed = INSTALLED
) -> Availability:
    """Return whether an engine runs on this machine, and why (not)."""
    target = manifest.target
    if target == "onnxruntime":
        return Availability(True, "onnxruntime is always there")
    if not machine.gpus:
        return Availability(False, _no_gpu(machine))
    options = manifest.tensorrt
    if options.version_compatible and (target == "tensorrt" or target == "tensorrt-rtx"):
        usable, reason = installed.runtime(target)
    else:
        usable, reason = installed.library(target)
    if not usable:
        return Availability(False, reason)
    if refused := refusal(manifest, machine, reason):
        return Availability(False, refused)
    return Availability(True, "; ".join((reason, *differences(manifest, machine))))
