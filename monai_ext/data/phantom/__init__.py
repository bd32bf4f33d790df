"""Synthetic H&E with complete ground truth, by the physics of absorption."""

from monai_ext.data.phantom.blood import Blood
from monai_ext.data.phantom.datasets import METHODS, write_dataset
from monai_ext.data.phantom.field import PhantomField, phantom_field
from monai_ext.data.phantom.nuclei import CellClass
from monai_ext.data.phantom.nucleus_patches import write_nucleus_patches
from monai_ext.data.phantom.optics import IDEAL_SCANNER, Scanner, beer_lambert
from monai_ext.data.phantom.pyramid import write_slide
from monai_ext.data.phantom.release import write_camelyon16
from monai_ext.data.phantom.slide import PhantomSlide, phantom_slide
from monai_ext.data.phantom.tissue import Tissue
from monai_ext.data.phantom.vessels import write_vessel_slide, write_vessels

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
