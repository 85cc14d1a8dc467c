"""A Jetson board, from files: release, power mode, clocks, power rails and thermal zones."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lpx.engines.ina3221 import find_rails, whole_board
from lpx.engines.probe import Run, failure, read_number, read_text

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
_GPU_NODES = ("dev/nvhost-gpu", "dev/nvgpu", "dev/nvidia0")
_GPU_CLOCKS = ("*.gpu", "*.ga10b", "17000000.*", "gpu-gpc-0", "gpu-nvd-0")
_THERMAL = "sys/class/thermal"


@dataclass(frozen=True)
class Jetson:
    """What is particular to a Jetson board.

    Attributes:
        board: The device tree's model, or "unknown (reason)".
        l4t: The Jetson Linux release, as "36.4.3", or "unknown (reason)".
        jetpack: The JetPack release, as "6.2", or "unknown (L4T x.y)".
        power_mode: nvpmodel's name of the mode, as "15W", or "unknown (reason)".
        clocks_locked: Whether GPU and CPU clocks are held (jetson_clocks); None where unreadable.
        rails: Names of the power rails that can be read.
        board_power: Those of them whose sum is the board's power.
        no_rails_reason: Why `rails` is empty, else "".
        thermal_zones: Names of the temperature sensors that can be read.
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


def read_jetson(root: Path, run: Run, *, in_container: bool) -> Jetson | None:
    """Read the board at hand; None where the machine is no Jetson.

    Args:
        root: Where the file system's tree begins: a recorded tree stands in for a board.
        run: Runs nvpmodel.
        in_container: Whether a container may hide what is looked for.
    """
    release = read_text(root / "etc/nv_tegra_release")
    board = next(filter(None, (read_text(root / path) for path in _BOARD_FILES)), "")
    if not release and "Jetson" not in board:
        return None
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    l4t = re.sub(r"\.0$", "", f"{found[1]}.{found[2]}") if found else ""
    hidden = "the container hides the device tree" if in_container else "no device-tree model"
    rails, no_rails_reason = find_rails(root)
    return Jetson(
        board=board or f"unknown ({hidden})",
        l4t=l4t or "unknown (no /etc/nv_tegra_release)",
        jetpack=_JETPACK.get(l4t, f"unknown (L4T {l4t})" if l4t else "unknown"),
        power_mode=read_power_mode(run, in_container=in_container),
        clocks_locked=_clocks_locked(root),
        rails=tuple(rail.name for rail in rails),
        board_power=tuple(rail.name for rail in whole_board(rails)),
        no_rails_reason=no_rails_reason,
        thermal_zones=tuple(temperatures_c(root)),
    )


def integrated_gpu(root: Path, jetson: Jetson) -> tuple[str, str | None, str]:
    """Return the GPU's name ("" where there is none), its compute capability, and why none."""
    if not any((root / node).exists() for node in _GPU_NODES):
        reason = "the GPU's device nodes are absent: start the container with --runtime nvidia"
        return "", None, reason
    family = next((name for name in _BOARD_CAPABILITY if name in jetson.board), None)
    capability = _BOARD_CAPABILITY[family] if family else None
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
