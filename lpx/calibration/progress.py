"""A calibration that was interrupted goes on where it last wrote down what it had seen."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.arrays import read_arrays
from lpx.calibration.observer import Observer
from lpx.data.face_sets.face_set import Skipped
from lpx.schema import parse_json
from lpx.workspace import write_bytes

_FORMAT = "lpx-calibration/2"


@dataclass(frozen=True)
class Progress:
    """How far a calibration has come.

    Attributes:
        position: Faces of the set dealt with, from its start.
        skipped: Those of them that could not be read.
        observers: What the others have shown, per tensor.
    """

    position: int
    skipped: tuple[Skipped, ...]
    observers: dict[str, Observer]


def save_progress(path: Path, key: Mapping[str, str], progress: Progress) -> None:
    """Write progress atomically, though not so that it outlasts a loss of power.

    Args:
        path: The file.
        key: What is being calibrated on what; `load_progress` asks for the same.
        progress: What to keep.
    """
    about = {
        "format": _FORMAT,
        "key": dict(key),
        "position": progress.position,
        "skipped": [[s.name, s.reason] for s in progress.skipped],
        "tensors": list(progress.observers),
    }
    arrays: dict[str, NDArray[Any]] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    for number, observer in enumerate(progress.observers.values()):
        seen, mean = observer.histogram, observer.mean
        arrays[f"counts{number}"] = seen.counts
        arrays[f"limits{number}"] = np.array([seen.low, seen.high], np.float64)
        arrays[f"sums{number}"] = mean.sums
        arrays[f"faces{number}"] = np.array(mean.count, np.int64)
    data = io.BytesIO()
    np.savez(data, **arrays)  # type: ignore[arg-type]
    write_bytes(path, data.getvalue(), durable=False)


def load_progress(
    path: Path, key: Mapping[str, str], say: Callable[[str], None] | None = None
) -> Progress | None:
    """Read progress; None where there is none, or it is of something else, or damaged.

    Args:
        path: The file.
        key: What is being calibrated on what.
        say: Receives why progress that is there is of no use.
    """
    try:
        stored = read_arrays(path)
        about = parse_json(stored["about"].tobytes())
        if about["format"] != _FORMAT or about["key"] != dict(key):
            raise ValueError(f"it is of {_difference(about, key)}")
        observers = {}
        for number, name in enumerate(about["tensors"]):
            sums = stored[f"sums{number}"]
            observer = Observer(len(sums))
            observer.histogram.counts[:] += stored[f"counts{number}"]
            low, high = stored[f"limits{number}"]
            observer.histogram.low, observer.histogram.high = float(low), float(high)
            observer.mean.sums += sums
            observer.mean.count = int(stored[f"faces{number}"])
            observers[name] = observer
        skipped = tuple(Skipped(name, reason) for name, reason in about["skipped"])
        return Progress(int(about["position"]), skipped, observers)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        # What is lost is a part of one pass, and the pass makes it again.
        if say is not None:
            say(
                f"the progress of a calibration in {path} is of no use, so it begins again: {error}"
            )
        return None


def _difference(about: Mapping[str, Any], key: Mapping[str, str]) -> str:
    """What differs from the calibration that is wanted, in words."""
    if about["format"] != _FORMAT:
        return "another version of lpx"
    words = {"model": "another model", "faces": "other faces, or some of them have changed"}
    differing = [name for name in key if about["key"].get(name) != key[name]]
    return " and ".join(words.get(name, f"another {name}") for name in differing)
