"""Choosing what a method leaves open, on the validation list and nothing else."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.tuning.evidence import DEFAULT_EVIDENCE, read_evidence, tune_evidence
    from monai_ext.tuning.expert_count import tune_expert_count
    from monai_ext.tuning.instances import (
        DEFAULT_FLOOR,
        DEFAULT_INSTANCES,
        DEFAULT_LEAST_AREA,
        read_floor,
        read_instances,
        read_least_area,
        tune_instances,
    )
    from monai_ext.tuning.mitosis import DEFAULT_THRESHOLDS, read_thresholds, tune_mitosis
    from monai_ext.tuning.tissue import tune_tissue
    from monai_ext.tuning.vessels import DEFAULT_VERDICT, read_verdict, tune_vessels

__all__ = [
    "DEFAULT_EVIDENCE",
    "DEFAULT_FLOOR",
    "DEFAULT_INSTANCES",
    "DEFAULT_LEAST_AREA",
    "DEFAULT_THRESHOLDS",
    "DEFAULT_VERDICT",
    "read_evidence",
    "read_floor",
    "read_instances",
    "read_least_area",
    "read_thresholds",
    "read_verdict",
    "tune_evidence",
    "tune_expert_count",
    "tune_instances",
    "tune_mitosis",
    "tune_tissue",
    "tune_vessels",
]

__getattr__ = lazy_names(__name__, __file__)
