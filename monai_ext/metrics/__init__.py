"""Metrics."""

from monai_ext.metrics.detection import DetectionF1, match_detections, sweep_detection_thresholds

__all__ = ["DetectionF1", "match_detections", "sweep_detection_thresholds"]
