"""A TensorRT engine, built again so that it hands out the tensors between its layers."""

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
    """Build an engine's plan again from its own graph, as it was built, but watched.

    A plan that is finished shows none of the tensors between its layers.

    Args:
        folder: The engine's; nothing in it is changed.
        manifest: The engine's, of target tensorrt or tensorrt-rtx.
        names: The tensors to hand out.
        timing_caches: Where the engine's build left its timing cache; read where it is there.
        progress: Told of TensorRT's phases.

    Raises:
        LpxError: The engine's graph is missing or altered, or TensorRT refuses.
    """
    options = manifest.options
    cache = None
    if manifest.dialect == "calibration-cache":
        cache = read_regular(folder / "calibration.cache", inside=folder)
    # What is watched has other layers, whose times no frozen cache need hold.
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
        tf32=options.get("tf32", True),  # engines of before it was asked
    )


def open_watched(plan: Plan, manifest: EngineManifest, names: Sequence[str]) -> TensorRTTensors:
    """Load a plan of `build_watched`; it was built here, so what code it carries is trusted."""
    return TensorRTTensors(
        plan.data,
        flavour=plan.flavour,
        names=names,
        allow_host_code=manifest.options["version_compatible"],
        dla_core=manifest.options["dla_core"],
    )


def _batches(profiles: Sequence[dict[str, int]]) -> Batches:
    """What was asked for: one range, or batch sizes with a profile each."""
    if len(profiles) == 1:
        return BatchRange(**profiles[0])
    return tuple(profile["maximum"] for profile in profiles)


def _timing_cache(folder: Path, noted: dict[str, Any] | None) -> bytes | None:
    name = noted.get("file") if noted else None
    if not isinstance(name, str) or not is_plain_name(name):
        return None
    path = folder / name
    return read_regular(path, inside=folder) if path.is_file() else None
