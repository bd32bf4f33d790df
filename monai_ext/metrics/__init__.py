"""Metrics, and how sure they are."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.metrics.bootstrap import Interval, bootstrap_ci, bootstrap_scores
    from monai_ext.metrics.classification import ClassificationF1, class_scores, class_scores_ci
    from monai_ext.metrics.detection import BestDetectionF1, DetectionF1, match_detections, sweep_detection_thresholds
    from monai_ext.metrics.evidence import EvidenceLocalization, GridPointing, evidence_mask, pointing_canvas
    from monai_ext.metrics.foreground import ForegroundHausdorff, ForegroundIoU, hausdorff_distance, outline_distances
    from monai_ext.metrics.froc import bootstrap_froc, froc_curve, match_lesions
    from monai_ext.metrics.grid_locating import GridLocating, grid_locating_scores, marked_grids
    from monai_ext.metrics.instance import AggregatedJaccardIndex, ObjectDice, PanopticQuality
    from monai_ext.metrics.seeds import SeedQuality, seed_shares

__all__ = [
    "AggregatedJaccardIndex",
    "BestDetectionF1",
    "ClassificationF1",
    "DetectionF1",
    "EvidenceLocalization",
    "ForegroundHausdorff",
    "ForegroundIoU",
    "GridLocating",
    "GridPointing",
    "Interval",
    "ObjectDice",
    "PanopticQuality",
    "SeedQuality",
    "bootstrap_ci",
    "bootstrap_froc",
    "bootstrap_scores",
    "class_scores",
    "class_scores_ci",
    "evidence_mask",
    "froc_curve",
    "grid_locating_scores",
    "hausdorff_distance",
    "marked_grids",
    "match_detections",
    "match_lesions",
    "outline_distances",
    "pointing_canvas",
    "seed_shares",
    "sweep_detection_thresholds",
]

__getattr__ = lazy_names(__name__, __file__)
