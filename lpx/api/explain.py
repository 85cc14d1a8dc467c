"""Explanations of a checkpoint's scores: a page, maps as numbers, and a picture."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import check_at_least
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile, Skipped
from lpx.data.face_sets.sets import open_set
from lpx.data.images.decode import SUFFIXES
from lpx.data.roots import expanded
from lpx.data.wording import printable
from lpx.errors import LpxError
from lpx.explain.examiner import Examiner, Explanation, Findings, Patch, class_means
from lpx.explain.page import render_page
from lpx.explain.pictures import Pictures, draw, picture_side, sheet
from lpx.models.checkpoint import Detector, load_checkpoint
from lpx.render.encode import encode_png
from lpx.reporter import Progress
from lpx.workspace import check_writable, write_bytes

LIMIT = 200
PAGE = "index.html"
MAPS = "maps.npz"


@dataclass(frozen=True)
class ExplainResult:
    """Result of `lpx.Workspace.explain`.

    Attributes:
        findings: Explanations per face, per class, and of the detector.
        page: Path of `index.html`, a self-contained page.
        maps: Path of `maps.npz`, whose arrays are listed at `explain`.
        picture: Path of the picture of the face, if `source` was a single image.
    """

    findings: Findings
    page: Path
    maps: Path
    picture: Path | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `lpx explain --json` prints them."""
        findings = self.findings
        means = []
        for mean in findings.means:
            means.append({"label": mean.word, "faces": mean.faces, "mean_score": mean.score})
        picture = None
        if self.picture is not None:
            picture = str(self.picture)
        return {
            "checkpoint": findings.checkpoint,
            "dataset": findings.faces.name,
            "faces_in_set": findings.total,
            "threshold": findings.card.threshold,
            "mistakes": findings.mistakes,
            "grid": list(findings.field.grid),
            "receptive_field": findings.field.size,
            "receptive_field_unknown_because": findings.field.reason or None,
            "regions_per_side": findings.regions,
            "classes": means,
            "faces": [_face_values(face) for face in findings.explanations],
            "note": findings.faces.note,
            "skipped": [{"file": s.name, "reason": s.reason} for s in findings.skipped],
            "page": str(self.page),
            "maps": str(self.maps),
            "picture": picture,
        }


def _face_values(face: Explanation) -> dict[str, Any]:
    return {
        "file": face.name,
        "label": face.label,
        "score": face.score,
        "fake": face.fake,
        "similarity": face.mean_similarity,
        "strongest": _patch_values(face.strongest),
        "weakest": _patch_values(face.weakest),
    }


def _patch_values(patch: Patch) -> dict[str, Any]:
    box = None if patch.box is None else list(patch.box)
    return {"row": patch.row, "column": patch.column, "probability": patch.probability, "box": box}


def explain(
    checkpoint: Path,
    source: str,
    out: Path,
    *,
    limit: int | None = LIMIT,
    skip: tuple[Path, ...] = (),
    progress: Progress | None = None,
) -> ExplainResult:
    """Implement `lpx.Workspace.explain`, which documents arguments and errors.

    `out` receives `index.html`; `<name>.png` if `source` is an image; and `maps.npz` with names
    [N], scores float32 [N], labels int64 [N] (1 = fake, -1 = unknown), patch_maps float32
    [N, h, w], strongest int64 [N, 2] (row, column) and similarities float32 [N, R, R], with R = 0
    if the grid is too small for regions.
    """
    check_at_least("limit", limit, 1)
    examiner = Examiner(_load(checkpoint))
    whole = open_faces(source, skip=(out, *skip))
    faces = whole.first(limit)
    check_writable(out, PAGE, MAPS)
    examined = _examine(examiner, faces, progress)
    if not examined.explanations:
        worst = examined.skipped[0]
        raise LpxError(f"no image of {source} can be read", f"{worst.name}: {worst.reason}")
    findings = Findings(
        checkpoint.name,
        examiner.card,
        examiner.field,
        examiner.regions,
        faces,
        len(whole.faces),
        tuple(examined.explanations),
        class_means(examined.explanations, examined.sums),
        tuple(examined.skipped),
    )
    picture = None
    if expanded(source).is_file():
        picture = out / f"{examined.explanations[0].name}.png"
        write_bytes(picture, encode_png(sheet(findings, examined.explanations[0], examined.last)))
    maps, page = out / MAPS, out / PAGE
    write_bytes(maps, _numbers(examined.explanations))
    write_bytes(page, render_page(findings, examined.pictures).encode())
    return ExplainResult(findings, page, maps, picture)


@dataclass
class _Examination:
    """Results that are kept while faces stream by; of their pixels, only the last face's."""

    explanations: list[Explanation] = field(default_factory=list)
    pictures: list[Pictures] = field(default_factory=list)
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    last: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))


def _examine(examiner: Examiner, faces: FaceSet, progress: Progress | None) -> _Examination:
    done = _Examination()
    side = picture_side(len(faces.faces))
    for face, pixels in examiner.examine(faces, done.skipped):
        done.explanations.append(face)
        done.pictures.append(draw(face, pixels, examiner.regions, side))
        done.last = pixels
        if face.label is not None:
            # Zeros of float64: a sum of uint8 would wrap around at 256.
            so_far = done.sums.get(face.label, np.zeros(pixels.shape))
            done.sums[face.label] = so_far + pixels
        if progress:
            progress(len(done.explanations) + len(done.skipped), len(faces.faces))
    return done


def _numbers(faces: list[Explanation]) -> bytes:
    labels, strongest = [], []
    for face in faces:
        label = face.label
        # NumPy's integers have no NaN for an unknown label.
        if label is None:
            label = -1
        labels.append(label)
        strongest.append((face.strongest.row, face.strongest.column))
    data = io.BytesIO()
    np.savez_compressed(
        data,
        names=np.array([face.name for face in faces]),
        scores=np.array([face.score for face in faces], np.float32),
        labels=np.array(labels, np.int64),
        patch_maps=np.stack([face.patch_map for face in faces]),
        strongest=np.array(strongest),
        similarities=np.stack([face.similarity for face in faces]),
    )
    return data.getvalue()


def open_faces(source: str, skip: tuple[Path, ...] = ()) -> FaceSet:
    """Open an image, a folder, or a data set (its test split, if it has splits).

    Raises:
        LpxError: Nothing of that name exists, or it has no images.
    """
    path = expanded(source)
    if path.is_file():
        name = printable(path.name)
        face = Face(name, None, "unknown", name, (), ImageFile(path))
        return FaceSet(name, "all", "unknown", (face,))
    if path.suffix.lower() in SUFFIXES and not path.exists():
        raise LpxError(
            f"{source} does not exist",
            "",
            "use an image, a folder of face crops, or a data set",
            code="not-found",
        )
    return open_set(source, "test", skip=skip)


def _load(checkpoint: Path) -> Detector:
    try:
        return load_checkpoint(checkpoint)
    except LpxError as error:
        if error.code != "no-model-card":
            raise
        raise LpxError(
            error.what,
            "explanations need an lpx checkpoint; the model of a factory has no regions that could "
            "be compared",
            f"describe it with `lpx export {checkpoint} --backbone NAME ...`, which writes an lpx "
            "checkpoint, reference.pt, to the workspace",
            code="no-model-card",
        ) from error
