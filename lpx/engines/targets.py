"""Targets that this machine can build for, and engines that it can run."""

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
    """Functions that look for installed libraries.

    Attributes:
        tensorrt: Looks for a TensorRT library.
        runtime: Looks for a library that runs version-compatible plans: TensorRT, or its lean
            runtime.
        provider: Looks for a GPU provider of ONNX Runtime.
        open: Imports a TensorRT library.
    """

    tensorrt: Callable[[Flavour], Availability] = available
    runtime: Callable[[Flavour], Availability] = runtime_available
    provider: Callable[[Target], Availability] = provider_available
    open: Callable[[Flavour], TensorRTLibrary] = open_library

    def library(self, target: Target) -> Availability:
        """Return whether the library of a target is installed, and the reason."""
        if target == "tensorrt" or target == "tensorrt-rtx":
            return self.tensorrt(target)
        return self.provider(target)


INSTALLED = Installed()


@dataclass(frozen=True)
class ResolvedTarget:
    """A target and its library on this machine, resolved once for a build.

    Attributes:
        name: Target.
        reason: Reason for choosing it.
        library: TensorRT library of the target; None for targets that ONNX Runtime runs.
    """

    name: Target
    reason: str = ""
    library: TensorRTLibrary | None = None

    @property
    def tensorrt(self) -> TensorRTLibrary:
        """The TensorRT library; only for the targets tensorrt and tensorrt-rtx."""
        assert self.library is not None, f"{self.name} has no TensorRT library"
        return self.library

    def dialect(self, precision: Precision, dla_core: int | None = None) -> str:
        """Return the dialect of the graph to build from, one of `lpx.engines.build.DIALECTS`.

        Args:
            precision: Precision of the engine.
            dla_core: DLA core that the engine runs on; None for the GPU.
        """
        if self.name == "onnxruntime" or self.name == "onnxruntime-cuda":
            return "onnxruntime"
        if self.library is None:
            return "strongly-typed"
        capabilities = self.library.capabilities
        # A library without DLA refuses the build later.
        if dla_core is None or capabilities.dla_dialect is None:
            return capabilities.dialect
        if precision == "int8":
            return capabilities.dla_dialect
        if capabilities.strongly_typed_only:
            return "strongly-typed"
        return "weakly-typed"


def resolve_target(
    asked: str, machine: Machine, installed: Installed = INSTALLED
) -> ResolvedTarget:
    """Resolve the target to build for; "auto" is TensorRT if it is usable, or else ONNX Runtime.

    Args:
        asked: A target, or "auto".
        machine: This machine.
        installed: Finds installed libraries.

    Raises:
        InvalidArgumentError: The target is unknown.
        LpxError: This machine cannot build for it; says what to install.
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
    """Return whether engines of a target can be built on this machine, and the reason."""
    if target == "onnxruntime":
        return Availability(True, "onnxruntime is always installed")
    if target not in _BUILT_ANYWHERE and not machine.gpus:
        return Availability(False, _no_gpu(machine))
    return installed.library(target)


def _no_gpu(machine: Machine) -> str:
    return ": ".join(filter(None, ("no NVIDIA GPU was found", machine.no_gpu_reason)))


def can_run(
    manifest: EngineManifest, machine: Machine, installed: Installed = INSTALLED
) -> Availability:
    """Return whether an engine runs on this machine, and the reason."""
    target = manifest.target
    if target == "onnxruntime":
        return Availability(True, "onnxruntime is always installed")
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
