"""`lpx explain`: from a checkpoint and faces to a page, the maps as numbers, and a picture."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile, Skipped
from lpx.data.face_sets.sets import open_set
from lpx.data.images.decode import SUFFIXES
from lpx.data.roots import expanded
from lpx.data.wording import printable
from lpx.errors import LpxError
from lpx.explain.examiner import Examiner, Explanation, Findings, class_means
from lpx.explain.page import render_page
from lpx.explain.pictures import Pictures, draw, picture_side, sheet
from lpx.models.checkpoint import Detector, load_checkpoint
from lpx.render.encode import encode_png
from lpx.workspace import check_writable, write_bytes

LIMIT = 200
PAGE = "index.html"
MAPS = "maps.npz"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Explained:
    """What `explain` found, and where it wrote it.

    Attributes:
        findings: Per face, per class and of the detector.
        page: `index.html`, one file that needs nothing else.
        maps: `maps.npz`; its arrays are listed at `explain`.
        picture: The picture of the face, where there was one to look at; else None.
    """

    findings: Findings
    page: Path
    maps: Path
    picture: Path | None


def explain(
    checkpoint: Path,
    source: str,
    out: Path,
    *,
    limit: int | None = LIMIT,
    skip: tuple[Path, ...] = (),
    progress: Progress | None = None,
) -> Explained:
    """Show what a detector looks at, face by face.

    `out` receives `index.html`; `<name>.png` where `source` is an image; and `maps.npz` with names
    [N], scores float32 [N], labels int64 [N] (1 = fake, -1 = not known), patch_maps float32
    [N, h, w], strongest int64 [N, 2] (row, column) and similarities float32 [N, R, R], R = 0 where
    the grid is too small for regions.

    Args:
        checkpoint: An lpx checkpoint.
        source: An image of a cropped face, a folder of them, or a data set by name.
        out: Folder to write to.
        limit: Most faces, spread evenly over the set; None for all.
        skip: Folders not to look into, where they lie below `source`.
        progress: Called with (done, total).

    Raises:
        LpxError: No lpx checkpoint, no images, none readable, or a folder that cannot be written.
    """
    examiner = Examiner(_load(checkpoint))
    whole = open_faces(source, skip=(out, *skip))
    faces = whole.first(limit)
    check_writable(out, PAGE, MAPS)
    looked = _look(examiner, faces, progress)
    if not looked.found:
        worst = looked.skipped[0]
        raise LpxError(f"no image of {source} can be read", f"{worst.name}: {worst.reason}")
    findings = Findings(
        checkpoint.name,
        examiner.card,
        examiner.field,
        examiner.regions,
        faces,
        len(whole.faces),
        tuple(looked.found),
        class_means(looked.found, looked.sums),
        tuple(looked.skipped),
    )
    picture = None
    if expanded(source).is_file():
        picture = out / f"{looked.found[0].name}.png"
        write_bytes(picture, encode_png(sheet(findings, looked.found[0], looked.last)))
    maps, page = out / MAPS, out / PAGE
    write_bytes(maps, _numbers(looked.found))
    write_bytes(page, render_page(findings, looked.pictures).encode())
    return Explained(findings, page, maps, picture)


@dataclass
class _Looked:
    """What is kept of faces that stream by: no pixels but those of the last one."""

    found: list[Explanation] = field(default_factory=list)
    pictures: list[Pictures] = field(default_factory=list)
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    last: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))


def _look(examiner: Examiner, faces: FaceSet, progress: Progress | None) -> _Looked:
    looked = _Looked()
    side = picture_side(len(faces.faces))
    for face, pixels in examiner.examine(faces, looked.skipped):
        looked.found.append(face)
        looked.pictures.append(draw(face, pixels, examiner.regions, side))
        looked.last = pixels
        if face.label is not None:
            so_far = looked.sums.get(face.label, np.zeros(pixels.shape))
            looked.sums[face.label] = so_far + pixels
        if progress:
            progress(len(looked.found) + len(looked.skipped), len(faces.faces))
    return looked


def _numbers(found: list[Explanation]) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(
        data,
        names=np.array([face.name for face in found]),
        scores=np.array([face.score for face in found], np.float32),
        labels=np.array([-1 if face.label is None else face.label for face in found], np.int64),
        patch_maps=np.stack([face.patch_map for face in found]),
        strongest=np.array([(face.strongest.row, face.strongest.column) for face in found]),
        similarities=np.stack([face.similarity for face in found]),
    )
    return data.getvalue()


def open_faces(source: str, skip: tuple[Path, ...] = ()) -> FaceSet:
    """The faces of an image, a folder or a data set; of one with splits, those to measure on.

    Raises:
        LpxError: There is nothing of that name, or no image in it.
    """
    path = expanded(source)
    if path.is_file():
        name = printable(path.name)
        face = Face(name, None, "unknown", name, (), ImageFile(path))
        return FaceSet(name, "all", "unknown", (face,))
    if path.suffix.lower() in SUFFIXES and not path.exists():
        raise LpxError(
            f"{source} does not exist", "", "name an image, a folder of face crops, or a data set"
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
            "lpx explain takes lpx checkpoints only; models of a --factory have no regions that it "
            "could compare",
            f"`lpx export {checkpoint} --backbone NAME ...` says what it is, and leaves an lpx "
            "checkpoint, reference.pt, in the workspace",
        ) from error
