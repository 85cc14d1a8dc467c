"""The demo's video clip: rendered people, partly forged, and the list of forged frames."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from lpx.data.face_sets.demo import folder

CLIP, TRUTH = "clip.mp4", "clip.csv"
HEADER = ("first_frame", "last_frame", "scene", "head", "face", "forgery")
_FORGERIES = {"alpha": "alpha-blended", "poisson": "Poisson-blended"}


@dataclass(frozen=True)
class ClipSpan:
    """Consecutive frames of one scene that are all real, or all forged.

    Attributes:
        first: Number of the first frame.
        last: Number of the last frame.
        scene: Scene number, from 1.
        head: Person whose head is shown.
        face: Person whose face is on it.
        forgery: A key of `lpx.data.pseudo_fakes.blend.KINDS`; "" for real frames.
    """

    first: int
    last: int
    scene: int
    head: str
    face: str
    forgery: str

    @property
    def fake(self) -> bool:
        """Whether the frames are forged."""
        return bool(self.forgery)

    @property
    def text(self) -> str:
        """Short description."""
        if not self.fake:
            return f"{self.head} as rendered"
        return f"{self.head} with the face of {self.face}, {_FORGERIES[self.forgery]}"


def clip_folder() -> Path:
    """Return the folder of the clip in the installed package."""
    return folder()


def clip_path() -> Path:
    """Return the path of the clip."""
    return clip_folder() / CLIP


def clip_spans() -> tuple[ClipSpan, ...]:
    """Read the real and forged spans of the clip, in order of time."""
    with (clip_folder() / TRUTH).open(newline="", encoding="utf-8") as stream:
        spans = []
        for row in csv.DictReader(stream):
            first, last, scene = (int(row[name]) for name in HEADER[:3])
            spans.append(ClipSpan(first, last, scene, row["head"], row["face"], row["forgery"]))
    return tuple(spans)
