"""Metrics, and how sure they are."""

from monai_ext.metrics.bootstrap import Interval, bootstrap_ci
from monai_ext.metrics.detection import DetectionF1, match_detections, sweep_detection_thresholds
from monai_ext.metrics.instance import AggregatedJaccardIndex, ObjectDice, PanopticQuality

__all__ = [
    "AggregatedJaccardIndex",
    "DetectionF1",
    "Interval",
    "ObjectDice",
    "PanopticQuality",
    "bootstrap_ci",
    "match_detections",
    "sweep_detection_thresholds",
]
