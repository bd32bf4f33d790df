"""The files of detections: GeoJSON for QuPath, a picture, a row of a table."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

from monai_ext.base.overlay import overlay
from monai_ext.data.geometry import image_area_mm2
from monai_ext.data.result_files import OVERLAY, ResultFiles
from monai_ext.formats.geojson import Color, Features, label_map_to_polygons
from monai_ext.formats.hotspot import mitosis_summary
from monai_ext.formats.resolution import Scale

__all__ = ["SaveDetectionsd", "detection_features"]

_HOT_SPOT_COLOUR = (20, 20, 20)


def detection_features(
    points: np.ndarray,
    labels: np.ndarray | None,
    mpp: float = 0,
    scale: Scale = 1,
    classification: str = "Mitosis",
    colour: Color = (200, 0, 0),
) -> list[Features]:
    """Detections as QuPath's objects: points and, where there are blobs, their outlines.

    Args:
        points: ``(N, 4)`` row, col, area (px), score, as ``BlobDetections`` gives them.
        labels: ``(H, W)`` blobs, numbered as the points from 1.
        mpp: um per px; 0 for no areas in um2.
        scale: px of level 0 per px; ``row, col`` where they differ.
        classification: QuPath class.
        colour: its RGB.

    Examples:
        >>> from monai_ext.transforms.save_detections import detection_features
        >>> [mitoses] = detection_features(np.array([[14.5, 34.5, 100, 0.9]]), labels=None, mpp=0.25)
        >>> mitoses.points().tolist(), mitoses.measurements["area_um2"].tolist()
        ([[14.5, 34.5]], [6.25])
    """
    measurements = {"score": points[:, 3], "area_px": points[:, 2]}
    if mpp:
        measurements["area_um2"] = points[:, 2] * mpp**2
    look = {"classes": classification, "colors": {classification: colour}}
    features = [Features.from_points(points[:, :2], scale=scale, measurements=measurements, **look)]
    if labels is not None:
        ids, outlines = label_map_to_polygons(labels, scale=scale)
        blob_measurements = {name: values[ids - 1] for name, values in measurements.items()}
        features.append(Features(outlines, measurements=blob_measurements, object_types="detection", **look))
    return features


class SaveDetectionsd(MapTransform):
    """Write the detections of an image, as ``BlobDetectionsd`` gives them, for people and for QuPath.

    For an image ``a/b.png`` below ``data_root_dir`` these appear in ``output_dir``, each whole or not at all:

    - ``a/b.geojson``: each detection as a point annotation and, where there is a label map, its blob's exact outline
      as a detection object, both of the given class, with the measurements ``score``, ``area_px`` and ``area_um2``. In
      QuPath's coordinates: pixels of the file's full resolution, a pixel's centre at one half.
    - ``a/b_overlay.png``: detections circled, blobs outlined, the hot spot as a thin dark circle.
    - ``summary.csv``: one row for each image with its count, the area that was scanned (mm2), density and 2 mm2 hot
      spot (:func:`~monai_ext.formats.hotspot.mitosis_summary`), its position in pixels of the file's full resolution
      and its radius in those of the shorter side. Rows are added as images are done, by any number of processes; the
      row of an image that is done again is replaced.

    Where two images differ only in their suffix, the second keeps its suffix in its files' names.

    Args:
        keys: key of the ``(N, 4)`` points: row, col, area in px, score.
        output_dir: folder to write to; it is made.
        data_root_dir: folder that the images lie below; images elsewhere are written below their own full path.
        labels_key: key of the ``(H, W)`` label map, None for none; instance ``i + 1`` belongs to point ``i``.
        image_key: key of the image, a MetaTensor ``(C, H, W)`` that can be shown: its pixels before any normalisation.
            Its metadata give ``filename_or_obj`` and, as ``LoadFieldd`` writes them, ``mpp`` and ``scale``.
        mpp: um per px of the image where its metadata do not say. Without either, areas and the hot spot are left out.
        classification: QuPath class of the detections.
        colour: RGB of that class, 0 to 255.
        max_side: the overlay is reduced until no side is longer, in px.
        formats: of the objects, besides GeoJSON, for other programs; see :class:`~monai_ext.exchange.Exchange`.
        allow_missing_keys: whether data without points are passed on.

    Raises:
        InputError: when the image does not say which file it came from.

    Examples:
        >>> from monai.data import MetaTensor
        >>> from monai_ext.transforms import SaveDetectionsd
        >>> meta = {"filename_or_obj": str(folder / "images" / "a.png"), "mpp": 0.25}
        >>> item = {"image": MetaTensor(torch.zeros(3, 64, 64, dtype=torch.uint8), meta=meta)}
        >>> item["points"] = torch.tensor([[14.5, 34.5, 100.0, 0.9]])
        >>> save = SaveDetectionsd(output_dir=folder / "out", data_root_dir=folder / "images", labels_key=None)
        >>> _ = save(item)
        >>> sorted(path.name for path in (folder / "out").glob("a*"))
        ['a.geojson', 'a_overlay.png']
    """

    def __init__(
        self,
        keys: KeysCollection = "points",
        *,
        output_dir: str | os.PathLike[str],
        data_root_dir: str | os.PathLike[str],
        labels_key: str | None = "blobs",
        image_key: str = "image",
        mpp: float | None = None,
        classification: str = "Mitosis",
        colour: tuple[int, int, int] = (0, 200, 60),
        max_side: int = 4096,
        formats: str | Sequence[str] = ("geojson",),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.files = ResultFiles(output_dir, data_root_dir, max_side, formats)
        self.labels_key = labels_key
        self.image_key = image_key
        self.mpp = mpp
        self.classification = classification
        self.colour = tuple(colour)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the data are returned as they came."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[self.image_key]
            source = self.files.source(image, self.image_key)
            points = convert_to_numpy(d[key])
            labels = None if self.labels_key is None else convert_to_numpy(d[self.labels_key])
            mpp, scale = self.files.resolution(image, self.mpp)

            area = image_area_mm2(image.meta, image.shape, mpp)
            summary = mitosis_summary(points, tuple(image.shape[1:]), mpp, field_mm2=area)
            objects = detection_features(points, labels, mpp, scale, self.classification, self.colour)
            self.files.write_objects(source, image, objects, {self.classification: self.colour})
            self._write_overlay(self.files.path(source, OVERLAY), image, points, labels, summary)
            rows, cols = np.broadcast_to(scale, 2).tolist()
            if summary["hotspot_row"] is not None:
                sides = {"hotspot_row": rows, "hotspot_col": cols}
                summary |= {name: (summary[name] + 0.5) * side - 0.5 for name, side in sides.items()}
            if summary["hotspot_radius"] is not None:
                summary["hotspot_radius"] *= max(rows, cols)
            self.files.write_row({"image": source.as_posix(), **summary}, image)
        return d

    def _write_overlay(
        self, path: Path, image: MetaTensor, points: np.ndarray, labels: np.ndarray | None, summary: dict[str, Any]
    ) -> None:
        names = [self.classification] * len(points)
        colours = {self.classification: self.colour}
        picture = overlay(image, points=points, labels=labels, classes=names, colours=colours, channel_dim=0)
        if summary["hotspot_radius"] is not None and summary["hotspot_count"]:
            centre = (round(summary["hotspot_col"]), round(summary["hotspot_row"]))
            thickness = max(2, max(picture.shape) // 800)
            cv2.circle(picture, centre, round(summary["hotspot_radius"]), _HOT_SPOT_COLOUR, thickness, cv2.LINE_AA)
        self.files.write_picture(path, picture)
