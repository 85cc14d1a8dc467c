"""One of N equal shares of a step's work: which faces or videos it has, and how it is named."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lpx.errors import InvalidArgumentError, LpxError

# More parts than this were certainly not meant, and each would cost a folder.
MAX_COUNT = 100_000
# Not \d, which matches digits of all scripts. Nine at most: `int` refuses thousands of them with
# an error of its own.
_TEXT = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")
_REQUIRED = f"must be I/N with 0 <= I < N <= {MAX_COUNT}, such as 0/7, or auto"
_ID, _COUNT = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"
_MIN, _MAX, _STEP = "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP"

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """One of several shares.

    Attributes:
        index: Its number, from 0.
        count: The number of shares.

    Raises:
        InvalidArgumentError: A number is out of range.
    """

    index: int
    count: int

    def __post_init__(self) -> None:
        numbers = (self.index, self.count)
        # Not isinstance, for which True is an integer too.
        whole = all(type(number) is int for number in numbers)
        if not whole or not 0 <= self.index < self.count <= MAX_COUNT:
            raise InvalidArgumentError("shard", _REQUIRED, f"{self.index}/{self.count}")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def folder_name(self) -> str:
        """Name of the folder of its part, such as "2-of-7"."""
        return f"{self.index}-of-{self.count}"

    def rows(self, total: int, unit: int) -> range:
        """Return its rows of a list, consecutive ones.

        Args:
            total: Length of the list.
            unit: Number of rows that stay together; every share but the last ends at a multiple.

        Returns:
            An empty range if there are more shares than units.
        """
        units = -(-total // unit)
        # Edges rather than sizes are rounded, so that shares differ by at most one unit. In
        # integers, as neighbours must compute the same edge: otherwise a row might be in two
        # shards or in none.
        first, end = (units * index // self.count for index in (self.index, self.index + 1))
        return range(min(first * unit, total), min(end * unit, total))

    def every(self, items: Sequence[T]) -> list[T]:
        """Return each `count`-th item, the first of them at `index`.

        Neighbours in a sorted list of videos often take equally long: this spreads them.
        """
        return list(items[self.index :: self.count])


def parse_shard(text: object, environment: Mapping[str, str] | None = None) -> Shard:
    """Return the shard that a text names.

    Args:
        text: "I/N"; or "auto" for the task of a Slurm array that this process is.
        environment: Environment variables; None for those of this process.

    Raises:
        InvalidArgumentError: The text has another form, or a number is out of range.
        LpxError: "auto" outside an array, or in one whose tasks are not evenly numbered.
    """
    if text == "auto":
        return _of_slurm(os.environ if environment is None else environment)
    match = _TEXT.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidArgumentError("shard", _REQUIRED, text)
    return Shard(int(match[1]), int(match[2]))


def _of_slurm(environment: Mapping[str, str]) -> Shard:
    task, least, count = (_number(environment, name) for name in (_ID, _MIN, _COUNT))
    # `--array=0-9%4`, without a step, has the step 1.
    step = _number(environment, _STEP, default=1)
    # Without the greatest, the first task of `--array=1,5,6` would pass as 0/3: only the others
    # would be refused, after it had done its work.
    greatest = _number(environment, _MAX, default=least + (count - 1) * step)
    index, rest = divmod(task - least, step) if step > 0 else (-1, 0)
    if rest or not 0 <= index < count or greatest != least + (count - 1) * step:
        raise LpxError(
            f'`shard="auto"` cannot number the tasks of this array: task {task} of {count}, from '
            f"{least} to {greatest} in steps of {step}",
            "they must be evenly numbered, as with `sbatch --array=0-6` or "
            "`sbatch --array=0-60:10`",
            "number the shards yourself: `shard` as I/N, with I from 0",
            code="unsupported",
        )
    return Shard(index, count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "")
    if not text and default is not None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text):
        state = "is not set" if not text else f"is {text[:40]!r}"
        raise LpxError(
            f'`shard="auto"` is for tasks of a Slurm array, and {name} {state}',
            "it takes the number of the task, and that of all tasks, from Slurm's variables",
            "submit a job with `sbatch --array=0-6`, or number the shards yourself: `shard` as I/N",
            code="not-found",
        )
    return int(text)
