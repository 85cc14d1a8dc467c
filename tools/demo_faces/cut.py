"""Cut the faces out of pictures that `render.py` made, as lpx cuts faces of photographs.

    python tools/demo_faces/cut.py renders lpx/data/demo --splits test=0-23,train=24-31
    python tools/demo_faces/cut.py renders faces --splits train=36-68,val=69-75 --add PHOTOGRAPHS

A camera's noise is added first: pictures of a renderer have none, and a detector could learn that
from the rendered faces of its training.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from lpx.data.detect import FaceMesh, open_detector
from lpx.data.face_sets.demo import CROP
from lpx.data.images.crops import RECIPES
from lpx.data.images.cut_faces import cut_faces
from lpx.data.images.decode import Image, read_image
from lpx.data.pseudo_fakes.landmarked import load_landmarked, split_identities
from lpx.data.pseudo_fakes.training_pairs import SHARES

SIDE = 256
QUALITY = 92
LEVELS_PER_PIXEL = 16
"""Landmarks are stored in sixteenths of a pixel: they compress well, and are known less well."""


def main() -> None:
    """Cut and write crops, faces.csv and landmarks.npz."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("renders", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--splits", required=True, help="as test=0-23,train=24-31")
    parser.add_argument("--add", type=Path, help="landmarked photographs to train on as well")
    parser.add_argument("--seed", type=int, default=0, help="of the photographs' split")
    parser.add_argument("--each", type=int, default=1, help="photographs to train on per person")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str]] = []
    points: list[np.ndarray] = []
    detector, mesh, recipe = open_detector(), FaceMesh(), RECIPES[CROP]
    for entry in options.splits.split(","):
        split, _, numbers = entry.partition("=")
        first, last = (int(n) for n in numbers.split("-"))
        for number in range(first, last + 1):
            for path in sorted(options.renders.glob(f"p{number:03d}_??.png")):
                picture = with_noise(read_image(path), number, int(path.stem[-1]))
                found = cut_faces(picture, detector.detect(picture), mesh, recipe)
                if len(found) != 1 or found[0].mesh is None:
                    print(f"{path.name}: {len(found)} faces, left out")
                    continue
                face = found[0].crop
                scale = SIDE / face.pixels.shape[0]
                small = cv2.resize(face.pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
                name = f"{path.stem}.jpg"
                write_jpeg(options.out / name, np.asarray(small, np.uint8))
                rows.append((name, f"p{number:03d}", split))
                marks = face.map_points(found[0].mesh) * scale
                points.append(np.round(marks * LEVELS_PER_PIXEL) / LEVELS_PER_PIXEL)
    if options.add:
        photographs = load_landmarked(options.add)
        for split, faces in split_identities(photographs, SHARES, options.seed).items():
            seen: Counter[str] = Counter()
            for face in faces:
                seen[face.identity] += 1
                # All of those that are held out are measured on.
                if split != "test" and seen[face.identity] > options.each:
                    continue
                name = f"{face.path.stem}.png"
                (options.out / name).write_bytes(face.path.read_bytes())
                rows.append((name, face.identity, split))
                points.append(face.points)
    with (options.out / "faces.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("file", "identity", "split"))
        writer.writerows(rows)
    np.savez_compressed(
        options.out / "landmarks.npz",
        files=np.array([row[0] for row in rows]),
        points=np.array(points, np.float32),
    )
    for split in sorted({row[2] for row in rows}):
        people = {row[1] for row in rows if row[2] == split}
        print(f"{split}: {sum(row[2] == split for row in rows)} faces of {len(people)} people")


def with_noise(picture: Image, number: int, frame: int) -> Image:
    """Noise of a sensor, stronger where it is darker, a little coarser than a pixel."""
    base = np.random.default_rng((61, number))
    rng = np.random.default_rng((61, number, frame + 1))
    strength, grain = base.uniform(1.5, 5.0), base.uniform(0.3, 0.6)
    noise = rng.normal(0, 1, picture.shape).astype(np.float32)
    noise += 1.2 * rng.normal(0, 1, (*picture.shape[:2], 1)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), grain)
    level = strength * (1.15 - 0.6 * picture.astype(np.float32) / 255)
    return np.asarray(np.clip(picture + level * noise + 0.5, 0, 255), np.uint8)


def write_jpeg(path: Path, image: Image) -> None:
    """Store with the colours at full resolution."""
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)


if __name__ == "__main__":
    main()
