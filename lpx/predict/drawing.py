"""Errors of drawing, kept apart from errors of scoring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import cv2

from lpx.errors import LpxError


class NotDrawnError(Exception):
    """A picture that cannot be drawn or written; the message says why."""


@contextmanager
def drawing() -> Iterator[None]:
    """Turn errors in this block into `NotDrawnError`: a score is worth keeping without a picture.

    Raises:
        NotDrawnError: The picture cannot be drawn or written.
    """
    try:
        yield
    except LpxError as error:
        raise NotDrawnError(error.summary) from error
    # OpenCV's error is not a subclass of OSError, and a full disk raises either.
    except (OSError, cv2.error) as error:
        raise NotDrawnError(str(error)) from error


def not_drawn(error: NotDrawnError) -> str:
    """Return the note of a file without a picture."""
    return f"nothing was drawn: {error}"
