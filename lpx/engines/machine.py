"""The machine at hand: processor, NVIDIA GPUs, and a Jetson's release, power mode and clocks."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns what it printed; OSError or SubprocessError where it fails."""

_GPU_QUERY = (
    "nvidia-smi",
    "--query-gpu=name,compute_cap,memory.total,driver_version",
    "--format=csv,noheader,nounits",
)

# Jetson Linux (L4T) -> JetPack, exact releases only, from NVIDIA's archives of both.
_JETPACK = {
    **{"35.1": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5": "5.1.3"},
    **{"35.6": "5.1.4", "35.6.1": "5.1.5", "35.6.2": "5.1.5"},
    **{"36.2": "6.0 DP", "36.3": "6.0", "36.4": "6.1", "36.4.3": "6.2", "36.4.4": "6.2.1"},
    **{"36.4.7": "6.2.1", "36.5": "6.2.2"},
    **{"38.2": "7.0", "38.2.1": "7.0", "38.4": "7.1", "39.2": "7.2", "39.2.1": "7.2.1"},
}
_BOARD_CAPABILITY = {"Thor": "11.0", "Orin": "8.7", "Xavier": "7.2"}
_BOARD_FILES = (
    "proc/device-tree/model",
    "sys/devices/soc0/machine",  # Docker hides the device tree, not this one
    "tmp/nv_jetson_model",  # where jetson-containers mounts the board's name
)
_JETSON_GPU_NODES = ("dev/nvhost-gpu", "dev/nvgpu", "dev/nvidia0")
# ARM kernels name no CPU model: (implementer, part) of /proc/cpuinfo.
_ARM_CPU = {
    ("0x41", "0xd42"): "Cortex-A78AE",
    ("0x41", "0xd83"): "Neoverse-V3AE",
    ("0x41", "0xd0c"): "Neoverse-N1",
    ("0x41", "0xd40"): "Neoverse-V1",
    ("0x41", "0xd4f"): "Neoverse-V2",
    ("0x4e", "0x004"): "Carmel",
}
_GPU_CLOCKS = ("*.gpu", "*.ga10b", "17000000.*", "gpu-gpc-0", "gpu-nvd-0")


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
class Jetson:
    """What is particular to a Jetson board.

    Attributes:
        board: The device tree's model, or "unknown (reason)".
        l4t: The Jetson Linux release, as "36.4.3", or "unknown (reason)".
        jetpack: The JetPack release, as "6.2", or "unknown (L4T x.y)".
        power_mode: nvpmodel's name of the mode, as "15W", or "unknown (reason)".
        clocks_locked: Whether GPU and CPU clocks are held (jetson_clocks); None where unreadable.
    """

    board: str
    l4t: str
    jetpack: str
    power_mode: str
    clocks_locked: bool | None


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


def run_command(command: Sequence[str]) -> str:
    """Run a command for at most 10 s and return its standard output.

    Raises:
        OSError: There is no such command, or it cannot be started.
        subprocess.SubprocessError: It failed or took too long.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


def read_machine(root: Path = Path("/"), run: Run = run_command) -> Machine:
    """Read the machine at hand; what cannot be read is said to be unknown, nothing is raised.

    Args:
        root: Where the file system's tree begins: a recorded tree stands in for a machine.
        run: Runs nvidia-smi and, on a Jetson, nvpmodel.
    """
    in_container = _in_container(root)
    jetson = _read_jetson(root, run, in_container)
    gpus, no_gpu_reason = _read_gpus(run)
    if jetson and not gpus:
        gpus, no_gpu_reason = _jetson_gpu(root, jetson)
    cpuinfo = _read(root / "proc/cpuinfo")
    distribution = re.search(r'^PRETTY_NAME="?(.*?)"?$', _read(root / "etc/os-release"), re.M)
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.M)
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


def _read(path: Path) -> str:
    """Return a file's text without the device tree's closing NUL, "" where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _cpu_model(cpuinfo: str) -> str:
    def field(name: str) -> str:
        found = re.search(rf"^{name}\s*:\s*(.+)$", cpuinfo, re.M)
        return found[1].strip() if found else ""

    arm = _ARM_CPU.get((field("CPU implementer"), field("CPU part")))
    return arm or field("model name") or "unknown"


def _in_container(root: Path) -> bool:
    if any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv")):
        return True
    return bool(re.search(r"docker|kubepods|containerd|lxc", _read(root / "proc/1/cgroup")))


def _isolated(prefix: Path, base_prefix: Path) -> bool:
    if prefix == base_prefix:
        return False
    shares = r"^include-system-site-packages\s*=\s*true"
    return not re.search(shares, _read(prefix / "pyvenv.cfg"), re.M | re.I)


def _failure(error: OSError | subprocess.SubprocessError, command: str) -> str:
    if isinstance(error, FileNotFoundError):
        return f"{command} not found"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{command} gave no answer in {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        said = f"{error.stdout or ''}\n{error.stderr or ''}".split("\n")
        return next((line.strip() for line in said if line.strip()), f"{command} failed")
    return f"{command}: {error}"


def _read_gpus(run: Run) -> tuple[tuple[Gpu, ...], str]:
    try:
        listing = run(_GPU_QUERY)
    except (OSError, subprocess.SubprocessError) as error:
        return (), _failure(error, "nvidia-smi")
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


def _jetson_gpu(root: Path, jetson: Jetson) -> tuple[tuple[Gpu, ...], str]:
    """Return the integrated GPU, which nvidia-smi does not list before JetPack 6."""
    if not any((root / node).exists() for node in _JETSON_GPU_NODES):
        return (), "the GPU's device nodes are absent: start the container with --runtime nvidia"
    family = next((name for name in _BOARD_CAPABILITY if name in jetson.board), None)
    capability = _BOARD_CAPABILITY[family] if family else None
    return (Gpu(f"{family or 'Jetson'} (integrated)", capability, None, None),), ""


def _read_jetson(root: Path, run: Run, in_container: bool) -> Jetson | None:
    release = _read(root / "etc/nv_tegra_release")
    board = next(filter(None, (_read(root / path) for path in _BOARD_FILES)), "")
    if not release and "Jetson" not in board:
        return None
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    l4t = re.sub(r"\.0$", "", f"{found[1]}.{found[2]}") if found else ""
    hidden = "the container hides the device tree" if in_container else "no device-tree model"
    return Jetson(
        board=board or f"unknown ({hidden})",
        l4t=l4t or "unknown (no /etc/nv_tegra_release)",
        jetpack=_JETPACK.get(l4t, f"unknown (L4T {l4t})" if l4t else "unknown"),
        power_mode=_power_mode(run, in_container),
        clocks_locked=_clocks_locked(root),
    )


def _power_mode(run: Run, in_container: bool) -> str:
    try:
        answer = run(("nvpmodel", "-q"))
    except (OSError, subprocess.SubprocessError) as error:
        where = ", the container hides it" if in_container else ""
        return f"unknown ({_failure(error, 'nvpmodel')}{where})"
    mode = re.search(r"Power Mode:[ \t]*(\S+)", answer)
    return mode[1] if mode else f"unknown (nvpmodel names no mode: {answer.strip()[:60]!r})"


def _clocks_locked(root: Path) -> bool | None:
    """Compare the lowest and highest clock of GPU and CPUs, which needs no root."""
    devfreq, cpus = root / "sys/class/devfreq", root / "sys/devices/system/cpu"
    gpu = {node for pattern in _GPU_CLOCKS for node in devfreq.glob(pattern)}
    held = [
        [_same(node / "min_freq", node / "max_freq") for node in gpu],
        [
            _same(node / "scaling_min_freq", node / "scaling_max_freq")
            for node in cpus.glob("cpu[0-9]*/cpufreq")
        ],
    ]
    if any(False in group for group in held):
        return False
    return True if all(group and None not in group for group in held) else None


def _same(low: Path, high: Path) -> bool | None:
    lowest, highest = _read(low), _read(high)
    return lowest == highest if lowest and highest else None
