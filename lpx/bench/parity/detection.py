"""How well each engine tells fake from real: per face, per video, and per manipulation method."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import Scored
from lpx.data.face_sets.face_set import FaceSet
from lpx.metrics import DetectionMetrics, detection_metrics, per_method, video_scores

Names = NDArray[np.str_]


def accuracy(scored: Scored, faces: FaceSet, threshold: float) -> dict[str, dict[str, Any]]:
    """Measure every engine on the faces that could be read.

    Args:
        scored: Labels and predictions.
        faces: The set: methods and videos.
        threshold: The detector's own.

    Returns:
        Per engine: `face` over all faces; `video` over videos (a video's score is the mean of its
        faces'; videos of one name and two methods are two), None where no video has two faces;
        `methods`, one such pair per method of manipulation, against all reals.
    """
    members = [faces.faces[int(index)] for index in scored.indices]
    methods = np.array([face.method for face in members])
    videos = np.array([face.video for face in members])
    return {
        name: _of_engine(scored.labels, prediction.score, methods, videos, threshold)
        for name, prediction in scored.predictions.items()
    }


def _of_engine(
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    methods: Names,
    videos: Names,
    threshold: float,
) -> dict[str, Any]:
    of_faces = detection_metrics(labels, scores, threshold)
    rows = per_method(scores, labels, methods, threshold)
    grouped = video_scores(scores, labels, methods, videos)
    whole, of_videos = None, {}
    if len(grouped.scores) < len(scores):
        whole = detection_metrics(grouped.labels, grouped.scores, threshold)
        found = per_method(grouped.scores, grouped.labels, grouped.methods, threshold)
        of_videos = {row.method: row for row in found}
    return {
        **_pair(of_faces, whole),
        "methods": [{"method": r.method, **_pair(r, of_videos.get(r.method))} for r in rows],
    }


def _pair(face: DetectionMetrics, video: DetectionMetrics | None) -> dict[str, Any]:
    return {"face": _values(face), "video": None if video is None else _values(video)}


def _values(row: DetectionMetrics) -> dict[str, Any]:
    values = asdict(row)
    del values["method"]
    return values
