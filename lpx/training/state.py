"""The state of a training: everything that the next step depends on, and nothing that can run code.

A state is written whole and atomically, and the one before it is kept. Since every pair and every
draw of dropout is a function of the step's number, a training that resumes from a state ends like
one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lpx.errors import LpxError
from lpx.models.checkpoint import write_archive
from lpx.models.state_dict import StateDict
from lpx.models.weights_file import read_weights
from lpx.reporter import SILENT, Reporter
from lpx.workspace import atomic_path

FORMAT = "lpx-training/1"
LAST, PREVIOUS, BEST = "last.ckpt", "last.previous.ckpt", "best.ckpt"


# The fields of both classes are names in the file's format: renaming one makes states unreadable.


@dataclass
class TrainingProgress:
    """Steps done, and the best weights so far.

    Attributes:
        step: Optimiser steps done.
        validated: False if `step` ends an epoch and the weights were not validated yet.
        best_auc: Best AUC on the validation split so far; None before the first validation.
        best: The averaged weights that reached it.
        waited: Validations since then.
        stopped: Whether training ended early because the AUC did not improve.
    """

    step: int = 0
    validated: bool = True
    best_auc: float | None = None
    best: StateDict = field(default_factory=dict)
    waited: int = 0
    stopped: bool = False

    def finished(self, steps: int) -> bool:
        """Return whether a training of `steps` steps is complete."""
        return self.validated and (self.stopped or self.step >= steps)


@dataclass
class State:
    """A training's state, as it is on disk.

    Attributes:
        recipe: Settings, as `Recipe.to_dict` returns them.
        data: Digest of the faces; see
            `lpx.data.pseudo_fakes.training_pairs.TrainingData.contents_sha256`.
        devices: Number of processes that train; each takes its own pairs.
        progress: Steps done, and the best weights so far.
        detector: State dict of the detector.
        average: State dict of the average of its weights.
        optimiser: State dict of the optimiser.
        precision: State dict of mixed precision's loss scale; empty in full precision.
    """

    recipe: dict[str, Any]
    data: str
    devices: int
    progress: TrainingProgress
    detector: StateDict
    average: StateDict
    optimiser: dict[str, Any]
    precision: dict[str, Any]


class Store:
    """The folder of a training's states.

    Args:
        folder: The folder, `<checkpoint>.run`.
        reporter: Receives a note if a damaged state is passed over.
    """

    def __init__(self, folder: Path, reporter: Reporter = SILENT) -> None:
        self.folder = folder
        self._reporter = reporter
        # A damaged state must not take the place of the good one that training goes on from.
        self._keep_last = True

    def write(self, state: State) -> None:
        """Write the state, and keep the one before it as the previous state.

        Raises:
            LpxError: The folder cannot be written. The previous state is still there.
        """
        last = self.folder / LAST
        with _written(last) as temporary:
            write_archive(_sealed({"format": FORMAT, **_values(state)}), temporary)
            # After the new state is complete: at every moment one of the two is whole.
            if self._keep_last and last.exists():
                last.replace(self.folder / PREVIOUS)
        self._keep_last = True

    def write_best(self, state: State) -> None:
        """Write the weights with the best AUC so far to a file of their own.

        Raises:
            LpxError: The folder cannot be written.
        """
        with _written(self.folder / BEST) as temporary:
            progress = state.progress
            content = {
                "format": FORMAT,
                "step": progress.step,
                "best_auc": progress.best_auc,
                "state_dict": progress.best,
            }
            write_archive(_sealed(content), temporary)

    def clear(self) -> None:
        """Remove all states.

        Raises:
            OSError: A file cannot be removed.
        """
        for name in (PREVIOUS, LAST, BEST):
            (self.folder / name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove temporary files of a killed run: the folder is locked, so nobody else writes."""
        for name in (LAST, BEST):
            for path in self.folder.glob(f".{Path(name).stem}.*{Path(name).suffix}"):
                path.unlink(missing_ok=True)

    def read(self, *, sweep: bool = True) -> State | None:
        """Return the newest undamaged state, None if there is none yet.

        Args:
            sweep: Remove what a killed run has left behind.

        Raises:
            LpxError: There are states, and none can be read.
        """
        if sweep:
            self._sweep()
        reasons: list[str] = []
        for name in (LAST, PREVIOUS):
            path = self.folder / name
            if not path.exists():
                continue
            try:
                with path.open("rb"):
                    pass
            except OSError as error:
                # Not the state's fault: falling back to the older one would lose steps.
                raise LpxError(
                    f"{path} cannot be read", error.strerror or str(error), "check its permissions"
                ) from error
            try:
                state = _read(path)
            except LpxError as error:
                reasons.append(f"{name}: {error.why or error.what}")
                continue
            if reasons:
                self._keep_last = False
                self._reporter.warn(
                    f"{self.folder / LAST} is damaged; resuming from {name}, which is at step "
                    f"{state.progress.step} ({reasons[0]})"
                )
            return state
        if reasons:
            raise LpxError(
                f"{self.folder} holds no readable state of the training",
                "; ".join(reasons),
                "start the training again with `restart=True`",
                code="damaged",
            )
        return None


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except LpxError as error:
        raise LpxError(
            error.what,
            error.why,
            "make room there, and run it again: it resumes from the previous state",
            code=error.code,
        ) from error


