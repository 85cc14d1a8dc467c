"""Measure a checkpoint on the demo set: AUC per kind of fake, the threshold, the patch map.

    python tools/demo_faces/measure.py lpx/data/demo/ckpt.pt
    python tools/demo_faces/measure.py ckpt.pt --pairs 72

Intervals resample couples of people: only the two of a couple are in each other's fakes, so couples
share nobody. The patch map is judged by the pixel AUC against the mask of the forged region.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lpx.data.face_sets.demo import demo_set, folder
from lpx.data.images.decode import fit
from lpx.data.pseudo_fakes.landmarked import load_landmarked
from lpx.metrics import auc_interval_bootstrap
from lpx.models.checkpoint import Detector, load_checkpoint
from lpx.training.localisation import localise

BATCH = 16


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=72, help="swaps whose maps are judged")
    options = parser.parse_args()
    faces = demo_set("test").faces
    images = [face.source.read() for face in faces]
    labels = np.array([face.label for face in faces])
    methods = np.array([face.method for face in faces])
    people = sorted({person for face in faces for person in face.identities})
    couples = np.array([people.index(face.identities[0]) // 2 for face in faces])
    pictures = tuple(f for f in load_landmarked(folder()) if f.split == "test")
    for path in options.checkpoints:
        detector = load_checkpoint(path)
        scores = score(detector, images)
        called = scores >= detector.card.threshold
        print(
            f"{path}: threshold {detector.card.threshold:.3f} calls "
            f"{called[labels == 0].mean():.1%} of {(labels == 0).sum()} real pictures fake, and "
            f"{called[labels == 1].mean():.1%} of {(labels == 1).sum()} forged ones"
        )
        kinds = sorted(set(methods[labels == 1]))
        for kind in (*kinds, "all"):
            shown = (labels == 0) | (methods == kind) | (kind == "all")
            found = auc_interval_bootstrap(labels[shown], scores[shown], couples[shown])
            caught = called[shown & (labels == 1)].mean()
            print(
                f"  {kind}: AUC {found.estimate:.3f} (95 % interval {found.low:.3f} to "
                f"{found.high:.3f}, {len(set(couples))} couples), {caught:.1%} called fake"
            )
        for kind in ("alpha", "poisson"):
            seen = localise(detector.module, detector.card, pictures, kind, options.pairs)
            print(
                f"  map against the mask, {kind}: pixel AUC {seen.raw:.3f} as it is, "
                f"{seen.over_real:.3f} less its mean over real pictures"
            )


@torch.no_grad()
def score(detector: Detector, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """Scores, float32 [N], of faces uint8 RGB [H, W, 3]."""
    card = detector.card
    offset, scale = card.normalisation()
    parts = []
    for first in range(0, len(images), BATCH):
        pixels = np.stack([fit(image, card.input_size) for image in images[first : first + BATCH]])
        faces = ((pixels.astype(np.float32) - offset) * scale).transpose(0, 3, 1, 2)
        parts.append(detector.module(torch.from_numpy(np.ascontiguousarray(faces)))[0].numpy())
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
