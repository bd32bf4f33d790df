"""Inferers."""

from monai_ext.inferers.autocast import AutocastInferer
from monai_ext.inferers.evidence import EvidenceInferer
from monai_ext.inferers.halo import HaloInferer
from monai_ext.inferers.windows import ExactWindows, PixelMap, SharedWindows
from monai_ext.slides.inferer import SlideInferer

__all__ = [
    "AutocastInferer",
    "EvidenceInferer",
    "ExactWindows",
    "HaloInferer",
    "PixelMap",
    "SharedWindows",
    "SlideInferer",
]
