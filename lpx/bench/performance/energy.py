"""Energy per face and per patch: gross, and net of what the idle machine draws."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lpx.engines.base import Engine, Faces
from lpx.machine.energy_sources import EnergySource, EnergySourceError, Unavailable
from lpx.metrics import Interval
from lpx.reporter import Progress

WINDOWS = 5
WINDOW_SECONDS = 10.0
IDLE_SECONDS = 5.0
LEVEL = 0.95


class Clock(Protocol):
    """A monotonic clock that can wait; the module `time` is one."""

    def monotonic(self) -> float:
        """Return the time, s."""
        ...

    def sleep(self, seconds: float, /) -> None:
        """Wait."""
        ...


@dataclass(frozen=True)
class EnergyResult:
    """Energy of an engine at one batch size.

    Energies and powers are means over windows with 95 % intervals (Student's t); a single window
    does not bound them, and the ends are infinite.

    Attributes:
        source: Sensor or counter, such as "ina3221: VDD_IN".
        covers: Part of the machine that it measures.
        batch: Faces per call.
        windows: Number of windows, each with an idle time just before it.
        faces: Faces scored in all windows.
        gross_j_per_face: All energy of a window / its faces, J.
        net_j_per_face: The same minus what the machine drew idle, J.
        gross_mj_per_patch: Gross energy per classification unit, mJ.
        net_mj_per_patch: Net energy per classification unit, mJ.
        load_w: Power in the windows, W.
        idle_w: Power in the idle times, W.
    """

    source: str
    covers: str
    batch: int
    windows: int
    faces: int
    gross_j_per_face: Interval
    net_j_per_face: Interval
    gross_mj_per_patch: Interval
    net_mj_per_patch: Interval
    load_w: Interval
    idle_w: Interval


@dataclass(frozen=True)
class Window:
    """One window of back-to-back calls, and the idle time before it."""

    idle_w: float
    joules: float
    seconds: float
    calls: int


def measure_energy(
    engines: Mapping[str, Engine],
    sources: Mapping[str, EnergySource | Unavailable],
    faces: Faces,
    units: int,
    *,
    windows: int = WINDOWS,
    window_seconds: float = WINDOW_SECONDS,
    idle_seconds: float = IDLE_SECONDS,
    progress: Progress | None = None,
    clock: Clock = time,
) -> dict[str, EnergyResult | Unavailable]:
    """Measure engines in turns, a window each: idle A, A, idle B, B, idle A, ...

    Args:
        engines: By name.
        sources: Energy source of each engine: see `energy_sources.open_source`.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        units: Classification units per face.
        windows: Windows per engine; an interval needs two, a fair one five.
        window_seconds: Length of a window, s; 10 s or more on real rails and counters.
        idle_seconds: Length of the idle time before each, s.
        progress: Receives the windows done and their number.
        clock: Monotonic clock.

    Returns:
        For each engine the result, or the reason why there is none.
    """
    measured: dict[str, list[Window]] = {name: [] for name in engines}
    failed = {name: s for name, s in sources.items() if isinstance(s, Unavailable)}
    limits = _Lengths(window_seconds, idle_seconds)
    # Windows of all engines alternate, so that a machine that grows warmer affects all alike.
    for number in range(windows):
        for place, (name, engine) in enumerate(engines.items()):
            source = sources[name]
            # A source that failed once is not asked again, but the progress still counts its turns.
            if name not in failed and not isinstance(source, Unavailable):
                try:
                    measured[name].append(_window(engine, source, faces, limits, clock))
                except EnergySourceError as error:
                    failed[name] = Unavailable(str(error))
            if progress is not None:
                progress(number * len(engines) + place + 1, windows * len(engines))
    results: dict[str, EnergyResult | Unavailable] = {}
    for name in engines:
        source = sources[name]
        if name in failed or isinstance(source, Unavailable):
            results[name] = failed[name]
        else:
            results[name] = summarise(measured[name], source, len(faces), units)
    return results


def summarise(windows: list[Window], source: EnergySource, batch: int, units: int) -> EnergyResult:
    """Average over windows.

    Args:
        windows: At least one.
        source: Energy source that measured them.
        batch: Faces per call.
        units: Classification units per face.
    """
    faces = np.array([window.calls * batch for window in windows], np.float64)
    seconds = np.array([window.seconds for window in windows])
    joules = np.array([window.joules for window in windows])
    idle_w = np.array([window.idle_w for window in windows])
    gross = joules / faces
    # Idle power of the same window, as it drifts with temperature.
    net = (joules - idle_w * seconds) / faces
    return EnergyResult(
        source=source.name,
        covers=source.covers,
        batch=batch,
        windows=len(windows),
        faces=int(faces.sum()),
        gross_j_per_face=_estimate(gross),
        net_j_per_face=_estimate(net),
        gross_mj_per_patch=_estimate(1e3 * gross / units),
        net_mj_per_patch=_estimate(1e3 * net / units),
        load_w=_estimate(joules / seconds),
        idle_w=_estimate(idle_w),
    )


@dataclass(frozen=True)
class _Lengths:
    """Lengths of a window and of the idle time before it, s."""

    window: float
    idle: float


def _window(
    engine: Engine, source: EnergySource, faces: Faces, lengths: _Lengths, clock: Clock
) -> Window:
    source.start()
    began = clock.monotonic()
    clock.sleep(lengths.idle)
    ended = clock.monotonic()
    # Divided by the time that passed: a sleep may take longer than asked for.
    idle_w = source.stop() / (ended - began)
    # The first call after a pause wakes threads and clocks: it belongs to no window.
    engine.infer(faces)
    source.start()
    began = now = clock.monotonic()
    calls = 0
    while now - began < lengths.window:
        engine.infer(faces)
        calls += 1
        # The time is read after each call, so the last call counts as a whole.
        now = clock.monotonic()
    joules = source.stop()
    # A counter that stands still would make the engine look free.
    if joules <= 0:
        raise EnergySourceError(f"{source.name}: nothing was counted in {now - began:.1f} s")
    return Window(idle_w, joules, now - began, calls)


def _estimate(values: NDArray[np.float64]) -> Interval:
    mean = float(values.mean())
    # One window has no spread: nothing bounds its mean.
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    # Student's t rather than the normal distribution, as there are only a few windows.
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return Interval.about(mean, half)
