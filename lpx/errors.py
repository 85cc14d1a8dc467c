"""The one error type for users' mistakes, and the one for results that do not hold."""

from __future__ import annotations

from typing import ClassVar


class LpxError(Exception):
    """A mistake that the user can mend: printed without a trace, exit code 2.

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
        return "\n".join(lines)


class NotAsAskedError(LpxError):
    """Nothing was asked wrongly, but what was made is not what was asked for: exit code 1."""

    exit_code: ClassVar[int] = 1
