"""Numbers and pages of finished runs: metrics.json, report.html, comparisons."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.reports.agreement import compare_cells
    from monai_ext.reports.attribution import attribution_report
    from monai_ext.reports.challenges import hand_in
    from monai_ext.reports.comparison import (
        compare_annotations,
        compare_classifiers,
        compare_detections,
        compare_instances,
    )
    from monai_ext.reports.evidence import compare_evidence, evidence_report, score_evidence
    from monai_ext.reports.folds import compare_folds
    from monai_ext.reports.instance_pictures import instance_rows, picture_instances
    from monai_ext.reports.pages import write_metrics, write_report
    from monai_ext.reports.slide_evaluation import evaluate_slides

__all__ = [
    "attribution_report",
    "compare_annotations",
    "compare_cells",
    "compare_classifiers",
    "compare_detections",
    "compare_evidence",
    "compare_folds",
    "compare_instances",
    "evaluate_slides",
    "evidence_report",
    "hand_in",
    "instance_rows",
    "picture_instances",
    "score_evidence",
    "write_metrics",
    "write_report",
]

__getattr__ = lazy_names(__name__, __file__)
