"""A Jetson board, from files: release, power mode, clocks, power rails and thermal zones."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lpx.machine.ina3221 import find_rails, total_power
from lpx.machine.probe import Run, failure, read_number, read_text

# Jetson Linux (L4T) -> JetPack, to November 2026, from NVIDIA's archives of both.
_JETPACK = {
    "34.1": "5.0 DP",
    "34.1.1": "5.0.1 DP",
    "35.1": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5": "5.1.3",
    "35.6": "5.1.4",
    "35.6.1": "5.1.5",
    "35.6.2": "5.1.5",
    "35.6.3": "5.1.5",
    "35.6.4": "5.1.6",
    "35.6.5": "5.1.7",
    "36.2": "6.0 DP",
    "36.3": "6.0",
    "36.4": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5": "6.2.2",
    "36.5.2": "6.2.3",
    "38.2": "7.0",
    "38.2.1": "7.0",
    "38.2.2": "7.0",
    "38.4": "7.1",
    "39.2": "7.2",
    "39.2.1": "7.2.1",
}
# Major version of L4T -> major version of JetPack.
_GENERATION = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
_CAPABILITY = {"Thor": "11.0", "Orin": "8.7", "Xavier": "7.2"}
_CHIPS = {"tegra264": "Thor", "tegra234": "Orin", "tegra194": "Xavier"}
_BOARD_FILES = (
    "proc/device-tree/model",
    # Docker hides the device tree, but not this file.
    "sys/devices/soc0/machine",
    # jetson-containers mounts the board's name here.
    "tmp/nv_jetson_model",
)
_GPU_NODES = ("dev/nvhost-gpu", "dev/nvgpu", "dev/nvidia0")
_GPU_CLOCKS = ("*.gpu", "*.ga10b", "17000000.*", "gpu-gpc-*", "gpu-nvd-*")
_THERMAL = "sys/class/thermal"


@dataclass(frozen=True)
class Jetson:
    """Properties of a Jetson board.

    Attributes:
        board: Model in the device tree, or "unknown (reason)".
        l4t: Release of Jetson Linux, such as "36.4.3", or "unknown (reason)".
        jetpack: Release of JetPack, such as "6.2"; "6.2.3 or later", "6.x" or "unknown (L4T x.y)"
            if lpx does not list the release of Jetson Linux.
        power_mode: Name of the power mode, such as "15W", or "unknown (reason)".
        clocks_locked: Whether GPU and CPU clocks are locked (jetson_clocks); None if unreadable.
        rails: Names of the power rails that can be read.
        board_power: Names of the rails whose sum is the power of the board, or of the module if its
            carrier board is not measured: see `ina3221.covered`.
        no_rails_reason: Reason why `rails` is empty; "" if it is not.
        thermal_zones: Names of the temperature sensors that can be read.
        power_modes: Numbers of the power modes, for `nvpmodel -m`, by name; empty if
            /etc/nvpmodel.conf does not list them.
    """

    board: str
    l4t: str
    jetpack: str
    power_mode: str
    clocks_locked: bool | None
    rails: tuple[str, ...] = ()
    board_power: tuple[str, ...] = ()
    no_rails_reason: str = ""
    thermal_zones: tuple[str, ...] = ()
    power_modes: dict[str, int] = field(default_factory=dict)


def is_jetson(root: Path = Path("/")) -> bool:
    """Return True if the machine is a Jetson.

    Args:
        root: Root of the file system.
    """
    # A container may hide one of the two signs.
    return bool(_release(root)) or "Jetson" in _board(root)


def read_jetson(root: Path, run: Run, *, in_container: bool) -> Jetson | None:
    """Read the properties of this board, None if the machine is not a Jetson.

    Args:
        root: Root of the file system; tests use the recorded files of other machines.
        run: Runs nvpmodel.
        in_container: True if a container may hide files and commands.
    """
    if not is_jetson(root):
        return None
    board, l4t = _board(root), _l4t(root)
    hidden = "no device-tree model"
    if in_container:
        hidden = "the container hides the device tree"
    jetpack = "unknown"
    if l4t:
        jetpack = _jetpack(l4t)
    search = find_rails(root)
    return Jetson(
        board=board or f"unknown ({hidden})",
        l4t=l4t or "unknown (no /etc/nv_tegra_release)",
        jetpack=jetpack,
        power_mode=read_power_mode(run, in_container=in_container),
        clocks_locked=_clocks_locked(root),
        rails=tuple(rail.name for rail in search.rails),
        board_power=tuple(rail.name for rail in total_power(search.rails)),
        no_rails_reason=search.reason,
        thermal_zones=tuple(temperatures_c(root)),
        power_modes=_power_modes(root),
    )


def cuda_python(root: Path = Path("/")) -> str:
    """Return the requirement on cuda-python that fits this machine, for pip.

    Args:
        root: Root of the file system.

    Returns:
        'cuda-python', or quoted for a shell '"cuda-python<13"'.
    """
    if not is_jetson(root):
        return cuda_python_for(None)
    # A Jetson's driver is part of JetPack and cannot be updated by itself, so the binding must not
    # be newer than JetPack's CUDA.
    return cuda_python_for(newest_cuda(_l4t(root)))


def cuda_python_for(newest: int | None) -> str:
    """Return the requirement on cuda-python for a driver of CUDA up to `newest`, None for any."""
    if newest is None:
        return "cuda-python"
    return f'"cuda-python<{newest + 1}"'


def newest_cuda(l4t: str) -> int | None:
    """Return the newest major version of CUDA that a Jetson's driver supports; None for any.

    Args:
        l4t: Release of Jetson Linux, as in `Jetson.l4t`; any other text counts as unknown.
    """
    numbers = _numbers(l4t)
    if not numbers:
        # The drivers of JetPack 6 and later run CUDA 12.
        return 12
    if numbers >= (38,):
        return None
    if numbers >= (36,):
        return 12
    return 11


def faster_mode(jetson: Jetson) -> str | None:
    """Return the name of the board's fastest mode, None if it is in use."""
    fastest = max(jetson.power_modes, key=_speed, default=jetson.power_mode)
    if _speed(fastest) > _speed(jetson.power_mode):
        return fastest
    return None


