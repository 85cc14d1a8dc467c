"""Read real faces with identities and landmarks, from which pseudo-fakes are made.

On disk, a folder with `faces.csv` (columns `file`, `identity`, optionally `split`; others are
ignored) and `landmarks.npz` (`files` [F] as in the CSV, `points` float32 [F, P, 2] in crop pixels).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lpx.arrays import read_arrays
from lpx.data.contents import training_digests
from lpx.data.face_sets.csv import ADVICE, COLUMNS, inside_folder, split_of
from lpx.data.pseudo_fakes.blend import Landmarks
from lpx.data.text_table import read_table
from lpx.errors import LpxError


@dataclass(frozen=True)
class LandmarkedFace:
    """A real face crop on disk.

    Attributes:
        path: Image file.
        identity: Person in the crop.
        split: "train", "val", "test", or "" if the folder does not say.
        points: Landmarks, float32 [P, 2], (x, y) in pixels of the crop.
    """

    path: Path
    identity: str
    split: str
    points: Landmarks


def digest_landmarked(faces: Sequence[LandmarkedFace]) -> str:
    """Return the SHA-256 of contents, identities and landmarks of faces, in order.

    Names of files do not matter.

    Raises:
        LpxError: A file cannot be read.
    """
    digest = hashlib.sha256()
    contents = training_digests([face.path for face in faces])
    for face, content in zip(faces, contents, strict=True):
        digest.update(content)
        digest.update(f"{face.identity!r} {face.points.shape} {face.points.dtype}".encode())
        digest.update(face.points.tobytes())
    return digest.hexdigest()


def load_landmarked(folder: Path) -> tuple[LandmarkedFace, ...]:
    """Read a folder of landmarked faces, in the order of the CSV file.

    Raises:
        LpxError: `faces.csv` or `landmarks.npz` is missing, or a face has no landmarks.
    """
    table, points_file = folder / "faces.csv", folder / "landmarks.npz"
    for needed in (table, points_file):
        if not needed.is_file():
            raise LpxError(
                f"{needed} does not exist",
                "pseudo-fakes are made from faces with landmarks: faces.csv (file, identity) and "
                "landmarks.npz (files, points)",
                "name a folder that holds both",
                code="not-found",
            )
    landmarks = _read_landmarks(points_file)
    rows = read_table(table, COLUMNS, ("file", "identity"), advice=ADVICE).rows
    for row in rows:
        for column in ("file", "identity"):
            if not row.cells[column]:
                raise LpxError(
                    f"{table} line {row.line} names no {column}",
                    "pseudo-fakes are made from faces of known people",
                    "complete or remove the line",
                )
    faces, missing, absent = [], [], []
    for row in rows:
        file = inside_folder(f"{table} line {row.line}", row.cells["file"])
        # Landmarks may have the name as it is written, or with "/".
        points = landmarks.get(row.cells["file"], landmarks.get(file))
        if not (folder / file).is_file():
            absent.append(file)
        if points is None:
            missing.append(file)
        else:
            split = split_of(row.cells)
            faces.append(LandmarkedFace(folder / file, row.cells["identity"], split, points))
    if missing:
        raise LpxError(
            f"{points_file} has no landmarks of {missing[0]} ({len(missing)} faces in all)",
            "each row of faces.csv needs an entry of the same name in `files` of landmarks.npz",
            "remove the rows, or add the landmarks",
        )
    if absent:
        raise LpxError(
            f"{folder / absent[0]} does not exist ({len(absent)} faces in all)",
            f"{table} lists it",
            "remove the rows, or add the files",
            code="not-found",
        )
    return tuple(faces)


def _read_landmarks(path: Path) -> dict[str, Landmarks]:
    """Read the landmarks of each file, by its name."""
    try:
        arrays = read_arrays(path)
        names, points = arrays["files"].tolist(), arrays["points"]
        _check_landmarks(names, points)
    except (
        *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError),
        *(BadZipFile, zlib.error, NotImplementedError),
    ) as error:
        raise LpxError(
            f"{path} cannot be read",
            str(error),
            "save it with numpy.savez(path, files=names, points=landmarks)",
            code="damaged",
        ) from error
    return dict(zip(names, points.astype(np.float32), strict=True))


def _check_landmarks(names: object, points: NDArray[np.generic]) -> None:
    """Check names and landmarks.

    Raises:
        ValueError: They are not names and landmarks, or do not match.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("`files` is not an array of texts")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`files` names {twice} more than once")
    numbers = np.issubdtype(points.dtype, np.floating) or np.issubdtype(points.dtype, np.integer)
    if not numbers or points.ndim != 3 or points.shape[2] != 2 or len(points) != len(names):
        raise ValueError(
            f"`points` is {points.dtype} {list(points.shape)}, expected float32 "
            f"[{len(names)}, P, 2] for the {len(names)} entries of `files`"
        )
    # A landmark that is NaN would make a mask of the whole face, or none.
    bad = ~np.isfinite(points.astype(np.float64)).all(axis=(1, 2))
    if bad.any():
        raise ValueError(f"the landmarks of {names[int(bad.argmax())]} are not finite")


def split_identities(
    faces: tuple[LandmarkedFace, ...], shares: tuple[float, float, float], seed: int
) -> dict[str, tuple[LandmarkedFace, ...]]:
    """Split by identity, never by file, into "train", "val" and "test".

    Args:
        faces: Faces of any number of identities.
        shares: Shares of the identities; they sum to 1.
        seed: Seed of the shuffle.
    """
    # Sorted, as the order of a set changes between runs.
    identities = sorted({face.identity for face in faces})
    order = np.random.default_rng(seed).permutation(len(identities))
    train, val = round(shares[0] * len(order)), round((shares[0] + shares[1]) * len(order))
    home: dict[str, str] = {}
    for place, index in enumerate(order):
        if place < train:
            home[identities[index]] = "train"
        elif place < val:
            home[identities[index]] = "val"
        else:
            home[identities[index]] = "test"
    splits: dict[str, list[LandmarkedFace]] = {"train": [], "val": [], "test": []}
    for face in faces:
        splits[home[face.identity]].append(face)
    return {name: tuple(members) for name, members in splits.items()}
