"""Differences between the machine that built an engine and this one."""

from __future__ import annotations

from typing import NamedTuple

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

# The one later major release that loads version-compatible plans of a major release, by NVIDIA's
# support matrix of 11.4.1. For majors that are not listed, TensorRT itself decides.
_NEXT_MAJOR = {8: 10, 10: 11}


def refusal(
    manifest: EngineManifest,
    machine: Machine,
    library: str = "",
) -> str:
    """Return the reason why a plan cannot run here; "" if none is known.

    Checked beforehand, since TensorRT may abort the process.

    Args:
        manifest: Manifest of an engine with a plan.
        machine: This machine.
        library: Module and version of TensorRT on this machine, such as "tensorrt 10.3.0"; "" if
            the version is not to be compared.
    """
    options = manifest.tensorrt
    was, now = manifest.versions.get(manifest.target, ""), library.rpartition(" ")[2]
    # TensorRT for RTX itself checks which release built a plan.
    if manifest.target == "tensorrt":
        unfit = _unfit(
            parse_version(was), parse_version(now), compatible=options.version_compatible
        )
        if unfit is not None:
            return f"built by TensorRT {was}, here is {now}{unfit}; {rebuild(manifest)}"
    # Empty if they are unknown, so that nothing is refused below.
    here = set(machine.compute_capabilities)
    if manifest.target == "tensorrt-rtx":
        return _refusal_by_rtx(manifest, here)
    if manifest.target == "onnxruntime-tensorrt-rtx":
        return _refusal_by_rtx_provider(here)
    if manifest.target != "tensorrt":
        return ""  # ONNX Runtime compiles the graph for the GPU of this machine
    built = _built_on(manifest, "compute_capability")
    if built and here and not built & here and not options.hardware_compatible:
        return (
            f"built for compute capability {', '.join(sorted(built))}, here is "
            f"{', '.join(sorted(here))}; {rebuild(manifest)}"
        )
    return ""


def _refusal_by_rtx(manifest: EngineManifest, here: set[str]) -> str:
    """Return the reason why a plan of TensorRT for RTX does not run on these GPUs; "" if it does.

    It depends on the GPUs that the build requested, not on the one that it ran on: TensorRT for RTX
    builds without a GPU.
    """
    asked = manifest.tensorrt.gpus
    if not here or any(rtx_plan_runs_on(one, asked) for one in here):
        return ""
    built = ", ".join(sorted(asked, key=float)) or f"{', '.join(RTX_DEFAULT_GPUS)} and later"
    present = sorted(here, key=float)
    command = f"lpx build --{manifest.precision} --target tensorrt-rtx"
    if any(map(rtx_plan_runs_on, present)):
        advice = f"build it again: `{command}` builds for all GPUs of the default set"
    elif served := list(filter(rtx_serves, present)):
        advice = f"build it again: `{command} --compute-capability {','.join(served)}`"
    else:
        advice = "TensorRT for RTX does not support it: build for another target"
    return f"built for compute capability {built}, here is {', '.join(present)}; {advice}"


def _refusal_by_rtx_provider(here: set[str]) -> str:
    if not here or any(rtx_provider_serves(one) for one in here):
        return ""
    return (
        f"TensorRT for RTX supports compute capability {', '.join(RTX_PROVIDER_GPUS)} and later in "
        f"ONNX Runtime, here is {', '.join(sorted(here, key=float))}; build for another target"
    )


def differences(manifest: EngineManifest, machine: Machine) -> tuple[str, ...]:
    """Return the differences that may make an engine slower here than where it was built, or fail.

    A Jetson's power mode switches off parts of the GPU, so that kernels that were chosen in another
    mode are those for another chip. Properties that are unknown on either side are not compared.

    Args:
        manifest: Manifest of the engine.
        machine: This machine.
    """
    if manifest.target not in ("tensorrt", "tensorrt-rtx"):
        return ()
    pairs = _on_jetson(manifest, machine)
    gpus = _built_on(manifest, "name")
    # Only for TensorRT: TensorRT for RTX compiles its kernels where the plan runs.
    if gpus and machine.gpus and not pairs and manifest.target == "tensorrt":
        pairs.append(_Property("on", " and ".join(sorted(gpus)), _shared_name(gpus, machine)))
    texts = []
    for what, was, now in pairs:
        known = was and not was.startswith("unknown") and not now.startswith("unknown")
        if known and was != now:
            texts.append(
                f"{manifest.name} was built {what} {was}, here it is {now}: it may be slower "
                f"than it could be, or fail; {rebuild(manifest)}"
            )
    return tuple(texts)


def rebuild(manifest: EngineManifest) -> str:
    """Return advice to build the engine again, with the command."""
    return f"build it again here: `lpx build --{manifest.precision} --target {manifest.target}`"


class _Property(NamedTuple):
    """A property that a plan depends on, after "was built": its phrase, and its values."""

    phrase: str
    was: str
    now: str


def _on_jetson(manifest: EngineManifest, machine: Machine) -> list[_Property]:
    """Return the properties of a board that its plans depend on."""
    built = manifest.machine.get("jetson")
    if not built or machine.jetson is None:
        return []
    return [
        _Property("in power mode", built.get("power_mode", ""), machine.jetson.power_mode),
        _Property("on", built.get("board", ""), machine.jetson.board),
        _Property("with L4T", built.get("l4t", ""), machine.jetson.l4t),
    ]


def _shared_name(built: set[str], machine: Machine) -> str:
    """Return the names of the GPUs it was built on if one of them is here, or else a GPU's here."""
    here = [gpu.name for gpu in machine.gpus]
    if built.isdisjoint(here):
        return here[0]
    return " and ".join(sorted(built))


def _built_on(manifest: EngineManifest, name: str) -> set[str]:
    """Return a property of the GPUs of the machine that built the engine."""
    return {str(gpu[name]) for gpu in manifest.machine.get("gpus", ()) if gpu.get(name)}


def _unfit(was: Version, now: Version, *, compatible: bool) -> str | None:
    """Return why a release cannot load a plan: a clause that follows the versions of the two.

    Some bindings report the build number, which TensorRT compares too. Numbers that one of the two
    lacks are not compared.

    Args:
        was: Release that built the plan; () if unknown.
        now: Release on this machine; () if unknown.
        compatible: The plan was built to be loaded by later releases.

    Returns:
        The clause; "" if the versions are reason enough; None if the plan may load.
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
