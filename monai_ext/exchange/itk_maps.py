"""Maps as images of ITK, which have a place and a scale in mm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monai_ext.base.errors import InputError
from monai_ext.exchange.label_maps import LabelMap

__all__ = ["write_itk"]


def write_itk(path: Path, drawn: LabelMap, header: Mapping[str, str] | None = None) -> None:
    """Write a map as one slice, in the format that the name's ending says, compressed.

    Axes are ITK's own (LPS), without rotation: the map lies on its image as ITK reads that.

    Args:
        path: the file.
        drawn: the map, of known scale.
        header: further keys, where the format has any.

    Raises:
        InputError: ITK cannot write it.
    """
    import itk

    image = itk.image_view_from_array(drawn.values[None])
    (height, width), (y, x) = drawn.sides, drawn.origin
    image.SetSpacing((width, height, width))
    image.SetOrigin((x, y, 0.0))
    for key, value in (header or {}).items():
        image.GetMetaDataDictionary()[key] = value
    try:
        itk.imwrite(image, str(path), compression=True)
    except RuntimeError as error:
        raise InputError(path, "a file that ITK can write", str(error).strip().split("\n")[-1]) from error
