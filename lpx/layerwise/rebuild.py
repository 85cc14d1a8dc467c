"""Rebuilding of a TensorRT engine with its intermediate tensors exposed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lpx.engines.load import read_graph
from lpx.engines.makers import flavour_of
from lpx.engines.manifest import EngineManifest, is_plain_name
from lpx.engines.tensorrt import (
    Batches,
    BatchRange,
    Plan,
    Progress,
    TensorRTTensors,
    build_plan,
)
from lpx.workspace import read_regular


def build_watched(
    folder: Path,
    manifest: EngineManifest,
    names: Sequence[str],
    timing_caches: Path,
    progress: Progress | None = None,
) -> Plan:
    """Rebuild an engine from its own graph and options, with intermediate tensors as outputs.

    A finished plan cannot expose the tensors between its layers.

    Args:
        folder: Folder of the engine; nothing in it is changed.
        manifest: Manifest of the engine, of target tensorrt or tensorrt-rtx.
        names: Tensors to expose.
        timing_caches: Folder with the timing cache of the engine's build; used if it is there.
        progress: Called with TensorRT's progress.

    Raises:
        LpxError: The engine's graph is missing or was changed, or TensorRT rejects it.
    """
    options = manifest.options
    cache = None
    if manifest.dialect == "calibration-cache":
        cache = read_regular(folder / "calibration.cache", inside=folder)
    # The cache is not frozen, even if it was for the engine: with other outputs there are other
    # layers, whose times it does not hold.
    return build_plan(
        read_graph(folder, manifest),
        flavour=flavour_of(manifest.target),
        precision=manifest.precision,
        batches=_batches(options["profiles"]),
        compute_capabilities=manifest.compute_capabilities,
        workspace_mib=options["workspace_mib"],
        optimisation_level=options["optimisation_level"],
        timing_cache=_timing_cache(timing_caches, options["timing_cache"]),
        calibration_cache=cache,
        progress=progress,
        version_compatible=options["version_compatible"],
        hardware_compatible=options["hardware_compatible"],
        dla_core=options["dla_core"],
        watch=tuple(names),
        # Manifests of earlier releases do not have it; TensorRT's default was used.
        tf32=options.get("tf32", True),
    )


def open_watched(plan: Plan, manifest: EngineManifest, names: Sequence[str]) -> TensorRTTensors:
    """Load a plan of `build_watched`."""
    # It was built on this machine, so the host code in it is trusted.
    return TensorRTTensors(
        plan.data,
        flavour=plan.flavour,
        names=names,
        allow_host_code=manifest.options["version_compatible"],
        dla_core=manifest.options["dla_core"],
    )


def _batches(profiles: Sequence[dict[str, int]]) -> Batches:
    """Return the batches that the engine was built for: one range, or a profile per batch size."""
    if len(profiles) == 1:
        return BatchRange(**profiles[0])
    return tuple(profile["maximum"] for profile in profiles)


def _timing_cache(folder: Path, noted: dict[str, Any] | None) -> bytes | None:
    name = noted.get("file") if noted else None
    if not isinstance(name, str) or not is_plain_name(name):
        return None
    path = folder / name
    return read_regular(path, inside=folder) if path.is_file() else None
