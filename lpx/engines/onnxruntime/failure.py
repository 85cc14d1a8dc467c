"""Turn ONNX Runtime's errors into errors of lpx."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lpx.errors import LpxError, first_line, out_of_memory


@contextmanager
def ort_errors(what: str, fix: str) -> Iterator[None]:
    """Raise an LpxError in place of an error of ONNX Runtime.

    ONNX Runtime's errors have no base class other than Exception.

    Args:
        what: What failed.
        fix: What to do.

    Raises:
        OutOfMemoryError: Memory ran out.
        LpxError: Anything else.
    """
    try:
        yield
    except LpxError:
        # An error of lpx already says what to do.
        raise
    except Exception as error:
        # Running out of memory is not the graph's fault, and has advice of its own.
        if short := out_of_memory(error):
            raise short from error
        raise LpxError(what, first_line(error), fix) from error
