"""NIfTI, by nibabel: a map of the classes with its place and scale in mm."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from monai_ext.exchange.label_maps import class_map
from monai_ext.exchange.label_names import write_label_names
from monai_ext.exchange.results import Results

__all__ = ["write"]

_LONGEST = 32_767  # px along a side of NIfTI-1


def write(results: Results, path: Path, names: Path) -> None:
    """Write the map, one slice thick, and the names of its values.

    The axes are x, y, z: x grows to the left and y to the back, as in a picture that ITK reads, so that the map lies on
    its image in 3D Slicer and ITK-SNAP; nibabel's affine (RAS) has a minus before both. The first px of the file at
    full resolution is at 0. Sides above 32,767 px make it NIfTI-2.

    Args:
        results: what there is, with its resolution.
        path: the file, compressed.
        names: ITK-SNAP's label descriptions.
    """
    import nibabel

    drawn = class_map(results)
    (height, width), (y, x) = drawn.sides, drawn.origin
    affine = np.array([[-width, 0, 0, -x], [0, -height, 0, -y], [0, 0, width, 0], [0, 0, 0, 1]])
    kind = nibabel.Nifti1Image if max(drawn.values.shape) <= _LONGEST else nibabel.Nifti2Image
    image = kind(drawn.values.T[..., None], affine)
    image.header.set_xyzt_units("mm")
    for place in (image.set_sform, image.set_qform):
        place(affine, code="scanner")
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:  # equal maps give equal bytes
        image.to_stream(packed)
    write_label_names(names, drawn.legend)
