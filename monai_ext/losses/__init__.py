"""Losses."""

from monai_ext.losses.concentric import ConcentricLoss
from monai_ext.losses.distillation import DistillationLoss

__all__ = ["ConcentricLoss", "DistillationLoss"]
