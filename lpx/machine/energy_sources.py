"""Where energy can be read: a Jetson's power rails, NVIDIA's counter, the CPU's counter (RAPL)."""

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
_SAMPLER_PATIENCE_S = 10.0
_READABLE = "sudo chmod a+r /sys/class/powercap/*/energy_uj (until the next start)"


@dataclass(frozen=True)
class Unavailable:
    """Something cannot be measured; `str` gives "unavailable: reason"."""

    reason: str

    def __str__(self) -> str:
        return f"unavailable: {self.reason}"


class EnergySourceError(Exception):
    """A source stopped giving energy; the message says what happened."""


class EnergySource(Protocol):
    """Something that says how much energy flowed between two calls.

    Attributes:
        name: What is measured and by what, as "rapl: package-0".
        covers: What part of the machine is in the figure.
    """

    name: str
    covers: str

    def start(self) -> None:
        """Begin a window."""
        ...

    def stop(self) -> float:
        """End the window that `start` began; joules since.

        Raises:
            EnergySourceError: The source gave nothing.
        """
        ...

    def close(self) -> None:
        """Release what is held; the source cannot be used afterwards."""
        ...


def open_source(
    device: Device, root: Path = Path("/"), open_gpu: Callable[[], Nvml] = Nvml
) -> EnergySource | Unavailable:
    """The source that covers `device`, or why there is none.

    On a Jetson the rails measure board or module, whatever runs. Elsewhere an engine on the GPU is
    measured by NVIDIA's counter, which leaves the host out, and one on the CPU by RAPL.

    Args:
        device: What the engine runs on.
        root: Where the file system's tree begins.
        open_gpu: Opens the GPU's driver.
    """
    rails, no_rails = find_rails(root)
    if rails:
        return Rails(total_power(rails))
    if is_jetson(root):
        return Unavailable(no_rails)
    if device == "gpu":
        return _open_nvml(open_gpu)
    return _open_rapl(root)


class Counters:
    """Counters of energy that only grow, and start again from 0 at a limit.

    A window must be shorter than the time of one round: minutes for RAPL at full power.

    Args:
        name: See `EnergySource`.
        covers: See `EnergySource`.
        read: Gives every counter, in units of `joules`.
        limits: The value at which each starts again; 0 where it does not.
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
        """End the window; joules since `start`."""
        after = self._read()
        # max_energy_range_uj is the largest value: the one after it is 0.
        grown = [
            now - was if now >= was or not limit else now - was + limit + 1
            for was, now, limit in zip(self._before, after, self._limits, strict=True)
        ]
        if min(grown) < 0:
            raise EnergySourceError(f"{self.name}: the counter went backwards")
        return sum(grown) * self._joules

    def close(self) -> None:
        """Nothing is held."""


class Rails:
    """Power rails of a Jetson, sampled by a process of its own and integrated by trapezoids.

    The sampler's own power is in both the idle and the loaded figure, and so not in their
    difference.

    Args:
        rails: Those whose sum is measured, as `total_power` returns them.
    """

    def __init__(self, rails: Sequence[Rail]) -> None:
        names = [rail.name for rail in rails]
        monitors = dict.fromkeys(rail.monitor for rail in rails)
        self.name = f"{' and '.join(monitors)}: {' + '.join(names)}"
        self.covers = covered(names)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the sampler
        interval_s = max(rail.interval_ms for rail in rails) / 1e3
        files = [str(path) for rail in rails for path in ("+", *rail.files)][1:]
        # -I -S: no site packages to load, so that it starts in milliseconds and stays small.
        self._sampler = subprocess.Popen(
            [sys.executable, "-I", "-S", energy_sampler.__file__, str(interval_s), *files],
            stdin=subprocess.PIPE,
            stdout=self._file,
            stderr=subprocess.DEVNULL,
        )
        self._begin = 0.0
        self._first_row = 0

    def start(self) -> None:
        """Begin a window, once a sample from before it is there."""
        called = time.monotonic()
        self._wait_for(called)
        self._first_row = max(0, self._rows() - 2)
        self._begin = time.monotonic()

    def stop(self) -> float:
        """End the window; joules since `start`."""
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
        """(Seconds on the monotonic clock, watts) from `first_row` on, float64 [N, 2]."""
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
    """Energy between two moments, by trapezoids; power at the ends is interpolated.

    Args:
        times_s: When power was sampled, ascending, float64 [N].
        watts: Power then, float64 [N].
        begin_s: Begin of the window, not before the first sample.
        end_s: End of the window, not after the last.
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
    """Packages and their memory; cores and uncore are parts of a package, psys holds it."""
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    named = {zone: read_text(zone / "name") for zone in zones}
    used = {zone: name for zone, name in named.items() if name.startswith(("package", "dram"))}
    if not used:
        return Unavailable(
            "no RAPL in /sys/class/powercap (a virtual machine or container hides it; else: "
            "sudo modprobe intel_rapl_msr)"
        )
    if refused := next(filter(None, map(_refusal, used)), ""):
        return Unavailable(refused)
    limits = [read_number(zone / "max_energy_range_uj") or 0 for zone in used]
    names = " + ".join(sorted(used.values()))
    return Counters(
        f"rapl: {names}",
        "the processor, its memory only where named",
        lambda: _rapl_uj(used),
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
    values = [read_number(zone / "energy_uj") for zone in zones]
    read = [value for value in values if value is not None]
    if len(read) != len(values):
        raise EnergySourceError("RAPL's energy_uj can no longer be read")
    return read
