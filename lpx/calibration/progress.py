"""Saved progress of a calibration pass, from which an interrupted pass is resumed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.arrays import read_arrays
from lpx.calibration.observer import Observer
from lpx.data.face_sets.face_set import Skipped
from lpx.schema import parse_json
from lpx.workspace import write_bytes

_FORMAT = "lpx-calibration/2"


class ObservedRows(NamedTuple):
    """What was observed on some of the faces.

    Attributes:
        rows: The faces.
        skipped: Those of them that could not be read.
        observers: Statistics of the others, per tensor.
        seconds: Time of the forward pass and of its statistics, s.
    """

    rows: range
    skipped: tuple[Skipped, ...]
    observers: dict[str, Observer]
    seconds: float


@dataclass(frozen=True)
class PassProgress:
    """Progress of a calibration pass.

    Attributes:
        position: Number of faces done, from the start of the set.
        skipped: Those of them that could not be read.
        observers: Statistics of the others, per tensor.
    """

    position: int
    skipped: tuple[Skipped, ...]
    observers: dict[str, Observer]

    def followed_by(self, part: ObservedRows) -> PassProgress:
        """Return the progress with the faces that follow; observers are changed in place."""
        if not self.observers:
            return PassProgress(part.rows.stop, self.skipped + part.skipped, part.observers)
        for name, observer in part.observers.items():
            self.observers[name].merge(observer)
        return PassProgress(part.rows.stop, self.skipped + part.skipped, self.observers)


def save_progress(
    path: Path, key: Mapping[str, str], progress: PassProgress, *, final: bool = False
) -> None:
    """Write progress atomically.

    Args:
        path: File to write.
        key: Identifies the model, the faces and their size; `load_progress` compares it.
        progress: Progress to save.
        final: Save it to be kept: compressed, which shrinks histograms twentyfold but takes longer
            than some passes between two savings, and synchronised to the disk.
    """
    about = {
        "format": _FORMAT,
        "key": dict(key),
        "position": progress.position,
        "skipped": [[s.name, s.reason] for s in progress.skipped],
        "tensors": list(progress.observers),
    }
    arrays: dict[str, NDArray[Any]] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    # Arrays are numbered, as names of tensors need not be valid names in an archive.
    for number, observer in enumerate(progress.observers.values()):
        histogram, mean = observer.histogram, observer.mean
        arrays[f"counts{number}"] = histogram.counts
        arrays[f"limits{number}"] = np.array([histogram.low, histogram.high], np.float64)
        arrays[f"sums{number}"] = mean.sums
        arrays[f"faces{number}"] = np.array(mean.count, np.int64)
    data = io.BytesIO()
    if final:
        np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    else:
        np.savez(data, **arrays)  # type: ignore[arg-type]
    # Else not synchronised: losing it costs part of a pass, and it is written often.
    write_bytes(path, data.getvalue(), durable=final)


def load_progress(
    path: Path, key: Mapping[str, str], say: Callable[[str], None] | None = None
) -> PassProgress | None:
    """Read saved progress.

    Args:
        path: File to read.
        key: Identifies the model, the faces and their size.
        say: Receives the reason if there is a file that cannot be used.

    Returns:
        The progress; None if there is no file, it is damaged, or its key differs.
    """
    try:
        stored = read_arrays(path)
        about = parse_json(stored["about"].tobytes())
        if about["format"] != _FORMAT or about["key"] != dict(key):
            raise ValueError(f"it was saved for {_difference(about, key)}")
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
        return PassProgress(int(about["position"]), skipped, observers)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        # Not an error: all that is lost is part of a pass, which is repeated.
        if say is not None:
            say(f"starting calibration from the beginning: cannot resume from {path}: {error}")
        return None


def _difference(about: Mapping[str, Any], key: Mapping[str, str]) -> str:
    """Say in words what differs from the present calibration."""
    if about["format"] != _FORMAT:
        return "another version of lpx"
    words = {"model": "another model", "faces": "other faces, or some of them have changed"}
    differing = [name for name in key if about["key"].get(name) != key[name]]
    return " and ".join(words.get(name, f"another {name}") for name in differing)
