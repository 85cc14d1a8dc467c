"""Faces that engines were calibrated on, and other reasons to doubt the faces of a bench."""

from __future__ import annotations

from typing import Any

from lpx.bench.parity.score import Scored
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.wording import counted
from lpx.engines.manifest import EngineManifest
from lpx.errors import LpxError

# Faces of a class below which an interval of AUC is not to be relied on.
FEW_FACES = 30


def face_warnings(manifests: list[EngineManifest], faces: FaceSet, scored: Scored) -> list[str]:
    """Return warnings about faces that could not be read, are few, or were calibrated on."""
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
        f"{name} was calibrated on {overlap}; its AUC on other faces may be lower"
        for name, overlap in overlaps(manifests, faces).items()
    ]


def check_disjoint(manifests: list[EngineManifest], faces: FaceSet) -> None:
    """Refuse to measure an engine on the faces that it was calibrated on.

    Raises:
        LpxError: An engine was; the error says what is shared.
    """
    for name, overlap in overlaps(manifests, faces).items():
        raise LpxError(
            f"{name} was calibrated on {overlap}",
            "its AUC on other faces may be lower than what would be measured",
            "bench on another set or split, build with other `faces`, or accept it with "
            "`allow_overlap=True`",
        )


def overlaps(manifests: list[EngineManifest], faces: FaceSet) -> dict[str, str]:
    """Return what each engine was calibrated on that is measured too, by the engine's name."""
    digest, contents = faces.digest(), frozenset(faces.short_contents())
    overlaps = {m.name: _overlap(m.calibration or {}, faces, digest, contents) for m in manifests}
    return {name: overlap for name, overlap in overlaps.items() if overlap}


def _overlap(
    calibration: dict[str, Any], faces: FaceSet, digest: str, contents: frozenset[str]
) -> str:
    """Say what calibration and measurement share; "" if nothing is known to be shared."""
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
