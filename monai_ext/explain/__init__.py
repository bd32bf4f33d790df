"""What a network attends to: evidence maps, relevance, attributions."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.explain.attribution import attribute
    from monai_ext.explain.evidence import EvidenceMap
    from monai_ext.explain.lrp import attention_rollout, class_activation, lrp_relevance, relevance

__all__ = [
    "EvidenceMap",
    "attention_rollout",
    "attribute",
    "class_activation",
    "lrp_relevance",
    "relevance",
]

__getattr__ = lazy_names(__name__, __file__)
