"""The demo set: rendered faces that ship with lpx, and pseudo-fakes made from them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from lpx.data.face_sets.csv import FILE as CSV
from lpx.data.face_sets.face_set import Face, FaceSet
from lpx.data.images.decode import Image
from lpx.data.pseudo_fakes.blend import KINDS
from lpx.data.pseudo_fakes.landmarked import LandmarkedFace, load_landmarked
from lpx.data.pseudo_fakes.pairs import PairSource
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.reporter import Progress
from lpx.workspace import write_bytes

SEED = 20211
CROP = "square-1.75-landmarks"
CHECKPOINT = "ckpt.pt"
LICENSE = "LICENSE.md"
PAIRS = {"train": 64, "test": 288}
NOTE = (
    "The demo set consists of {count} rendered pictures of {people} people who do not exist, "
    "varied at random, and pseudo-fakes of them. It demonstrates the toolkit: its AUC says nothing "
    "about how the model performs on real deepfakes, or on photographs."
)


@dataclass(frozen=True)
class PairImage:
    """One image of a pair, made when it is read.

    Attributes:
        source: Source of the pair.
        number: Number of the pair.
        fake: The fake image, not the real one.
    """

    source: PairSource
    number: int
    fake: bool

    def read(self) -> Image:
        """Make the image, uint8 RGB [H, W, 3]; the same every time."""
        if self.fake:
            return self.source.fake(self.number)
        return self.source.real(self.number)

    def content_digest(self) -> bytes:
        """Return the SHA-256 of everything that the image is made from."""
        which = f"{self.number} {'fake' if self.fake else 'real'}"
        return hashlib.sha256(self.source.digest + which.encode()).digest()


def folder() -> Path:
    """Return the folder of the demo's files in the installed package."""
    return Path(str(resources.files("lpx.data") / "demo"))


def demo_set(split: str, *, pictures: Path | None = None, seed: int = SEED) -> FaceSet:
    """Open the demo faces of a split: "train" to calibrate on, "test" to measure on.

    The two splits share no identity. Real and fake, couples, and kinds of pseudo-fake alternate, so
    that every part of the set is balanced.

    Args:
        split: "train" or "test".
        pictures: Folder of landmarked faces; None for those that ship with lpx.
        seed: Seed of the pseudo-fakes.
    """
    landmarked = load_landmarked(pictures or folder())
    real = [face for face in landmarked if face.split == split]
    # Only the two people of a couple swap faces, which makes couples independent of each other.
    # Swaps between all would tie every face to every other, and no number of them could narrow an
    # interval.
    sources = []
    for index, couple in enumerate(_couples(real)):
        sources.append(PairSource(couple, KINDS, seed + index))
    faces: list[Face] = []
    for place in range(PAIRS[split]):
        turn, index = divmod(place, len(sources))
        source = sources[index]
        # Each couple starts with another kind, so that the first few pairs are of all kinds.
        number = (turn + index) % (len(source.faces) * len(KINDS))
        faces.append(_face(source, number, f"{split}/real/{place:04d}_real.png", fake=False))
        name = f"{split}/fake/{place:04d}_{source.kind(number)}.png"
        faces.append(_face(source, number, name, fake=True))
    people = {face.identity for face in real}
    note = NOTE.format(count=len(real), people=len(people))
    return FaceSet("demo", split, CROP, tuple(faces), note)


def _face(source: PairSource, number: int, name: str, *, fake: bool) -> Face:
    if fake:
        method, people = source.kind(number), source.identities(number)
    else:
        method, people = "real", (source.face(number).identity,)
    return Face(
        name=name,
        label=int(fake),
        method=method,
        video="_".join(people),
        identities=people,
        source=PairImage(source, number, fake),
    )


def _couples(faces: list[LandmarkedFace]) -> list[tuple[LandmarkedFace, ...]]:
    """Group faces by pairs of people, in the order of their names."""
    people = sorted({face.identity for face in faces})
    couples = []
    for start in range(0, len(people) - 1, 2):
        couple = people[start : start + 2]
        couples.append(tuple(face for face in faces if face.identity in couple))
    return couples


def unpack_demo(out: Path, progress: Progress) -> int:
    """Write the demo's checkpoint and test faces as ordinary files.

    Writes `ckpt.pt` (first), `LICENSE.md`, `real/`, `fake/<method>/` and `faces.csv`, which names
    the person and the video of each face, so that a bench of the folder judges it like the demo
    set.

    Args:
        out: Folder to write to.
        progress: Receives the number of faces written, and that of all.

    Returns:
        Number of faces written.

    Raises:
        LpxError: `out` cannot be written, or already holds files of these names.
    """
    checkpoint = (folder() / CHECKPOINT).read_bytes()
    _check_free(out, checkpoint)
    write_bytes(out / CHECKPOINT, checkpoint)
    write_bytes(out / LICENSE, (folder() / LICENSE).read_bytes())
    faces = demo_set("test").faces
    rows = ["file,method,video,identity"]
    for index, face in enumerate(faces):
        below = PurePosixPath("fake") / face.method if face.label else PurePosixPath("real")
        place = below / f"{PurePosixPath(face.name).stem[:4]}_{face.video}.png"
        write_bytes(out / place, encode_png(face.source.read()), durable=False)
        rows.append(f"{place},{face.method},{face.video},{';'.join(face.identities)}")
        progress(index + 1, len(faces))
    write_bytes(out / CSV, "".join(f"{row}\n" for row in rows).encode())
    return len(faces)


def _check_free(out: Path, checkpoint: bytes) -> None:
    own = out / CHECKPOINT
    if own.is_file() and own.read_bytes() == checkpoint:
        # An earlier run wrote it, perhaps without reaching the end: write everything again.
        return
    for name in (CHECKPOINT, LICENSE, CSV, "real", "fake"):
        if (out / name).exists():
            raise LpxError(
                f"{out / name} already exists",
                "the demo's files would replace it, or mix with it",
                "name a new folder",
            )
