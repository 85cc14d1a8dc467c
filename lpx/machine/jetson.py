"""A Jetson board, from files: release, power mode, clocks, power rails and thermal zones."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from lpx.machine.ina3221 import find_rails, total_power
from lpx.machine.probe import Run, failure, read_number, read_text

# Jetson Linux (L4T) -> JetPack, to November 2026, from NVIDIA's archives of both.
_JETPACK = {
    **{"34.1": "5.0 DP", "34.1.1": "5.0.1 DP"},
    **{"35.1": "5.0.2", "35.2.1": "5.1", "35.3.1": "5.1.1", "35.4.1": "5.1.2", "35.5": "5.1.3"},
    **{"35.6": "5.1.4", "35.6.1": "5.1.5", "35.6.2": "5.1.5", "35.6.3": "5.1.5"},
    **{"35.6.4": "5.1.6", "35.6.5": "5.1.7"},
    **{"36.2": "6.0 DP", "36.3": "6.0", "36.4": "6.1", "36.4.2": "6.1", "36.4.3": "6.2"},
    **{"36.4.4": "6.2.1", "36.4.7": "6.2.1", "36.5": "6.2.2", "36.5.2": "6.2.3"},
    **{"38.2": "7.0", "38.2.1": "7.0", "38.2.2": "7.0", "38.4": "7.1"},
    **{"39.2": "7.2", "39.2.1": "7.2.1"},
}
_GENERATION = {32: 4, 34: 5, 35: 5, 36: 6, 38: 7, 39: 7}
"""Major version of JetPack by that of L4T."""
_CAPABILITY = {"Thor": "11.0", "Orin": "8.7", "Xavier": "7.2"}
_CHIPS = {"tegra264": "Thor", "tegra234": "Orin", "tegra194": "Xavier"}
_BOARD_FILES = (
    "proc/device-tree/model",
    "sys/devices/soc0/machine",  # Docker hides the device tree, not this one
    "tmp/nv_jetson_model",  # where jetson-containers mounts the board's name
)
_GPU_NODES = ("dev/nvhost-gpu", "dev/nvgpu", "dev/nvidia0")
_GPU_CLOCKS = ("*.gpu", "*.ga10b", "17000000.*", "gpu-gpc-*", "gpu-nvd-*")
_THERMAL = "sys/class/thermal"


@dataclass(frozen=True)
class Jetson:
    """What is particular to a Jetson board.

    Attributes:
        board: The device tree's model, or "unknown (reason)".
        l4t: The Jetson Linux release, as "36.4.3", or "unknown (reason)".
        jetpack: The JetPack release, as "6.2". What is known of one that lpx does not list, as
            "6.2.3 or later" or "6.x", or "unknown (L4T x.y)".
        power_mode: nvpmodel's name of the mode, as "15W", or "unknown (reason)".
        clocks_locked: Whether GPU and CPU clocks are held (jetson_clocks); None where unreadable.
        rails: Names of the power rails that can be read.
        board_power: Those of them whose sum is the power of the board, or of the module where its
            carrier board is not measured: see `ina3221.covered`.
        no_rails_reason: Why `rails` is empty, else "".
        thermal_zones: Names of the temperature sensors that can be read.
        power_modes: The board's modes by name, with their numbers for `nvpmodel -m`; empty where
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
    """Whether the machine is a Jetson, also in a container that hides one of the two marks.

    Args:
        root: Where the file system's tree begins.
    """
    return bool(_release(root)) or "Jetson" in _board(root)


def read_jetson(root: Path, run: Run, *, in_container: bool) -> Jetson | None:
    """Read the board at hand; None where the machine is no Jetson.

    Args:
        root: Where the file system's tree begins: a recorded tree stands in for a board.
        run: Runs nvpmodel.
        in_container: Whether a container may hide what is looked for.
    """
    if not is_jetson(root):
        return None
    board, l4t = _board(root), _l4t(root)
    hidden = "the container hides the device tree" if in_container else "no device-tree model"
    rails, no_rails_reason = find_rails(root)
    return Jetson(
        board=board or f"unknown ({hidden})",
        l4t=l4t or "unknown (no /etc/nv_tegra_release)",
        jetpack=_jetpack(l4t) if l4t else "unknown",
        power_mode=read_power_mode(run, in_container=in_container),
        clocks_locked=_clocks_locked(root),
        rails=tuple(rail.name for rail in rails),
        board_power=tuple(rail.name for rail in total_power(rails)),
        no_rails_reason=no_rails_reason,
        thermal_zones=tuple(temperatures_c(root)),
        power_modes=_power_modes(root),
    )


def cuda_python(root: Path = Path("/")) -> str:
    """Requirement on cuda-python that fits this machine, for pip.

    On a Jetson the driver comes with JetPack and cannot be updated by itself, so the binding must
    not be newer than JetPack's CUDA.

    Args:
        root: Where the file system's tree begins.

    Returns:
        As 'cuda-python', or quoted for a shell as '"cuda-python<13"'.
    """
    return cuda_python_for(newest_cuda(_l4t(root)) if is_jetson(root) else None)


def cuda_python_for(newest: int | None) -> str:
    """Requirement on cuda-python for a driver that runs CUDA up to `newest`; None for any."""
    return "cuda-python" if newest is None else f'"cuda-python<{newest + 1}"'


def newest_cuda(l4t: str) -> int | None:
    """Newest major version of CUDA that a Jetson's driver supports; None if it is not limited.

    12 for an unknown release: the drivers of JetPack 6 and later run it.

    Args:
        l4t: As `Jetson.l4t`; anything but a release is unknown.
    """
    numbers = _numbers(l4t)
    if not numbers:
        return 12
    if numbers >= (38,):
        return None
    return 12 if numbers >= (36,) else 11


