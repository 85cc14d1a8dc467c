"""predict(): scores and heat maps of faces."""

from __future__ import annotations

import csv
import io
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from lpx.bench.score import check_finite
from lpx.data.decode import fit
from lpx.data.face_set import FaceSet, Skipped
from lpx.errors import LpxError
from lpx.pipeline.exported import open_faces, read_exported
from lpx.pipeline.reporter import SILENT, Reporter
from lpx.pipeline.runnable import pick_engine
from lpx.render import encode_png, explained
from lpx.workspace import Workspace, write_bytes


@dataclass(frozen=True)
class FaceScore:
    """What the detector says of one face.

    Attributes:
        name: Path relative to what was asked.
        score: Probability of fake, in [0, 1].
        fake: Whether the score reaches the threshold.
        picture: The heat map's path.
    """

    name: str
    score: float
    fake: bool
    picture: Path


@dataclass(frozen=True)
class Predicted:
    """What `predict` found."""

    engine: str
    threshold: float
    faces: tuple[FaceScore, ...]
    skipped: tuple[Skipped, ...]
    scores: Path


def predict(
    workspace: Workspace,
    path: Path,
    *,
    engine: str | None = None,
    out: Path | None = None,
    report: Reporter = SILENT,
) -> Predicted:
    """Score face crops, and draw where the detector sees forgery.

    Args:
        workspace: Holds the engines.
        path: An image, or a folder of images, of cropped faces.
        engine: Name of an engine, or "torch"; None takes the fastest that runs here.
        out: Folder for the pictures and `scores.csv`; `predictions` in the workspace by default.
        report: Told what happens.

    Raises:
        LpxError: No images, none readable, or an engine that does not exist or run here.
    """
    model = read_exported(workspace)
    out = out or workspace.predictions
    faces = _images(workspace, path, out)
    name, loaded = pick_engine(workspace, model, engine)
    report.say(f"engine {name}, threshold {model.card.threshold:.3f}")
    tell = report.progress("scoring")
    skipped: list[Skipped] = []
    found: list[FaceScore] = []
    with closing(loaded):
        for batch in faces.stream(8, model.card.input_size, skipped):
            prediction = loaded.infer(batch.pixels)
            check_finite(name, prediction, faces, batch.indices)
            for index, pixels, score, patch_map in zip(
                batch.indices, batch.pixels, prediction.score, prediction.patch_map, strict=True
            ):
                face = faces.faces[index]
                fake = bool(score >= model.card.threshold)
                picture = out / f"{face.name}.png"
                verdict = "FAKE" if fake else "real"
                caption = f"{verdict}  score {score:.3f}  threshold {model.card.threshold:.3f}"
                write_bytes(picture, encode_png(explained(fit(pixels, 256), patch_map, caption)))
                found.append(FaceScore(face.name, float(score), fake, picture))
            tell(len(found) + len(skipped), len(faces.faces))
    if not found:
        raise LpxError(
            f"{path} holds no image that can be read",
            f"{skipped[0].name}: {skipped[0].reason}",
            "name an image, or a folder of images, of cropped faces",
        )
    scores = out / "scores.csv"
    write_bytes(scores, _csv(found))
    return Predicted(name, model.card.threshold, tuple(found), tuple(skipped), scores)


def _images(workspace: Workspace, path: Path, out: Path) -> FaceSet:
    if path.is_file():
        from lpx.data.face_set import Face, ImageFile

        face = Face(path.name, None, "unknown", path.name, (), ImageFile(path))
        return FaceSet(str(path), "all", "unknown", (face,))
    if not path.exists():
        raise LpxError(f"{path} does not exist", "", "name an image or a folder of face crops")
    return open_faces(workspace, f"folder:{path}", "all", out)


def _csv(found: list[FaceScore]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "score", "verdict", "picture"])
    for face in found:
        verdict = "fake" if face.fake else "real"
        writer.writerow([face.name, f"{face.score:.6f}", verdict, face.picture])
    return text.getvalue().encode()
