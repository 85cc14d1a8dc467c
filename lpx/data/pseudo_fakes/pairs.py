"""Numbered pairs of a real face and a pseudo-fake, each a pure function of its number and seed."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np

import lpx
from lpx.data.contents import file_digests
from lpx.data.images.decode import Image, UnreadableImageError, read_image
from lpx.data.pseudo_fakes.augment import augment
from lpx.data.pseudo_fakes.blend import Forgery, forge
from lpx.data.pseudo_fakes.landmarked import LandmarkedFace, digest_landmarked
from lpx.errors import LpxError


@lru_cache(maxsize=1024)
def _cached(path: Path) -> Image:
    # A few hundred crops of 256 px: decoding each for every pair would cost as much as forging.
    try:
        return read_image(path)
    except UnreadableImageError as error:
        raise LpxError(
            f"{path} cannot be read: {error}",
            "training does not leave faces out silently",
            "remove its line from faces.csv, or repair the file",
        ) from error


@cache
def _made_by() -> str:
    """Tells one release of the code that makes pairs from another."""
    modules = [sys.modules[one.__module__] for one in (PairSource, augment, forge)]
    sources = [os.fsencode(module.__file__ or "") for module in modules]
    code = hashlib.sha256(file_digests(sources).tobytes()).hexdigest()
    return f"{lpx.__version__} numpy {np.__version__} opencv {cv2.__version__} {code}"


@dataclass(frozen=True)
class PairSource:
    """An endless sequence of (real, fake) pairs made from real faces.

    Both images of a pair are the same face under the same augmentation, so that quality, pose and
    identity say nothing about the label.

    Attributes:
        faces: Landmarked real faces.
        kinds: Kinds of pseudo-fake, drawn in turn; see `lpx.data.pseudo_fakes.blend.KINDS`.
        seed: Seed of everything.
    """

    faces: tuple[LandmarkedFace, ...]
    kinds: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        if "alpha" in self.kinds or "poisson" in self.kinds:
            identities = {face.identity for face in self.faces}
            if len(identities) < 2:
                raise LpxError(
                    "swaps need two identities, but there is only one: " + ", ".join(identities),
                    "alpha and poisson put one person's face on another's head",
                    "add faces, or use self-blending (sbi) only",
                )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all that the pairs are made from: pictures, landmarks, seed and code."""
        digest = hashlib.sha256(f"{self.kinds} {self.seed} {_made_by()}".encode())
        pictures = file_digests([os.fsencode(face.path) for face in self.faces])
        for face, picture in zip(self.faces, pictures, strict=True):
            points = np.ascontiguousarray(face.points)
            digest.update(f"{face.identity!a} {points.dtype} {points.shape}".encode())
            digest.update(picture.tobytes() + points.tobytes())
        return digest.digest()

    def kind(self, number: int) -> str:
        """Kind of pseudo-fake of pair `number`."""
        return self.kinds[number % len(self.kinds)]

    def face(self, number: int) -> LandmarkedFace:
        """The real face of pair `number`; every face comes up once before any comes up again."""
        turn, place = divmod(number // len(self.kinds), len(self.faces))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.faces))
        return self.faces[int(order[place])]

    def real(self, number: int) -> Image:
        """The real image of pair `number`, uint8 RGB [H, W, 3]."""
        return augment(_cached(self.face(number).path), self._rng(number, 1))

    def fake(self, number: int) -> Image:
        """The pseudo-fake of pair `number`, uint8 RGB [H, W, 3]."""
        return augment(self.forgery(number).image, self._rng(number, 1))

    def contents_sha256(self) -> str:
        """SHA-256 of the faces, in order, with what is made of them."""
        faces = digest_landmarked(self.faces)
        return hashlib.sha256(f"{faces} {','.join(self.kinds)}".encode()).hexdigest()

    def forgery(self, number: int) -> Forgery:
        """The pseudo-fake of pair `number` before augmentation, with its mask."""
        face, source, rng = self._cast(number)
        return forge(
            self.kind(number),
            _cached(face.path),
            face.points,
            _cached(source.path),
            source.points,
            rng,
        )

    def identities(self, number: int) -> tuple[str, ...]:
        """Who is in the pseudo-fake of pair `number`: whose head it is, and whose face if other."""
        face, source, _ = self._cast(number)
        return tuple(dict.fromkeys((face.identity, source.identity)))

    def _cast(self, number: int) -> tuple[LandmarkedFace, LandmarkedFace, np.random.Generator]:
        """The face, the face that is put on it, and what else is drawn for pair `number`."""
        face = self.face(number)
        rng = self._rng(number, 0)
        if self.kind(number) == "sbi":
            return face, face, rng
        others = [f for f in self.faces if f.identity != face.identity]
        return face, others[int(rng.integers(len(others)))], rng

    def _rng(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, number, stream))
