"""Numbered pairs of a real face and a pseudo-fake, each a pure function of number and seed."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

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
    # A few hundred crops of 256 pixels: decoding them for every pair would take as long as forging.
    try:
        return read_image(path)
    except UnreadableImageError as error:
        raise LpxError(
            f"{path} cannot be read: {error}",
            "training does not leave faces out silently",
            "remove its line from faces.csv, or repair the file",
            code="damaged",
        ) from error


class _Cast(NamedTuple):
    """The faces of a pseudo-fake, and the generator for everything else.

    Attributes:
        target: Face that is changed.
        source: Face that is put on it.
        rng: Generator.
    """

    target: LandmarkedFace
    source: LandmarkedFace
    rng: np.random.Generator


@cache
def _made_by() -> str:
    """Identify the code that makes pairs: another release makes other pictures."""
    sources = []
    for one in (PairSource, augment, forge):
        module = sys.modules[one.__module__]
        sources.append(os.fsencode(module.__file__ or ""))
    code = hashlib.sha256(file_digests(sources).tobytes()).hexdigest()
    return f"{lpx.__version__} numpy {np.__version__} opencv {cv2.__version__} {code}"


@dataclass(frozen=True)
class PairSource:
    """An endless sequence of (real, fake) pairs made from real faces.

    Both images of a pair show the same face under the same augmentation, so that quality, pose and
    identity say nothing about the label.

    Attributes:
        faces: Landmarked real faces.
        kinds: Kinds of pseudo-fake, used in turn; see `lpx.data.pseudo_fakes.blend.KINDS`.
        seed: Random seed.
        make: Makes a pseudo-fake.
    """

    faces: tuple[LandmarkedFace, ...]
    kinds: tuple[str, ...]
    seed: int
    make: Callable[..., Forgery] = field(default=forge, compare=False, repr=False)

    def __post_init__(self) -> None:
        if "alpha" in self.kinds or "poisson" in self.kinds:
            identities = {face.identity for face in self.faces}
            if len(identities) < 2:
                raise LpxError(
                    "swaps need two identities, but there is only one: " + ", ".join(identities),
                    "alpha and poisson put one person's face on another's head",
                    "add faces of another person, or use self-blending (sbi) only",
                )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of everything that pairs are made from: pictures, landmarks, seed and code."""
        digest = hashlib.sha256(f"{self.kinds} {self.seed} {_made_by()}".encode())
        pictures = file_digests([os.fsencode(face.path) for face in self.faces])
        for face, picture in zip(self.faces, pictures, strict=True):
            points = np.ascontiguousarray(face.points)
            digest.update(f"{face.identity!a} {points.dtype} {points.shape}".encode())
            digest.update(picture.tobytes() + points.tobytes())
        return digest.digest()

    def kind(self, number: int) -> str:
        """Return the kind of pseudo-fake of a pair."""
        return self.kinds[number % len(self.kinds)]

    def face(self, number: int) -> LandmarkedFace:
        """Return the real face of a pair; no face is repeated before all others were used."""
        turn, place = divmod(number // len(self.kinds), len(self.faces))
        order = np.random.default_rng((self.seed, turn)).permutation(len(self.faces))
        return self.faces[int(order[place])]

    def real(self, number: int) -> Image:
        """Return the real image of a pair, uint8 RGB [H, W, 3]."""
        return augment(_cached(self.face(number).path), self._rng(number, 1))

    def fake(self, number: int) -> Image:
        """Return the pseudo-fake of a pair, uint8 RGB [H, W, 3]."""
        # The same stream as for the real image, hence the same augmentation.
        return augment(self.forgery(number).image, self._rng(number, 1))

    def contents_sha256(self) -> str:
        """Return the SHA-256 of the faces, in order, and of the kinds of pseudo-fake."""
        faces = digest_landmarked(self.faces)
        return hashlib.sha256(f"{faces} {','.join(self.kinds)}".encode()).hexdigest()

    def forgery(self, number: int) -> Forgery:
        """Make the pseudo-fake of a pair, before augmentation, with its mask."""
        target, source, rng = self._cast(number)
        return self.make(
            self.kind(number),
            _cached(target.path),
            target.points,
            _cached(source.path),
            source.points,
            rng,
        )

    def identities(self, number: int) -> tuple[str, ...]:
        """Return the people in the pseudo-fake of a pair: (target, source), or one person."""
        target, source, _ = self._cast(number)
        return tuple(dict.fromkeys((target.identity, source.identity)))

    def _cast(self, number: int) -> _Cast:
        target = self.face(number)
        rng = self._rng(number, 0)
        if self.kind(number) == "sbi":
            return _Cast(target, target, rng)
        # Swapping faces between pictures of one person would leave nothing to detect.
        others = [face for face in self.faces if face.identity != target.identity]
        return _Cast(target, others[int(rng.integers(len(others)))], rng)

    def _rng(self, number: int, stream: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, number, stream))
