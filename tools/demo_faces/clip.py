"""Make the demo's clip of the pictures that `render_clip.py` made, and forge parts of it.

    python tools/demo_faces/clip.py clip-renders lpx/data/demo

Writes `clip.mp4` (H.264, by the program ffmpeg) and `clip.csv`, which says what of it is forged.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
from itertools import groupby
from pathlib import Path

import numpy as np
from cut import with_noise
from takes import FRAMES, HEIGHT, RATE_HZ, TAKES, WIDTH, Take

from lpx.data.detect import FaceMesh, open_detector
from lpx.data.face_sets.demo import CROP
from lpx.data.face_sets.demo_clip import CLIP, HEADER, TRUTH
from lpx.data.images.crops import RECIPES
from lpx.data.images.cut_faces import cut_faces
from lpx.data.images.decode import Image, read_image
from lpx.data.pseudo_fakes.augment import resolution_loss
from lpx.data.pseudo_fakes.blend import Landmarks, forge

QUALITY = 20
"""x264's constant rate factor: the file of a camera, before a platform compresses it again."""
RESOLUTION = 0.5
"""Of a face that is put on a head: as networks that generate faces give it, it has half the detail
of the picture around it, and no noise of a camera."""
LEFT = (WIDTH - HEIGHT) // 2
SQUARE = np.s_[:, LEFT : LEFT + HEIGHT]
"""The middle of a frame, which holds the head: forgeries are made in squares."""


def main() -> None:
    """Forge and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("renders", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    frames: list[Image] = []
    parts: list[tuple[int, str, str, str]] = []
    for number, take in enumerate(TAKES, 1):
        frames += forged(take, options.renders)
        for frame in range(FRAMES):
            swapped = take.face is not None and frame >= take.forged_from
            face = f"p{take.face if swapped else take.head:03d}"
            parts.append((number, f"p{take.head:03d}", face, take.kind if swapped else ""))
    write_video(options.out / CLIP, frames)
    with (options.out / TRUTH).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(HEADER)
        for part, group in groupby(range(len(parts)), lambda place: parts[place]):
            places = list(group)
            writer.writerow((places[0], places[-1], *part))
    print(f"{len(frames)} frames, {(options.out / CLIP).stat().st_size} bytes")


def forged(take: Take, renders: Path) -> list[Image]:
    """The frames of a take, with its forgery."""

    def pictures(number: int) -> list[Image]:
        return [read_image(renders / take.picture(number, frame)) for frame in range(FRAMES)]

    frames = [with_noise(image, take.head, i) for i, image in enumerate(pictures(take.head))]
    if take.face is None:
        return frames
    sources = [resolution_loss(image, RESOLUTION) for image in pictures(take.face)]
    points, source_points = landmarks(frames), landmarks(sources)
    for i in range(take.forged_from, FRAMES):
        # The same choices in each frame, or the mask would flicker.
        rng = np.random.default_rng(take.seed)
        made = forge(
            take.kind, frames[i][SQUARE], points[i], sources[i][SQUARE], source_points[i], rng
        )
        frames[i] = frames[i].copy()
        frames[i][SQUARE] = made.image
    return frames


def landmarks(frames: list[Image]) -> list[Landmarks]:
    """Landmarks in the square of each frame, float32 [468, 2], smoothed over three frames."""
    detector, mesh, recipe = open_detector(), FaceMesh(), RECIPES[CROP]
    found = []
    for i, frame in enumerate(frames):
        faces = cut_faces(frame, detector.detect(frame), mesh, recipe)
        if len(faces) != 1 or faces[0].mesh is None:
            raise SystemExit(f"frame {i}: {len(faces)} faces were found")
        found.append(faces[0].mesh - np.float32([LEFT, 0]))
    padded = [found[0], *found, found[-1]]
    return [
        np.asarray(0.25 * before + 0.5 * now + 0.25 * after, np.float32)
        for before, now, after in zip(padded, padded[1:], padded[2:], strict=False)
    ]


def write_video(path: Path, frames: list[Image]) -> None:
    """Encode frames, uint8 RGB."""
    command = [
        "ffmpeg",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{WIDTH}x{HEIGHT}",
        "-r",
        str(RATE_HZ),
        "-i",
        "-",
        "-c:v",
        "libx264",
        "-preset",
        "veryslow",
        "-crf",
        str(QUALITY),
        "-pix_fmt",
        "yuv420p",
        "-threads",
        "1",
        "-map_metadata",
        "-1",
        "-movflags",
        "+faststart",
        str(path),
    ]
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), check=True)


if __name__ == "__main__":
    main()
