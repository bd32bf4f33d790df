"""Handlers for MONAI's engines."""

from monai_ext.handlers.progress import EpochProgress
from monai_ext.handlers.training_state import EpochSeed, TrainingState

__all__ = ["EpochProgress", "EpochSeed", "TrainingState"]
