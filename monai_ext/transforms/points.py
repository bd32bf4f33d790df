"""Load point labels: files, or the points themselves."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform

from monai_ext.formats.point_files import read_points
from monai_ext.formats.points import as_points

__all__ = ["LoadPoints", "LoadPointsd"]


class LoadPoints(Transform):
    """Read centroids from a CSV, JSON, QuPath GeoJSON or DICOM file.

    See :func:`monai_ext.formats.point_files.read_points`. Points that are in memory already (a list, an array or a
    tensor of pairs ``row, col``, as MONAI Label or a :class:`~monai.data.Dataset` made in Python hands over) pass
    through as float32.

    Args:
        classes: names of the GeoJSON classifications to keep; ``None`` keeps every object.
        split_parts: of GeoJSON, every part of a MultiPolygon is an object of its own.

    Examples:
        >>> from monai_ext.formats import write_points
        >>> from monai_ext.transforms import LoadPoints
        >>> LoadPoints()(write_points(folder / "mitoses.csv", [[2, 5], [31, 40]])).tolist()
        [[2.0, 5.0], [31.0, 40.0]]
        >>> LoadPoints()([]).shape
        (0, 2)
    """

    backend = ()

    def __init__(self, classes: Sequence[str] | None = None, split_parts: bool = False) -> None:
        self.classes, self.split_parts = classes, split_parts

    def __call__(
        self, data: str | os.PathLike | NdarrayOrTensor | list, slide: str | os.PathLike | None = None
    ) -> NdarrayOrTensor:
        """Load.

        Args:
            data: a path, or ``(N, 2)`` points.
            slide: see :func:`~monai_ext.formats.annotation_files.read_features`.

        Returns:
            ``(N, 2)`` float32, rows ``row, col`` in pixels of the image, whole numbers being pixel centres: a tensor
            if a tensor was given (a MetaTensor keeps its meta), else an array. No points give shape ``(0, 2)``.

        Raises:
            InputError: naming the file and line at fault.
        """
        if isinstance(data, (str, os.PathLike)):
            return read_points(data, classes=self.classes, split_parts=self.split_parts, slide=slide)
        if isinstance(data, torch.Tensor):
            as_points(data.detach().float().cpu().numpy())
            return data.reshape(-1, 2).to(torch.float32)
        return as_points(data)


class LoadPointsd(MapTransform):
    """Dictionary twin of :class:`LoadPoints`.

    Args:
        keys: keys of the paths, or of points.
        classes: see :class:`LoadPoints`.
        allow_missing_keys: skip keys that an item lacks.
        split_parts: see :class:`LoadPoints`.

    Examples:
        >>> from monai_ext.formats import write_points
        >>> from monai_ext.transforms import LoadPointsd
        >>> path = write_points(folder / "mitoses.csv", [[2, 5], [31, 40]])
        >>> LoadPointsd("label")({"label": path})["label"].tolist()
        [[2.0, 5.0], [31.0, 40.0]]
    """

    backend = LoadPoints.backend

    def __init__(
        self,
        keys: KeysCollection,
        classes: Sequence[str] | None = None,
        allow_missing_keys: bool = False,
        split_parts: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadPoints(classes, split_parts)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each key's path by its points."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.loader(d[key])
        return d
