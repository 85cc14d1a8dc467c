"""Which targets this machine can build for and run."""

from __future__ import annotations

from lpx.engines.compatibility import differences, refusal
from lpx.engines.manifest import TARGETS, EngineManifest, Target
from lpx.engines.onnxruntime.gpu import provider_available
from lpx.engines.tensorrt import available, runtime_available
from lpx.errors import LpxError
from lpx.machine.machine import Machine

_BUILT_ANYWHERE = ("tensorrt-rtx", "onnxruntime-tensorrt-rtx")
"""Targets for GPUs whose engines need none to be built."""


def choose(asked: str, machine: Machine) -> tuple[Target, str]:
    """The target to build for, and why.

    Args:
        asked: A target, or "auto".
        machine: The machine at hand.

    Raises:
        LpxError: The target is unknown, or cannot be built for here (with what to install).
    """
    if asked == "auto":
        usable, reason = can_build("tensorrt", machine)
        if usable:
            return "tensorrt", f"found {reason}"
        return "onnxruntime", f"TensorRT cannot be used here ({reason})"
    for target in TARGETS:
        if asked == target:
            usable, reason = can_build(target, machine)
            if not usable:
                raise LpxError(
                    f"target {target} cannot be built on this machine",
                    reason,
                    "fix that, or choose --target onnxruntime, which builds everywhere; "
                    "`lpx doctor` shows what this machine has",
                )
            return target, "as asked for"
    raise LpxError(
        f"unknown target {asked!r}",
        f"known targets: auto, {', '.join(TARGETS)}",
        "name one of these",
    )


def can_build(target: Target, machine: Machine) -> tuple[bool, str]:
    """Whether engines of `target` can be built here, and why (not)."""
    if target == "onnxruntime":
        return True, "onnxruntime is always there"
    if target not in _BUILT_ANYWHERE and not machine.gpus:
        return False, _no_gpu(machine)
    return _library(target)


def _library(target: Target) -> tuple[bool, str]:
    if target == "tensorrt" or target == "tensorrt-rtx":
        return available(target)
    return provider_available(target)


def _no_gpu(machine: Machine) -> str:
    return ": ".join(filter(None, ("no NVIDIA GPU is seen", machine.no_gpu_reason)))


def can_run(manifest: EngineManifest, machine: Machine) -> tuple[bool, str]:
    """Whether an engine runs on this machine, and why (not)."""
    if manifest.target == "onnxruntime":
        return True, "onnxruntime is always there"
    if not machine.gpus:
        return False, _no_gpu(machine)
    compatible = {
        name: bool(manifest.options.get(name))
        for name in ("version_compatible", "hardware_compatible")
    }
    target = manifest.target
    if compatible["version_compatible"] and (target == "tensorrt" or target == "tensorrt-rtx"):
        usable, reason = runtime_available(target)
    else:
        usable, reason = _library(target)
    if not usable:
        return False, reason
    if refused := refusal(manifest, machine, reason, **compatible):
        return False, refused
    return True, "; ".join((reason, *differences(manifest, machine)))
