"""Pictures and reports."""

from monai_ext.visualize.attribution import attribute, attribution_report
from monai_ext.visualize.evidence import EvidenceMap
from monai_ext.visualize.evidence_report import compare_evidence, evidence_report, score_evidence
from monai_ext.visualize.overlay import overlay
from monai_ext.visualize.relevance import attention_rollout, lrp_relevance, relevance
from monai_ext.visualize.report import write_metrics, write_report

__all__ = [
    "EvidenceMap",
    "attention_rollout",
    "attribute",
    "attribution_report",
    "compare_evidence",
    "evidence_report",
    "lrp_relevance",
    "overlay",
    "relevance",
    "score_evidence",
    "write_metrics",
    "write_report",
]
