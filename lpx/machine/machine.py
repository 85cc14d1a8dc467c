"""The machine at hand: processor, NVIDIA GPUs, and a Jetson's release, power mode and clocks."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from lpx.machine.jetson import Jetson, integrated_gpu, read_jetson
from lpx.machine.probe import Run, failure, read_text, run_command

_GPU_QUERY = (
    "nvidia-smi",
    "--query-gpu=name,compute_cap,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)

# ARM kernels name no CPU model: (implementer, part) of /proc/cpuinfo.
_ARM_CPU = {
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x4e", "0x004"): "Carmel",
}


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: As the driver names it.
        compute_capability: "8.9" for SM 8.9; None where nothing says it.
        memory_mib: Its own memory in MiB; None on a Jetson, which shares the system's.
        driver_version: As nvidia-smi gives it; None where there is no nvidia-smi.
    """

    name: str
    compute_capability: str | None
    memory_mib: int | None
    driver_version: str | None


@dataclass(frozen=True)
class Machine:
    """What lpx can learn of a machine without importing a framework.

    Attributes:
        os: The distribution's own name.
        architecture: As `uname -m` gives it: "x86_64", "aarch64".
        cpu: The processor's model, or "unknown".
        cores: Logical cores.
        memory_mib: Memory in MiB, MemTotal; None where unreadable.
        python: The running interpreter's version.
        python_isolated: It runs in a virtual environment without the system's packages.
        system_tensorrt: The system's dist-packages folder that holds TensorRT's Python module.
        gpus: NVIDIA GPUs.
        no_gpu_reason: Why `gpus` is empty, else "".
        jetson: None where the machine is no Jetson.
        in_container: Docker, Podman, Kubernetes or LXC.
    """

    os: str
    architecture: str
    cpu: str
    cores: int
    memory_mib: int | None
    python: str
    python_isolated: bool
    system_tensorrt: str | None
    gpus: tuple[Gpu, ...]
    no_gpu_reason: str
    jetson: Jetson | None
    in_container: bool


def read_machine(root: Path = Path("/"), run: Run = run_command) -> Machine:
    """Read the machine at hand; what cannot be read is said to be unknown, nothing is raised.

    Args:
        root: Where the file system's tree begins: a recorded tree stands in for a machine.
        run: Runs nvidia-smi and, on a Jetson, nvpmodel.
    """
    in_container = _in_container(root)
    jetson = read_jetson(root, run, in_container=in_container)
    gpus, no_gpu_reason = _read_gpus(run)
    if jetson:
        gpus, no_gpu_reason = _jetson_gpus(root, jetson, gpus, no_gpu_reason)
    cpuinfo = read_text(root / "proc/cpuinfo")
    distribution = re.search(r'^PRETTY_NAME="?(.*?)"?$', read_text(root / "etc/os-release"), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", read_text(root / "proc/meminfo"), re.M)
    tensorrt = sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt/__init__.py"))
    return Machine(
        os=distribution[1] if distribution else f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=_cpu_model(cpuinfo),
        cores=len(re.findall(r"^processor\s*:", cpuinfo, re.M)) or os.cpu_count() or 1,
        memory_mib=int(memory[1]) // 1024 if memory else None,
        python=platform.python_version(),
        python_isolated=_isolated(Path(sys.prefix), Path(sys.base_prefix)),
        system_tensorrt=f"/{tensorrt[-1].parents[1].relative_to(root)}" if tensorrt else None,
        gpus=gpus,
        no_gpu_reason=no_gpu_reason,
        jetson=jetson,
        in_container=in_container,
    )


def available_memory_mib(root: Path = Path("/")) -> int | None:
    """Memory that programs can still take, MemAvailable, MiB; None where unreadable."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", read_text(root / "proc/meminfo"), re.M)
    return int(found[1]) // 1024 if found else None


def has_vnni(root: Path = Path("/")) -> bool | None:
    """Whether the processor has VNNI, x86's integer dot products; None where it is not x86.

    Without it ONNX Runtime's exact INT8 kernels are no faster than its float ones.
    """
    flags = re.search(r"^flags\s*:\s*(.+)$", read_text(root / "proc/cpuinfo"), re.M)
    return None if flags is None else "vnni" in flags[1]


def _cpu_model(cpuinfo: str) -> str:
    def field(name: str) -> str:
        found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.M)
        return found[1].strip() if found else ""

    arm = _ARM_CPU.get((field("CPU implementer"), field("CPU part")))
    return arm or field("model name") or "unknown"


def _in_container(root: Path) -> bool:
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return True
    return bool(re.search(r"docker|kubepods|containerd|lxc", read_text(root / "proc/1/cgroup")))


def _isolated(prefix: Path, base_prefix: Path) -> bool:
    if prefix == base_prefix:
        return False
    shares = r"^include-system-site-packages\s*=\s*true"
    return not re.search(shares, read_text(prefix / "pyvenv.cfg"), re.M | re.I)


def _read_gpus(run: Run) -> tuple[tuple[Gpu, ...], str]:
    try:
        listing = run(_GPU_QUERY)
    except (OSError, subprocess.SubprocessError) as error:
        return (), failure(error, "nvidia-smi")
    rows = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines()]
    gpus = tuple(
        Gpu(
            name,
            capability if re.fullmatch(r"\d+\.\d+", capability) else None,
            int(memory) if memory.isdecimal() else None,
            driver if driver[:1].isdecimal() else None,
        )
        for name, capability, memory, driver in (row for row in rows if len(row) == 4)
    )
    return gpus, "" if gpus else f"nvidia-smi lists none: {listing.strip() or 'no output'}"


def _jetson_gpus(
    root: Path, jetson: Jetson, listed: tuple[Gpu, ...], no_gpu_reason: str
) -> tuple[tuple[Gpu, ...], str]:
    """Add what nvidia-smi does not say on a Jetson.

    JetPack 5 and earlier have no nvidia-smi; later ones list the GPU, but not always with its
    compute capability.
    """
    name, capability, reason = integrated_gpu(root, jetson)
    if listed:
        gpus = (replace(g, compute_capability=g.compute_capability or capability) for g in listed)
        return tuple(gpus), no_gpu_reason
    return ((Gpu(name, capability, None, None),), "") if name else ((), reason)
