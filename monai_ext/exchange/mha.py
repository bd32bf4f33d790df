"""MetaImage, by ITK: a map of the classes."""

from __future__ import annotations

from pathlib import Path

from monai_ext.exchange.itk_maps import write_itk
from monai_ext.exchange.label_maps import class_map
from monai_ext.exchange.label_names import write_label_names
from monai_ext.exchange.results import Results

__all__ = ["write"]


def write(results: Results, path: Path, names: Path) -> None:
    """Write the map, and the names of its values.

    Args:
        results: what there is, with its resolution.
        path: the file.
        names: ITK-SNAP's label descriptions.
    """
    drawn = class_map(results)
    write_itk(path, drawn)
    write_label_names(names, drawn.legend)
