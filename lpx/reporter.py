"""Where a step reports what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[int, int], None]
"""Receives the steps done and their total."""


class Reporter(Protocol):
    """Receives progress, notes and warnings. Implement it to show them elsewhere."""

    def say(self, text: str) -> None:
        """Receive a note about what is being done."""
        ...

    def warn(self, text: str) -> None:
        """Receive a warning: the step goes on, but its result may not be what was wanted."""
        ...

    def progress(self, label: str) -> Progress:
        """Start a progress bar. The step calls the result with the steps done and their total."""
        ...


class Silent:
    """Discards everything."""

    def say(self, text: str) -> None:
        """Discard a note."""

    def warn(self, text: str) -> None:
        """Discard a warning."""

    def progress(self, label: str) -> Progress:
        """A bar that is not shown."""
        return lambda done, total: None


SILENT = Silent()
