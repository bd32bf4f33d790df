"""From segmented and annotated fields to a data set of single nuclei."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import orjson
import shapely
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.data.geometry import image_resolution
from monai_ext.data.nuclei import write_nuclei
from monai_ext.data.nucleus_extraction import extract_nuclei
from monai_ext.formats.annotation_files import read_features
from monai_ext.formats.geojson import Features
from monai_ext.formats.image import read_mask
from monai_ext.formats.resolution import Scale
from monai_ext.formats.roles import countable, labelling
from monai_ext.formats.suffixes import without_suffix

__all__ = ["SaveNucleid"]

_PARTS = ("training", "validation", "test")


class SaveNucleid(MapTransform):
    """Cut out the nuclei of annotated images and write them as a data set (Haberova and Vykopal, preprocessing 2).

    For each image a file of patches and a table with the class of each nucleus in each annotation; see
    :func:`~monai_ext.data.nucleus_extraction.extract_nuclei` and :mod:`monai_ext.data.nuclei`. :meth:`close` writes
    ``dataset.json`` once all images are done.

    Args:
        keys: key of the ``(1, H, W)`` instances.
        output_dir: the data set's folder.
        class_names: the classes, or ``{class: names of it in the annotations}``.
        data_root_dir: folder that the images lie below; names of files come from it.
        annotation_names: of the annotations that any of the images has: a column each, empty for images without it.
        annotations_key: of ``{name: GeoJSON file}``, in pixels of the image's file.
        classes_key: of a class map's file. It becomes the annotation that ``<classes_key>_from`` of its item names;
            where none is named, ``classes_as``, but only of images without annotations and where
            ``annotation_names`` is empty: else nobody could tell whose labels these are.
        classes_as: name of a class map's annotation, where its item does not say.
        part_key: of the list that an item is from: training, validation or test.
        image_key: the image, a MetaTensor ``(3, H, W)`` before any normalisation, as ``LoadFieldd`` gives it.
        size: side of the patches, px.
        scales: 1, 2 and 4 for full, half and quarter resolution.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        InputError: an image without any annotation.

    Examples:
        >>> import json
        >>> from monai.data import MetaTensor
        >>> from monai_ext.formats import Features, write_geojson
        >>> from monai_ext.transforms import SaveNucleid
        >>> expert = write_geojson(folder / "expert.geojson", Features.from_points([[8, 8]], classes="Tumor"))
        >>> meta = {"filename_or_obj": str(folder / "a.png")}
        >>> item = {"source": MetaTensor(torch.zeros(3, 64, 64, dtype=torch.uint8), meta=meta), "part": "training"}
        >>> item |= {"instances": torch.ones(1, 64, 64, dtype=torch.int32), "annotations": {"ea": expert}}
        >>> save = SaveNucleid(output_dir=folder / "out", class_names=["Tumor"], data_root_dir=folder)
        >>> _ = save(item)
        >>> json.loads(save.close().read_text())["training"]
        [{'image': 'patches/a.npy', 'label': 'nuclei/a.csv', 'group': 'a'}]
    """

    def __init__(
        self,
        keys: KeysCollection = "instances",
        *,
        output_dir: str | os.PathLike,
        class_names: Sequence[str] | Mapping[str, Sequence[str]],
        data_root_dir: str | os.PathLike,
        annotation_names: Sequence[str] = (),
        annotations_key: str = "annotations",
        classes_key: str = "classes",
        classes_as: str = "ea",
        part_key: str = "part",
        image_key: str = "source",
        size: int = 32,
        scales: Sequence[int] = (1,),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir, self.root, self.class_names = Path(output_dir), Path(data_root_dir), class_names
        self.annotation_names = tuple(annotation_names)
        self.annotations_key, self.classes_key, self.classes_as = annotations_key, classes_key, classes_as
        self.part_key, self.image_key = part_key, image_key
        self.size, self.scales = size, tuple(scales)
        self.lists: dict[str, list[dict[str, Any]]] = {part: [] for part in _PARTS}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the nuclei of an image; the data are returned as they came."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[self.image_key]
            file = Path(str(image.meta["filename_or_obj"]))
            patches, table = extract_nuclei(
                convert_to_numpy(image).astype(np.uint8),
                convert_to_numpy(d[key])[0],
                self._annotations(d, file, image),
                self.class_names,
                size=self.size,
                scales=self.scales,
            )
            table = table.assign(**{column: "" for column in self.annotation_names if column not in table})
            inside = file.is_relative_to(self.root)
            name = without_suffix(file.relative_to(self.root) if inside else Path(file.name)).as_posix()
            item = write_nuclei(self.output_dir, name, patches, table)
            self.lists[str(d[self.part_key])].append({**item, "group": str(d.get("group", without_suffix(file).name))})
        return d

    def close(self) -> Path:
        """Write ``dataset.json``; its path."""
        path = self.output_dir / "dataset.json"
        content = {"name": "nuclei", "class_names": list(self.class_names), **self.lists}
        with atomic_path(path) as temporary:
            temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        return path

    def _annotations(
        self, data: Mapping[Hashable, Any], file: Path, image: MetaTensor
    ) -> dict[str, Features | np.ndarray]:
        _, scale = image_resolution(image.meta)
        files = dict(data.get(self.annotations_key) or {})
        annotations: dict[str, Features | np.ndarray] = {
            n: _scaled(labelling(countable(read_features(p, file), p, areas=False), nuclei=True), scale)
            for n, p in files.items()
        }
        classes, source = data.get(self.classes_key), data.get(f"{self.classes_key}_from")
        if source is None and not (self.annotation_names or self.annotations_key in data):
            source = self.classes_as
        if classes is not None and source is not None and source not in annotations:
            annotations[source] = read_mask(classes)
            if scale != 1:  # the file's pixels became the loaded image's
                size = image.shape[:0:-1]
                annotations[source] = cv2.resize(annotations[source], size, interpolation=cv2.INTER_NEAREST_EXACT)
        if not annotations and not self.annotation_names:
            raise InputError(file, f"{self.annotations_key!r} or {self.classes_key!r} in its item", "neither")
        return annotations


def _scaled(features: Features, scale: Scale) -> Features:
    """Features in pixels of the loaded image instead of the file's."""
    if scale == 1:
        return features
    sides = np.broadcast_to(scale, 2)[::-1]
    return replace(features, geometry=shapely.transform(features.geometry, lambda xy: xy / sides))
