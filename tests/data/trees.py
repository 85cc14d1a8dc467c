"""Miniature data sets on disk, in the folders and lists of the real ones.

`touch` makes a file that only exists, enough for adapters. `write_video` and `ffpp_tree` make
videos that play and show faces, for whatever decodes and detects.
"""

from __future__ import annotations

import json
from functools import lru_cache

import cv2
import numpy as np

from lpx.data.face_sets.demo import folder
from lpx.data.images.decode import read_image
from lpx.data.pseudo_fakes.landmarked import load_landmarked

PORTRAITS = ("p000_00", "p001_00", "p002_00")
SPLITS = ("train", "val", "test")
WIDTH, HEIGHT = 320, 240
PORTRAIT_SIDE = 216
"""A portrait is 1.75 times as wide as the face in it: faces are 123 px."""


def touch(root, *names):
    """Files of a few bytes below `root`; returns `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\0\0\0\x18ftyp")
    return root


def write(path, value):
    """JSON of a value, or a text as it is; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((value if isinstance(value, str) else json.dumps(value)).encode())
    return path


def ffpp_splits(root, *, train=(), val=(), test=()):
    """The split lists of FaceForensics++ with these pairs of ids."""
    for split, pairs in zip(SPLITS, (train, val, test), strict=True):
        write(root / f"{split}.json", [list(pair) for pair in pairs])
    return root


def ffpp_names(pairs, methods, level="c23"):
    """Every video of these pairs: the reals, then each method's a_b and b_a."""
    reals = [f"original_sequences/youtube/{level}/videos/{i}.mp4" for pair in pairs for i in pair]
    return reals + [
        f"manipulated_sequences/{method}/{level}/videos/{x}_{y}.mp4"
        for method in methods
        for a, b in pairs
        for x, y in ((a, b), (b, a))
    ]


@lru_cache
def portrait(number):
    """uint8 RGB [216, 216, 3] and its landmarks, float32 [P, 2]; one of three people."""
    name = f"{PORTRAITS[number % len(PORTRAITS)]}.jpg"
    image = read_image(folder() / name)
    scale = PORTRAIT_SIDE / image.shape[0]
    face = next(face for face in load_landmarked(folder()) if face.path.name == name)
    small = cv2.resize(image, (PORTRAIT_SIDE, PORTRAIT_SIDE), interpolation=cv2.INTER_AREA)
    return small, face.points * scale


@lru_cache
def swapped(target, source):
    """uint8 RGB [216, 216, 3]: the source's face on the target, and float32 [216, 216] of where."""
    (image, points), (other, other_points) = portrait(target), portrait(source)
    warp, _ = cv2.estimateAffinePartial2D(other_points, points)
    warped = cv2.warpAffine(other, warp, image.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
    mask = np.zeros(image.shape[:2], np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(points.round().astype(np.int32)), 1.0)
    mask = cv2.GaussianBlur(mask, (0, 0), 4)
    mixed = image + mask[..., None] * (warped.astype(np.float32) - image)
    return mixed.round().astype(np.uint8), mask


def scene(face, index):
    """uint8 [240, 320, 3]: frame `index` of a video in which `face` moves a little.

    Behind a coloured face [216, 216, 3] is a grey wall; around a mask [216, 216] is nothing.
    """
    wall = np.linspace(70, 150, WIDTH) if face.ndim == 3 else np.zeros(WIDTH)
    frame = np.broadcast_to(wall[None, :, None], (HEIGHT, WIDTH, 3)).astype(np.uint8)
    left = (WIDTH - PORTRAIT_SIDE) // 2 + round(12 * np.sin(index))
    top = (HEIGHT - PORTRAIT_SIDE) // 2 + round(6 * np.cos(index))
    frame[top : top + PORTRAIT_SIDE, left : left + PORTRAIT_SIDE] = np.atleast_3d(face)
    return frame


def write_video(path, face, frames=4, rate_hz=25):
    """A video that plays, of `scene(face, 0)`, `scene(face, 1)`, ...; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), fourcc, rate_hz, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"this OpenCV cannot write {path}")
    for index in range(frames):
        writer.write(cv2.cvtColor(scene(face, index), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def ffpp_tree(
    root,
    *,
    ids=("000", "001", "002", "003"),
    methods=("Deepfakes",),
    compression="c23",
    frames=4,
    masks=False,
):
    """A complete tiny FaceForensics++ whose videos play; returns `root`.

    Args:
        root: Where; made.
        ids: Neighbours are a pair; the faces are those of three people in turn. The last pair is
            for testing, the one before for training, and any more in front for validation; a split
            without a pair has an empty list.
        methods: Each has both fakes of every pair.
        compression: Name of the level's folder.
        frames: Per video.
        masks: Whether mask videos are written too.
    """
    pairs = list(zip(ids[::2], ids[1::2], strict=True))
    ffpp_splits(root, train=pairs[-2:-1], val=pairs[:-2], test=pairs[-1:])
    number = {name: place for place, name in enumerate(ids)}
    originals = root / "original_sequences" / "youtube" / compression / "videos"
    for name in ids:
        write_video(originals / f"{name}.mp4", portrait(number[name])[0], frames)
    for method in methods:
        sequence = root / "manipulated_sequences" / method
        for a, b in pairs:
            for x, y in ((a, b), (b, a)):
                image, mask = swapped(number[x], number[y])
                write_video(sequence / compression / "videos" / f"{x}_{y}.mp4", image, frames)
                if masks:
                    grey = (255 * mask).round().astype(np.uint8)
                    write_video(sequence / "masks" / "videos" / f"{x}_{y}.mp4", grey, frames)
    return root
