"""Synthetic H&E with complete ground truth, by the physics of absorption."""

from typing import TYPE_CHECKING

from monai_ext.base.lazy import lazy_names

if TYPE_CHECKING:
    from monai_ext.phantom.blood import Blood
    from monai_ext.phantom.datasets import METHODS, write_dataset
    from monai_ext.phantom.field import PhantomField, phantom_field
    from monai_ext.phantom.nuclei import CellClass
    from monai_ext.phantom.nucleus_patches import write_nucleus_patches
    from monai_ext.phantom.optics import IDEAL_SCANNER, Scanner, beer_lambert
    from monai_ext.phantom.pyramid import write_slide
    from monai_ext.phantom.release import write_camelyon16
    from monai_ext.phantom.slide import PhantomSlide, phantom_slide
    from monai_ext.phantom.tissue import Tissue
    from monai_ext.phantom.vessels import write_vessel_slide, write_vessels

__all__ = [
    "IDEAL_SCANNER",
    "METHODS",
    "Blood",
    "CellClass",
    "PhantomField",
    "PhantomSlide",
    "Scanner",
    "Tissue",
    "beer_lambert",
    "phantom_field",
    "phantom_slide",
    "write_camelyon16",
    "write_dataset",
    "write_nucleus_patches",
    "write_slide",
    "write_vessel_slide",
    "write_vessels",
]

__getattr__ = lazy_names(__name__, __file__)
