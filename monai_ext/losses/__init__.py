"""Losses."""

from monai_ext.losses.concentric import ConcentricLoss
from monai_ext.losses.distillation import DistillationLoss
from monai_ext.losses.ghmc import GHMCLoss
from monai_ext.losses.grid_locating import GridLocatingLoss, KnownGridLoss
from monai_ext.losses.loopback import LoopbackLoss
from monai_ext.losses.self_training import SelfTrainingLoss

__all__ = [
    "ConcentricLoss",
    "DistillationLoss",
    "GHMCLoss",
    "GridLocatingLoss",
    "KnownGridLoss",
    "LoopbackLoss",
    "SelfTrainingLoss",
]
