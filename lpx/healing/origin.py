"""Where an engine was built, compared with the machine at hand."""

from __future__ import annotations

from lpx.engines.manifest import EngineManifest
from lpx.machine.machine import Machine


def moved(manifest: EngineManifest, machine: Machine) -> str:
    """Return what differs between where an engine was built and here; "" if nothing is known to.

    Args:
        manifest: The engine's.
        machine: The machine at hand.
    """
    differences = []
    if manifest.target.startswith("onnxruntime"):
        was, now = manifest.versions.get("onnxruntime"), _version()
        if was and was != now:
            differences.append(f"it was built with onnxruntime {was}, and here is {now}")
    for what in ("architecture", "cpu"):
        built, here = manifest.machine.get(what), getattr(machine, what)
        if built and built != here:
            differences.append(f"it was built on {str(built)[:60]}, and here is {here}")
            break
    return "; ".join(differences)


def _version() -> str:
    # Imported here, as engines of TensorRT do without.
    import onnxruntime

    return str(onnxruntime.__version__)
