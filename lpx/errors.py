"""Errors that users can fix: each says what is wrong, why, and what to do."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from lpx.plain import plain

ErrorCode = Literal[
    "invalid-input",
    "invalid-argument",
    "not-found",
    "damaged",
    "unwritable",
    "in-use",
    "unreachable",
    "no-model-card",
    "untrusted",
    "unsupported",
    "closed",
    "out-of-memory",
    "not-as-asked",
    "not-all-built",
    "dead-engine",
    "scores-differ",
]
"""What kind of error it is, for programs. docs/api.md says what each means."""

_NO_MEMORY = re.compile(
    r"bad.?alloc|out.of.memory|insufficient memory|not enough memory|cannot allocate|"
    r"(can't|could not|failed to|unable to) (allocate|map segment)|allocation failed",
    re.I,
)
# Characters of another program's message that an error repeats.
_SHOWN = 300
# Characters of a value that an error repeats.
_SHOWN_VALUE = 120


class LpxError(Exception):
    """An error that the user can fix.

    The command line prints it without a traceback. Texts speak of the library's arguments, in
    backticks: `limit`, or `target="onnxruntime"`; the command line shows its options instead.

    Args:
        what: What is wrong, with the offending path, name or value in it.
        why: Why lpx cannot go on, or what it expected instead.
        fix: What to do, preferably a command to type.
        code: What kind of error it is; by default that of the class.

    Attributes:
        code: What kind of error it is, one of `ErrorCode`: compare this, never the text.
        exit_code: Exit code of the command line.
    """

    code: ErrorCode = "invalid-input"
    exit_code: ClassVar[int] = 2

    def __init__(
        self, what: str, why: str = "", fix: str = "", *, code: ErrorCode | None = None
    ) -> None:
        super().__init__(what, why, fix)
        self.what = what
        self.why = why
        self.fix = fix
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return layout(self.what, self.why, self.fix)

    @property
    def summary(self) -> str:
        """What is wrong and why, for a text that quotes the error: "what: why"."""
        if self.why:
            return f"{self.what}: {self.why}"
        return self.what


class InvalidArgumentError(LpxError):
    """An argument of a function, or an option of a command, has a value that it cannot have.

    Args:
        argument: Name of the argument.
        requirement: What its value must be, such as "must be >= 0".
        value: What was passed.
        why: What the value is for, where that helps.
        fix: What to do, where the requirement does not say it.

    Attributes:
        argument: Name of the argument.
    """

    code = "invalid-argument"

    def __init__(
        self, argument: str, requirement: str, value: object, why: str = "", fix: str = ""
    ) -> None:
        shown = repr(value)
        if len(shown) > _SHOWN_VALUE:
            shown = shown[:_SHOWN_VALUE] + "..."
        super().__init__(f"{argument} {requirement} (got {shown})", why, fix)
        self.argument = argument

    def __reduce__(self) -> Any:
        # Exceptions are pickled by their arguments, which here are not those of the constructor.
        return _restored, (type(self), self.__dict__)


class NotAsAskedError(LpxError):
    """The request was valid, but the result does not satisfy it: exit code 1."""

    code: ErrorCode = "not-as-asked"
    exit_code: ClassVar[int] = 1


class OutOfMemoryError(LpxError):
    """Memory ran out, which says nothing about the model, the engine or the file in use."""

    code = "out-of-memory"


def _restored(kind: type[LpxError], state: dict[str, Any]) -> LpxError:
    error = kind.__new__(kind)
    error.__dict__.update(state)
    error.args = (error.what, error.why, error.fix)
    return error


def layout(what: str, why: str, fix: str) -> str:
    """The text of an error: a line for what is wrong, one for the reason and one for the remedy."""
    lines = [what]
    if why:
        lines.append(f"  why: {why}")
    if fix:
        lines.append(f"  fix: {fix}")
    return plain("\n".join(lines), keep="\n\t")


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
        "take smaller batches, smaller faces or fewer of them (`limit`), or end other programs; a "
        "container may have a limit of its own",
    )


def first_line(error: BaseException) -> str:
    """The first line of another program's error, which may be long; its type where it is empty."""
    lines = str(error).strip().splitlines()
    return lines[0][:_SHOWN] if lines else type(error).__name__
