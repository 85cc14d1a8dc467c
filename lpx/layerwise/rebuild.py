"""Build a TensorRT engine again, so that it returns the tensors between its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lpx.engines.load import read_graph
from lpx.engines.manifest import EngineManifest, is_plain_name
from lpx.engines.tensorrt import (
    Flavour,
    PhaseProgress,
    Plan,
    PlanRequest,
    TensorRTTensors,
    build_plan,
    open_library,
)
from lpx.workspace import read_regular


def watched_request(
    folder: Path, manifest: EngineManifest, names: Sequence[str], timing_caches: Path
) -> PlanRequest:
    """Return the request to build an engine's plan again from its own graph, but watched.

    Args:
        folder: The engine's.
        manifest: The engine's, of target tensorrt or tensorrt-rtx.
        names: The tensors to return.
        timing_caches: Folder of the timing cache that the engine's build left, if it is still
            there.

    Raises:
        LpxError: The engine's graph is missing or altered.
    """
    cache = None
    if manifest.dialect == "calibration-cache":
        cache = read_regular(folder / "calibration.cache", inside=folder)
    # TF32 as it was used: the environment, which can switch it off, may be another one now. A
    # watched plan has other layers, whose times a frozen cache need not hold.
    asked = manifest.tensorrt
    tf32 = manifest.options.get("tf32", asked.tf32)
    options = replace(asked, tf32=tf32, frozen_timing_cache=False, builds=1)
    return PlanRequest(
        read_graph(folder, manifest),
        manifest.precision,
        options,
        timing_cache=_timing_cache(timing_caches, manifest.options.get("timing_cache")),
        calibration_cache=cache,
        watch=tuple(names),
    )


def build_watched(
    folder: Path,
    manifest: EngineManifest,
    names: Sequence[str],
    timing_caches: Path,
    progress: PhaseProgress | None = None,
) -> Plan:
    """Rebuild an engine from its own graph and options, with intermediate tensors as outputs.

    A finished plan shows none of the tensors between its layers.

    Args:
        folder: The engine's; nothing in it is changed.
        manifest: The engine's, of target tensorrt or tensorrt-rtx.
        names: The tensors to return.
        timing_caches: Folder of the timing cache that the engine's build left.
        progress: Receives TensorRT's phases.

    Raises:
        LpxError: The engine's graph is missing or was changed, or TensorRT rejects it.
    """
    request = watched_request(folder, manifest, names, timing_caches)
    return build_plan(request, open_library(_flavour(manifest)), progress)


def open_watched(plan: Plan, manifest: EngineManifest, names: Sequence[str]) -> TensorRTTensors:
    """Load a plan of `build_watched`; it was built here, so code in it is trusted."""
    return TensorRTTensors(
        plan.data,
        open_library(plan.flavour),
        names=names,
        allow_host_code=manifest.tensorrt.version_compatible,
        dla_core=manifest.tensorrt.dla_core,
    )


def _flavour(manifest: EngineManifest) -> Flavour:
    target = manifest.target
    assert target == "tensorrt" or target == "tensorrt-rtx"
    return target


def _timing_cache(folder: Path, noted: dict[str, Any] | None) -> bytes | None:
    name = noted.get("file") if noted else None
    if not isinstance(name, str) or not is_plain_name(name):
        return None
    path = folder / name
    return read_regular(path, inside=folder) if path.is_file() else None
