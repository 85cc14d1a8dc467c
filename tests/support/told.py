"""What a step says, kept."""

from __future__ import annotations

from collections.abc import Callable


class Told:
    """Keeps what a step says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, label: str) -> Callable[[int, int], None]:
        return lambda done, total: None