def _values(state: State) -> dict[str, Any]:
    """Return the fields, those of the progress too; `asdict` would copy the tensors."""
    values = {one.name: getattr(state, one.name) for one in fields(state)}
    progress = state.progress
    values["progress"] = {one.name: getattr(progress, one.name) for one in fields(progress)}
    return values


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    """Return what is written: plain values, with the SHA-256 of all of them."""
    plain = {name: _plain(value) for name, value in content.items()}
    return {**plain, "sha256": _fingerprint(plain)}


def _plain(value: Any) -> Any:
    """Return a copy of nested containers that pickles to the same bytes whatever made it.

    Raises:
        TypeError: Something other than tensors and plain values is in it.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {_plain(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(one) for one in value])
    if isinstance(value, str):
        # Pickle writes an object that it has seen before as a reference to it. Equal strings give
        # equal bytes only if they are one object in every run, or in none.
        return sys.intern(str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise TypeError(f"a {type(value).__name__} in the state of a training")


def _fingerprint(content: Any) -> str:
    """Return the SHA-256 of all names, values and tensors."""
    sha = hashlib.sha256()
    for name, value in _leaves(content, ""):
        if isinstance(value, Tensor):
            # NumPy knows no bfloat16, but bytes of any type.
            data = value.contiguous()
            sha.update(f"{name}:{data.dtype}:{tuple(data.shape)};".encode())
            sha.update(data.reshape(-1).view(torch.uint8).numpy().data)
        else:
            sha.update(f"{name}={json.dumps(value)};".encode())
    return sha.hexdigest()


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every value in nested containers with its path, and the length of each container."""
    if isinstance(value, (dict, list, tuple)):
        yield f"{name}#", len(value)
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            yield from _leaves(one, f"{name}/{key}")
    else:
        yield name, value


def _read(path: Path) -> State:
    """Read a state and check its seal.

    Raises:
        LpxError: It is damaged, or holds anything but tensors and plain values.
    """
    content = read_weights(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError
        seal = content.pop("sha256")
    except (KeyError, ValueError):
        raise LpxError(
            f"{path} is not a state that this version of lpx wrote", code="unsupported"
        ) from None
    if _try_fingerprint(content) != seal:
        why = "its SHA-256 is not the one that it was written with"
        raise LpxError(f"{path} is damaged", why, code="damaged")
    del content["format"]
    try:
        state = State(**{**content, "progress": TrainingProgress(**content["progress"])})
        _check(state)
    except (TypeError, KeyError) as error:
        raise LpxError(f"{path} is damaged", str(error), code="damaged") from error
    return state


def _check(state: State) -> None:
    """Check the types of a state's values.

    The seal shows that a file is undamaged, not that lpx made it: anybody can compute it.

    Raises:
        TypeError: A value is of another type.
    """
    progress = state.progress
    _check_kind(
        dict,
        state.recipe,
        state.detector,
        state.average,
        state.optimiser,
        state.precision,
        progress.best,
    )
    _check_kind(int, state.devices, progress.step, progress.waited)
    _check_kind(bool, progress.validated, progress.stopped)
    _check_kind(str, state.data)
    if progress.best_auc is not None:
        _check_kind(float, progress.best_auc)
    if progress.step < 0:
        raise TypeError(f"a step number is {progress.step}")


def _check_kind(kind: type, *values: object) -> None:
    for value in values:
        # Not isinstance: True is an int, and would pass for a step number.
        if type(value) is not kind:
            raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")


def _try_fingerprint(content: Any) -> str:
    try:
        return _fingerprint(content)
    except (TypeError, ValueError, RuntimeError, RecursionError):
        # `_sealed` cannot have written such values.
        return ""