class IntegratedGpu(NamedTuple):
    """The GPU of a Jetson.

    Attributes:
        name: Name; "" if a container hides the GPU.
        compute_capability: "8.7" for SM 8.7; None if unknown.
        hidden_reason: Reason why it is hidden; "" if it is not.
    """

    name: str
    compute_capability: str | None
    hidden_reason: str


def integrated_gpu(root: Path, jetson: Jetson) -> IntegratedGpu:
    """Describe the GPU of a Jetson.

    Args:
        root: Root of the file system.
        jetson: The board.
    """
    family = _family(root, jetson.board)
    capability = _CAPABILITY.get(family)
    if not any((root / node).exists() for node in _GPU_NODES):
        reason = "the GPU's device nodes are absent: start the container with --runtime nvidia"
        return IntegratedGpu("", capability, reason)
    return IntegratedGpu(f"{family or 'Jetson'} (integrated)", capability, "")


def read_power_mode(run: Run, *, in_container: bool) -> str:
    """Return the name of the power mode, from nvpmodel, or "unknown (reason)"."""
    try:
        answer = run(("nvpmodel", "-q"))
    except (OSError, subprocess.SubprocessError) as error:
        where = ", the container hides it" if in_container else ""
        return f"unknown ({failure(error, 'nvpmodel')}{where})"
    mode = re.search(r"Power Mode:[ \t]*(\S+)", answer)
    if mode is None:
        return f"unknown (nvpmodel names no mode: {answer.strip()[:60]!r})"
    return mode[1]


def temperatures_c(root: Path) -> dict[str, float]:
    """Return the temperature of every thermal zone that has one, degrees Celsius, by name."""
    zones = sorted((root / _THERMAL).glob("thermal_zone*"), key=lambda zone: _number_in(zone.name))
    temperatures: dict[str, float] = {}
    for zone in zones:
        name, millidegrees = read_text(zone / "type"), read_number(zone / "temp")
        # A zone whose part of the chip is switched off gives an error, 0, or less than -200.
        if name and millidegrees and millidegrees > -200_000:
            temperatures[name] = millidegrees / 1000
    return temperatures


