"""The demo set: public-domain portraits that ship with lpx, and pseudo-fakes made from them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lpx.data.decode import Image
from lpx.data.face_set import Face, FaceSet
from lpx.data.landmarked import load_landmarked
from lpx.data.pairs import PairSource
from lpx.data.pseudo_fakes import KINDS

SEED = 20211
CROP = "square-1.75-landmarks"
CHECKPOINT = "ckpt.pt"
PAIRS = {"train": 64, "test": 400}
NOTE = (
    "The demo set is made of {count} portraits of {people} people, varied at random, and "
    "pseudo-fakes of them. It demonstrates the toolkit: its AUC says nothing about how the model "
    "does on real deepfakes, and faces of one portrait are not independent."
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


def folder() -> Path:
    """Where the portraits lie in the installed package."""
    return Path(str(resources.files("lpx.data") / "demo"))


def demo_set(split: str) -> FaceSet:
    """The demo faces of `split`: "train" to calibrate on, "test" to measure on.

    The two splits share no identity. Real and fake take turns, so that every part of the set is
    balanced.
    """
    portraits = tuple(face for face in load_landmarked(folder()) if face.split == split)
    people = len({face.identity for face in portraits})
    # A swap needs two people; the single one of the training split is blended into itself.
    kinds = KINDS if people > 1 else ("sbi",)
    source = PairSource(portraits, kinds, SEED)
    faces = [
        Face(
            name=f"{split}/{'fake' if fake else 'real'}/{number:04d}_{label}.png",
            label=int(fake),
            method=label,
            video=f"{split}_{number:04d}",
            identities=source.identities(number) if fake else (source.face(number).identity,),
            source=PairImage(source, number, fake),
        )
        for number in range(PAIRS[split])
        for fake, label in ((False, "real"), (True, source.kind(number)))
    ]
    note = NOTE.format(count=len(portraits), people=people)
    return FaceSet("demo", split, CROP, tuple(faces), note)
