"""What of the machine an engine was built on differs from the one at hand."""

from __future__ import annotations

from typing import Any

from lpx.engines.machine import Machine
from lpx.engines.manifest import EngineManifest


def refusal(manifest: EngineManifest, machine: Machine) -> str:
    """Why a TensorRT plan cannot run on this machine's GPU; "" where nothing speaks against it.

    Args:
        manifest: Of an engine with a plan.
        machine: The machine at hand.
    """
    here = {gpu.compute_capability for gpu in machine.gpus if gpu.compute_capability}
    built = set(manifest.compute_capabilities) or _capabilities(manifest.machine)
    if built and here and not built & here:
        return (
            f"built for compute capability {', '.join(sorted(built))}, here is "
            f"{', '.join(sorted(here))}; {rebuild(manifest)}"
        )
    return ""


def differences(manifest: EngineManifest, machine: Machine) -> tuple[str, ...]:
    """What may make an engine that runs here slower than where it was built, or fail.

    A Jetson's power mode switches off parts of the GPU: a plan that was built in another mode had
    its kernels chosen for another chip. What is unknown on either side is not compared.

    Args:
        manifest: Of the engine.
        machine: The machine at hand.
    """
    built = manifest.machine.get("jetson")
    if manifest.target == "onnxruntime" or not built or machine.jetson is None:
        return ()
    found = []
    for what, was, now in (
        ("in power mode", built.get("power_mode", ""), machine.jetson.power_mode),
        ("on", built.get("board", ""), machine.jetson.board),
        ("with L4T", built.get("l4t", ""), machine.jetson.l4t),
    ):
        known = was and not was.startswith("unknown") and not now.startswith("unknown")
        if known and was != now:
            found.append(
                f"{manifest.name} was built {what} {was}, here it is {now}: it may be slower "
                f"than it could be, or fail; {rebuild(manifest)}"
            )
    return tuple(found)


def rebuild(manifest: EngineManifest) -> str:
    """The command that makes the engine anew."""
    return f"build it again here: `lpx build --{manifest.precision} --target {manifest.target}`"


def _capabilities(machine: dict[str, Any]) -> set[str]:
    capabilities = (gpu.get("compute_capability") for gpu in machine.get("gpus", ()))
    return {capability for capability in capabilities if capability}
