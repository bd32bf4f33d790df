"""How the names of files end that are read as images."""

from __future__ import annotations

import re
from pathlib import PurePath

__all__ = [
    "DICOM_SUFFIX",
    "LINK_SUFFIX",
    "MASK_SUFFIXES",
    "SLIDE_SUFFIXES",
    "SUFFIXES",
    "TIFF_SUFFIXES",
    "VOLUME_SUFFIXES",
    "ZARR_SUFFIXES",
    "image_suffix",
    "without_suffix",
]

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
#: A file of a slide that is read with the others of its series.
DICOM_SUFFIX = ".dcm"
TIFF_SUFFIXES = (".tif", ".tiff")
#: OME-Zarr: a folder, or one in a ZIP archive.
ZARR_SUFFIXES = (".zarr", ".zarr.zip", ".ozx")
#: NIfTI, NRRD and MetaImage.
VOLUME_SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
#: What the name of a file that names a slide elsewhere ends with, after the slide's own ending.
LINK_SUFFIX = ".url"
#: Names of files that :func:`~monai_ext.formats.image.read_field` reads end so.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp"),
    *(*TIFF_SUFFIXES, *SLIDE_SUFFIXES, DICOM_SUFFIX, *ZARR_SUFFIXES, *VOLUME_SUFFIXES),
    *(f"{suffix}{LINK_SUFFIX}" for suffix in (*TIFF_SUFFIXES, *SLIDE_SUFFIXES)),
)
#: Names of files that :func:`~monai_ext.formats.image.read_mask` reads end so.
MASK_SUFFIXES = (".png", ".bmp", *TIFF_SUFFIXES, *VOLUME_SUFFIXES)

_OTHER = re.compile(r"\.[A-Za-z]\w*")


def image_suffix(path: PurePath | str) -> str:
    """How an image's name ends, where this says its format: not the last number of a UID that a folder is called after.

    Examples:
        >>> from monai_ext.formats.suffixes import image_suffix
        >>> [image_suffix(name) for name in ("a.svs", "a.NII.gz", "a.svs.url", "SM_1.2.840")]
        ['.svs', '.NII.gz', '.svs.url', '']
    """
    path = PurePath(path)
    known = max((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), key=len, default="")
    return path.name[-len(known) :] if known else path.suffix if _OTHER.fullmatch(path.suffix) else ""


def without_suffix(path: PurePath | str) -> PurePath:
    """An image's path without :func:`image_suffix`.

    Examples:
        >>> from monai_ext.formats.suffixes import without_suffix
        >>> [without_suffix(name).as_posix() for name in ("x/a.svs", "x/a.nii.gz", "x/SM_1.2.840")]
        ['x/a', 'x/a', 'x/SM_1.2.840']
    """
    path = path if isinstance(path, PurePath) else PurePath(path)
    suffix = image_suffix(path)
    return path.with_name(path.name[: -len(suffix)]) if suffix and path.name != suffix else path
