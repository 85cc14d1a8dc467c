"""The page of `lpx explain`: a self-contained HTML file, without network, fonts or other files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpx.bench.report.pages import environment
from lpx.data.images.decode import fit
from lpx.data.wording import are
from lpx.explain.examiner import ClassMean, Explanation, Findings, Floats, off_diagonal_mean
from lpx.explain.pictures import Pictures
from lpx.render.encode import lossless, lossy
from lpx.render.face import (
    STRONGEST,
    WEAKEST,
    difference_picture,
    difference_ramp,
    heat_map,
    matrix_picture,
    overlay,
    similarity_ramp,
)

MEAN_SIDE = 256


@dataclass(frozen=True)
class Row:
    """A face on the page, with its sort keys; None is sorted last."""

    face: Explanation
    pictures: Pictures
    mistake: float | None
    similarity: float | None


def rows(findings: Findings, pictures: Sequence[Pictures]) -> list[Row]:
    """Return the faces in initial order: worst mistakes first, or by score without labels."""
    unsorted = []
    for face, drawn in zip(findings.explanations, pictures, strict=True):
        mistake = face.mistake(findings.card.threshold)
        unsorted.append(Row(face, drawn, mistake, face.mean_similarity))
    if findings.mistakes is None:
        return sorted(unsorted, key=lambda row: (-row.face.score, row.face.name))
    return sorted(
        unsorted,
        key=lambda row: (row.mistake is None, -(row.mistake or 0), row.face.name),
    )


@dataclass(frozen=True)
class Mean:
    """The mean map of a class, or the difference of two, at the top of the page."""

    title: str
    image: str
    alt: str
    lines: tuple[str, ...]
    label: str = ""
    matrix: str = ""
    ramp: str = ""
    ends: tuple[str, str] = ("", "")


def means(findings: Findings) -> list[Mean]:
    """Return the mean maps of the classes that have faces, and their difference if both have."""
    shown = [_class_mean(mean, findings.regions) for mean in findings.means]
    if len(findings.means) == 2:
        real, fake = findings.means
        difference = fake.patch_map - real.patch_map
        limit = scale_end(difference)
        image = lossless(difference_picture(difference, limit, MEAN_SIDE))
        low, high = float(difference.min()), float(difference.max())
        line = f"patches differ by {_signed(low)} to {_signed(high)}"
        shown.append(
            Mean(
                "Fake minus real",
                image,
                "Difference of the mean maps",
                (line,),
                ramp=lossless(difference_ramp()),
                ends=(f"−{limit:.1f} real higher", f"fake higher +{limit:.1f}"),
            )
        )
    return shown


def scale_end(difference: Floats) -> float:
    """Return the largest magnitude, rounded up to a tenth."""
    # Minus a small number, so that 0.3, which as a float32 is above 0.3, does not become 0.4.
    return max(1, math.ceil(float(np.abs(difference).max()) * 10 - 1e-6)) / 10


def _class_mean(mean: ClassMean, regions: int) -> Mean:
    lines = [f"{_faces(mean.faces)}, mean score {mean.score:.3f}"]
    matrix = ""
    if regions:
        matrix = lossless(matrix_picture(mean.similarity, regions))
        lines.append(f"local diversity: similarity {off_diagonal_mean(mean.similarity):.2f}")
    image = lossy(overlay(fit(mean.pixels, MEAN_SIDE), mean.patch_map))
    alt = f"Mean patch map over the mean {mean.word} face"
    return Mean(f"Mean of {mean.word} faces", image, alt, tuple(lines), mean.word, matrix)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def headline(findings: Findings) -> str:
    """Summarise the page in a few sentences."""
    faces = findings.explanations
    threshold = f"the threshold of {findings.card.threshold:.3f}"
    if findings.mistakes is None and len(faces) == 1:
        call = "fake" if faces[0].fake else "real"
        text = f"Score {faces[0].score:.3f}, classified as {call} at {threshold}."
    elif findings.mistakes is None:
        called = sum(face.fake for face in faces)
        text = (
            f"{called:,} of {_faces(len(faces))} {are(len(faces))} classified as fake at "
            f"{threshold}; labels are unknown."
        )
    else:
        labelled = sum(face.label is not None for face in faces)
        text = (
            f"{findings.mistakes:,} of {_faces(labelled)} {are(labelled)} misclassified at "
            f"{threshold}{_split(faces)}."
        )
    size, side = findings.field.size, findings.card.input_size
    if size is not None and size < side:
        share = 100 * (size / side) ** 2
        text += f" A patch sees {size} × {size} px, {share:.0f} % of the {side} × {side} px crop."
    similarity = mean_of(faces)
    if similarity is not None:
        text += f" The mean similarity of a face's regions is {similarity:.2f}."
    return text


def _faces(count: int) -> str:
    return f"{count:,} {'face' if count == 1 else 'faces'}"


def _split(faces: Sequence[Explanation]) -> str:
    wrong = [face for face in faces if face.mistaken]
    if not wrong:
        return ""
    fakes = sum(bool(face.label) for face in wrong)
    return f" ({len(wrong) - fakes:,} real as fake, {fakes:,} fake as real)"


def mean_of(faces: Sequence[Explanation]) -> float | None:
    """Return the mean over faces of the similarity of their regions; None without regions."""
    values = []
    for face in faces:
        if face.mean_similarity is not None:
            values.append(face.mean_similarity)
    if not values:
        return None
    return float(np.mean(values))


def render_page(findings: Findings, pictures: Sequence[Pictures]) -> str:
    """Render the page.

    Args:
        findings: Contents of the page.
        pictures: Pictures of each face in `findings.explanations`.

    Returns:
        A self-contained HTML document. The same arguments give the same text.
    """
    # The colour scales are drawn by the functions that draw the maps, so that they cannot differ.
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return (
        environment("lpx.explain")
        .get_template("explain.html.j2")
        .render(
            findings=findings,
            headline=headline(findings),
            rows=rows(findings, pictures),
            means=means(findings),
            similarity=mean_of(findings.explanations),
            heat_ramp=lossless(heat_map(ramp, 256)[:8]),
            matrix_ramp=lossless(similarity_ramp(_lowest(findings))),
            lowest=_lowest(findings),
            strongest=f"rgb{STRONGEST}",
            weakest=f"rgb{WEAKEST}",
            card=findings.card.to_dict(),
        )
    )


def _lowest(findings: Findings) -> int:
    """Return the start of the similarity scale: -1 if a similarity is clearly negative, else 0."""
    for face in findings.explanations:
        if face.similarity.min(initial=0) < -0.005:
            return -1
    return 0
