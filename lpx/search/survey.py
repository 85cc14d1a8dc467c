"""Shifts of all faces, most of them measured, others matched.

Every piece is measured on a part of the faces. Those that move scores most are then measured on all
of them. The others share a small part of the whole effect; their shift of a face that was not
measured is that of a measured face of the same class whose float score is near (predictive mean
matching: Little, Journal of Business & Economic Statistics 6, 1988), so that their distribution,
and how it depends on the score, is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score_store import ScoreStore
from lpx.data.face_sets.face_set import FaceSet
from lpx.reporter import Reporter
from lpx.search.pieces import Piece
from lpx.search.shifts import BATCH, FLOAT, Shifts, measure_shifts
from lpx.search.subject import Subject

# One batch in this many is measured with every piece.
_EVERY = 5
# Share of the variance of all shifts that pieces measured on all faces have together.
_SHARE = 0.9
# Faces of a class below which every piece is measured on all faces: too few to match.
_FEW = 50
# A matched face is one of this many nearest.
_NEIGHBOURS = 5
_SEED = 0


@dataclass(frozen=True)
class Survey:
    """Shifts of all faces by all pieces.

    Attributes:
        shifts: The shifts; matched where they were not measured.
        matched: Names of the pieces whose shifts of most faces are matched.
        measured_faces: Number of faces that every piece was measured on.
    """

    shifts: Shifts
    matched: frozenset[str]
    measured_faces: int


@dataclass(frozen=True)
class ShiftStore:
    """Where shifts are kept, so that an interrupted measurement resumes.

    Attributes:
        folder: The folder.
        inputs: What shifts depend on besides the piece: faces, size, versions.
        say: Receives messages about stored shifts that cannot be used.
    """

    folder: Path
    inputs: Mapping[str, Any]
    say: Callable[[str], None]

    def open(self, name: str, subject: Subject, pieces: Sequence[Piece]) -> ScoreStore:
        """Return the store of one pass."""
        digests = {piece.name: subject.digest(piece) for piece in pieces}
        digests[FLOAT] = subject.float_digest
        inputs = {**self.inputs, "pass": name}
        return ScoreStore(self.folder / name, inputs, digests, self.say)


def survey(
    subject: Subject,
    faces: FaceSet,
    size: int,
    store: ShiftStore,
    reporter: Reporter,
    *,
    complete: bool = False,
) -> Survey:
    """Measure shifts by all pieces.

    Args:
        subject: The model.
        faces: Labelled faces.
        size: Side of a face, pixels.
        store: Keeps shifts as they come.
        reporter: Receives progress.
        complete: Measure every piece on every face.

    Raises:
        LpxError: As `measure_shifts`.
    """
    count = len(faces.faces)
    label = "measuring layers"
    rows = np.arange(count)
    first = rows[rows // BATCH % _EVERY == 0]
    labels = faces.labels()[first]
    if complete or min((labels == 0).sum(), (labels == 1).sum()) < _FEW:
        whole = measure_shifts(
            subject,
            subject.pieces,
            faces,
            size,
            store.open("all", subject, subject.pieces),
            reporter.progress(f"{label} on all faces"),
        )
        return Survey(whole, frozenset(), len(whole.indices))
    part = measure_shifts(
        subject,
        subject.pieces,
        faces.take(first),
        size,
        store.open("part", subject, subject.pieces),
        reporter.progress(f"{label} on every {_EVERY}th batch of faces"),
    )
    part = replace(part, indices=first[part.indices])
    large = _largest(subject.pieces, part)
    rest = np.setdiff1d(rows, first)
    others = measure_shifts(
        subject,
        large,
        faces.take(rest),
        size,
        store.open("rest", subject, large),
        reporter.progress(f"{label} that matter on the other faces"),
    )
    others = replace(others, indices=rest[others.indices])
    matched = {piece.name for piece in subject.pieces} - {piece.name for piece in large}
    return Survey(_joined(part, others), frozenset(matched), len(part.indices))


def _largest(pieces: Sequence[Piece], part: Shifts) -> list[Piece]:
    """Return the pieces whose shifts have most of the variance, in the order of the graph."""
    # An offset of all scores costs no AUC, and so does not count.
    variances = {piece.name: float(part.by_piece[piece.name].var()) for piece in pieces}
    wanted = _SHARE * sum(variances.values())
    names: set[str] = set()
    for name in sorted(variances, key=lambda name: -variances[name]):
        if sum(variances[one] for one in names) >= wanted:
            break
        names.add(name)
    return [piece for piece in pieces if piece.name in names]


def _joined(part: Shifts, others: Shifts) -> Shifts:
    indices = np.concatenate([part.indices, others.indices])
    order = np.argsort(indices)
    nearest = _matches(part, others)
    by_piece, map_errors = {}, {}
    for name, measured in part.by_piece.items():
        rest = others.by_piece.get(name)
        map_errors[name] = part.map_errors[name]
        if rest is None:
            rest = measured[nearest]
        else:
            sizes = len(part.indices), len(others.indices)
            errors = part.map_errors[name], others.map_errors[name]
            map_errors[name] = float(np.average(errors, weights=sizes))
        by_piece[name] = np.concatenate([measured, rest])[order]
    return Shifts(
        indices=indices[order],
        labels=np.concatenate([part.labels, others.labels])[order],
        logits=np.concatenate([part.logits, others.logits])[order],
        by_piece=by_piece,
        map_errors=map_errors,
        skipped=(*part.skipped, *others.skipped),
        seconds=part.seconds + others.seconds,
    )


def _matches(part: Shifts, others: Shifts) -> NDArray[np.int64]:
    """Return, for each face of `others`, a face of `part` of its class with a score near to its."""
    random = np.random.default_rng(_SEED)
    matches = np.zeros(len(others.indices), np.int64)
    for label in (0, 1):
        known = np.flatnonzero(part.labels == label)
        known = known[np.argsort(part.logits[known], kind="stable")]
        wanted = np.flatnonzero(others.labels == label)
        at = np.searchsorted(part.logits[known], others.logits[wanted])
        offset = random.integers(-(_NEIGHBOURS // 2), _NEIGHBOURS // 2 + 1, len(wanted))
        matches[wanted] = known[np.clip(at + offset, 0, len(known) - 1)]
    return matches
