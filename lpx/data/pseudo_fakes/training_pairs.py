"""Faces for training: pairs of real and fake, split without leaking an identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lpx.data.contents import training_digests
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile
from lpx.data.face_sets.folder import folder_set
from lpx.data.images.decode import Image, UnreadableImageError
from lpx.data.pseudo_fakes.augment import augment
from lpx.data.pseudo_fakes.landmarked import (
    LandmarkedFace,
    digest_landmarked,
    load_landmarked,
    split_identities,
)
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.errors import LpxError

# Shares of identities for training, validation, and held out.
SHARES = (0.6, 0.1, 0.3)


class Pairs(Protocol):
    """An endless sequence of (real, fake) pairs, each a pure function of its number."""

    def real(self, number: int) -> Image:
        """Return the real image of a pair, uint8 RGB [H, W, 3]."""
        ...

    def fake(self, number: int) -> Image:
        """Return the fake image of a pair, uint8 RGB [H, W, 3]."""
        ...

    def contents_sha256(self) -> str:
        """Return the SHA-256 of contents, order and landmarks, but not names."""
        ...


@dataclass(frozen=True)
class FilePairs:
    """Real and fake faces on disk, each class shuffled and cycled through.

    So both classes are equally frequent, whatever their numbers of files.

    Attributes:
        reals: Real faces.
        fakes: Fake faces.
        seed: Random seed.
    """

    reals: tuple[Face, ...]
    fakes: tuple[Face, ...]
    seed: int

    def real(self, number: int) -> Image:
        """Return a real face, augmented, uint8 RGB [H, W, 3]."""
        return self._image(self.reals, number, 0)

    def fake(self, number: int) -> Image:
        """Return a fake face with the same augmentation, uint8 RGB [H, W, 3]."""
        return self._image(self.fakes, number, 1)

    def contents_sha256(self) -> str:
        """Return the SHA-256 of the files' contents, in order."""
        parts = [b"real" + content for content in _contents(self.reals)]
        parts += [b"fake" + content for content in _contents(self.fakes)]
        return _digest_of(parts)

    def _image(self, faces: tuple[Face, ...], number: int, label: int) -> Image:
        # Another order each time that all faces were used.
        turn, place = divmod(number, len(faces))
        order = np.random.default_rng((self.seed, label, turn)).permutation(len(faces))
        face = faces[int(order[place])]
        try:
            image = face.source.read()
        except UnreadableImageError as error:
            raise LpxError(
                f"{face.name} cannot be read: {error}",
                "training does not leave faces out silently",
                "remove or repair the file",
            ) from error
        return augment(image, np.random.default_rng((self.seed, number, 1)))


@dataclass(frozen=True)
class TrainingData:
    """The splits of a training.

    Attributes:
        train: Pairs to learn from.
        val: Pairs for choosing weights, threshold and temperature.
        held_out: Landmarked faces that training never sees; empty if the data has none.
        description: Counts, for the card.
        notes: Notes on the folder, such as files that are left out.
    """

    train: Pairs
    val: Pairs
    held_out: tuple[LandmarkedFace, ...]
    description: dict[str, int]
    notes: tuple[str, ...] = ()

    def contents_sha256(self) -> str:
        """Return the SHA-256 of all faces that a training depends on; each file is read once."""
        train, val = self.train.contents_sha256(), self.val.contents_sha256()
        held_out = digest_landmarked(self.held_out)
        return _digest_of((train.encode(), val.encode(), held_out.encode()))


def _digest_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        # With lengths: otherwise "ab", "c" and "a", "bc" would have the same digest.
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _contents(faces: Sequence[Face]) -> list[bytes]:
    """Return the SHA-256 of each face's file, or of its pixels if it is in no file."""
    paths = [face.source.path for face in faces if isinstance(face.source, ImageFile)]
    # All at once, which reads files in parallel.
    of_files = iter(training_digests(paths))
    contents = []
    for face in faces:
        if isinstance(face.source, ImageFile):
            contents.append(next(of_files))
        else:
            contents.append(hashlib.sha256(face.source.read().tobytes()).digest())
    return contents


class _Classes(NamedTuple):
    """The real and the fake faces of a split."""

    reals: tuple[Face, ...]
    fakes: tuple[Face, ...]


