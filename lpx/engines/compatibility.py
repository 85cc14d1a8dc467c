"""Differences between the machine that built an engine and the one at hand."""

from __future__ import annotations

from lpx.engines.manifest import EngineManifest
from lpx.engines.rtx_gpus import (
    RTX_DEFAULT_GPUS,
    RTX_PROVIDER_GPUS,
    rtx_plan_runs_on,
    rtx_provider_serves,
    rtx_serves,
)
from lpx.engines.tensorrt.capabilities import parse_version
from lpx.machine.machine import Machine

Version = tuple[int, ...]

# By NVIDIA's support matrix of 11.4.1: the other major release that loads the version-compatible
# plans of one. Of majors that are not listed TensorRT itself decides.
_NEXT_MAJOR = {8: 10, 10: 11}


def refusal(
    manifest: EngineManifest,
    machine: Machine,
    library: str = "",
) -> str:
    """Return why a plan cannot run here, before TensorRT aborts; "" if nothing is known.

    Args:
        manifest: Of an engine with a plan.
        machine: The machine at hand.
        library: Module and version here, as "tensorrt 10.3.0"; "" leaves the version out.
    """
    options = manifest.tensorrt
    was, now = manifest.versions.get(manifest.target, ""), library.rpartition(" ")[2]
    # TensorRT for RTX decides by itself which of its releases' plans it takes.
    if manifest.target == "tensorrt":
        unfit = _unfit(
            parse_version(was), parse_version(now), compatible=options.version_compatible
        )
        if unfit is not None:
            return f"built by TensorRT {was}, here is {now}{unfit}; {rebuild(manifest)}"
    here = {gpu.compute_capability for gpu in machine.gpus if gpu.compute_capability}
    if manifest.target == "tensorrt-rtx":
        return _refusal_by_rtx(manifest, here)
    if manifest.target == "onnxruntime-tensorrt-rtx":
        return _refusal_by_rtx_provider(here)
    if manifest.target != "tensorrt":
        return ""  # ONNX Runtime compiles the graph for the GPU at hand
    built = _built_on(manifest, "compute_capability")
    if built and here and not built & here and not options.hardware_compatible:
        return (
            f"built for compute capability {', '.join(sorted(built))}, here is "
            f"{', '.join(sorted(here))}; {rebuild(manifest)}"
        )
    return ""


def _refusal_by_rtx(manifest: EngineManifest, here: set[str]) -> str:
    """Return why a plan of TensorRT for RTX does not run on the GPUs here, by what was asked for.

    The GPU of the machine that built it does not: TensorRT for RTX builds without one.
    """
    asked = manifest.tensorrt.gpus
    if not here or any(rtx_plan_runs_on(one, asked) for one in here):
        return ""
    built = ", ".join(sorted(asked, key=float)) or f"{', '.join(RTX_DEFAULT_GPUS)} and later"
    found = sorted(here, key=float)
    command = f"lpx build --{manifest.precision} --target tensorrt-rtx"
    if any(rtx_plan_runs_on(one) for one in found):
        advice = f"build it again: `{command}` builds for all of the default set"
    elif served := [one for one in found if rtx_serves(one)]:
        advice = f"build it again: `{command} --compute-capability {','.join(served)}`"
    else:
        advice = "TensorRT for RTX does not support it: build for another target"
    return f"built for compute capability {built}, here is {', '.join(found)}; {advice}"


def _refusal_by_rtx_provider(here: set[str]) -> str:
    if not here or any(rtx_provider_serves(one) for one in here):
        return ""
    return (
        f"TensorRT for RTX serves compute capability {', '.join(RTX_PROVIDER_GPUS)} and later "
        f"through ONNX Runtime, here is {', '.join(sorted(here, key=float))}; build for another "
        "target"
    )


def differences(manifest: EngineManifest, machine: Machine) -> tuple[str, ...]:
    """Return what may make an engine slower here than where it was built, or fail.

    A Jetson's power mode switches off parts of the GPU: a plan that was built in another mode had
    its kernels chosen for another chip. What is unknown on either side is not compared.

    Args:
        manifest: Of the engine.
        machine: The machine at hand.
    """
    if manifest.target not in ("tensorrt", "tensorrt-rtx"):
        return ()
    pairs = _on_jetson(manifest, machine)
    gpus = _built_on(manifest, "name")
    # TensorRT for RTX compiles its kernels where the plan runs.
    if gpus and machine.gpus and not pairs and manifest.target == "tensorrt":
        pairs.append(("on", " and ".join(sorted(gpus)), _shared_name(gpus, machine)))
    found = []
    for what, was, now in pairs:
        known = was and not was.startswith("unknown") and not now.startswith("unknown")
        if known and was != now:
            found.append(
                f"{manifest.name} was built {what} {was}, here it is {now}: it may be slower "
                f"than it could be, or fail; {rebuild(manifest)}"
            )
    return tuple(found)


def rebuild(manifest: EngineManifest) -> str:
    """Return advice to build the engine again, with the command."""
    return f"build it again here: `lpx build --{manifest.precision} --target {manifest.target}`"


def _on_jetson(manifest: EngineManifest, machine: Machine) -> list[tuple[str, str, str]]:
    """(How it is said, then, now) of what a board's plan depends on."""
    built = manifest.machine.get("jetson")
    if not built or machine.jetson is None:
        return []
    return [
        ("in power mode", built.get("power_mode", ""), machine.jetson.power_mode),
        ("on", built.get("board", ""), machine.jetson.board),
        ("with L4T", built.get("l4t", ""), machine.jetson.l4t),
    ]


def _shared_name(built: set[str], machine: Machine) -> str:
    here = [gpu.name for gpu in machine.gpus]
    return " and ".join(sorted(built)) if built & set(here) else here[0]


def _built_on(manifest: EngineManifest, name: str) -> set[str]:
    """Return a property of the GPUs of the machine that built the engine."""
    return {str(gpu[name]) for gpu in manifest.machine.get("gpus", ()) if gpu.get(name)}


def _unfit(was: Version, now: Version, *, compatible: bool) -> str | None:
    """Return why a release does not fit a plan, as a clause behind the two; None if it may fit.

    It is "" if the two versions say enough.

    A release is known down to its build number if its bindings report it: TensorRT compares that
    too. What one of the two leaves out is not compared.

    Args:
        was: The release that built the plan; () where it is not known.
        now: The release at hand; () where it is not known.
        compatible: The plan was built to be loaded by later releases.
    """
    known = min(len(was), len(now))
    if was[:known] == now[:known]:
        return None
    if not compatible:
        return ""
    if now[:known] < was[:known]:
        return ", and a version-compatible plan runs on its own release and later ones only"
    next_major = _NEXT_MAJOR.get(was[0])
    if now[0] != was[0] and next_major is not None and now[0] != next_major:
        return (
            f", and TensorRT {next_major} is the one later major release that loads "
            f"version-compatible plans of TensorRT {was[0]}"
        )
    return None
