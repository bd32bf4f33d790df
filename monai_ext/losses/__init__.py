"""Losses."""

from monai_ext.losses.concentric import ConcentricLoss
from monai_ext.losses.distillation import DistillationLoss
from monai_ext.losses.self_training import SelfTrainingLoss

__all__ = ["ConcentricLoss", "DistillationLoss", "SelfTrainingLoss"]
