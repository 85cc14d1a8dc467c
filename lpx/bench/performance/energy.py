"""Energy per face and per patch: gross, and net of what the idle machine draws."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lpx.engines.base import Engine, Faces
from lpx.machine.energy_sources import EnergySource, EnergySourceError, Unavailable

WINDOWS = 5
WINDOW_SECONDS = 10.0
IDLE_SECONDS = 5.0
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over windows with its 95 % interval (Student's t); no interval of one window."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class EnergyResult:
    """Energy of an engine at one batch size.

    Attributes:
        source: What measured, as "ina3221: VDD_IN".
        covers: What part of the machine is in the figures.
        batch: Faces per call.
        windows: Windows measured, each with an idle time just before it.
        faces: Faces scored in all windows.
        gross_j_per_face: All energy of a window / its faces, J.
        net_j_per_face: The same without what the machine drew idle, J.
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
    gross_j_per_face: Estimate
    net_j_per_face: Estimate
    gross_mj_per_patch: Estimate
    net_mj_per_patch: Estimate
    load_w: Estimate
    idle_w: Estimate


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
    progress: Callable[[float], None] | None = None,
) -> dict[str, EnergyResult | Unavailable]:
    """Measure engines in turns, a window each: idle A, A, idle B, B, idle A, ...

    Args:
        engines: By name.
        sources: Per engine, what measures it: see `energy_sources.open_source`.
        faces: uint8 RGB [B, S, S, 3], the batch to repeat.
        units: Classification units per face.
        windows: Windows per engine; an interval needs two, a fair one five.
        window_seconds: Length of a window; 10 s or more on real rails and counters.
        idle_seconds: Length of the idle time before each.
        progress: Told the share done, in [0, 1].

    Returns:
        Per engine the result, or why there is none.
    """
    found: dict[str, list[Window]] = {name: [] for name in engines}
    failed = {name: s for name, s in sources.items() if isinstance(s, Unavailable)}
    for number in range(windows):
        for place, (name, engine) in enumerate(engines.items()):
            source = sources[name]
            if name not in failed and not isinstance(source, Unavailable):
                try:
                    found[name].append(_window(engine, source, faces, window_seconds, idle_seconds))
                except EnergySourceError as error:
                    failed[name] = Unavailable(str(error))
            if progress is not None:
                progress((number * len(engines) + place + 1) / (windows * len(engines)))
    return {
        name: failed[name]
        if name in failed
        else summarise(found[name], sources[name], len(faces), units)  # type: ignore[arg-type]
        for name in engines
    }


def summarise(windows: list[Window], source: EnergySource, batch: int, units: int) -> EnergyResult:
    """Means over windows, with intervals.

    Args:
        windows: At least one.
        source: What measured them.
        batch: Faces per call.
        units: Classification units per face.
    """
    faces = np.array([window.calls * batch for window in windows], np.float64)
    seconds = np.array([window.seconds for window in windows])
    joules = np.array([window.joules for window in windows])
    idle_w = np.array([window.idle_w for window in windows])
    gross = joules / faces
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


def _window(
    engine: Engine, source: EnergySource, faces: Faces, seconds: float, idle_seconds: float
) -> Window:
    source.start()
    began = time.monotonic()
    time.sleep(idle_seconds)
    ended = time.monotonic()
    idle_w = source.stop() / (ended - began)
    engine.infer(faces)  # the first call after a pause wakes threads and clocks
    source.start()
    began = now = time.monotonic()
    calls = 0
    while now - began < seconds:
        engine.infer(faces)
        calls += 1
        now = time.monotonic()
    joules = source.stop()
    if joules <= 0:
        raise EnergySourceError(f"{source.name}: nothing was counted in {now - began:.1f} s")
    return Window(idle_w, joules, now - began, calls)


def _estimate(values: NDArray[np.float64]) -> Estimate:
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, None, None)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return Estimate(mean, mean - half, mean + half)
