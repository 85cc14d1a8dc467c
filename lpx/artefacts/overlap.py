"""Faces that engines were made with, and other reasons to doubt the faces of a bench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from lpx.bench.parity.score import Scored
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.wording import counted
from lpx.engines.manifest import EngineManifest
from lpx.errors import LpxError

# Faces of a class below which an interval of AUC is not to be relied on.
FEW_FACES = 30


def face_warnings(manifests: list[EngineManifest], faces: FaceSet, scored: Scored) -> list[str]:
    """Return warnings about faces that could not be read, are few, or made an engine."""
    warnings = []
    if skipped := scored.skipped:
        names = ", ".join(f"{s.name} ({s.reason})" for s in skipped[:3])
        more = f" and {len(skipped) - 3} more, listed in report.json" * (len(skipped) > 3)
        warnings.append(
            f"{len(skipped)} of {len(faces.faces)} faces could not be read and are left out: "
            f"{names}{more}"
        )
    fakes = int((scored.labels == 1).sum())
    reals = len(scored.labels) - fakes
    if min(reals, fakes) < FEW_FACES:
        warnings.append(
            f"{reals} real and {fakes} fake faces are few: intervals of AUC assume large samples,"
            f" and are too narrow with fewer than about {FEW_FACES} faces of each class"
        )
    return warnings + [
        f"{overlap}; its AUC on other faces may be lower"
        for overlap in overlaps(manifests, faces).values()
    ]


def check_disjoint(manifests: list[EngineManifest], faces: FaceSet) -> None:
    """Refuse to measure an engine on faces that it was calibrated on, or its plan was found with.

    Raises:
        LpxError: An engine was; the error says what is shared.
    """
    for overlap in overlaps(manifests, faces).values():
        raise LpxError(
            overlap,
            "its AUC on other faces may be lower than what would be measured",
            "bench on another set or split, build with other `faces` or another plan, or accept it "
            "with `allow_overlap=True`",
        )


def overlaps(manifests: list[EngineManifest], faces: FaceSet) -> dict[str, str]:
    """Return which measured faces an engine was made with, in words, by the engine's name."""
    digest, contents = faces.digest(), frozenset(faces.short_contents())
    overlaps = {}
    for manifest in manifests:
        shared = []
        for use in _uses(manifest):
            if overlap := _overlap(use.faces, faces, digest, contents):
                shared.append(f"{use.words} on {overlap}")
        if shared:
            overlaps[manifest.name] = ", and ".join(shared)
    return overlaps


def shared_faces(record: Mapping[str, Any], faces: FaceSet) -> str:
    """Say which of some faces were used before; "" if none are known to be.

    Args:
        record: Record of faces, as `lpx.calibration.scales.Scales.summary` returns it.
        faces: The faces.
    """
    return _overlap(record, faces, faces.digest(), frozenset(faces.short_contents()))


class _Use(NamedTuple):
    """A use of faces in making an engine: the beginning of a sentence, and the faces."""

    words: str
    faces: dict[str, Any]


def _uses(manifest: EngineManifest) -> Iterator[_Use]:
    if manifest.calibration is not None:
        yield _Use(f"{manifest.name} was calibrated", manifest.calibration)
    for used in manifest.precision_plan.faces:
        verb = "verified" if used.used_for == "verification" else "searched"
        yield _Use(f"the precision plan of {manifest.name} was {verb}", asdict(used))


def _overlap(
    calibration: Mapping[str, Any], faces: FaceSet, digest: str, contents: frozenset[str]
) -> str:
    """Say what faces used before and measured ones share; "" if nothing is known to be shared."""
    if calibration.get("faces_digest") == digest:
        return "the very faces it is measured on"
    if (calibration.get("faces"), calibration.get("split")) == (faces.name, faces.split):
        count = counted(calibration["face_count"], "face")
        return f"{count} of {faces.name}, the set it is measured on"
    if same := contents.intersection(calibration.get("contents", ())):
        return f"{counted(len(same), 'picture')} that it is measured on (names may differ)"
    if calibration.get("faces") == faces.name:
        # Two sets may use one name for different videos; two splits of one set do not.
        videos = set(faces.videos()) & set(calibration.get("videos", ()))
        if videos:
            more = f" and {len(videos) - 1} more" if len(videos) > 1 else ""
            return f"frames of video {min(videos)}{more}, which {'are' if more else 'is'} measured"
    shared = sorted(set(faces.identities()) & set(calibration.get("identities", ())))
    if not shared:
        return ""
    more = f" and {len(shared) - 1} more" if len(shared) > 1 else ""
    return f"faces of {shared[0]}{more}, who {'are' if more else 'is'} also measured"
