"""Transforms, each array transform with its dictionary twin."""

from monai_ext.transforms.blobs import BlobDetections, BlobDetectionsd
from monai_ext.transforms.concentric import (
    ConcentricLabel,
    ConcentricLabeld,
    RandConcentricLabel,
    RandConcentricLabeld,
)
from monai_ext.transforms.patches import RandFieldPatchesd
from monai_ext.transforms.points import LoadPoints, LoadPointsd
from monai_ext.transforms.stain import MacenkoNormalize, MacenkoNormalized, RandStainJitter, RandStainJitterd

__all__ = [
    "BlobDetections",
    "BlobDetectionsd",
    "ConcentricLabel",
    "ConcentricLabeld",
    "LoadPoints",
    "LoadPointsd",
    "MacenkoNormalize",
    "MacenkoNormalized",
    "RandConcentricLabel",
    "RandConcentricLabeld",
    "RandFieldPatchesd",
    "RandStainJitter",
    "RandStainJitterd",
]
