"""Finished engines of a search: what was predicted and what was measured, on disk as they come."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpx.journal import ResumeJournal
from lpx.metrics import Interval, Verdict
from lpx.schema import SchemaError, read_record
from lpx.search.propose import Candidate

FILE = "trials.jsonl"


@dataclass(frozen=True)
class Trial:
    """An engine that was built, and judged on faces that the search did not see.

    Attributes:
        key: SHA-256 of everything that the result depends on.
        int8: Names of the groups in INT8.
        predicted: Predicted AUC(engine) - AUC(float), from the search faces.
        predicted_ms: Predicted latency, ms per face.
        measured: AUC(engine) - AUC(float) on the verification faces.
        verdict: Verdict of the parity test on these.
        size: Size of the engine, bytes.
        int8_share: Share of multiply-accumulates in integers; None if unknown.
    """

    key: str
    int8: tuple[str, ...]
    predicted: Interval
    predicted_ms: float
    measured: Interval
    verdict: Verdict
    size: int
    int8_share: float | None = None


class TrialLog:
    """All trials of a workspace, as JSON lines.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._journal: ResumeJournal[Trial] = ResumeJournal(path, _parse)
        self.damaged = self._journal.damaged
        self._known = {line.entry.key: line.entry for line in self._journal.lines}

    def find(self, key: str) -> Trial | None:
        """Return the trial with a key; None if there is none."""
        return self._known.get(key)

    def add(self, trial: Trial) -> None:
        """Append a trial.

        Raises:
            OSError: The disk is full.
        """
        self._journal.append(asdict(trial))
        self._known[trial.key] = trial


def trial_key(inputs: Mapping[str, Any], int8: Collection[str]) -> str:
    """Return the SHA-256 of a plan and everything else that its trial depends on."""
    parts = [f"{key}={inputs[key]}" for key in sorted(inputs)]
    return hashlib.sha256("\n".join([*parts, *sorted(int8)]).encode()).hexdigest()


def in_order(candidates: Collection[Candidate]) -> list[Candidate]:
    """Return candidates in the order of their test: the smallest predicted loss first.

    Each is tested at full confidence, and testing ends with the first that fails. With an order
    that the verification faces had no part in, the chance to accept any plan that loses more than
    the margin is no larger than with one test (fixed sequence: Maurer, Hothorn and Lehmacher,
    1995).
    """
    return sorted(candidates, key=lambda one: (-one.difference.low, -one.latency_ms))


def _parse(values: dict[str, Any]) -> Trial:
    trial = read_record(Trial, values)
    if len(trial.key) != 64:
        raise SchemaError("key: not a SHA-256")
    return trial
