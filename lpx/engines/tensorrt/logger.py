"""TensorRT's messages, kept instead of printed.

TensorRT keeps one logger a process: the first one given while any of its objects lives. So
lpx has one logger a library, alive for good, and `recording` says who gets the messages. It is
for one build or load at a time: of two at once in two threads, the later gets all messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "memory is insufficient",
    "cudaerrormemoryallocation",
    "bad_alloc",
)
_LAYERS = "Layers:"
_NOISE = "catchCudaError"  # follows every error where there is no GPU, and says nothing of it

_loggers: dict[int, tuple[Any, Any]] = {}
_recorders: list[Recorder] = []


@dataclass
class Recorder:
    """What TensorRT said during one piece of work.

    Attributes:
        messages: (level, text) in order; level is "error", "warning" or lpx's own "note".
        layers_text: The table of layers that a build logs when asked for detail, or None.
        interrupt: An exception that struck inside a callback, where it could not be raised.
    """

    messages: list[tuple[str, str]] = field(default_factory=list)
    layers_text: str | None = None
    interrupt: BaseException | None = None

    def note(self, text: str) -> None:
        """Keep a decision of lpx's beside TensorRT's messages."""
        self.messages.append(("note", text))

    def errors(self) -> str:
        """All errors, one a line; "TensorRT gave no reason" where it gave none."""
        texts = dict.fromkeys(text for level, text in self.messages if level == "error")
        return "\n".join(texts) or "TensorRT gave no reason"

    def texts_from(self, start: int) -> list[str]:
        """TensorRT's own messages from index `start` on, each once."""
        said = (text for level, text in self.messages[start:] if level != "note")
        return list(dict.fromkeys(said))

    def out_of_memory(self, start: int = 0) -> bool:
        """Whether a message from index `start` on speaks of memory that was not to be had."""
        said = " ".join(text for level, text in self.messages[start:] if level != "note").lower()
        return any(sign in said for sign in _OUT_OF_MEMORY)

    def lines(self) -> tuple[str, ...]:
        """The messages as "level: text", each once, with its count where it came again."""
        counts = Counter(self.messages)
        return tuple(
            f"{level}: {text}" + (f" ({count} times)" if count > 1 else "")
            for (level, text), count in counts.items()
        )

    def reraise(self) -> None:
        """Raise what struck inside a callback, such as the user's Ctrl-C."""
        if self.interrupt is not None:
            raise self.interrupt


def logger_for(trt: Any) -> Any:
    """The one logger of a library; it must outlive every object made with it, so it stays."""
    module, logger = _loggers.get(id(trt), (None, None))
    if module is not trt:
        logger = _make(trt)
        _loggers[id(trt)] = (trt, logger)
    return logger


@contextmanager
def recording(trt: Any) -> Iterator[tuple[Any, Recorder]]:
    """Collect what TensorRT says inside the block.

    Yields:
        The logger to give to TensorRT's objects, and the recorder that fills.

    Raises:
        BaseException: What struck inside a callback during the block, such as Ctrl-C.
    """
    recorder = Recorder()
    _recorders.append(recorder)
    try:
        yield logger_for(trt), recorder
    finally:
        _recorders.remove(recorder)
    recorder.reraise()


def _make(trt: Any) -> Any:
    levels = {
        trt.ILogger.INTERNAL_ERROR: "error",
        trt.ILogger.ERROR: "error",
        trt.ILogger.WARNING: "warning",
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if not _recorders:
                return
            recorder = _recorders[-1]
            try:
                _keep(recorder, levels.get(severity), message)
            except BaseException as interrupt:  # raising here would be printed and lost
                recorder.interrupt = recorder.interrupt or interrupt

    return Logger()


def _keep(recorder: Recorder, level: str | None, message: str) -> None:
    if level is not None and _NOISE not in message:
        recorder.messages.append((level, message.strip()))
    elif message.startswith(_LAYERS):
        recorder.layers_text = message
