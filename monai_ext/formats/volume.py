"""NIfTI, NRRD and MetaImage, images and label maps: by MONAI's ``NibabelReader`` and ``ITKReader``."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.formats.level_base import check_axes
from monai_ext.formats.resolution import Resolution, resolution_of
from monai_ext.formats.torn import check_whole

__all__ = ["read_volume"]

_NIFTI = (".nii", ".nii.gz")
_MICRONS = {"meter": 1e6, "micron": 1.0}  # NIfTI's units of length; of an unknown one mm is meant
_ITK = re.compile(r"^ITK ERROR: \w+\(\w+\): ")
_TURNED = 1e-3  # relative; more than what rounding does to an affine


def read_volume(path: str | os.PathLike) -> tuple[np.ndarray, Resolution | None]:
    """An image of one plane, the way up in which 3D Slicer and ITK-SNAP show it.

    These formats say where a pixel lies in the patient. A picture that ITK writes as it is (a PNG, an array) has rows
    that run to the patient's left and columns that run to the back (LPS), and so is any file turned here. A NIfTI whose
    affine is the identity, with axes that run to the right and the front, comes out turned by 180 degrees, as on their
    screens; one that states no affine as it is stored.

    Args:
        path: NIfTI, NRRD or MetaImage; grey, labels of any depth, RGB or RGBA (colours of 8 bits, or a last axis of 3).

    Returns:
        ``(H, W)`` or ``(H, W, C)`` in the file's type, and the resolution, from the spacing in mm (NIfTI: in its unit).

    Raises:
        InputError: nibabel or ITK is not installed; no such file, damaged, several planes or times, axes that are
            sheared, turned or not those of a plane through left and back.

    Examples:
        >>> import itk
        >>> from monai_ext.formats.volume import read_volume
        >>> image = itk.image_from_array(np.array([[0, 0, 1], [0, 700, 700]], np.uint16))
        >>> image.SetSpacing([0.0005, 0.0005])
        >>> itk.imwrite(image, str(folder / "labels.nrrd"))
        >>> labels, resolution = read_volume(folder / "labels.nrrd")
        >>> labels.tolist(), str(resolution)
        ([[0, 0, 1], [0, 700, 700]], '0.5')
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "an image", "no such file" if not path.exists() else "a folder")
    check_whole(path)
    try:
        array, affine, unit = _read(path)
    except InputError:
        raise
    # what nibabel and ITK raise for a damaged file is not one family
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason")]
        problem = _ITK.sub("", lines[-1]) if lines else type(error).__name__
        raise InputError(path, "a readable image", problem) from error
    return _upright(_plane(array, path), affine, unit, path)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, float]:
    """Pixels ``(x, y, ...)``, the affine to RAS, and um of its unit."""
    from monai.data import ITKReader, NibabelReader  # slow to import

    is_nifti = path.name.lower().endswith(_NIFTI)
    needs, package = ("nibabel", "nibabel") if is_nifti else ("itk", "itk-io")
    try:
        import_module(needs)
    except ImportError as error:
        raise InputError(path, f"{needs} to read it (pip install {package})", "no such package") from error
    reader = NibabelReader() if is_nifti else ITKReader(**_colour_type(path))
    image = reader.read(str(path))
    array, meta = reader.get_data(image)
    unit = _MICRONS.get(image.header.get_xyzt_units()[0], 1e3) if is_nifti else 1e3
    if array.dtype.names and array.dtype.names[:3] == ("R", "G", "B"):
        array = np.stack([array[name] for name in array.dtype.names], axis=-1)
    affine = np.asarray(meta["affine"], np.float64)
    if is_nifti:  # of single precision: what was meant is the shortest number that rounds to it
        affine = np.vectorize(lambda number: float(str(np.float32(number))))(affine)
    if is_nifti and not image.header["qform_code"] and not image.header["sform_code"]:
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) * np.abs(np.diag([*image.header["pixdim"][1:4], 1.0]))
    return array.astype(array.dtype.newbyteorder("="), copy=False), affine, unit


def _colour_type(path: Path) -> dict[str, Any]:
    """What tells ITK that vectors of 3 or 4 bytes are colours: it has no images of such vectors in Python."""
    import itk

    source = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
    if source is None:  # no such format; reading it will say so
        return {}
    source.SetFileName(str(path))
    source.ReadImageInformation()
    number, kind = source.GetNumberOfComponents(), source.GetComponentTypeAsString(source.GetComponentType())
    if number == 1:
        return {}
    colours = {3: itk.RGBPixel, 4: itk.RGBAPixel}.get(number)
    if colours is None or kind != "unsigned_char":
        raise InputError(path, "grey, labels, or RGB of 8 bits", f"{number} channels of {kind.replace('_', ' ')}")
    return {"pixel_type": colours[itk.UC]}


def _plane(array: np.ndarray, path: Path) -> np.ndarray:
    """``(x, y)`` or ``(x, y, C)``.

    Raises:
        InputError: it is more than one plane.
    """
    shape = array.shape
    samples = shape[-1:] if array.ndim > 2 and shape[-1] in (3, 4) else ()
    more = shape[2 : array.ndim - len(samples)]  # z, t, and what else NIfTI may have
    check_axes(path, "XY" + "ZTQRP"[: len(more)] + "S" * len(samples), shape, array.dtype)
    return array.reshape(*shape[:2], *samples)


def _upright(plane: np.ndarray, affine: np.ndarray, unit: float, path: Path) -> tuple[np.ndarray, Resolution | None]:
    """``(y, x, ...)`` by physical space."""
    sides = np.linalg.norm(affine[:-1, :2], axis=0)
    if not (np.isfinite(affine).all() and (sides > 0).all()):
        raise InputError(path, "an affine with a spacing", _rows(affine))
    directions = -affine[:2, :2] / sides  # of the file's x and y, in LPS
    along = np.rint(directions)
    if np.abs(directions - along).max() > _TURNED or (np.abs(along).sum(axis=0) != 1).any():
        found = f"sheared, turned or other ones ({_rows(affine)})"
        raise InputError(path, "axes that run along the patient's left and back", found)
    swapped = along[0, 0] == 0
    plane = np.flip(plane, [axis for axis in range(2) if along[:, axis].sum() < 0])
    if not swapped:  # x of the file runs to the left: it is the column
        plane, sides = plane.swapaxes(0, 1), sides[::-1]
    row, col = sides * unit
    return np.ascontiguousarray(plane), resolution_of(row, col, "the spacing")


def _rows(affine: np.ndarray) -> str:
    return f"affine {np.round(affine, 6).tolist()}"
