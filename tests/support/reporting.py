"""Reporters for tests: one keeps what a step reports, one acts in the middle of a step."""

from __future__ import annotations

from collections.abc import Callable

from lpx.reporter import Progress


class RecordingReporter:
    """Keeps what it receives.

    Attributes:
        said: Notes and warnings; a warning begins with "warning: ".
        steps: Label of the bar, steps done and their total, as progress is made.
    """

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, int, int]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")

    def progress(self, label: str) -> Progress:
        return lambda done, total: self.steps.append((label, done, total))


class ActingReporter(RecordingReporter):
    """Acts once, when a progress bar has come so far: it changes a file, or raises an error.

    Args:
        label: Beginning of the bar's label.
        action: What to do.
        done: Number of steps done; 0 acts before the first step.
    """

    def __init__(self, label: str, action: Callable[[], object], done: int = 0) -> None:
        super().__init__()
        self.acted = False
        self._label, self._action, self._done = label, action, done

    def progress(self, label: str) -> Progress:
        def show(done: int, total: int) -> None:
            if label.startswith(self._label) and done >= self._done and not self.acted:
                self.acted = True
                self._action()

        show(0, 0)
        return show


class StoppingReporter(ActingReporter):
    """Raises an error when a progress bar has come so far.

    Args:
        label: Beginning of the bar's label.
        done: Number of steps done; 0 raises before the first step.
        error: The error; by default that of Ctrl-C.
    """

    def __init__(self, label: str, done: int = 0, error: BaseException | None = None) -> None:
        super().__init__(label, self._stop, done)
        self._error = KeyboardInterrupt() if error is None else error

    def _stop(self) -> None:
        raise self._error
