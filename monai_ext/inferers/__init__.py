"""Inferers."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.inferers.autocast import AutocastInferer
    from monai_ext.inferers.cells import CellFinder, InstanceFinder
    from monai_ext.inferers.chunks import ChunkInferer
    from monai_ext.inferers.evidence import EvidenceInferer
    from monai_ext.inferers.halo import HaloInferer
    from monai_ext.inferers.instances import InstanceInferer
    from monai_ext.inferers.patches import PatchClassifier
    from monai_ext.inferers.precision import Precision
    from monai_ext.inferers.relevance import RelevanceInferer
    from monai_ext.inferers.turns import TurnsInferer
    from monai_ext.inferers.windows import ExactWindows, PixelMap, SharedWindows, choose_windows
    from monai_ext.slides.inferer import SlideInferer

__all__ = [
    "AutocastInferer",
    "CellFinder",
    "ChunkInferer",
    "EvidenceInferer",
    "ExactWindows",
    "HaloInferer",
    "InstanceFinder",
    "InstanceInferer",
    "PatchClassifier",
    "PixelMap",
    "Precision",
    "RelevanceInferer",
    "SharedWindows",
    "SlideInferer",
    "TurnsInferer",
    "choose_windows",
]

__getattr__ = lazy_names(__name__, __file__)
