"""Detection metrics of each engine: per face, per video, and per manipulation method."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import Scored
from lpx.data.face_sets.face_set import FaceSet
from lpx.metrics import DetectionMetrics, detection_metrics, per_method, video_scores

Names = NDArray[np.str_]


@dataclass(frozen=True)
class MethodDetection:
    """Detection of the fakes of one manipulation method, against all reals.

    Attributes:
        method: Manipulation method.
        face: Metrics over faces.
        video: Metrics over videos; None if no video has two faces, or none is of this method.
    """

    method: str
    face: DetectionMetrics
    video: DetectionMetrics | None


@dataclass(frozen=True)
class Detection:
    """Detection by an engine.

    Attributes:
        face: Metrics over all faces.
        video: Metrics over videos, each scored by the mean of its faces (videos with the same name
            and different methods differ); None if no video has two faces.
        methods: Metrics per manipulation method, sorted.
    """

    face: DetectionMetrics
    video: DetectionMetrics | None
    methods: tuple[MethodDetection, ...]


def detection(scored: Scored, faces: FaceSet, threshold: float) -> dict[str, Detection]:
    """Measure the detection of every engine on the faces that could be read.

    Args:
        scored: Labels and predictions.
        faces: The set, for methods and videos.
        threshold: The detector's own.

    Returns:
        Detection by engine name.
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
) -> Detection:
    of_faces = detection_metrics(labels, scores, threshold)
    # Videos of reals and fakes have a name in common in some data sets, so methods count as well.
    grouped = video_scores(scores, labels, methods, videos)
    of_videos = None
    videos_by_method: dict[str, DetectionMetrics] = {}
    # Without two faces in a video, its metrics would repeat those of the faces.
    if len(grouped.scores) < len(scores):
        of_videos = detection_metrics(grouped.labels, grouped.scores, threshold)
        for row in per_method(grouped.scores, grouped.labels, grouped.methods, threshold):
            videos_by_method[row.method] = row
    rows = per_method(scores, labels, methods, threshold)
    # `get`: a method has no metrics over videos if they were not measured.
    of_methods = [MethodDetection(r.method, r, videos_by_method.get(r.method)) for r in rows]
    return Detection(of_faces, of_videos, tuple(of_methods))
