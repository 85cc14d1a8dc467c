"""Conditions of a measurement that may change while it runs: clocks, temperatures, load."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lpx.machine.jetson import gpu_clock_nodes, is_jetson, read_power_mode, temperatures_c
from lpx.machine.nvml import Nvml
from lpx.machine.probe import Run, read_number, run_command

# A report mentions larger changes than these: share of a clock, kelvins of a sensor. Above this
# load other programs took time from the engines.
NOTABLE_CLOCK_CHANGE = 0.05
NOTABLE_WARMING_C = 10.0
BUSY_LOAD_PER_CORE = 0.5


@dataclass(frozen=True)
class Conditions:
    """The machine's state at one moment; None or empty if it cannot be read.

    Attributes:
        cpu_mhz: Mean clock of the CPU's cores, MHz.
        gpu_mhz: Clock of the GPU, MHz.
        temperatures_c: Temperatures by sensor, degrees Celsius; the GPU's is "gpu".
        throttle_reasons: Why NVIDIA's driver reduces the GPU's clocks.
        power_mode: Power mode of a Jetson, "" on other machines.
        load_per_core: Number of runnable processes per core, mean of the last minute.
    """

    cpu_mhz: float | None
    gpu_mhz: float | None
    temperatures_c: dict[str, float]
    throttle_reasons: tuple[str, ...]
    power_mode: str
    load_per_core: float


def read_conditions(
    root: Path = Path("/"), run: Run = run_command, nvml: Nvml | None = None
) -> Conditions:
    """Read the state at this moment; takes milliseconds and raises nothing.

    Args:
        root: Root of the file system.
        run: Runs nvpmodel on a Jetson.
        nvml: The GPU's driver; None without an NVIDIA GPU.
    """
    jetson = is_jetson(root)
    temperatures = temperatures_c(root)
    gpu_mhz: float | None = None
    throttle_reasons: tuple[str, ...] = ()
    if nvml is not None:
        gpu_mhz = nvml.clock_mhz()
        throttle_reasons = nvml.throttle_reasons()
        heat = nvml.temperature_c()
        if heat is not None:
            temperatures["gpu"] = heat
    if jetson and not gpu_mhz:
        gpu_mhz = _integrated_gpu_mhz(root)
    return Conditions(
        cpu_mhz=_cpu_mhz(root),
        gpu_mhz=gpu_mhz,
        temperatures_c=temperatures,
        throttle_reasons=throttle_reasons,
        power_mode=read_power_mode(run, in_container=False) if jetson else "",
        load_per_core=os.getloadavg()[0] / (os.cpu_count() or 1),
    )


def changes(before: Conditions, after: Conditions) -> tuple[str, ...]:
    """Describe the changes between two moments that affect timings, one text each."""
    notes = []
    clocks = (("CPU", before.cpu_mhz, after.cpu_mhz), ("GPU", before.gpu_mhz, after.gpu_mhz))
    for name, was, now in clocks:
        if was and now and abs(now - was) > NOTABLE_CLOCK_CHANGE * was:
            notes.append(f"the {name}'s clock changed from {was:.0f} to {now:.0f} MHz")
    for sensor in before.temperatures_c.keys() & after.temperatures_c.keys():
        was, now = before.temperatures_c[sensor], after.temperatures_c[sensor]
        if now - was > NOTABLE_WARMING_C:
            notes.append(f"{sensor} warmed from {was:.0f} to {now:.0f} degrees Celsius")
    if before.power_mode != after.power_mode:
        notes.append(f"the power mode changed from {before.power_mode} to {after.power_mode}")
    if after.throttle_reasons:
        notes.append(f"the GPU's clock is reduced: {', '.join(after.throttle_reasons)}")
    if before.load_per_core > BUSY_LOAD_PER_CORE:
        notes.append(
            f"other programs were using the CPU when timing began (load {before.load_per_core:.1f} "
            "per core)"
        )
    return tuple(notes)


def _cpu_mhz(root: Path) -> float | None:
    nodes = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    clocks_khz = [clock for node in nodes if (clock := read_number(node))]
    if not clocks_khz:
        return None
    return sum(clocks_khz) / len(clocks_khz) / 1e3


def _integrated_gpu_mhz(root: Path) -> float | None:
    # From devfreq: NVML opens on a Jetson since JetPack 6, but does not know its clocks.
    for node in gpu_clock_nodes(root):
        if clock_hz := read_number(node / "cur_freq"):
            return clock_hz / 1e6
    return None
