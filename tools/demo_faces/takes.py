"""The takes of the demo's clip: who is in them, how they move, and what is forged."""

from __future__ import annotations

from dataclasses import dataclass, field

FRAMES = 20
"""Of each take."""
RATE_HZ = 10
WIDTH, HEIGHT = 384, 288


@dataclass(frozen=True)
class Pose:
    """A moment that a person moves through; angles in degrees.

    Attributes:
        at: Frame.
        yaw, pitch, roll: Of the camera about the head.
        gaze: Turn of the eyes, left-right and up-down.
        expression: Weights of face units.
    """

    at: int
    yaw: float
    pitch: float
    roll: float
    gaze: tuple[float, float]
    expression: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Motion:
    """How people move, and under which light.

    Attributes:
        name: In file names.
        people: Numbers of those who are rendered in it.
        light: Number of the person whose light and background it has.
        lens: Focal length in millimetres.
        poses: From the first frame to the last one.
        blink: Frame at which the eyes are shut.
    """

    name: str
    people: tuple[int, ...]
    light: int
    lens: float
    poses: tuple[Pose, ...]
    blink: int

    def pose(self, frame: int) -> Pose:
        """The pose at a frame: poses ease into each other."""
        after = next(pose for pose in self.poses if pose.at >= frame)
        before = self.poses[max(self.poses.index(after) - 1, 0)]
        share = (frame - before.at) / max(after.at - before.at, 1)
        share = share * share * (3 - 2 * share)

        def mix(a: float, b: float) -> float:
            return a + share * (b - a)

        units = {
            name: mix(before.expression.get(name, 0.0), after.expression.get(name, 0.0))
            for name in sorted({*before.expression, *after.expression})
        }
        units |= both(eyeBlink=0.9 * max(0.0, 1 - abs(frame - self.blink) / 2))
        return Pose(
            frame,
            mix(before.yaw, after.yaw),
            mix(before.pitch, after.pitch),
            mix(before.roll, after.roll),
            (mix(before.gaze[0], after.gaze[0]), mix(before.gaze[1], after.gaze[1])),
            units,
        )


@dataclass(frozen=True)
class Take:
    """A few seconds of one person.

    Attributes:
        motion: Where its pictures are from.
        head: Number of the person.
        backwards: Whether the motion runs from its end to its beginning.
        face: Number of the person whose face is put on the head; None for none. Both move alike,
            as a swap of moving pictures has it.
        kind: Of forgery, as in `lpx.data.pseudo_fakes.blend`.
        forged_from: First frame that is forged.
        seed: Of the forgery: its frames share one mask.
    """

    motion: Motion
    head: int
    backwards: bool = False
    face: int | None = None
    kind: str = ""
    forged_from: int = 0
    seed: int = 0

    def picture(self, number: int, frame: int) -> str:
        """Name of the picture of a person at a frame of the take."""
        return picture_name(self.motion, number, FRAMES - 1 - frame if self.backwards else frame)


def picture_name(motion: Motion, number: int, frame: int) -> str:
    """Name of a rendered picture."""
    return f"{motion.name}_p{number:03d}_{frame:02d}.png"


def both(**weights: float) -> dict[str, float]:
    """Face units that exist for either side, on both."""
    return {name + side: weight for name, weight in weights.items() for side in ("Left", "Right")}


CALM = both(mouthSmile=0.1)
SMILE = both(mouthSmile=0.6, cheekSquint=0.35)
TALK = {"jawOpen": 0.13, "mouthFunnel": 0.2, **both(browOuterUp=0.2)}
SURPRISE = {"browInnerUp": 0.6, "jawOpen": 0.12, **both(browOuterUp=0.5, eyeWide=0.3)}
FIRST = Motion(
    "m1",
    (134,),
    134,
    85,
    (
        Pose(0, -13, 2, -2, (-8, 0), CALM),
        Pose(7, -4, 0, 0, (-3, -1), TALK),
        Pose(13, 5, 1, 2, (3, -1), SMILE),
        Pose(19, 12, 3, 1, (7, 0), SMILE),
    ),
    blink=4,
)
SECOND = Motion(
    "m2",
    (133, 121),
    133,
    90,
    (
        Pose(0, 12, 3, 2, (8, 0), CALM),
        Pose(6, 6, 1, 0, (4, -2), TALK),
        Pose(12, -3, 0, -2, (-2, -1), SURPRISE),
        Pose(19, -12, 2, -1, (-8, 0), SMILE),
    ),
    blink=9,
)
MOTIONS = (FIRST, SECOND)
TAKES = (
    Take(FIRST, 134),
    Take(SECOND, 133, face=121, kind="alpha", seed=1),
    Take(SECOND, 121, backwards=True, face=133, kind="poisson", forged_from=10, seed=2),
)
