"""Work for tests of the pool, in a module that workers can import."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from lpx.cluster.pool import Resources, WorkerPlan
from lpx.errors import LpxError


def plan(make, *shipped, cpus=1, gpus=0):
    return WorkerPlan(make, shipped, Resources(cpus, gpus), "number", str)


def make_doubler(cpus, factor):
    return lambda unit: factor * unit


def make_dying(cpus, folder, times):
    """Work that kills its process at unit 3, a number of times."""

    def work(unit):
        marks = Path(folder)
        if unit == 3 and len(list(marks.iterdir())) < times:
            (marks / str(time.monotonic())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return unit

    return work


def make_slow(cpus, seconds):
    def work(unit):
        time.sleep(seconds)
        return unit

    return work


def make_uneven(cpus):
    """The first unit takes longest."""

    def work(unit):
        time.sleep(1.0 if unit == 0 else 0.0)
        return unit

    return work


def make_large(cpus, megabytes):
    return lambda unit: np.full(megabytes << 20, unit, np.uint8)


def make_failing(cpus, kind):
    if kind == "start":
        raise LpxError("no start", "why", "fix", code="damaged")
    if kind == "no torch":
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    def work(unit):
        if kind == "lpx":
            raise LpxError("no unit", "why", "fix", code="damaged")
        if kind == "other":
            raise ZeroDivisionError("by zero")
        return lambda: None if kind == "unsendable" else unit

    return work


def make_cores(cpus):
    return lambda unit: cpus