def faster_mode(jetson: Jetson) -> str | None:
    """Name of the board's fastest mode; None if it is in use.

    MAXN and MAXN_SUPER have no limit. The others name their watts, as "MODE_20W_6CORE"; those of
    the same power differ in their cores, and count as equally fast.
    """
    fastest = max(jetson.power_modes, key=_speed, default=jetson.power_mode)
    return fastest if _speed(fastest) > _speed(jetson.power_mode) else None


def integrated_gpu(root: Path, jetson: Jetson) -> tuple[str, str | None, str]:
    """Return the GPU's name ("" where it is hidden), its compute capability, and why hidden."""
    family = _family(root, jetson.board)
    capability = _CAPABILITY.get(family)
    if not any((root / node).exists() for node in _GPU_NODES):
        reason = "the GPU's device nodes are absent: start the container with --runtime nvidia"
        return "", capability, reason
    return f"{family or 'Jetson'} (integrated)", capability, ""


def read_power_mode(run: Run, *, in_container: bool) -> str:
    """Ask nvpmodel for the power mode's name; "unknown (reason)" where it does not say."""
    try:
        answer = run(("nvpmodel", "-q"))
    except (OSError, subprocess.SubprocessError) as error:
        where = ", the container hides it" if in_container else ""
        return f"unknown ({failure(error, 'nvpmodel')}{where})"
    mode = re.search(r"Power Mode:[ \t]*(\S+)", answer)
    return mode[1] if mode else f"unknown (nvpmodel names no mode: {answer.strip()[:60]!r})"


def temperatures_c(root: Path) -> dict[str, float]:
    """Temperature of every thermal zone that has one, in degrees Celsius, by its name.

    A zone whose part of the chip is switched off gives an error, or less than -200, and is left
    out.
    """
    zones = sorted((root / _THERMAL).glob("thermal_zone*"), key=lambda zone: _number_in(zone.name))
    found = {read_text(zone / "type"): read_number(zone / "temp") for zone in zones}
    return {
        name: value / 1000 for name, value in found.items() if name and value and value > -200_000
    }


def gpu_clock_nodes(root: Path) -> tuple[Path, ...]:
    """Folders of devfreq that set the clocks of an integrated GPU."""
    devfreq = root / "sys/class/devfreq"
    return tuple(sorted({node for pattern in _GPU_CLOCKS for node in devfreq.glob(pattern)}))


def _release(root: Path) -> str:
    return read_text(root / "etc/nv_tegra_release")


def _board(root: Path) -> str:
    return next(filter(None, (read_text(root / path) for path in _BOARD_FILES)), "")


def _family(root: Path, board: str) -> str:
    """By the board's name, or by the chip: other makers' boards have names of their own."""
    chip = read_text(root / "proc/device-tree/compatible")
    named = (name for name in _CAPABILITY if name in board)
    return next(named, next((name for key, name in _CHIPS.items() if key in chip), ""))


def _l4t(root: Path) -> str:
    """The release as L4T's archive writes it, as "36.4" for 36.4.0; "" where none is found."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*(\d+(?:\.\d+)*)", _release(root))
    return re.sub(r"\.0$", "", f"{found[1]}.{found[2]}") if found else ""


def _jetpack(l4t: str) -> str:
    """The release that holds `l4t`, or what its neighbours in the list tell of it.

    Both count upwards. So between two of one JetPack it is that one, after the last of a JetPack
    "6.2.3 or later", and elsewhere "6.x".
    """
    if l4t in _JETPACK:
        return _JETPACK[l4t]
    numbers = _numbers(l4t)
    generation = _GENERATION.get(numbers[0])
    if generation is None:
        return f"unknown (L4T {l4t})"
    listed = sorted((_numbers(key), name) for key, name in _JETPACK.items())
    listed = [(key, name) for key, name in listed if _GENERATION[key[0]] == generation]
    before = [name for key, name in listed if key < numbers]
    after = [name for key, name in listed if key > numbers]
    if before and not after:
        return f"{before[-1]} or later"
    return before[-1] if before and before[-1] == after[0] else f"{generation}.x"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else ()


def _power_modes(root: Path) -> dict[str, int]:
    """What lines as "< POWER_MODEL ID=0 NAME=15W >" declare."""
    declared = r"^\s*<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+?)\s*>"
    modes = re.findall(declared, read_text(root / "etc/nvpmodel.conf"), re.M)
    return {name: int(number) for number, name in modes}


def _speed(mode: str) -> tuple[int, int]:
    """A key that sorts power modes from slow to fast."""
    watts = re.search(r"(\d+)W", mode)
    return mode.startswith("MAXN") + mode.endswith("SUPER"), int(watts[1]) if watts else 0


def _number_in(name: str) -> int:
    return int(re.sub(r"\D", "", name) or 0)


def _clocks_locked(root: Path) -> bool | None:
    """Compare the lowest and highest clock of GPU and CPUs, which needs no root."""
    cpus = root / "sys/devices/system/cpu"
    held = [
        [_same(node / "min_freq", node / "max_freq") for node in gpu_clock_nodes(root)],
        [
            _same(node / "scaling_min_freq", node / "scaling_max_freq")
            for node in cpus.glob("cpu[0-9]*/cpufreq")
        ],
    ]
    if any(False in group for group in held):
        return False
    return True if all(group and None not in group for group in held) else None


def _same(low: Path, high: Path) -> bool | None:
    lowest, highest = read_text(low), read_text(high)
    return lowest == highest if lowest and highest else None
