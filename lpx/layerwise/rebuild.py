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
    """Return a request to build the plan of an engine again, with tensors to watch.

    Args:
        folder: Folder of the engine.
        manifest: Manifest of the engine, for target tensorrt or tensorrt-rtx.
        names: Tensors to watch.
        timing_caches: Folder of timing caches, which may have that of the engine's build.

    Raises:
        LpxError: The engine's graph is missing or altered.
    """
    cache = None
    if manifest.dialect == "calibration-cache":
        cache = read_regular(folder / "calibration.cache", inside=folder)
    # TF32 as in the build, since the environment, which can switch it off, may have changed. Not
    # frozen, since a watched plan has other layers, whose times the cache may lack.
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
    """Rebuild an engine from its graph and options, so that tensors between its layers can be read.

    In a plan that was built without this, they cannot.

    Args:
        folder: Folder of the engine, which is not changed.
        manifest: Manifest of the engine, for target tensorrt or tensorrt-rtx.
        names: Tensors to watch.
        timing_caches: Folder of timing caches.
        progress: Receives TensorRT's phases.

    Raises:
        LpxError: The engine's graph is missing or was altered, or TensorRT refuses it.
    """
    request = watched_request(folder, manifest, names, timing_caches)
    return build_plan(request, open_library(_flavour(manifest)), progress)


def open_watched(plan: Plan, manifest: EngineManifest, names: Sequence[str]) -> TensorRTTensors:
    """Load a plan of `build_watched`, including host code, since this process built it."""
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
    if noted is None:
        return None
    name = noted.get("file")
    # From the manifest, which may have been edited: only a file in the folder is read.
    if not isinstance(name, str) or not is_plain_name(name):
        return None
    path = folder / name
    if not path.is_file():
        return None
    return read_regular(path, inside=folder)
