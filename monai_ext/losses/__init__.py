"""Losses."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.losses.concentric import ConcentricLoss
    from monai_ext.losses.distillation import DistillationLoss
    from monai_ext.losses.ghmc import GHMCLoss
    from monai_ext.losses.grid_locating import GridLocatingLoss, KnownGridLoss
    from monai_ext.losses.known_pixels import KnownPixels
    from monai_ext.losses.loopback import LoopbackLoss
    from monai_ext.losses.self_training import SelfTrainingLoss

__all__ = [
    "ConcentricLoss",
    "DistillationLoss",
    "GHMCLoss",
    "GridLocatingLoss",
    "KnownGridLoss",
    "KnownPixels",
    "LoopbackLoss",
    "SelfTrainingLoss",
]

__getattr__ = lazy_names(__name__, __file__)
