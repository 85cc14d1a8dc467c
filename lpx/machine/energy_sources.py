"""Sources of energy readings: a Jetson's rails, NVIDIA's counter, the CPU's counter (RAPL)."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.machine import energy_sampler
from lpx.machine.ina3221 import Rail, covered, find_rails, total_power
from lpx.machine.jetson import is_jetson
from lpx.machine.nvml import Nvml, NvmlError
from lpx.machine.probe import read_number, read_text

Device = Literal["cpu", "gpu"]
# Longest time without a sample: the slowest monitor renews its values every 0.1 s.
_SAMPLER_PATIENCE_S = 10.0
_READABLE = "sudo chmod a+r /sys/class/powercap/*/energy_uj (until the next start)"


@dataclass(frozen=True)
class Unavailable:
    """Reason why something cannot be measured; `str` gives "unavailable: reason"."""

    reason: str

    def __str__(self) -> str:
        return f"unavailable: {self.reason}"


class EnergySourceError(Exception):
    """An energy source failed; the message says how."""


class EnergySource(Protocol):
    """Measures the energy between two calls.

    Attributes:
        name: The counter or rails, such as "rapl: package-0".
        covers: The part of the machine whose energy is measured.
    """

    name: str
    covers: str

    def start(self) -> None:
        """Begin a window."""
        ...

    def stop(self) -> float:
        """End the window that `start` began, and return the energy since, joules.

        Raises:
            EnergySourceError: The source cannot be read.
        """
        ...

    def close(self) -> None:
        """Release all resources; the source cannot be used afterwards."""
        ...


def open_source(
    device: Device, root: Path = Path("/"), open_gpu: Callable[[], Nvml] = Nvml
) -> EnergySource | Unavailable:
    """Open the source that measures an engine's device.

    On a Jetson the power rails measure the whole board or module, for engines on any device. On
    other machines an engine on the GPU is measured by NVIDIA's counter, which excludes the host,
    and an engine on the CPU by RAPL.

    Args:
        device: Device that the engine runs on.
        root: Root of the file system.
        open_gpu: Opens the GPU's driver.

    Returns:
        The source, or the reason why there is none.
    """
    found = find_rails(root)
    if found.rails:
        return Rails(total_power(found.rails))
    if is_jetson(root):
        return Unavailable(found.reason)
    if device == "gpu":
        return _open_nvml(open_gpu)
    return _open_rapl(root)


class Counters:
    """Energy counters that only grow, and wrap to 0 at a limit.

    A window must be shorter than the time between two wraps: minutes for RAPL at full power.

    Args:
        name: See `EnergySource`.
        covers: See `EnergySource`.
        read: Returns the value of every counter, in units of `joules`.
        limits: Largest value of each counter; 0 if it does not wrap.
        joules: Joules per unit.
    """

    def __init__(
        self,
        name: str,
        covers: str,
        read: Callable[[], list[int]],
        limits: Sequence[int],
        joules: float,
    ) -> None:
        self.name, self.covers = name, covers
        self._read, self._limits, self._joules = read, limits, joules
        self._before: list[int] = []

    def start(self) -> None:
        """Begin a window."""
        self._before = self._read()

    def stop(self) -> float:
        """End the window, and return the energy since `start`, joules."""
        total = 0
        for was, now, limit in zip(self._before, self._read(), self._limits, strict=True):
            increase = now - was
            if increase < 0 and limit:
                # The largest value (max_energy_range_uj) is followed by 0.
                increase += limit + 1
            if increase < 0:
                raise EnergySourceError(f"{self.name}: the counter went backwards")
            total += increase
        return total * self._joules

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


class Rails:
    """Power rails of a Jetson, sampled by a process of its own and integrated by trapezoids.

    Args:
        rails: Rails whose sum is measured, as `total_power` returns them.
    """

    def __init__(self, rails: Sequence[Rail]) -> None:
        names = [rail.name for rail in rails]
        monitors = dict.fromkeys(rail.monitor for rail in rails)
        self.name = f"{' and '.join(monitors)}: {' + '.join(names)}"
        self.covers = covered(names)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the sampler
        interval_s = max(rail.interval_ms for rail in rails) / 1e3
        files: list[str] = []
        for rail in rails:
            if files:
                files.append("+")
            files += map(str, rail.files)
        # A process, because sampling in a thread would wait for the engine's hold on the
        # interpreter. Its own power is in both the idle and the loaded figure, and so not in their
        # difference. -I -S: no site packages to load, so it starts in milliseconds and stays small.
        self._sampler = subprocess.Popen(
            [sys.executable, "-I", "-S", energy_sampler.__file__, str(interval_s), *files],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.DEVNULL,
        )
        self._begin = 0.0
        self._first_row = 0

    def start(self) -> None:
        """Begin a window as soon as there is a sample from before it."""
        called = time.monotonic()
        self._wait_for(called)
        self._first_row = max(0, self._rows() - 2)
        self._begin = time.monotonic()

    def stop(self) -> float:
        """End the window, and return the energy since `start`, joules."""
        end = time.monotonic()
        self._wait_for(end)
        samples = self._samples(self._first_row)
        if not np.isfinite(samples).all():
            raise EnergySourceError(f"{self.name}: a rail could not be read")
        return integrate_joules(samples[:, 0], samples[:, 1], self._begin, end)

    def close(self) -> None:
        """End the sampler."""
        assert self._sampler.stdin is not None
        self._sampler.stdin.close()
        self._sampler.wait()
        self._file.close()

    def _rows(self) -> int:
        return os.fstat(self._file.fileno()).st_size // energy_sampler.ROW_BYTES

    def _samples(self, first_row: int) -> NDArray[np.float64]:
        """Return seconds on the monotonic clock and watts from `first_row` on, float64 [N, 2]."""
        size = energy_sampler.ROW_BYTES
        count = self._rows() - first_row
        # pread: the sampler shares the file's position, which must stay at the end.
        data = os.pread(self._file.fileno(), count * size, first_row * size)
        return np.frombuffer(data, np.float64).reshape(-1, 2)

    def _wait_for(self, moment: float) -> None:
        """Wait until there is a sample of `moment` or later."""
        deadline = time.monotonic() + _SAMPLER_PATIENCE_S
        while not (self._rows() and self._samples(self._rows() - 1)[-1, 0] >= moment):
            if self._sampler.poll() is not None:
                raise EnergySourceError(f"{self.name}: the sampling process ended")
            if time.monotonic() > deadline:
                raise EnergySourceError(f"{self.name}: no sample in {_SAMPLER_PATIENCE_S:g} s")
            time.sleep(1e-3)


def integrate_joules(
    times_s: NDArray[np.float64], watts: NDArray[np.float64], begin_s: float, end_s: float
) -> float:
    """Integrate power between two moments by trapezoids; power at the ends is interpolated.

    Args:
        times_s: Times of the samples, seconds, ascending, float64 [N].
        watts: Power at these times, watts, float64 [N].
        begin_s: Begin of the window, seconds, not before the first sample.
        end_s: End of the window, seconds, not after the last.

    Returns:
        Energy, joules.
    """
    inside = (times_s > begin_s) & (times_s < end_s)
    x = np.concatenate([[begin_s], times_s[inside], [end_s]])
    y = np.interp(x, times_s, watts)
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def _open_nvml(open_gpu: Callable[[], Nvml]) -> EnergySource | Unavailable:
    try:
        gpu = open_gpu()
        gpu.energy_mj()
    except NvmlError as error:
        return Unavailable(str(error))
    covers = "the GPU's board, without the host"
    return Counters(f"nvml: {gpu.name}", covers, lambda: [gpu.energy_mj()], [0], 1e-3)


def _open_rapl(root: Path) -> EnergySource | Unavailable:
    # Packages and their memory: the zones of cores and uncore are parts of a package, and psys
    # contains it.
    zones: dict[Path, str] = {}
    for zone in sorted((root / "sys/class/powercap").glob("intel-rapl:*")):
        name = read_text(zone / "name")
        if name.startswith(("package", "dram")):
            zones[zone] = name
    if not zones:
        return Unavailable(
            "no RAPL in /sys/class/powercap (a virtual machine or container hides it; else: "
            "sudo modprobe intel_rapl_msr)"
        )
    for zone in zones:
        if refusal := _refusal(zone):
            return Unavailable(refusal)
    limits = [read_number(zone / "max_energy_range_uj") or 0 for zone in zones]
    names = " + ".join(sorted(zones.values()))
    return Counters(
        f"rapl: {names}",
        "the processor, and its memory if named",
        lambda: _rapl_uj(zones),
        limits,
        1e-6,
    )


def _refusal(zone: Path) -> str:
    try:
        (zone / "energy_uj").read_text()
    except PermissionError:
        return f"{zone.name}/energy_uj may be read by root only: {_READABLE}"
    except OSError as error:
        return f"{zone.name}/energy_uj: {error.strerror or error}"
    return ""


def _rapl_uj(zones: dict[Path, str]) -> list[int]:
    values = []
    for zone in zones:
        value = read_number(zone / "energy_uj")
        if value is None:
            raise EnergySourceError("RAPL's energy_uj can no longer be read")
        values.append(value)
    return values
