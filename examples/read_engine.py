"""Open an engine, show what is in it, and score a face crop.

python examples/read_engine.py ENGINE_FOLDER [IMAGE]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import lpx
from lpx.engines.manifest import read_manifest


def main(folder: str, image: str | None = None) -> None:
    manifest = read_manifest(Path(folder))
    print(f"{manifest.name}: {manifest.precision} for {manifest.target}")
    print(f"convolutions by precision: {manifest.convolutions}")
    # Why nodes are, or are not, quantised.
    reasons = Counter(decision["reason"] for decision in manifest.placement)
    for reason, count in reasons.most_common():
        print(f"  {count:4} nodes: {reason}")
    for warning in manifest.warnings:
        print(f"warning: {warning}")
    with lpx.load(folder) as detector:
        card = detector.card
        print(f"{card.architecture}, faces of {card.input_size} px, threshold {card.threshold:.3f}")
        if image is not None:
            prediction = detector(image)
            score = float(prediction.score[0])
            verdict = "fake" if score >= card.threshold else "real"
            print(
                f"{image}: {score:.3f}, {verdict}; strongest patch {prediction.patch_map.max():.3f}"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
