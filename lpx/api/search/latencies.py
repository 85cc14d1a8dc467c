"""Times of layers, measured once: a search that is resumed proposes the same plans."""

from __future__ import annotations

import hashlib
import json
import os

import onnxruntime

from lpx.api.search.context import SearchRun
from lpx.engines.base import Faces
from lpx.errors import LpxError
from lpx.search.timing.latency import LatencyModel
from lpx.search.timing.measure_latency import TimingPlan
from lpx.search.timing.work_model import WorkModel
from lpx.workspace import read_sealed, write_sealed

FILE = "latencies.json"


def open_latencies(run: SearchRun, pixels: Faces) -> LatencyModel | WorkModel:
    """Return the latencies that an earlier search measured on this machine, or measure them.

    Args:
        run: The search.
        pixels: uint8 RGB [1, S, S, 3], the face to repeat.
    """
    if run.target.name != "onnxruntime":
        # Its layers are not timed one by one; finished engines are.
        return WorkModel(run.subject)
    path, key = run.folder / FILE, _key(run)
    try:
        stored = read_sealed(path, "lpx build --int8 --search")
        if stored.get("key") == key:
            run.reporter.say(f"reusing times of layers ({path})")
            return LatencyModel.from_dict(run.subject, stored.get("costs"))
    # Missing or damaged: they are measured again.
    except LpxError:
        pass
    run.reporter.say("timing layers")
    timing = TimingPlan(seconds=run.options.latency_seconds)
    latency = run.stopwatch.layers(run.subject, pixels, timing)
    if isinstance(latency, LatencyModel):
        write_sealed(path, {"key": key, "costs": latency.to_dict()})
    return latency


def _key(run: SearchRun) -> str:
    """Return a SHA-256 of what times of layers depend on."""
    machine = run.machine
    values = [
        run.subject.float_digest,
        run.subject.dialect,
        repr(run.subject.request.weights),
        str(onnxruntime.__version__),
        machine.cpu,
        os.cpu_count(),
        run.options.latency_seconds,
    ]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
