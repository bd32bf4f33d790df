"""Pictures and reports."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.base.overlay import overlay
    from monai_ext.explain.attribution import attribute
    from monai_ext.explain.evidence import EvidenceMap
    from monai_ext.explain.lrp import attention_rollout, class_activation, lrp_relevance, relevance
    from monai_ext.reports.attribution import attribution_report
    from monai_ext.reports.evidence import compare_evidence, evidence_report, score_evidence
    from monai_ext.reports.pages import write_metrics, write_report

__all__ = [
    "EvidenceMap",
    "attention_rollout",
    "attribute",
    "attribution_report",
    "class_activation",
    "compare_evidence",
    "evidence_report",
    "lrp_relevance",
    "overlay",
    "relevance",
    "score_evidence",
    "write_metrics",
    "write_report",
]

__getattr__ = lazy_names(__name__, __file__)
