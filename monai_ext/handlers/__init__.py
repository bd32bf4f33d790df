"""Handlers for MONAI's engines."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.handlers.classification_report import ClassificationReport
    from monai_ext.handlers.detection_report import DetectionReport
    from monai_ext.handlers.instance_report import InstanceReport
    from monai_ext.handlers.mask_report import MaskReport
    from monai_ext.handlers.metric_of import LossOf, MetricOf
    from monai_ext.handlers.multiclass_report import MulticlassReport
    from monai_ext.handlers.progress import EpochProgress
    from monai_ext.handlers.seeds_report import SeedsReport
    from monai_ext.handlers.summary_report import SummaryReport
    from monai_ext.handlers.tissue_watch import WatchTissue
    from monai_ext.handlers.training_routine import TrainingRoutine, count_epochs
    from monai_ext.handlers.training_state import EpochSeed, TrainingState
    from monai_ext.handlers.vessel_report import VesselReport
    from monai_ext.handlers.vessel_summary import VesselSummary
    from monai_ext.handlers.weight_average import WeightAverage
    from monai_ext.handlers.write_results import WriteResults

__all__ = [
    "ClassificationReport",
    "DetectionReport",
    "EpochProgress",
    "EpochSeed",
    "InstanceReport",
    "LossOf",
    "MaskReport",
    "MetricOf",
    "MulticlassReport",
    "SeedsReport",
    "SummaryReport",
    "TrainingRoutine",
    "TrainingState",
    "VesselReport",
    "VesselSummary",
    "WatchTissue",
    "WeightAverage",
    "WriteResults",
    "count_epochs",
]

__getattr__ = lazy_names(__name__, __file__)
