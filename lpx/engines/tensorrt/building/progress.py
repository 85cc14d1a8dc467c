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
    """Create a progress monitor that passes TensorRT's phases on to `report`.

    Keep a reference to it during the build. An exception in `report`, such as for Ctrl-C, cancels
    the build and is stored in the recorder, since exceptions cannot propagate through TensorRT.

    Args:
        trt: A library with `IProgressMonitor`.
        report: Called at the start of a phase, after each step and at its end.
        recorder: Receives the exception.
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
    """Return progress that shows only the outermost phase, which is the first that starts."""
    outermost = ""

    def progress(phase: str, done: int, steps: int) -> None:
        nonlocal outermost
        outermost = outermost or phase
        if phase == outermost and steps:
            show(done, steps)

    return progress
