"""Detection metrics, confidence intervals and parity. NumPy arrays in, numbers out.

Label 1 = fake; a higher score = more likely fake.
"""

from lpx.metrics.agreement import concordance, is_dead, is_identical
from lpx.metrics.bootstrap import auc_difference_bootstrap, auc_interval_bootstrap
from lpx.metrics.delong import auc_difference, auc_interval
from lpx.metrics.detection import DetectionMetrics, detection_metrics, per_method
from lpx.metrics.grouping import VideoScores, independent_groups, video_groups, video_scores
from lpx.metrics.intervals import Interval
from lpx.metrics.parity import (
    Flips,
    MapAgreement,
    ScoreDifference,
    Verdict,
    faces_needed,
    flips,
    map_agreement,
    score_difference,
    verdict,
)
from lpx.metrics.roc import (
    RocCurve,
    accuracy,
    auc,
    average_precision,
    equal_error_rate,
    roc_curve,
    threshold_at_fpr,
    tpr_at_fpr,
)

__all__ = [
    "DetectionMetrics",
    "Flips",
    "Interval",
    "MapAgreement",
    "RocCurve",
    "ScoreDifference",
    "Verdict",
    "VideoScores",
    "accuracy",
    "auc",
    "auc_difference",
    "auc_difference_bootstrap",
    "auc_interval",
    "auc_interval_bootstrap",
    "average_precision",
    "concordance",
    "detection_metrics",
    "equal_error_rate",
    "faces_needed",
    "flips",
    "independent_groups",
    "is_dead",
    "is_identical",
    "map_agreement",
    "per_method",
    "roc_curve",
    "score_difference",
    "threshold_at_fpr",
    "tpr_at_fpr",
    "verdict",
    "video_groups",
    "video_scores",
]
