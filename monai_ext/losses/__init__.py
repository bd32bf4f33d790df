"""Losses."""

from monai_ext.losses.concentric import ConcentricLoss

__all__ = ["ConcentricLoss"]
