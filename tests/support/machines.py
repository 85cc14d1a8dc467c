"""Machines to build for and to give advice to, and manifests of engines on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lpx.engines.manifest import EngineManifest
from lpx.machine.jetson import Jetson
from lpx.machine.machine import Machine

PC = Machine(
    os="Ubuntu 24.04",
    architecture="x86_64",
    cpu="AMD EPYC",
    cores=8,
    memory_mib=16384,
    python="3.12.3",
    python_isolated=True,
    system_tensorrt=None,
    gpus=(),
    no_gpu_reason="nvidia-smi not found",
    jetson=None,
    in_container=False,
)
BOARD = replace(
    PC,
    os="Ubuntu",
    architecture="aarch64",
    cpu="Cortex-A78AE",
    cores=6,
    memory_mib=7619,
    python="3.10.12",
    python_isolated=False,
    no_gpu_reason="",
    jetson=Jetson("Jetson Orin Nano", "36.4.3", "6.2", "15W", True),
)


def manifest_for(target: str, **fields: Any) -> EngineManifest:
    """The manifest of an INT8 engine of which nothing else matters."""
    known: dict[str, Any] = {
        "name": f"{target}-int8",
        "precision": "int8",
        "dialect": "",
        "file": "",
        "engine_sha256": "",
        "model_sha256": "",
        "card": {},
    }
    return EngineManifest(target=target, **{**known, **fields})
