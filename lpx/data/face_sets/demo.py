"""The demo set: rendered faces that ship with lpx, and pseudo-fakes made from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.data.images.decode import Image
from lpx.data.pseudo_fakes.blend import KINDS
from lpx.data.pseudo_fakes.landmarked import LandmarkedFace, load_landmarked
from lpx.data.pseudo_fakes.pairs import PairSource

SEED = 20211
CROP = "square-1.75-landmarks"
CHECKPOINT = "ckpt.pt"
PAIRS = {"train": 64, "test": 288}
NOTE = (
    "The demo set is made of {count} rendered pictures of {people} people who do not exist, varied "
    "at random, and pseudo-fakes of them. It demonstrates the toolkit: its AUC says nothing about "
    "how the model does on real deepfakes, or on photographs."
)


@dataclass(frozen=True)
class PairImage:
    """One side of a pair that is made when it is read."""

    source: PairSource
    number: int
    fake: bool

    def read(self) -> Image:
        """Make the image; the same every time."""
        return self.source.fake(self.number) if self.fake else self.source.real(self.number)

    def content_digest(self) -> bytes:
        """SHA-256 of all that the image is made from."""
        which = f"{self.number} {'fake' if self.fake else 'real'}"
        return hashlib.sha256(self.source.digest + which.encode()).digest()


def folder() -> Path:
    """Folder of the faces in the installed package."""
    return Path(str(resources.files("lpx.data") / "demo"))


def demo_set(split: str) -> FaceSet:
    """The demo faces of `split`: "train" to calibrate on, "test" to measure on.

    The two splits share no identity. People come in couples and only the two of a couple swap
    faces, so that the couples are independent of each other: with swaps between all, every face
    would be tied to every other, and no number of them would make an interval narrow. Real and
    fake, couples, and kinds of pseudo-fake take turns, so that every part of the set is balanced.
    """
    pictures = tuple(face for face in load_landmarked(folder()) if face.split == split)
    sources = [
        PairSource(couple, KINDS, SEED + index) for index, couple in enumerate(_couples(pictures))
    ]
    faces: list[Face] = []
    for place in range(PAIRS[split]):
        turn, index = divmod(place, len(sources))
        source = sources[index]
        # Each couple starts at another kind, so that the first few pairs are of all kinds.
        number = (turn + index) % (len(source.faces) * len(KINDS))
        for fake, label in ((False, "real"), (True, source.kind(number))):
            people = source.identities(number) if fake else (source.face(number).identity,)
            faces.append(
                Face(
                    name=f"{split}/{'fake' if fake else 'real'}/{place:04d}_{label}.png",
                    label=int(fake),
                    method=label,
                    video="_".join(people),
                    identities=people,
                    source=PairImage(source, number, fake),
                )
            )
    everybody = {face.identity for face in pictures}
    note = NOTE.format(count=len(pictures), people=len(everybody))
    return FaceSet("demo", split, CROP, tuple(faces), note)


def _couples(faces: tuple[LandmarkedFace, ...]) -> list[tuple[LandmarkedFace, ...]]:
    """The faces of two people each, in the order of their names."""
    people = sorted({face.identity for face in faces})
    pairs = [people[start : start + 2] for start in range(0, len(people) - 1, 2)]
    return [tuple(face for face in faces if face.identity in pair) for pair in pairs]
