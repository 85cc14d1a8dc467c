"""TensorRT's messages, kept instead of printed.

TensorRT keeps one logger a process: the first one given while any of its objects lives. So
lpx has one logger a library, alive for good, and `recording` says who gets the messages: the
innermost recording of the thread in which TensorRT logs. What TensorRT logs in a thread of its
own goes to the recording that began last in any thread.
"""

from __future__ import annotations

import ctypes
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from lpx.engines.tensorrt.cuda.driver import CudaLostError
from lpx.engines.tensorrt.refusals import advice
from lpx.errors import LpxError

_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "insufficient memory",
    "memory is insufficient",
    "cudaerrormemoryallocation",
    "bad_alloc",
)
_LAYERS = "Layers:"
# Follows every error on a machine without a GPU, and says nothing about it.
_NOISE = "catchCudaError"

_loggers: dict[int, tuple[Any, Any]] = {}
_recorders: list[Recorder] = []


@dataclass(eq=False)
class Recorder:
    """Messages of TensorRT during one piece of work.

    Attributes:
        messages: (level, text) in order; level is "error", "warning" or lpx's own "note".
        layers_text: The table of layers that a build logs when asked for detail, or None.
        interrupt: An exception that struck inside a callback, where it could not be raised.
        thread: The thread that records.
    """

    messages: list[tuple[str, str]] = field(default_factory=list)
    layers_text: str | None = None
    interrupt: BaseException | None = None
    thread: int = field(default_factory=threading.get_ident)

    def note(self, text: str) -> None:
        """Keep a decision of lpx's beside TensorRT's messages."""
        self.messages.append(("note", text))

    def errors(self) -> str:
        """Return all errors, one a line; "TensorRT gave no reason" if there are none."""
        return "\n".join(self.said("error")) or "TensorRT gave no reason"

    def said(self, *levels: str, start: int = 0) -> tuple[str, ...]:
        """Return the messages of some levels, from index `start` on, each once, in order."""
        messages = self.messages[start:]
        return tuple(dict.fromkeys(text for level, text in messages if level in levels))

    def out_of_memory(self, start: int = 0) -> bool:
        """Return whether a message from index `start` on says that memory ran out."""
        said = " ".join(text for level, text in self.messages[start:] if level != "note").lower()
        return any(sign in said for sign in _OUT_OF_MEMORY)

    def lines(self) -> tuple[str, ...]:
        """Return the messages as "level: text", each once, with its count if it was repeated."""
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
    """Return the one logger of a library; it must outlive every object made with it."""
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


class explained:  # noqa: N801 (used as a function is, such as contextlib.suppress)
    """Give an error that leaves the block TensorRT's own reason, and the advice that fits it.

    TensorRT refuses with no more than False or None; the reason is in its log. Its objects have
    the logger already: entered around each run, this must cost next to nothing.

    Raises:
        BaseException: What left the block, or struck inside a callback during it, such as Ctrl-C.
    """

    __slots__ = ("_recorder",)

    def __enter__(self) -> Recorder:
        """Return the recorder that receives messages now."""
        self._recorder = Recorder()
        _recorders.append(self._recorder)
        return self._recorder

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _recorders.remove(self._recorder)
        if error is None or isinstance(error, LpxError):
            # What struck in a callback came before what TensorRT made of it.
            self._recorder.reraise()
        if isinstance(error, LpxError):
            _explain(error, self._recorder)


def _explain(error: LpxError, recorder: Recorder) -> None:
    said = "\n".join(recorder.said("error"))
    if said and said not in error.why:
        error.why = "\n".join(filter(None, (said, error.why)))
        # Where CUDA is lost, all that TensorRT says follows from that.
        if not isinstance(error, CudaLostError):
            error.fix = advice(said) or error.fix


def started(make: Callable[[Any], Any], logger: Any, recorder: Recorder, what: str) -> Any:
    """Create a `Builder` or `Runtime`, and make sure that it works.

    Args:
        make: The class.
        logger: Of the library.
        recorder: Of the recording at work.
        what: What an error says.

    Raises:
        LpxError: TensorRT cannot start CUDA.
    """
    # Without CUDA, TensorRT 8 returns nothing, which the bindings report as a TypeError, and logs
    # the cause as a warning. The lean runtimes of 10.16 and 11.4 return an object whose every use
    # ends the process with a segmentation fault, and its release too; they log the cause as an
    # error.
    start = len(recorder.messages)
    said = ""
    try:
        made = make(logger)
        if not any("cuda" in text.lower() for text in recorder.said("error", start=start)):
            return made
        # One reference more, so that it is not released at exit either.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
    except (TypeError, RuntimeError) as error:
        said = str(error)
    why = "\n".join(recorder.said("error", "warning", start=start)) or said
    doctor = "`lpx doctor` shows the driver and the GPU that this machine has"
    raise LpxError(what, why, advice(why) or doctor)


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
            recorder = _listening()
            if recorder is None:
                return
            try:
                _keep(recorder, levels.get(severity), message)
            except BaseException as interrupt:
                # The bindings print what is raised here, and lose it.
                recorder.interrupt = recorder.interrupt or interrupt

    return Logger()


def _listening() -> Recorder | None:
    """Return the recorder of a message that is logged in this thread."""
    # TensorRT also logs in threads of its own, which nobody records: those messages go to the
    # recording that began last.
    here = threading.get_ident()
    recorders = _recorders[::-1]
    own = (recorder for recorder in recorders if recorder.thread == here)
    return next(own, recorders[0] if recorders else None)


def _keep(recorder: Recorder, level: str | None, message: str) -> None:
    if level is not None and _NOISE not in message:
        recorder.messages.append((level, message.strip()))
    elif message.startswith(_LAYERS):
        recorder.layers_text = message
