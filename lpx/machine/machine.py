"""This machine: processor, NVIDIA GPUs, and a Jetson's release, power mode and clocks."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lpx.machine.jetson import Jetson, integrated_gpu, read_jetson
from lpx.machine.probe import Run, failure, read_text, run_command

# Flags of /proc/cpuinfo: dot products of 8-bit integers, in 512 and in 256 bits.
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_GPU_QUERY = (
    "nvidia-smi",
    "--query-gpu=name,compute_cap,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)

# ARM kernels do not name the CPU's model: (implementer, part) of /proc/cpuinfo -> model.
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
        name: Name in the driver.
        compute_capability: "8.9" for SM 8.9; None if unknown.
        memory_mib: Device memory, MiB; None on a Jetson, whose GPU shares the system's memory.
        driver_version: Version of the driver by nvidia-smi; None without nvidia-smi.
    """

    name: str
    compute_capability: str | None
    memory_mib: int | None
    driver_version: str | None


@dataclass(frozen=True)
class Machine:
    """Properties of a machine that can be read without importing a framework.

    Attributes:
        os: Name of the distribution.
        architecture: Architecture by `uname -m`, such as "x86_64" or "aarch64".
        cpu: Model of the processor, or "unknown".
        cores: Number of logical cores.
        memory_mib: Memory (MemTotal), MiB; None if unreadable.
        python: Version of the running interpreter.
        python_isolated: Whether it runs in a virtual environment without the system's packages.
        system_tensorrt: The system's dist-packages folder with TensorRT's Python module, or None.
        gpus: NVIDIA GPUs.
        no_gpu_reason: Reason why `gpus` is empty; "" if it is not.
        jetson: Properties of a Jetson board; None for another machine.
        in_container: Whether it is a container: Docker, Podman, Kubernetes or LXC.
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

    @property
    def words(self) -> str:
        """System and processor in words, such as "Debian 12, x86_64, Xeon Platinum 8481C"."""
        return f"{self.os}, {self.architecture}, {self.cpu}"

    @property
    def compute_capabilities(self) -> tuple[str, ...]:
        """Compute capabilities of the GPUs, such as "8.9"; without those that are unknown."""
        # Unknown without nvidia-smi's answer: nothing can be refused because of them.
        return tuple(gpu.compute_capability for gpu in self.gpus if gpu.compute_capability)


def read_machine(root: Path = Path("/"), run: Run = run_command) -> Machine:
    """Read the properties of this machine. Raises nothing: unreadable properties are unknown.

    Args:
        root: Root of the file system; tests use the recorded files of other machines.
        run: Runs nvidia-smi and, on a Jetson, nvpmodel.
    """
    in_container = _in_container(root)
    jetson = read_jetson(root, run, in_container=in_container)
    found = _read_gpus(run)
    if jetson:
        found = _jetson_gpus(root, jetson, found)
    cpuinfo = read_text(root / "proc/cpuinfo")
    distribution = _first(r'^PRETTY_NAME="?(.*?)"?$', read_text(root / "etc/os-release"))
    return Machine(
        os=distribution or f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        cpu=_cpu_model(cpuinfo),
        cores=len(re.findall(r"^processor\s*:", cpuinfo, re.M)) or os.cpu_count() or 1,
        memory_mib=_memory_mib(root, "MemTotal"),
        python=platform.python_version(),
        python_isolated=_isolated(Path(sys.prefix), Path(sys.base_prefix)),
        system_tensorrt=_system_tensorrt(root),
        gpus=found.gpus,
        no_gpu_reason=found.reason,
        jetson=jetson,
        in_container=in_container,
    )


def available_memory_mib(root: Path = Path("/")) -> int | None:
    """Return the memory that programs can still use (MemAvailable), MiB; None if unreadable."""
    return _memory_mib(root, "MemAvailable")


def has_vnni(root: Path = Path("/")) -> bool | None:
    """Return whether the processor has VNNI, x86's integer dot products; None if it is not x86.

    Without VNNI, ONNX Runtime's default INT8 kernels saturate, and its exact ones are not faster
    than its float kernels.
    """
    # Only x86 has a line of flags.
    flags = _first(r"^flags\s*:\s*(.+)$", read_text(root / "proc/cpuinfo"))
    if not flags:
        return None
    # Whole words: avx512_4vnniw, of the Xeon Phi, multiplies 16-bit integers.
    return not _VNNI.isdisjoint(flags.split())


def _first(pattern: str, text: str) -> str:
    """Return the group of the first line that matches, "" if none does."""
    match = re.search(pattern, text, re.M)
    if match is None:
        return ""
    return match[1].strip()


def _memory_mib(root: Path, field: str) -> int | None:
    kib = _first(rf"^{field}:\s*(\d+) kB", read_text(root / "proc/meminfo"))
    if not kib:
        return None
    return int(kib) // 1024


def _system_tensorrt(root: Path) -> str | None:
    modules = sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt/__init__.py"))
    if not modules:
        return None
    return f"/{modules[-1].parents[1].relative_to(root)}"


def _cpu_model(cpuinfo: str) -> str:
    def field(name: str) -> str:
        return _first(rf"^{name}\s*:\s*(.+)$", cpuinfo)

    arm = _ARM_CPU.get((field("CPU implementer"), field("CPU part")))
    return arm or field("model name") or "unknown"


def _in_container(root: Path) -> bool:
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return True
    return bool(re.search(r"docker|kubepods|containerd|lxc", read_text(root / "proc/1/cgroup")))


def _isolated(prefix: Path, base_prefix: Path) -> bool:
    # Equal outside a virtual environment.
    if prefix == base_prefix:
        return False
    shares = r"^include-system-site-packages\s*=\s*true"
    return not re.search(shares, read_text(prefix / "pyvenv.cfg"), re.M | re.I)


class _GpuSearch(NamedTuple):
    """GPUs, and why there are none."""

    gpus: tuple[Gpu, ...]
    reason: str


def _read_gpus(run: Run) -> _GpuSearch:
    try:
        listing = run(_GPU_QUERY)
    except (OSError, subprocess.SubprocessError) as error:
        return _GpuSearch((), failure(error, "nvidia-smi"))
    gpus = []
    for line in listing.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        # nvidia-smi reports its own failures on standard output, too.
        if len(cells) != 4:
            continue
        name, capability, memory, driver = cells
        # Unknown values are "[N/A]" or "[Not Supported]".
        gpu = Gpu(
            name,
            capability if re.fullmatch(r"\d+\.\d+", capability) else None,
            int(memory) if memory.isdecimal() else None,
            driver if driver[:1].isdecimal() else None,
        )
        gpus.append(gpu)
    if not gpus:
        return _GpuSearch((), f"nvidia-smi lists none: {listing.strip() or 'no output'}")
    return _GpuSearch(tuple(gpus), "")


def _jetson_gpus(root: Path, jetson: Jetson, listed: _GpuSearch) -> _GpuSearch:
    """Add what nvidia-smi does not report on a Jetson."""
    integrated = integrated_gpu(root, jetson)
    if listed.gpus:
        # Newer releases of JetPack have nvidia-smi, but not always with the compute capability.
        gpus = []
        for gpu in listed.gpus:
            capability = gpu.compute_capability or integrated.compute_capability
            gpus.append(replace(gpu, compute_capability=capability))
        return _GpuSearch(tuple(gpus), listed.reason)
    # JetPack 5 and earlier have no nvidia-smi.
    if not integrated.name:
        return _GpuSearch((), integrated.hidden_reason)
    gpu = Gpu(integrated.name, integrated.compute_capability, None, None)
    return _GpuSearch((gpu,), "")
