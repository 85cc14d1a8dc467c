"""The demo's clip: rendered people, some of it forged, and which frames are."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from lpx.data.face_sets.demo import folder

CLIP, TRUTH = "clip.mp4", "clip.csv"
HEADER = ("first_frame", "last_frame", "scene", "head", "face", "forgery")
_FORGERIES = {"alpha": "alpha-blended", "poisson": "Poisson-blended"}


@dataclass(frozen=True)
class Part:
    """Frames of one scene that are all real, or all forged.

    Attributes:
        first: Number of the first frame.
        last: Number of the last one.
        scene: From 1.
        head: Whose head it is.
        face: Whose face is on it.
        forgery: As in `lpx.data.pseudo_fakes.blend.KINDS`; "" for real frames.
    """

    first: int
    last: int
    scene: int
    head: str
    face: str
    forgery: str

    @property
    def fake(self) -> bool:
        """Whether it is forged."""
        return bool(self.forgery)

    @property
    def text(self) -> str:
        """What it is, in a few words."""
        if not self.fake:
            return f"{self.head} as rendered"
        return f"{self.head} with the face of {self.face}, {_FORGERIES[self.forgery]}"


def clip_folder() -> Path:
    """Folder of the clip in the installed package."""
    return folder()


def clip_path() -> Path:
    """The clip."""
    return clip_folder() / CLIP


def clip_parts() -> tuple[Part, ...]:
    """What of the clip is forged, in order of time."""
    with (clip_folder() / TRUTH).open(newline="", encoding="utf-8") as stream:
        return tuple(
            Part(
                int(row["first_frame"]),
                int(row["last_frame"]),
                int(row["scene"]),
                row["head"],
                row["face"],
                row["forgery"],
            )
            for row in csv.DictReader(stream)
        )
