"""A small recipe and a small folder of faces."""

from __future__ import annotations

import csv

import cv2
import numpy as np

from lpx.training.local_diversity import LocalDiversity
from lpx.training.recipe import Recipe

SMALL = Recipe(
    backbone="efficientnet_lite0",
    cut="stage2",
    bottleneck=16,
    input_size=48,
    pseudo_fakes=("sbi",),
    steps=6,
    steps_per_epoch=2,
    pairs=2,
    validation_pairs=4,
    held_out_pairs=4,
    diversity=LocalDiversity(weight=0.1),
)


def write_faces(folder, identities, splits=None):
    """Blobs with six landmarks stand for faces: training's machinery does not look closer."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files, points = [], []
    with (folder / "faces.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "identity", "split"])
        for number, identity in enumerate(identities):
            image = cv2.GaussianBlur(rng.integers(0, 256, (64, 64, 3), np.uint8), (0, 0), 3)
            name = f"{number:03d}.png"
            cv2.imwrite(str(folder / name), image)
            writer.writerow([name, identity, splits[number] if splits else ""])
            angles = np.linspace(0, 2 * np.pi, 12, endpoint=False) + rng.uniform(-0.1, 0.1)
            files.append(name)
            points.append(np.stack([32 + 16 * np.cos(angles), 32 + 20 * np.sin(angles)], axis=1))
    np.savez(folder / "landmarks.npz", files=np.array(files), points=np.array(points, np.float32))
    return folder
