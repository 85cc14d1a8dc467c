"""A reporter that keeps what a step reports."""

from __future__ import annotations

from collections.abc import Callable


class RecordingReporter:
    """Keeps notes and warnings; a warning begins with "warning: "."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def warn(self, text: str) -> None:
        self.said.append(f"warning: {text}")

    def progress(self, label: str) -> Callable[[int, int], None]:
        return lambda done, total: None
