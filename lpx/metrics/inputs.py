"""What the measures accept: every array is checked here, once, before any arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.errors import LpxError

Floats = NDArray[np.floating[Any]]
"""Scores or maps, float32 or float64."""


def checked_labels(labels: ArrayLike) -> NDArray[np.bool_]:
    """Turn labels into a mask of the fake faces.

    Args:
        labels: [N] of 0 (real) and 1 (fake), any numeric or boolean dtype.

    Returns:
        bool [N], True where the face is fake.

    Raises:
        LpxError: `labels` is empty, not one-dimensional, or holds another value than 0 and 1.
    """
    array = np.asarray(labels)
    _check_vector("labels", array)
    fix = "label every face 1 (fake) or 0 (real)"
    if array.dtype.kind not in "biuf":
        raise LpxError(
            f"labels has dtype {array.dtype}, first value {array[0]!r}", "labels are numbers", fix
        )
    is_fake = array == 1
    known = is_fake | (array == 0)
    if not known.all():
        index = int(np.argmin(known))
        raise LpxError(f"labels[{index}] is {array[index]}", "a label is 0 (real) or 1 (fake)", fix)
    return np.asarray(is_fake, dtype=np.bool_)


def checked_classes(labels: ArrayLike) -> NDArray[np.bool_]:
    """Turn labels into a mask of the fake faces, both classes being present.

    Args:
        labels: [N] of 0 (real) and 1 (fake), any numeric or boolean dtype.

    Returns:
        bool [N], True where the face is fake.

    Raises:
        LpxError: as `checked_labels`, and where all faces are of one class.
    """
    is_fake = checked_labels(labels)
    if is_fake.all() or not is_fake.any():
        present, absent = ("fake (1)", "real (0)") if is_fake[0] else ("real (0)", "fake (1)")
        raise LpxError(
            f"labels: all {len(is_fake)} are {present}, none is {absent}",
            "AUC and every other ROC measure is undefined for one class: it compares the scores"
            " of fake faces with those of real faces",
            f"add faces that are {absent}, or check how the labels were read",
        )
    return is_fake


def checked_scores(name: str, scores: ArrayLike, faces: int | None = None) -> Floats:
    """Check a vector of scores.

    Args:
        name: What the caller calls the vector; errors begin with it.
        scores: [N], any real numeric dtype.
        faces: The length that the vector must have; None accepts any.

    Returns:
        [N]; float32 and float64 stay as they are, other dtypes become float64.

    Raises:
        LpxError: `scores` is empty, not one-dimensional, not numeric, of another length, or
            holds NaN or infinity (the first index is named).
    """
    array = np.asarray(scores)
    _check_vector(name, array)
    if faces is not None:
        check_length(name, len(array), faces)
    return checked_finite(name, array)


def checked_finite(name: str, values: ArrayLike) -> Floats:
    """Check that an array of any shape holds finite numbers only.

    Args:
        name: What the caller calls the array; errors begin with it.
        values: Any shape, any real numeric dtype.

    Returns:
        The array; float32 and float64 stay as they are, other dtypes become float64.

    Raises:
        LpxError: `values` is not numeric, or holds NaN or infinity (the first index is named).
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise LpxError(
            f"{name} has dtype {array.dtype}", "scores are real numbers", "pass a float array"
        )
    floats: Floats = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    finite = np.isfinite(floats)
    if not finite.all():
        position = np.unravel_index(int(np.argmin(finite)), floats.shape)
        index = ", ".join(str(int(axis)) for axis in position)
        raise LpxError(
            f"{name}[{index}] is {floats[position]}",
            "a value that is not a finite number has no rank",
            "find what makes it: a broken face crop, or an overflow in FP16",
        )
    return floats


def group_codes(
    name: str, groups: ArrayLike, faces: int
) -> tuple[NDArray[Any], NDArray[np.integer[Any]]]:
    """Number the distinct values of a vector of names.

    Args:
        name: What the caller calls the vector; errors begin with it.
        groups: [N] names or numbers; objects are told apart by their text.
        faces: N.

    Returns:
        The distinct values in ascending order [G], and each face's index into them [N].

    Raises:
        LpxError: `groups` is not one-dimensional or not of length `faces`.
    """
    array = np.asarray(groups)
    _check_vector(name, array)
    check_length(name, len(array), faces)
    # Objects of mixed types have no order, and np.unique sorts.
    values, codes = np.unique(
        array.astype(str) if array.dtype.kind == "O" else array, return_inverse=True
    )
    return values, codes


def check_length(name: str, length: int, faces: int) -> None:
    """Refuse a vector that does not have one value per face.

    Raises:
        LpxError: `length` is not `faces`.
    """
    if length != faces:
        raise LpxError(
            f"{name} has {length} values for {faces} faces",
            "every face needs its value in every vector",
            "pass vectors of one length, in the same order of faces",
        )


def check_between(name: str, value: float, low: float, high: float, *, closed: bool) -> None:
    """Refuse a parameter outside an interval.

    Args:
        name: The parameter's name.
        value: Its value.
        low: The interval's lower end.
        high: Its upper end.
        closed: Whether the ends themselves are allowed.

    Raises:
        LpxError: `value` lies outside, or is NaN.
    """
    if low < value < high or (closed and value in (low, high)):
        return
    brackets = "[]" if closed else "()"
    interval = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
    raise LpxError(
        f"{name} is {value}", f"it must lie in {interval}", f"pass {name} from {interval}"
    )


def _check_vector(name: str, array: NDArray[Any]) -> None:
    if array.ndim != 1 or array.size == 0:
        raise LpxError(
            f"{name} has shape {list(array.shape)}",
            "a vector [N] with N of at least 1 is needed",
            "pass one value per face",
        )
