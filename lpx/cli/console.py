"""Consoles of the commands: results on standard output, progress on standard error.

Nearly all texts have names of files, sets and methods in them, and these may be "[old]" or ":x:".
So rich must not read any text as markup or emoji codes; coloured text is a `rich.text.Text`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lpx.cli.option_names import with_options
from lpx.plain import plain


class _Console(Console):
    """Prints text literally, with control characters escaped."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Escape control characters, in table cells too."""
        return super().render_str(plain(text, keep="\n\t"), **options)


class Output(_Console):
    """Results, on standard output."""

    def __init__(self) -> None:
        super().__init__()

    def say(self, text: str, style: str | None = None) -> None:
        """Print text; only a terminal wraps it, so that logs can be searched."""
        self.print(text, style=style, soft_wrap=not self.is_terminal)


class ConsoleReporter:
    """Notes and progress bars on standard error. Use as a context manager."""

    def __init__(self) -> None:
        self.console = _Console(stderr=True)
        self.bars = Progress(
            # Columns have a markup setting of their own.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )

    def __enter__(self) -> ConsoleReporter:
        if self.console.is_terminal:
            self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.bars.stop()

    def say(self, text: str) -> None:
        """Print a note."""
        self._print(text, None)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self._print(f"warning: {text}", "yellow")

    def _print(self, text: str, style: str | None) -> None:
        if context := click.get_current_context(silent=True):
            text = with_options(text, context.command)
        self.console.print(text, style=style, soft_wrap=not self.console.is_terminal)

    def progress(self, label: str) -> Callable[[int, int], None]:
        """Start a bar, shown from the first call on; without a terminal, print one line."""
        label = plain(label)
        task = self.bars.add_task(label, visible=False)
        finished = False

        def tell(done: int, total: int) -> None:
            nonlocal finished
            self.bars.update(task, completed=done, total=total, visible=True)
            if done >= total and not finished:
                finished = True
                self.bars.update(task, visible=False)
                if not self.console.is_terminal:
                    self.say(f"{label}: done")

        return tell
