"""How a step says what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Reporter(Protocol):
    """Where a step says what it does."""

    def say(self, text: str) -> None:
        """Tell one thing."""
        ...

    def progress(self, label: str) -> Callable[[int, int], None]:
        """Start a bar; call the result with (done, total)."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Drop the text."""

    def progress(self, label: str) -> Callable[[int, int], None]:
        """A bar that nobody sees."""
        return lambda done, total: None


SILENT = Silent()