def gpu_clock_nodes(root: Path) -> tuple[Path, ...]:
    """Return the folders of devfreq that set the clocks of an integrated GPU."""
    devfreq = root / "sys/class/devfreq"
    # A set: one folder may match several patterns.
    nodes: set[Path] = set()
    for pattern in _GPU_CLOCKS:
        nodes.update(devfreq.glob(pattern))
    return tuple(sorted(nodes))


def _release(root: Path) -> str:
    return read_text(root / "etc/nv_tegra_release")


def _board(root: Path) -> str:
    for path in _BOARD_FILES:
        if board := read_text(root / path):
            return board
    return ""


def _family(root: Path, board: str) -> str:
    """Return the family of a board ("Orin"), "" if unknown."""
    for family in _CAPABILITY:
        if family in board:
            return family
    # Boards of other makers have names of their own, but the same chips.
    chips = read_text(root / "proc/device-tree/compatible")
    for chip, family in _CHIPS.items():
        if chip in chips:
            return family
    return ""


def _l4t(root: Path) -> str:
    return l4t_in(_release(root))


def l4t_in(text: str) -> str:
    """Return the release that `/etc/nv_tegra_release` names; "" if it names none.

    Args:
        text: Its content.

    Returns:
        The release as NVIDIA's archive writes it, "36.4" for 36.4.0.
    """
    release = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", text)
    if release is None:
        return ""
    return re.sub(r"\.0$", "", f"{release[1]}.{release[2]}")


def _jetpack(l4t: str) -> str:
    """Return the JetPack release that contains an L4T release, as closely as the list shows."""
    if l4t in _JETPACK:
        return _JETPACK[l4t]
    numbers = _numbers(l4t)
    generation = _GENERATION.get(numbers[0])
    if generation is None:
        return f"unknown (L4T {l4t})"
    # Both numbers only ever rise: a release between two of the same JetPack belongs to it too.
    before: list[str] = []
    after: list[str] = []
    for key, name in sorted((_numbers(key), name) for key, name in _JETPACK.items()):
        if _GENERATION[key[0]] != generation:
            continue
        if key < numbers:
            before.append(name)
        else:
            after.append(name)
    if before and not after:
        return f"{before[-1]} or later"
    if before and before[-1] == after[0]:
        return before[-1]
    return f"{generation}.x"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version such as "36.4.3"; empty for any other text."""
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        return ()
    return tuple(int(part) for part in version.split("."))


def _power_modes(root: Path) -> dict[str, int]:
    """Return the modes that lines such as "< POWER_MODEL ID=0 NAME=15W >" declare."""
    declared = r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>"
    modes = re.findall(declared, read_text(root / "etc/nvpmodel.conf"), re.M)
    return {name: int(number) for number, name in modes}


def _speed(mode: str) -> tuple[int, int]:
    """Return a key that sorts power modes from slow to fast."""
    # MAXN and MAXN_SUPER have no limit. The others have their watts in the name, as in
    # "MODE_20W_6CORE"; modes of the same power differ in their cores, and count as equally fast.
    watts = re.search(r"(\d+)W", mode)
    unlimited = mode.startswith("MAXN") + mode.endswith("SUPER")
    return unlimited, int(watts[1]) if watts else 0


def _number_in(name: str) -> int:
    return int(re.sub(r"\D", "", name) or 0)


def _clocks_locked(root: Path) -> bool | None:
    """Return whether the clocks of GPU and CPUs are locked, None if that cannot be read."""
    # jetson_clocks --show needs root. But locking sets the lowest clock to the highest one, and
    # anybody can compare these.
    cpus = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")
    gpu_locked = [_same(node / "min_freq", node / "max_freq") for node in gpu_clock_nodes(root)]
    cpu_locked = [_same(node / "scaling_min_freq", node / "scaling_max_freq") for node in cpus]
    if False in gpu_locked or False in cpu_locked:
        return False
    if not gpu_locked or not cpu_locked or None in gpu_locked or None in cpu_locked:
        return None
    return True


def _same(low: Path, high: Path) -> bool | None:
    lowest, highest = read_text(low), read_text(high)
    if not lowest or not highest:
        return None
    return lowest == highest
