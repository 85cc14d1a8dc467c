"""The page of `lpx explain`: one HTML file that needs nothing else, no network, fonts or folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lpx.bench.report.pages import environment
from lpx.data.images.decode import fit
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
    """A face on the page, with what it is sorted by; None comes last."""

    face: Explanation
    pictures: Pictures
    mistake: float | None
    similarity: float | None


def rows(found: Findings, pictures: Sequence[Pictures]) -> list[Row]:
    """The faces in the page's first order: worst mistakes first, without labels highest score."""
    shown = [
        Row(face, drawn, face.mistake(found.card.threshold), face.mean_similarity)
        for face, drawn in zip(found.explanations, pictures, strict=True)
    ]
    if found.mistakes is None:
        return sorted(shown, key=lambda row: (-row.face.score, row.face.name))
    return sorted(
        shown,
        key=lambda row: (row.mistake is None, -(row.mistake or 0), row.face.name),
    )


@dataclass(frozen=True)
class Mean:
    """The mean map of a class at the top of the page, or the difference of both."""

    title: str
    image: str
    alt: str
    lines: tuple[str, ...]
    label: str = ""
    matrix: str = ""
    ramp: str = ""
    ends: tuple[str, str] = ("", "")


def means(found: Findings) -> list[Mean]:
    """The mean maps of both classes, and their difference; fewer where labels are not known."""
    shown = [_class_mean(mean, found.regions) for mean in found.means]
    if len(found.means) == 2:
        real, fake = found.means
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
    """The largest magnitude, rounded up to a tenth."""
    return max(1, math.ceil(float(np.abs(difference).max()) * 10 - 1e-6)) / 10


def _class_mean(mean: ClassMean, regions: int) -> Mean:
    lines = [f"{mean.faces:,} faces, mean score {mean.score:.3f}"]
    matrix = ""
    if regions:
        matrix = lossless(matrix_picture(mean.similarity, regions))
        lines.append(f"local diversity: similarity {off_diagonal_mean(mean.similarity):.2f}")
    image = lossy(overlay(fit(mean.pixels, MEAN_SIDE), mean.patch_map))
    alt = f"Mean patch map over the mean {mean.word} face"
    return Mean(f"Mean of {mean.word} faces", image, alt, tuple(lines), mean.word, matrix)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def headline(found: Findings) -> str:
    """What the page shows, in a few sentences."""
    faces = found.explanations
    threshold = f"the threshold of {found.card.threshold:.3f}"
    if found.mistakes is None and len(faces) == 1:
        call = "fake" if faces[0].fake else "real"
        text = f"Score {faces[0].score:.3f}, called {call} at {threshold}."
    elif found.mistakes is None:
        called = sum(face.fake for face in faces)
        text = (
            f"{called:,} of {_faces(len(faces))} called fake at {threshold}; labels are not known."
        )
    else:
        judged = sum(face.label is not None for face in faces)
        text = f"{found.mistakes:,} of {_faces(judged)} called wrong at {threshold}{_split(faces)}."
    size, side = found.field.size, found.card.input_size
    if size is not None and size < side:
        text += f" A patch sees {size} × {size} px of the {side} × {side} px crop, "
        text += f"{100 * (size / side) ** 2:.0f} % of it."
    similarity = mean_of(faces)
    if similarity is not None:
        text += f" Regions of a face resemble each other by {similarity:.2f} on average."
    return text


def _faces(count: int) -> str:
    return f"{count:,} face is" if count == 1 else f"{count:,} faces are"


def _split(faces: Sequence[Explanation]) -> str:
    wrong = [face for face in faces if face.mistaken]
    if not wrong:
        return ""
    fakes = sum(bool(face.label) for face in wrong)
    return f" ({len(wrong) - fakes:,} real called fake, {fakes:,} fake called real)"


def mean_of(faces: Sequence[Explanation]) -> float | None:
    """Mean over faces of how alike their regions are; None where there are no regions."""
    values = [value for face in faces if (value := face.mean_similarity) is not None]
    return float(np.mean(values)) if values else None


def render_page(found: Findings, pictures: Sequence[Pictures]) -> str:
    """Render the page.

    Args:
        found: What was found.
        pictures: Of each face in `found.explanations`.

    Returns:
        An HTML document that refers to nothing outside itself. The same arguments give the same
        text.
    """
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return (
        environment("lpx.explain")
        .get_template("explain.html.j2")
        .render(
            found=found,
            headline=headline(found),
            rows=rows(found, pictures),
            means=means(found),
            similarity=mean_of(found.explanations),
            heat_ramp=lossless(heat_map(ramp, 256)[:8]),
            matrix_ramp=lossless(similarity_ramp(_lowest(found))),
            lowest=_lowest(found),
            strongest=f"rgb{STRONGEST}",
            weakest=f"rgb{WEAKEST}",
            card=found.card.to_dict(),
        )
    )


def _lowest(found: Findings) -> int:
    """Where the scale of similarities begins: below 0 only where one is negative."""
    return -1 if any(face.similarity.min(initial=0) < -0.005 for face in found.explanations) else 0
