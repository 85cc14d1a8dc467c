"""The one error type for users' mistakes, and the one for results that do not hold."""

from __future__ import annotations

import re
from typing import ClassVar

from lpx.plain import plain

_NO_MEMORY = re.compile(
    r"bad.?alloc|out.of.memory|insufficient memory|not enough memory|cannot allocate|"
    r"(can't|could not|failed to|unable to) (allocate|map segment)|allocation failed",
    re.I,
)
_SHOWN = 300
"""Characters of another program's message that an error repeats."""


class LpxError(Exception):
    """A mistake that the user can fix: printed without a trace, exit code 2.

    Args:
        what: What was found, with the offending path, name or value in it.
        why: Why lpx cannot go on, or what it expected instead.
        fix: What to do, preferably a command to type.

    Attributes:
        exit_code: What the command line ends with.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, what: str, why: str = "", fix: str = "") -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return plain("\n".join(lines), keep="\n\t")


class NotAsAskedError(LpxError):
    """Nothing was asked wrongly, but what was made is not what was asked for: exit code 1."""

    exit_code: ClassVar[int] = 1


class OutOfMemoryError(LpxError):
    """Memory ran out: that says nothing of the model, the engine or the file that was worked on."""


def out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """The error for memory that ran out, whoever noticed; None for any other failure.

    Args:
        error: What Python, NumPy, PyTorch, ONNX Runtime, TensorRT or OpenCV raised. Each has an
            error of its own, and some have none: only the message tells.
    """
    if isinstance(error, OutOfMemoryError):
        return error
    text = str(error)
    if isinstance(error, (LpxError, OSError)) or not (
        isinstance(error, MemoryError) or _NO_MEMORY.search(text)
    ):
        return None
    on_gpu = re.search("cuda|gpu", text, re.I)
    return OutOfMemoryError(
        "the GPU has not enough memory" if on_gpu else "there is not enough memory",
        first_line(error),
        "take smaller batches, smaller faces (--input-size) or fewer of them (--limit), or end "
        "other programs; a container may have a limit of its own",
    )


def first_line(error: BaseException) -> str:
    """The first line of another program's error, which may be long; its type where it is empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:_SHOWN] if lines else type(error).__name__
