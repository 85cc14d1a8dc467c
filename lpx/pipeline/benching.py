"""bench(): every engine against the checkpoint."""

from __future__ import annotations

import math
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lpx.bench.html import render_html
from lpx.bench.parity import MARGIN
from lpx.bench.run import Candidate, Watch, to_report
from lpx.bench.run import bench as measure
from lpx.bench.score import Scored
from lpx.data.face_set import FaceSet
from lpx.data.roots import DataPlaces
from lpx.engines.load import load
from lpx.engines.machine import read_machine
from lpx.engines.manifest import EngineManifest
from lpx.engines.torch_engine import TorchEngine
from lpx.errors import LpxError
from lpx.pipeline.exported import (
    check_at_least,
    open_faces,
    read_exported,
    read_reference,
    versions,
)
from lpx.pipeline.reporter import SILENT, Reporter
from lpx.pipeline.runnable import runnable
from lpx.workspace import Workspace, write_bytes, write_json

FEW_FACES = 30
"""Faces of a class below which an interval of AUC is not to be relied on."""


@dataclass(frozen=True)
class Benched:
    """What `bench` found, and where it wrote it."""

    report: dict[str, Any]
    json_path: Path
    html_path: Path


def bench(
    workspace: Workspace,
    dataset: str,
    *,
    limit: int | None = None,
    margin: float = MARGIN,
    latency_seconds: float = 2.0,
    allow_overlap: bool = False,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    report: Reporter = SILENT,
) -> Benched:
    """Measure every engine of the workspace that runs here against the checkpoint.

    Args:
        workspace: Holds the reference and the engines; receives `report.json` and `report.html`.
        dataset: A labelled data set; its test split where it has splits.
        limit: Most faces, spread evenly over the set; None for all.
        margin: AUC that a candidate may lose.
        latency_seconds: Time to measure each engine for, per batch size; 0 leaves latency out.
        allow_overlap: Measure, with a warning, on faces that an engine was calibrated on.
        places: Where the videos and prepared faces of public data sets lie.
        report: Told what happens.

    Raises:
        LpxError: No engines, engines of another model, engines calibrated on faces of the set, a
            set without labels or with one class.
    """
    check_at_least("--limit", limit, 4, "AUC and its interval need two real and two fake faces")
    if not 0 <= margin <= 1:
        raise LpxError(
            f"--margin {margin:g} does not lie between 0 and 1",
            "it is how much AUC an engine may lose",
            f"give such a number, as --margin {MARGIN:g}",
        )
    if not 0 <= latency_seconds < math.inf:
        raise LpxError(
            f"--latency-seconds {latency_seconds:g} is no time",
            "it is for how long each engine is measured",
            "give a number of seconds, or 0 to leave latency out",
        )
    model = read_exported(workspace)
    faces = open_faces(
        workspace, dataset, "test", places=places, card=model.card, report=report
    ).first(limit)
    manifests, not_run = runnable(workspace, model)
    if not allow_overlap:
        _check_disjoint(manifests, faces)
    with workspace.lock(), ExitStack() as stack:
        reference = stack.enter_context(closing(TorchEngine(read_reference(workspace, model))))
        candidates = {
            m.name: Candidate(m, stack.enter_context(closing(load(workspace.engines / m.name))))
            for m in manifests
        }
        watch = Watch(report.progress(f"scoring {faces.name}"), report.progress("timing"))
        result = measure(
            reference,
            candidates,
            faces,
            model.card,
            margin=margin,
            latency_seconds=latency_seconds,
            watch=watch,
        )
        values = to_report(
            result,
            faces,
            model.card,
            margin=margin,
            environment={
                "machine": asdict(read_machine()),
                "versions": versions("torch", "onnx", "onnxruntime", "numpy"),
            },
            not_run=not_run,
            warnings=_warnings(manifests, faces, result.scored),
        )
        json_path, html_path = workspace.root / "report.json", workspace.root / "report.html"
        write_json(json_path, values)
        write_bytes(html_path, render_html(values, result).encode())
    return Benched(values, json_path, html_path)


def _warnings(manifests: list[EngineManifest], faces: FaceSet, scored: Scored) -> list[str]:
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
            f"{reals} real and {fakes} fake faces are few: intervals of AUC hold for large samples,"
            f" and are too narrow below some {FEW_FACES} faces of each class"
        )
    return warnings + [
        f"{name} was calibrated on {overlap}; its AUC on other faces may be lower"
        for name, overlap in _overlaps(manifests, faces).items()
    ]


def _check_disjoint(manifests: list[EngineManifest], faces: FaceSet) -> None:
    """Refuse to measure an engine on what it was calibrated on.

    Raises:
        LpxError: The first such engine, and what is shared.
    """
    for name, overlap in _overlaps(manifests, faces).items():
        raise LpxError(
            f"{name} was calibrated on {overlap}",
            "its AUC on other faces may be lower than what would be measured",
            "bench on another set or split, build with other --faces, or measure all the same "
            "with --allow-overlap",
        )


def _overlaps(manifests: list[EngineManifest], faces: FaceSet) -> dict[str, str]:
    """What was calibrated on and is measured too, by the name of the engine."""
    digest = faces.digest()
    found = {m.name: _overlap(m.calibration or {}, faces, digest) for m in manifests}
    return {name: overlap for name, overlap in found.items() if overlap}


def _overlap(calibration: dict[str, Any], faces: FaceSet, digest: str) -> str:
    """What calibration and measurement share; "" where nothing, as far as is known."""
    if calibration.get("faces_digest") == digest:
        return "the very faces it is measured on"
    if (calibration.get("faces"), calibration.get("split")) == (faces.name, faces.split):
        return f"{calibration['face_count']} faces of {faces.name}, the set it is measured on"
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
