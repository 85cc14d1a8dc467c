"""How commands speak: results on standard output, progress on standard error."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Output(Console):
    """Results, on standard output."""

    def __init__(self) -> None:
        super().__init__(highlight=False)

    def say(self, text: str, style: str | None = None) -> None:
        """Print text as it is; only a terminal wraps it: a log is searched, a path in it copied."""
        self.print(text, style=style, markup=False, soft_wrap=not self.is_terminal)


class ConsoleReporter:
    """Notes and progress bars on standard error. Use as a context manager."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeRemainingColumn(), console=self.console, transient=True,
        )  # fmt: skip

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
        """Print one note."""
        self.console.print(
            text, markup=False, style="yellow" if text.startswith("warning") else None,
            soft_wrap=not self.console.is_terminal,
        )  # fmt: skip

    def progress(self, label: str) -> Callable[[int, int], None]:
        """A bar, shown from the first call on; without a terminal, one line when it is full."""
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
