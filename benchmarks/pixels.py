"""What faces lose that other pipelines resize: AUC differences, by the size of the crops.

The demo faces are 256 px, and so shrunk 1.6 times. For larger crops they are enlarged (cubic), and
noise as of a sensor is added in their new size: bilinear resizing without antialiasing keeps it,
averaging does not. Each engine of a workspace scores each pipeline's pixels; what is shown is its
AUC against its own on lpx's pixels of the same faces, with the 95 % interval over people.
"halving" is what helps a pipeline that can resize bilinearly only: steps of 2, then the rest.

    lpx build --fp32 --int8 --target onnxruntime
    python benchmarks/pixels.py
    python benchmarks/pixels.py --factors 1,3 --noise 0,8 --limit 96
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import cv2
import numpy as np

import lpx
from lpx.bench.parity.breakdown import members_of
from lpx.bench.parity.parity import difference
from lpx.bench.parity.pixels import PixelPlan, pixels_of, read_facts
from lpx.bench.parity.score import score
from lpx.data.face_sets.demo import demo_set
from lpx.data.face_sets.face_set import FaceSet, ImageSource
from lpx.data.images.decode import Image
from lpx.data.pipelines.resize import bilinear
from lpx.data.pipelines.table import PIPELINES, Pipeline
from lpx.metrics import auc


@dataclass(frozen=True)
class Larger:
    """A face enlarged, with noise.

    Attributes:
        source: The face.
        factor: How many times as wide and high it becomes.
        noise: Standard deviation of the noise, of 255.
        seed: Seed of the noise.
    """

    source: ImageSource
    factor: int
    noise: float
    seed: int

    def read(self) -> Image:
        """Make the image, uint8 RGB [H, W, 3]."""
        image = self.source.read()
        if self.factor > 1:
            height, width = image.shape[:2]
            size = (self.factor * width, self.factor * height)
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)
        if not self.noise:
            return image
        rng = np.random.default_rng(self.seed)
        grain = rng.normal(0, self.noise, image.shape).astype(np.float32)
        return np.clip(image + grain + 0.5, 0, 255).astype(np.uint8)

    def content_digest(self) -> bytes:
        """Return the SHA-256 of what the image is made from."""
        parts = (self.source, self.factor, self.noise, self.seed)
        return hashlib.sha256(repr(parts).encode()).digest()


def halved(image: Image, size: int) -> Image:
    """Resize bilinearly in steps of 2 as long as the crop is twice as large, then in one."""
    while min(image.shape[:2]) >= 2 * size:
        height, width = image.shape[:2]
        half = (width // 2, height // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_LINEAR), np.uint8)
    return bilinear(image, size)


HALVING = Pipeline("halving", 1, "bilinear in steps of 2, then in one", halved)


def enlarged(faces: FaceSet, factor: int, noise: float) -> FaceSet:
    """Return a face set whose faces are larger."""
    larger = []
    for row, face in enumerate(faces.faces):
        larger.append(replace(face, source=Larger(face.source, factor, noise, row)))
    return replace(faces, faces=tuple(larger))


def measure(workspace: Path, faces: FaceSet) -> list[dict[str, object]]:
    """Return a row for each engine and pipeline."""
    rows: list[dict[str, object]] = []
    with ExitStack() as stack:
        engines = {}
        for folder in sorted((workspace / "engines").iterdir()):
            engines[folder.name] = stack.enter_context(lpx.load(folder))
        size = next(iter(engines.values())).size
        plan = PixelPlan((*PIPELINES.values(), HALVING), tuple(engines))
        found = score(engines, faces, size, pixels=plan)
    groups = members_of(faces, found.indices).groups
    for name in engines:
        own = found.predictions[name].score
        for pipeline in plan.pipelines:
            theirs = found.predictions[pixels_of(name, pipeline.name)].score
            change = difference(found.labels, own, theirs, groups).deciding
            facts = read_facts(pipeline, found.pixel_notes[pipeline.name], size)
            rows.append(
                {
                    "engine": name,
                    "pipeline": pipeline.name,
                    "auc": auc(found.labels, own),
                    "change": asdict(change),
                    "mean_score_difference": float(np.abs(theirs - own).mean()),
                    "mean_pixel_difference": facts.difference,
                }
            )
    return rows


def numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """Split comma-separated numbers."""
    return tuple(int(one) for one in value.split(","))


@click.command()
@click.option("-w", "--workspace", type=click.Path(path_type=Path), default=Path("lpx-out"))
@click.option("--factors", default="1,3", show_default=True, callback=numbers)
@click.option("--noise", default="0,8", show_default=True, callback=numbers)
@click.option("--limit", type=int, help="Maximum number of faces.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def main(
    workspace: Path,
    factors: tuple[int, ...],
    noise: tuple[int, ...],
    limit: int | None,
    as_json: bool,
) -> None:
    """Measure engines of a workspace on the pixels of all pipelines."""
    faces = demo_set("test").first(limit)
    for factor in factors:
        for sigma in noise:
            started = time.perf_counter()
            rows = measure(workspace, enlarged(faces, factor, sigma))
            if as_json:
                click.echo(json.dumps({"factor": factor, "noise": sigma, "rows": rows}))
                continue
            seconds = time.perf_counter() - started
            click.echo(f"crops of {256 * factor} px, noise {sigma}: {seconds:.0f} s")
            for row in rows:
                change = row["change"]
                click.echo(
                    f"  {row['engine']:18} {row['pipeline']:20} AUC {row['auc']:.4f} "
                    f"{change['estimate']:+.4f} [{change['low']:+.4f}, {change['high']:+.4f}]  "
                    f"|ds| {row['mean_score_difference']:.4f}  "
                    f"pixels {row['mean_pixel_difference']:.2f}"
                )


if __name__ == "__main__":
    main()
