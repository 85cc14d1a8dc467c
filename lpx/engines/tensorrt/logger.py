"""TensorRT's messages, collected instead of printed.

TensorRT uses one logger per process: the first that it is given, as long as any of its objects
exists. lpx therefore has one logger per library, which is never released, and `recording` decides
who receives the messages: the innermost recording of the thread in which TensorRT logs. Messages
from TensorRT's own threads go to the recording that began last in any thread.
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
# In a message that follows every error on a machine without a GPU, and does not explain it.
_NOISE = "catchCudaError"

_loggers: dict[int, tuple[Any, Any]] = {}
_recorders: list[Recorder] = []


@dataclass(eq=False)
class Recorder:
    """Messages of TensorRT during one piece of work.

    Attributes:
        messages: (level, text) in order; level is "error", "warning" or lpx's own "note".
        layers_text: Table of layers, which a build with detailed profiling verbosity logs; None
            without one.
        interrupt: Exception raised in a callback, through which it could not propagate.
        thread: Thread that records.
    """

    messages: list[tuple[str, str]] = field(default_factory=list)
    layers_text: str | None = None
    interrupt: BaseException | None = None
    thread: int = field(default_factory=threading.get_ident)

    def note(self, text: str) -> None:
        """Add a decision of lpx to TensorRT's messages."""
        self.messages.append(("note", text))

    def errors(self) -> str:
        """Return all errors, one per line; "TensorRT gave no reason" if there are none."""
        return "\n".join(self.said("error")) or "TensorRT gave no reason"

    def said(self, *levels: str, start: int = 0) -> tuple[str, ...]:
        """Return the messages of some levels from index `start` on, in order, without repeats."""
        messages = self.messages[start:]
        return tuple(dict.fromkeys(text for level, text in messages if level in levels))

    def out_of_memory(self, start: int = 0) -> bool:
        """Return True if a message from index `start` on says that memory ran out."""
        said = " ".join(self.said("error", "warning", start=start)).lower()
        return any(sign in said for sign in _OUT_OF_MEMORY)

    def lines(self) -> tuple[str, ...]:
        """Return the messages as "level: text", without repeats but with their number."""
        lines = []
        for (level, text), count in Counter(self.messages).items():
            line = f"{level}: {text}"
            if count > 1:
                line += f" ({count} times)"
            lines.append(line)
        return tuple(lines)

    def reraise(self) -> None:
        """Raise the exception that a callback raised, such as for Ctrl-C."""
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
    """Collect the messages that TensorRT logs in the block.

    Yields:
        The logger to pass to TensorRT's objects, and the recorder that receives the messages.

    Raises:
        BaseException: A callback raised it in the block, such as for Ctrl-C.
    """
    recorder = Recorder()
    _recorders.append(recorder)
    try:
        yield logger_for(trt), recorder
    finally:
        _recorders.remove(recorder)
    recorder.reraise()


class explained:  # noqa: N801 (used as a function is, such as contextlib.suppress)
    """Add TensorRT's own reason, and advice on it, to errors that leave the block.

    A call that fails only returns False or None, and TensorRT logs the reason. The block is entered
    for each run of an engine, so it must cost next to nothing.

    Raises:
        BaseException: Raised in the block, or by a callback during it, such as for Ctrl-C.
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
            # An exception in a callback is the cause of TensorRT's error.
            self._recorder.reraise()
        if isinstance(error, LpxError):
            _explain(error, self._recorder)


def _explain(error: LpxError, recorder: Recorder) -> None:
    said = "\n".join(recorder.said("error"))
    if said and said not in error.why:
        error.why = "\n".join(filter(None, (said, error.why)))
        # If CUDA is lost, TensorRT's messages are only consequences.
        if not isinstance(error, CudaLostError):
            error.fix = advice(said) or error.fix


def started(make: Callable[[Any], Any], logger: Any, recorder: Recorder, what: str) -> Any:
    """Create a `Builder` or `Runtime`, and check that it works.

    Args:
        make: The class.
        logger: Logger of the library.
        recorder: Recorder of the current recording.
        what: First line of an error.

    Raises:
        LpxError: TensorRT cannot start CUDA.
    """
    # Without CUDA, TensorRT 8 returns nothing, which the bindings report as a TypeError, and logs
    # the cause as a warning. The lean runtimes of 10.16 and 11.4 log it as an error, and return an
    # object that ends the process with a segmentation fault when it is used or released.
    start = len(recorder.messages)
    said = ""
    try:
        made = make(logger)
        if not any("cuda" in text.lower() for text in recorder.said("error", start=start)):
            return made
        # One more reference, so that it is not even released at exit.
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
                # The bindings would print the exception and continue.
                recorder.interrupt = recorder.interrupt or interrupt

    return Logger()


def _listening() -> Recorder | None:
    """Return the recorder of a message that is logged in this thread."""
    here = threading.get_ident()
    recorders = _recorders[::-1]
    for recorder in recorders:
        if recorder.thread == here:
            return recorder
    # TensorRT also logs in threads of its own: their messages go to the recording that began last.
    if recorders:
        return recorders[0]
    return None


def _keep(recorder: Recorder, level: str | None, message: str) -> None:
    if level is not None and _NOISE not in message:
        recorder.messages.append((level, message.strip()))
    elif message.startswith(_LAYERS):
        recorder.layers_text = message
