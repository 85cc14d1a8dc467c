"""Where training finds its faces: pairs of real and fake, split without leaking an identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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

SHARES = (0.6, 0.1, 0.3)
"""Shares of identities that train, validate, and are held out."""


class Pairs(Protocol):
    """An endless sequence of (real, fake) pairs, each a pure function of its number."""

    def real(self, number: int) -> Image:
        """The real image of pair `number`, uint8 RGB [H, W, 3]."""
        ...

    def fake(self, number: int) -> Image:
        """The fake image of pair `number`, uint8 RGB [H, W, 3]."""
        ...

    def contents_sha256(self) -> str:
        """SHA-256 of what the pairs are made of: contents, order and landmarks, not names."""
        ...


@dataclass(frozen=True)
class FilePairs:
    """Real and fake faces on disk, each class shuffled and gone through in turn.

    So both classes come up equally often, however many files there are of each.
    """

    reals: tuple[Face, ...]
    fakes: tuple[Face, ...]
    seed: int

    def real(self, number: int) -> Image:
        """A real face, augmented."""
        return self._image(self.reals, number, 0)

    def fake(self, number: int) -> Image:
        """A fake face, augmented in the same way."""
        return self._image(self.fakes, number, 1)

    def contents_sha256(self) -> str:
        """SHA-256 of the files' contents, in order."""
        return _digest_of(
            label + content
            for label, faces in ((b"real", self.reals), (b"fake", self.fakes))
            for content in _contents(faces)
        )

    def _image(self, faces: tuple[Face, ...], number: int, label: int) -> Image:
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
        train: What is learnt from.
        val: What chooses weights, threshold and temperature.
        held_out: Landmarked faces that training never sees; empty where the data has none.
        description: Counts, for the card.
        notes: What of the folder is left out, or is to be known otherwise.
    """

    train: Pairs
    val: Pairs
    held_out: tuple[LandmarkedFace, ...]
    description: dict[str, int]
    notes: tuple[str, ...] = ()

    def contents_sha256(self) -> str:
        """SHA-256 of all that a training with these faces depends on: every file is read once."""
        held_out = digest_landmarked(self.held_out)
        return _digest_of(
            one.encode()
            for one in (self.train.contents_sha256(), self.val.contents_sha256(), held_out)
        )


def _digest_of(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _contents(faces: Sequence[Face]) -> list[bytes]:
    """SHA-256 of each face: of its file, or of its pixels where it is in none."""
    paths = [face.source.path for face in faces if isinstance(face.source, ImageFile)]
    of_files = iter(training_digests(paths))
    return [
        next(of_files)
        if isinstance(face.source, ImageFile)
        else hashlib.sha256(face.source.read().tobytes()).digest()
        for face in faces
    ]


def open_training_data(folder: Path, pseudo_fakes: tuple[str, ...], seed: int) -> TrainingData:
    """Open a folder to train on.

    Args:
        folder: Landmarked real faces (`faces.csv`, `landmarks.npz`; see
            `lpx.data.pseudo_fakes.landmarked`), or `train/` and `val/` with `real/` and `fake/` in
            each.
        pseudo_fakes: Kinds to make from landmarked faces.
        seed: Of splits, order and augmentation.

    Raises:
        LpxError: No fakes and no pseudo-fakes, a missing split, or an identity in two splits.
    """
    if (folder / "faces.csv").is_file():
        return _landmarked(folder, pseudo_fakes, seed)
    if pseudo_fakes:
        raise LpxError(
            f"{folder} has no faces.csv, and --pseudo-fakes was given",
            "pseudo-fakes are made from real faces with landmarks (faces.csv, landmarks.npz)",
            "leave --pseudo-fakes out, or name a folder with landmarks",
        )
    sets = {name: _set(folder, name) for name in ("train", "val")}
    splits = {name: _classes(folder / name, faces) for name, faces in sets.items()}
    notes = tuple(f"{folder / name}: {faces.note}" for name, faces in sets.items() if faces.note)
    train, val = (FilePairs(*splits[name], seed + i) for i, name in enumerate(("train", "val")))
    counts = {
        f"{split}_{kind}": len(faces)
        for split, pair in splits.items()
        for kind, faces in zip(("real", "fake"), pair, strict=True)
    }
    return TrainingData(train, val, (), counts, notes)


def _set(folder: Path, split: str) -> FaceSet:
    if not (folder / split).is_dir():
        raise LpxError(
            f"{folder} has no {split}/",
            "training wants train/ and val/, with real/ and fake/ in each, or faces.csv with "
            "landmarks.npz",
            "split the faces by identity (never by file), or name another folder",
        )
    return folder_set(folder / split)


def _classes(folder: Path, faces: FaceSet) -> tuple[tuple[Face, ...], tuple[Face, ...]]:
    """The real faces and the fakes."""
    reals = tuple(face for face in faces.faces if face.label == 0)
    fakes = tuple(face for face in faces.faces if face.label == 1)
    if not reals or not fakes:
        raise LpxError(
            f"{folder} has {len(reals)} real and {len(fakes)} fake faces",
            "there are no fakes to learn from, and --pseudo-fakes needs landmarks"
            if reals
            else "there are no real faces",
            "put faces into real/ and fake/, or add landmarks and use --pseudo-fakes sbi",
        )
    return reals, fakes


def _landmarked(folder: Path, kinds: tuple[str, ...], seed: int) -> TrainingData:
    if not kinds:
        raise LpxError(
            f"{folder} holds real faces only",
            "a detector cannot learn from one class",
            "make fakes of them with --pseudo-fakes sbi,alpha",
        )
    faces = load_landmarked(folder)
    splits = _splits(faces, seed)
    counts = {f"identities_{k}": len({f.identity for f in v}) for k, v in splits.items()}
    return TrainingData(
        train=PairSource(splits["train"], kinds, seed),
        val=PairSource(splits["val"], kinds, seed + 1),
        held_out=splits["test"],
        description=counts,
    )


def _splits(faces: tuple[LandmarkedFace, ...], seed: int) -> dict[str, tuple[LandmarkedFace, ...]]:
    """The splits that the folder names, or else splits by identity."""
    if not any(face.split for face in faces):
        return split_identities(faces, SHARES, seed)
    splits = {
        name: tuple(face for face in faces if face.split == name)
        for name in ("train", "val", "test")
    }
    if astray := [face for face in faces if face.split not in splits]:
        raise LpxError(
            f"{astray[0].path} has the split {astray[0].split!r} ({len(astray)} faces in all)",
            "splits are train, val and test; a face of none of them would be left out",
            "name one of these for every face, or for none",
        )
    home: dict[str, str] = {}
    for name, members in splits.items():
        for face in members:
            if home.setdefault(face.identity, name) != name:
                raise LpxError(
                    f"identity {face.identity} is in {home[face.identity]} and in {name}",
                    "a detector that knows a face scores it for who it is",
                    "put all faces of an identity into one split of faces.csv",
                )
    for name in ("train", "val"):
        if not splits[name]:
            raise LpxError(
                f"no face of split {name!r} in faces.csv", "", "name splits for all faces"
            )
    return splits
