"""Load QuPath GeoJSON, or annotations in DICOM, as features or as masks."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from monai_ext.formats.annotation_files import read_features
from monai_ext.formats.geojson import Features, rasterize
from monai_ext.formats.resolution import Scale
from monai_ext.formats.roles import read_objects

__all__ = ["LoadGeoJSON", "LoadGeoJSONd"]


class LoadGeoJSON(Transform):
    """Read a QuPath GeoJSON file, or annotations in DICOM, and draw them where a shape is given.

    Args:
        classes: names of the classes to draw, a channel each; None draws everything in one channel.
        scale: level-0 pixels per pixel of the masks; ``row, col`` where they differ.
        objects: only what counts, without the regions around it (:func:`~monai_ext.formats.roles.split_roles`); else
            everything in the file, as it was drawn.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features, write_geojson
        >>> from monai_ext.transforms import LoadGeoJSON
        >>> path = write_geojson(folder / "tumour.geojson", Features([shapely.box(0, 0, 3, 2)], classes="Tumor"))
        >>> LoadGeoJSON()(path).classes.tolist()
        ['Tumor']
        >>> LoadGeoJSON(classes=["Tumor", "Stroma"])(path, shape=(4, 6)).sum(axis=(1, 2)).tolist()
        [6, 0]
    """

    backend = ()

    def __init__(self, classes: Sequence[str] | None = None, scale: Scale = 1, objects: bool = False) -> None:
        self.classes, self.scale, self.objects = classes, scale, objects

    def __call__(
        self, path: str | os.PathLike, shape: Sequence[int] | None = None, slide: str | os.PathLike | None = None
    ) -> Features | np.ndarray:
        """Load.

        Args:
            path: the file.
            shape: ``H, W`` of the masks.
            slide: see :func:`~monai_ext.formats.annotation_files.read_features`.

        Returns:
            The features, or with a shape ``(C, H, W)`` uint8 masks of 0 and 1; see
            :func:`~monai_ext.formats.geojson.rasterize`.

        Raises:
            InputError: as :func:`~monai_ext.formats.annotation_files.read_features`.
        """
        features = read_objects(path, slide=slide).objects if self.objects else read_features(path, slide)
        return features if shape is None else rasterize(features, tuple(shape), self.classes, scale=self.scale)


class LoadGeoJSONd(MapTransform):
    """Dictionary twin of :class:`LoadGeoJSON`.

    Args:
        keys: keys of the paths.
        shape_key: draw masks of the size of this channel-first image; None gives features.
        classes: see :class:`LoadGeoJSON`.
        scale: see :class:`LoadGeoJSON`.
        allow_missing_keys: skip keys that an item lacks.
        objects: see :class:`LoadGeoJSON`.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features, write_geojson
        >>> from monai_ext.transforms import LoadGeoJSONd
        >>> path = write_geojson(folder / "tumour.geojson", Features([shapely.box(0, 0, 3, 2)], classes="Tumor"))
        >>> item = LoadGeoJSONd("label")({"image": torch.zeros(3, 4, 6), "label": path})
        >>> item["label"].shape, int(item["label"].sum())
        ((1, 4, 6), 6)
    """

    backend = LoadGeoJSON.backend

    def __init__(
        self,
        keys: KeysCollection,
        shape_key: str | None = "image",
        classes: Sequence[str] | None = None,
        scale: Scale = 1,
        allow_missing_keys: bool = False,
        objects: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.shape_key = shape_key
        self.loader = LoadGeoJSON(classes, scale, objects)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each key's path by its masks or features."""
        d = dict(data)
        image = None if self.shape_key is None else d[self.shape_key]
        shape = None if image is None else image.shape[-2:]
        slide = getattr(image, "meta", {}).get("filename_or_obj")
        for key in self.key_iterator(d):
            d[key] = self.loader(d[key], shape, slide)
        return d
