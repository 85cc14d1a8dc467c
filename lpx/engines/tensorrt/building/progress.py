"""Report how far a build is, and cancel it on Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lpx.engines.tensorrt.logger import Recorder
from lpx.interrupts import received
from lpx.reporter import Progress

# Called as (phase, steps done, steps in the phase); phases nest and come in TensorRT's order.
PhaseProgress = Callable[[str, int, int], None]


def silent(phase: str, done: int, steps: int) -> None:
    """Report nothing: for a build that is watched only so that Ctrl-C cancels it."""


def monitor_for(trt: Any, report: PhaseProgress, recorder: Recorder) -> Any:
    """Make a progress monitor that passes TensorRT's phases on to `report`.

    It must live as long as the build. An exception in `report`, Ctrl-C among them, cancels
    the build and is kept in the recorder, as an exception cannot pass through TensorRT.

    Args:
        trt: A library with `IProgressMonitor`.
        report: What is called at the start of a phase, after each step and at its end.
        recorder: Where an interrupt is kept.
    """
    steps: dict[str, int] = {}

    def show(phase: str, done: int) -> bool:
        try:
            report(phase, done, steps.get(phase, 0))
        except BaseException as interrupt:
            recorder.interrupt = recorder.interrupt or interrupt
        # While TensorRT builds, signals wait: see `lpx.interrupts.deferred`.
        return recorder.interrupt is None and received() is None

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            steps[phase_name] = num_steps
            show(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return show(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            show(phase_name, steps.get(phase_name, 0))
            steps.pop(phase_name, None)

    return Monitor()


def outermost(show: Progress) -> PhaseProgress:
    """Return progress that shows the phase around all others: TensorRT starts with it."""
    outermost = ""

    def progress(phase: str, done: int, steps: int) -> None:
        nonlocal outermost
        outermost = outermost or phase
        if phase == outermost and steps:
            show(done, steps)

    return progress
