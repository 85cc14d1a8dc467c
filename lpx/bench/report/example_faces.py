"""Example faces of a report with their heat maps, as images embedded in the page."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass

import cv2
import numpy as np

from lpx.bench.parity.run import BenchResult, Example
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.bench.report.document.report import Report
from lpx.bench.report.sentences import significant
from lpx.metrics.roc import called_fake
from lpx.render.encode import encode_png
from lpx.render.face import Image, heat_map, overlay

# Approximate size of all faces and heat maps of a report together, so that it can be mailed.
IMAGE_BYTES = 1_400_000


@dataclass(frozen=True)
class Tile:
    """A picture of an example.

    Attributes:
        title: Title of the picture.
        image: The picture as a data URI.
        alt: Description in words.
        lines: Lines of text below it.
        flipped: True if the engine's decision differs from the reference's.
    """

    title: str
    image: str
    alt: str
    lines: tuple[str, ...] = ()
    flipped: bool = False


@dataclass(frozen=True)
class ExampleFace:
    """An example face.

    Attributes:
        name: Name of the face.
        label: 1 = fake.
        worst: Largest mean |difference| of a candidate's map from the reference's.
        tiles: The face, the reference's overlay, and each candidate's.
    """

    name: str
    label: int
    worst: float
    tiles: tuple[Tile, ...]


def examples(report: Report, result: BenchResult) -> list[ExampleFace]:
    """Return the examples, worst agreement first."""
    images = sum(1 + len(example.maps) for example in result.examples)
    # PNG takes about 1.75 bytes for a pixel of a face, and base64 a third more.
    side = int(math.sqrt(IMAGE_BYTES / max(1, images) / (1.75 * 4 / 3)))
    shown = [_show(example, report.model.threshold, side) for example in result.examples]
    return sorted(shown, key=lambda example: -example.worst)


def ramp() -> str:
    """Return the colours of a heat map from 0 to 1, as a data URI."""
    return _data_uri(heat_map(np.linspace(0, 1, 256, dtype=np.float32)[None], 256)[:8])


def _show(example: Example, threshold: float, side: int) -> ExampleFace:
    face = example.pixels
    if side < len(face):
        face = np.asarray(cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    truth, truth_score = example.maps[REFERENCE]
    tiles = [Tile("face", _data_uri(face), f"Face {example.name}")]
    distances = [0.0]
    for name, (patch_map, score) in example.maps.items():
        localised = patch_map.size > 1
        before, after = called_fake(np.array([truth_score, score], np.float32), threshold)
        lines = [f"score {score:.3f}, {'fake' if after else 'real'}"]
        if name != REFERENCE:
            distance = np.abs(patch_map - truth)
            distances.append(float(distance.mean()))
            mean, most = (significant(float(d)) for d in (distance.mean(), distance.max()))
            lines.append(f"|Δ| mean {mean}, max {most}" if localised else f"|Δ| {mean}")
        image = _data_uri(overlay(face, patch_map))
        alt = f"Heat map of {name} over the face; highest patch {patch_map.max():.2f}"
        if not localised:
            alt = f"Face {example.name}, scored by {name}"
        tiles.append(Tile(name, image, alt, tuple(lines), bool(before != after)))
    return ExampleFace(example.name, example.label, max(distances), tuple(tiles))


def _data_uri(image: Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"
