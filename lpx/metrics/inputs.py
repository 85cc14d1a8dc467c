"""Input checks of the metrics: every array is checked once, before any arithmetic."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpx.arguments import check_number
from lpx.errors import LpxError

# Scores or maps, float32 or float64.
Floats = NDArray[np.floating[Any]]


def checked_labels(labels: ArrayLike) -> NDArray[np.bool_]:
    """Return a mask of the fake faces.

    Args:
        labels: [N] of 0 (real) and 1 (fake), any numeric or boolean dtype.

    Returns:
        bool [N], True for fakes.

    Raises:
        LpxError: `labels` is empty, not one-dimensional, or has a value other than 0 and 1.
    """
    array = np.asarray(labels)
    _check_vector("labels", array)
    # Booleans, signed and unsigned integers and floats: a cast of texts would accept "1" but also
    # "nan".
    fix = "label every face 1 (fake) or 0 (real)"
    if array.dtype.kind not in "biuf":
        raise LpxError(
            f"labels has dtype {array.dtype}, first value {array[0]!r}", "labels are numbers", fix
        )
    # Compared rather than cast: NaN and 0.5 must not become labels.
    is_fake = array == 1
    known = is_fake | (array == 0)
    if not known.all():
        index = int(np.argmin(known))
        raise LpxError(f"labels[{index}] is {array[index]}", "a label is 0 (real) or 1 (fake)", fix)
    return np.asarray(is_fake, dtype=np.bool_)


def checked_classes(labels: ArrayLike) -> NDArray[np.bool_]:
    """Return a mask of the fake faces, and make sure that both classes are present.

    Args:
        labels: [N] of 0 (real) and 1 (fake), any numeric or boolean dtype.

    Returns:
        bool [N], True for fakes.

    Raises:
        LpxError: As `checked_labels`, or all faces are of one class.
    """
    # Labels are checked before classes, so that a wrong label is not reported as a missing class.
    is_fake = checked_labels(labels)
    if is_fake.all() or not is_fake.any():
        present, absent = "real (0)", "fake (1)"
        if is_fake[0]:
            present, absent = absent, present
        raise LpxError(
            f"labels: all {len(is_fake)} are {present}, none is {absent}",
            "AUC and every other ROC metric is undefined for one class: it compares the scores"
            " of fake faces with those of real faces",
            f"add faces that are {absent}, or check how the labels were read",
        )
    return is_fake


def checked_scores(name: str, scores: ArrayLike, faces: int | None = None) -> Floats:
    """Check a score vector.

    Args:
        name: Name of the vector for errors.
        scores: [N], any real numeric dtype.
        faces: Length that the vector must have; None accepts any.

    Returns:
        [N]; float32 and float64 are kept, other dtypes become float64.

    Raises:
        LpxError: `scores` is empty, not one-dimensional, not numeric, of another length, or
            contains NaN or infinity (the first index is named).
    """
    array = np.asarray(scores)
    _check_vector(name, array)
    if faces is not None:
        check_length(name, len(array), faces)
    return checked_finite(name, array)


def checked_finite(name: str, values: ArrayLike) -> Floats:
    """Check that an array of any shape contains only finite numbers.

    Args:
        name: Name of the array for errors.
        values: Any shape, any real numeric dtype.

    Returns:
        The array; float32 and float64 are kept, other dtypes become float64.

    Raises:
        LpxError: `values` is not numeric, or contains NaN or infinity (the first index is named).
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise LpxError(
            f"{name} has dtype {array.dtype}", "scores are real numbers", "pass a float array"
        )
    floats: Floats = array
    # float32 is kept: thresholds are applied in the dtype in which the engine gave its scores.
    if array.dtype not in (np.float32, np.float64):
        floats = array.astype(np.float64)
    finite = np.isfinite(floats)
    if not finite.all():
        # argmin finds the first False, so the error names the first value that is wrong.
        position = np.unravel_index(int(np.argmin(finite)), floats.shape)
        index = ", ".join(str(int(axis)) for axis in position)
        raise LpxError(
            f"{name}[{index}] is {floats[position]}",
            "NaN and infinity cannot be ranked",
            "look for the cause: a broken face crop, or an overflow in FP16",
        )
    return floats


class GroupCodes(NamedTuple):
    """Distinct values in ascending order, [G], and each face's index into them, [N]."""

    names: NDArray[Any]
    codes: NDArray[np.integer[Any]]


def group_codes(name: str, groups: ArrayLike, faces: int) -> GroupCodes:
    """Number the distinct values of a vector of names.

    Args:
        name: Name of the vector for errors.
        groups: [N] names or numbers; objects are compared by their text.
        faces: N.

    Raises:
        LpxError: `groups` is not one-dimensional or not of length `faces`.
    """
    array = np.asarray(groups)
    _check_vector(name, array)
    check_length(name, len(array), faces)
    if array.dtype.kind == "O":
        # np.unique sorts, and objects of mixed types cannot be ordered.
        array = array.astype(str)
    return GroupCodes(*np.unique(array, return_inverse=True))


def check_length(name: str, length: int, faces: int) -> None:
    """Refuse a vector that does not have one value per face.

    Raises:
        LpxError: `length` is not `faces`.
    """
    if length != faces:
        raise LpxError(
            f"{name} has {length} values for {faces} faces",
            "every vector needs one value per face",
            "pass vectors of equal length, in the same order of faces",
        )


def check_confidence(value: float) -> None:
    """Refuse a nominal coverage outside (0, 1).

    Raises:
        InvalidArgumentError: It is outside, or not a number.
    """
    check_number("confidence", value, above=0.0, below=1.0)


def _check_vector(name: str, array: NDArray[Any]) -> None:
    if array.ndim != 1 or array.size == 0:
        raise LpxError(
            f"{name} has shape {list(array.shape)}",
            "a vector [N] with N >= 1 is needed",
            "pass one value per face",
        )