def open_training_data(folder: Path, pseudo_fakes: tuple[str, ...], seed: int) -> TrainingData:
    """Open a folder to train on.

    Args:
        folder: Landmarked real faces (`faces.csv`, `landmarks.npz`; see
            `lpx.data.pseudo_fakes.landmarked`), or `train/` and `val/` with `real/` and `fake/` in
            each.
        pseudo_fakes: Kinds of pseudo-fakes to make from landmarked faces.
        seed: Random seed for splits, order and augmentation.

    Raises:
        LpxError: There are neither fakes nor pseudo-fakes, a split is missing, or an identity is in
            two splits.
    """
    if (folder / "faces.csv").is_file():
        return _landmarked(folder, pseudo_fakes, seed)
    if pseudo_fakes:
        raise LpxError(
            f"{folder} has no faces.csv, but `pseudo_fakes` was given",
            "pseudo-fakes are made from real faces with landmarks (faces.csv, landmarks.npz)",
            "leave out `pseudo_fakes`, or name a folder with landmarks",
        )
    notes, counts, pairs = [], {}, []
    for place, split in enumerate(("train", "val")):
        faces = _set(folder, split)
        if faces.note:
            notes.append(f"{folder / split}: {faces.note}")
        classes = _classes(folder / split, faces)
        counts[f"{split}_real"] = len(classes.reals)
        counts[f"{split}_fake"] = len(classes.fakes)
        pairs.append(FilePairs(classes.reals, classes.fakes, seed + place))
    train, val = pairs
    return TrainingData(train, val, (), counts, tuple(notes))


def _set(folder: Path, split: str) -> FaceSet:
    if not (folder / split).is_dir():
        raise LpxError(
            f"{folder} has no {split}/",
            "training takes train/ and val/, with real/ and fake/ in each, or faces.csv with "
            "landmarks.npz",
            "split the faces by identity (never by file), or name another folder",
            code="not-found",
        )
    return folder_set(folder / split)


def _classes(folder: Path, faces: FaceSet) -> _Classes:
    reals = tuple(face for face in faces.faces if face.label == 0)
    fakes = tuple(face for face in faces.faces if face.label == 1)
    if not reals or not fakes:
        why = "there are no real faces"
        if reals:
            why = "there are no fakes to learn from, and `pseudo_fakes` needs landmarks"
        raise LpxError(
            f"{folder} has {len(reals)} real and {len(fakes)} fake faces",
            why,
            "put faces into real/ and fake/, or add landmarks and use `pseudo_fakes`, such as sbi",
        )
    return _Classes(reals, fakes)


def _landmarked(folder: Path, kinds: tuple[str, ...], seed: int) -> TrainingData:
    if not kinds:
        raise LpxError(
            f"{folder} holds real faces only",
            "a detector cannot learn from one class",
            "make fakes of them with `pseudo_fakes`, such as sbi and alpha",
        )
    faces = load_landmarked(folder)
    splits = _splits(faces, seed)
    counts = {}
    for split, members in splits.items():
        counts[f"identities_{split}"] = len({face.identity for face in members})
    return TrainingData(
        train=PairSource(splits["train"], kinds, seed),
        # Another seed: pairs of equal numbers would have the same augmentation.
        val=PairSource(splits["val"], kinds, seed + 1),
        held_out=splits["test"],
        description=counts,
    )


def _splits(faces: tuple[LandmarkedFace, ...], seed: int) -> dict[str, tuple[LandmarkedFace, ...]]:
    """Return the splits that the folder names, or splits by identity if it names none."""
    if not any(face.split for face in faces):
        return split_identities(faces, SHARES, seed)
    splits: dict[str, list[LandmarkedFace]] = {"train": [], "val": [], "test": []}
    astray: list[LandmarkedFace] = []
    for face in faces:
        splits.get(face.split, astray).append(face)
    if astray:
        raise LpxError(
            f"{astray[0].path} has the split {astray[0].split!r} ({len(astray)} faces in all)",
            "splits are train, val and test; other faces would be left out",
            "name one of these for every face, or for none",
        )
    home: dict[str, str] = {}
    for name, members in splits.items():
        for face in members:
            if home.setdefault(face.identity, name) != name:
                raise LpxError(
                    f"identity {face.identity} is in {home[face.identity]} and in {name}",
                    "a detector scores a face that it was trained on by whose it is",
                    "put all faces of an identity into one split of faces.csv",
                )
    for name in ("train", "val"):
        if not splits[name]:
            raise LpxError(
                f"no face of split {name!r} in faces.csv", "", "name splits for all faces"
            )
    return {name: tuple(members) for name, members in splits.items()}
