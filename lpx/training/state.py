"""The state of a training: everything that the next step depends on, and nothing that can run code.

It is written whole and atomically, and the one before it is kept. A state is numbered by the steps
that it holds. Since every pair and every draw of dropout is a function of the step's number, a
training that goes on from a state ends like one that was never stopped.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
from lpx.workspace import atomic_path

FORMAT = "lpx-training/1"
LAST, PREVIOUS, BEST = "last.ckpt", "last.previous.ckpt", "best.ckpt"


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        step: Optimiser steps done.
        validated: Whether the weights were validated, where `step` ends an epoch.
        best_auc: Best AUC on the validation split so far; None before the first validation.
        best: The average of the weights that had it.
        waited: Validations since then.
        stopped: Whether training ended early, for want of a better AUC.
    """

    step: int = 0
    validated: bool = True
    best_auc: float | None = None
    best: StateDict = field(default_factory=dict)
    waited: int = 0
    stopped: bool = False

    def finished(self, steps: int) -> bool:
        """Whether nothing is left of a training of `steps` steps."""
        return self.validated and (self.stopped or self.step >= steps)


@dataclass
class State:
    """A training's state, as it is on disk.

    Attributes:
        recipe: `Recipe.to_dict()`.
        data: Digest of the faces; see
            `lpx.data.pseudo_fakes.training_pairs.TrainingData.contents_sha256`.
        devices: Processes that train; each takes its own pairs.
        progress: How far it is.
        detector: State dict.
        average: State dict of the weights' average.
        optimiser: State dict.
        precision: State dict of mixed precision's loss scale; empty without.
    """

    recipe: dict[str, Any]
    data: str
    devices: int
    progress: Progress
    detector: StateDict
    average: StateDict
    optimiser: dict[str, Any]
    precision: dict[str, Any]


class Store:
    """The folder of a training's states.

    Args:
        folder: `<checkpoint>.run`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A damaged state must not take the place of the good one that training goes on from.
        self._keep_last = True

    def write(self, state: State) -> None:
        """Write the state; the one before it becomes the previous one.

        Raises:
            LpxError: The folder cannot be written. The state before is still there.
        """
        last = self.folder / LAST
        with _written(last) as temporary:
            write_archive(_sealed({"format": FORMAT, **_values(state)}), temporary)
            if self._keep_last and last.exists():
                last.replace(self.folder / PREVIOUS)
        self._keep_last = True

    def write_best(self, state: State) -> None:
        """Write the weights with the best AUC so far by themselves.

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
        """Throw all states away.

        Raises:
            OSError: A file cannot be removed.
        """
        for name in (PREVIOUS, LAST, BEST):
            (self.folder / name).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what a kill left half-written: the folder is locked, and nobody else writes."""
        for name in (LAST, BEST):
            for path in self.folder.glob(f".{Path(name).stem}.*{Path(name).suffix}"):
                path.unlink(missing_ok=True)

    def read(self) -> State | None:
        """The newest state that is whole; None where there is none yet.

        Raises:
            LpxError: Those that there are cannot be read, or are damaged.
        """
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
                _note(
                    f"{self.folder / LAST} is damaged; going on from {name}, which is at step "
                    f"{state.progress.step} ({reasons[0]})"
                )
            return state
        if reasons:
            raise LpxError(
                f"{self.folder} holds no state of the training that can be read",
                "; ".join(reasons),
                "begin the training again with --restart",
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
            "make room there, and give the command again: it goes on from the state before",
        ) from error


def _note(text: str) -> None:
    logging.getLogger(__name__).warning("note: %s", text)


def _values(state: State) -> dict[str, Any]:
    """The fields, one level deep: tensors are not copied."""
    values = {one.name: getattr(state, one.name) for one in fields(state)}
    values["progress"] = {one.name: getattr(state.progress, one.name) for one in fields(Progress)}
    return values


def _sealed(content: dict[str, Any]) -> dict[str, Any]:
    plain = {name: _plain(value) for name, value in content.items()}
    return {**plain, "sha256": _fingerprint(plain)}


def _plain(value: Any) -> Any:
    """A copy of containers that pickles to the same bytes whatever made it.

    Pickle writes an object that it meets again as a reference to the first: what is equal in two
    runs is written alike only where it is shared alike.

    Raises:
        TypeError: There is something other than tensors and plain values in it.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        return {_plain(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_plain(one) for one in value])
    if isinstance(value, str):
        return sys.intern(str(value))
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise TypeError(f"a {type(value).__name__} in the state of a training")


def _fingerprint(content: Any) -> str:
    """SHA-256 of all names, values and tensors."""
    sha = hashlib.sha256()
    for name, value in _leaves(content, ""):
        if isinstance(value, Tensor):
            data = value.contiguous()
            sha.update(f"{name}:{data.dtype}:{tuple(data.shape)};".encode())
            sha.update(data.reshape(-1).view(torch.uint8).numpy().data)
        else:
            sha.update(f"{name}={json.dumps(value)};".encode())
    return sha.hexdigest()


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        yield f"{name}#", len(value)
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, one in pairs:
            yield from _leaves(one, f"{name}/{key}")
    else:
        yield name, value


def _read(path: Path) -> State:
    """Read a state and check that it is whole.

    Raises:
        LpxError: It is not, or holds anything but tensors and plain values.
    """
    content = read_weights(path)
    try:
        if content["format"] != FORMAT:
            raise ValueError
        seal = content.pop("sha256")
    except (KeyError, ValueError):
        raise LpxError(f"{path} is not a state that this version of lpx wrote") from None
    if _try_fingerprint(content) != seal:
        raise LpxError(f"{path} is damaged", "its SHA-256 is not the one that it was written with")
    del content["format"]
    try:
        state = State(**{**content, "progress": Progress(**content["progress"])})
        _check(state)
    except (TypeError, KeyError) as error:
        raise LpxError(f"{path} is damaged", str(error)) from error
    return state


def _check(state: State) -> None:
    """Raise TypeError where a value is not of its type: a seal is not a signature."""
    progress = state.progress
    kinds: list[tuple[object, type]] = [
        *((value, dict) for value in (state.recipe, state.detector, state.average)),
        *((value, dict) for value in (state.optimiser, state.precision, progress.best)),
        *((value, int) for value in (state.devices, progress.step, progress.waited)),
        *((value, bool) for value in (progress.validated, progress.stopped)),
        (state.data, str),
        (0.0 if progress.best_auc is None else progress.best_auc, float),
    ]
    wrong = [kind.__name__ for value, kind in kinds if type(value) is not kind]
    if wrong or progress.step < 0:
        raise TypeError(f"a value is not of its type: {', '.join(wrong) or 'steps'}")


def _try_fingerprint(content: Any) -> str:
    try:
        return _fingerprint(content)
    except (TypeError, ValueError, RuntimeError, RecursionError):
        # Whatever stands there, `_sealed` did not write it.
        return ""
