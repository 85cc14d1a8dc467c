"""Real faces with identities and landmarks: what pseudo-fakes are made from.

On disk: a folder with `faces.csv` (columns `file`, `identity`, optional `split`; more are ignored)
and `landmarks.npz` (`files` [F] as in the CSV, `points` float32 [F, P, 2] in crop pixels).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from lpx.data.pseudo_fakes import Landmarks
from lpx.errors import LpxError


@dataclass(frozen=True)
class LandmarkedFace:
    """A real face crop on disk.

    Attributes:
        path: Image file.
        identity: Whose face it is.
        split: "train", "val", "test", or "" where the folder does not say.
        points: Landmarks, float32 [P, 2], (x, y) in pixels of the crop.
    """

    path: Path
    identity: str
    split: str
    points: Landmarks


def load_landmarked(folder: Path) -> tuple[LandmarkedFace, ...]:
    """Read a folder of landmarked faces, in the CSV's order.

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
            )
    try:
        with np.load(points_file) as archive:
            landmarks = dict(zip(archive["files"].tolist(), archive["points"], strict=True))
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise LpxError(
            f"{points_file} cannot be read",
            str(error),
            "save it with numpy.savez(path, files=names, points=landmarks)",
        ) from error
    with table.open(newline="", encoding="utf-8-sig") as stream:
        reader = csv.DictReader(stream)
        absent = {"file", "identity"} - set(reader.fieldnames or ())
        rows = list(reader)
    if absent:
        raise LpxError(
            f"{table} has no column {', '.join(sorted(absent))}",
            "the first line names the columns: file, identity and optionally split",
            "add the column",
        )
    if missing := [row["file"] for row in rows if row["file"] not in landmarks]:
        raise LpxError(
            f"{points_file} has no landmarks of {missing[0]} ({len(missing)} faces in all)",
            "every row of faces.csv needs an entry of the same name in `files`",
            "remove the rows, or add the landmarks",
        )
    return tuple(
        LandmarkedFace(
            folder / row["file"],
            row["identity"],
            row.get("split") or "",
            np.asarray(landmarks[row["file"]], np.float32),
        )
        for row in rows
    )


def split_identities(
    faces: tuple[LandmarkedFace, ...], shares: tuple[float, float, float], seed: int
) -> dict[str, tuple[LandmarkedFace, ...]]:
    """Split by identity, never by file, into "train", "val" and "test".

    Args:
        faces: Faces of any number of identities.
        shares: Shares of the identities; they sum to 1.
        seed: Seed of the shuffle.
    """
    identities = sorted({face.identity for face in faces})
    order = np.random.default_rng(seed).permutation(len(identities))
    train, val = round(shares[0] * len(order)), round((shares[0] + shares[1]) * len(order))
    chosen = {
        "train": {identities[i] for i in order[:train]},
        "val": {identities[i] for i in order[train:val]},
        "test": {identities[i] for i in order[val:]},
    }
    return {
        name: tuple(face for face in faces if face.identity in group)
        for name, group in chosen.items()
    }
