"""Read the times of single inferences that `trtexec --exportTimes` writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.errors import LpxError
from lpx.schema import MAX_BYTES, parse_json
from lpx.workspace import read_regular

# Default length of trtexec's warm-up.
WARM_UP_MS = 200.0
_FIX = "make it again with trtexec --exportTimes=FILE, and let trtexec end by itself"
# TensorRT 7 called the copies "in" and "out"; from 8 on they are "h2d" and "d2h".
_NAMES = (("h2dMs", "computeMs", "d2hMs"), ("inMs", "computeMs", "outMs"))


@dataclass(frozen=True)
class TrtexecTimes:
    """Times of single inferences, ms, float64 [N] each, in the order of the run.

    Attributes:
        latency_ms: Copy to the GPU, computing, and copy back; without waiting for another batch.
        h2d_ms: Copy to the GPU; 0 if trtexec left copies out.
        compute_ms: Computing, on the GPU's clock.
        d2h_ms: Copy back; likewise.
        enqueue_ms: Host time to enqueue the work; empty if the file does not contain it.
    """

    latency_ms: NDArray[np.float64]
    h2d_ms: NDArray[np.float64]
    compute_ms: NDArray[np.float64]
    d2h_ms: NDArray[np.float64]
    enqueue_ms: NDArray[np.float64]


def read_times(path: Path, warm_up_ms: float = WARM_UP_MS) -> TrtexecTimes:
    """Read times, without those of the warm-up.

    Args:
        path: A file of `trtexec --exportTimes`.
        warm_up_ms: Inferences that began earlier than this after trtexec's start are left out.

    Raises:
        LpxError: The file cannot be read, is not trtexec's, or contains nothing but the warm-up.
    """
    rows = _rows(path)
    names = next((names for names in _NAMES if names[0] in rows[0]), None)
    if names is None:
        raise LpxError(
            f"{path} is not a file of trtexec --exportTimes",
            f"its first entry has {', '.join(rows[0]) or 'nothing'}",
            _FIX,
        )
    # Releases up to 8.5 write the warm-up too.
    kept = []
    for number, row in enumerate(rows, 1):
        if _time(path, number, row, "startComputeMs") >= warm_up_ms:
            kept.append((number, row))
    if not kept:
        raise LpxError(
            f"all {len(rows)} inferences in {path} began in the first {warm_up_ms:g} ms",
            "that is trtexec's warm-up",
            "run trtexec for longer, with --duration=10",
        )

    def column(name: str) -> NDArray[np.float64]:
        return np.array([_time(path, number, row, name) for number, row in kept], np.float64)

    h2d, compute, d2h = (column(name) for name in names)
    enqueue = np.empty(0)
    if "startEnqMs" in rows[0]:
        enqueue = column("endEnqMs") - column("startEnqMs")
    return TrtexecTimes(column("latencyMs"), h2d, compute, d2h, enqueue)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = parse_json(read_regular(path, limit=MAX_BYTES))
    except OSError as error:
        raise LpxError(
            f"{path} cannot be read", error.strerror or str(error), "name a file of trtexec"
        ) from error
    except ValueError as error:
        raise LpxError(
            f"{path} is not a file of trtexec --exportTimes", str(error), _FIX
        ) from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise LpxError(
            f"{path} is not a file of trtexec --exportTimes", "it is not a list of inferences", _FIX
        )
    return rows


def _time(path: Path, number: int, row: dict[str, Any], name: str) -> float:
    value = row.get(name)
    # bool is an int to Python.
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return float(value)
        raise LpxError(f"{path}: {name} of inference {number} is {value}", "", _FIX)
    raise LpxError(f"{path}: inference {number} has no {name}", "", _FIX)
