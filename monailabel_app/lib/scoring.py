"""How well a network agrees with what people annotated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import shapely
import torch
from monai.metrics import DiceMetric
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.scoring import ScoringMethod

from lib.infer import BundleInfer
from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.label import has_finding, has_object, object_map, object_points
from monai_ext.metrics import AggregatedJaccardIndex, DetectionF1

__all__ = ["Agreement"]

_RADIUS_PX = 30  # as in the bundles' evaluation


class Agreement(ScoringMethod):
    """Scores a bundle on all labelled images; each image's numbers are kept with its label.

    Args:
        infer: the bundle.
        kind: ``"instances"`` for Dice and AJI, ``"points"`` for F1, ``"presence"`` for accuracy.
    """

    def __init__(self, infer: BundleInfer, kind: str) -> None:
        super().__init__("Agreement with the final labels")
        self.infer, self.kind = infer, kind

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """The means over images, and each image's own."""
        scores = {}
        for image in sorted(datastore.get_labeled_images()):
            path = datastore.get_image_uri(image)
            label = datastore.get_label_uri(image, DefaultLabelTag.FINAL)
            scores[image] = self._score(self.infer.find({"model": request.get("method"), "image": path}), label, path)
            info = dict(datastore.get_label_info(image, DefaultLabelTag.FINAL))
            info["agreement"] = {**info.get("agreement", {}), str(request.get("method")): scores[image]}
            datastore.update_label_info(image, DefaultLabelTag.FINAL, info)
        if not scores:
            raise InputError("datastore", "images with a final label", "none")
        names = next(iter(scores.values()))
        return {
            **{name: float(np.nanmean([each[name] for each in scores.values()])) for name in names},
            "images": scores,
        }

    def _score(self, features: Features, label: str, image: str) -> dict[str, float]:
        if self.kind == "presence":
            return {"accuracy": float(has_finding(features) == has_object(label, image))}
        if self.kind == "points":
            metric = DetectionF1(radius=_RADIUS_PX)
            predicted = features[shapely.get_type_id(features.geometry) == shapely.GeometryType.POINT].points()
            metric(*([torch.as_tensor(each, dtype=torch.float32)] for each in (predicted, object_points(label, image))))
            return {"f1": _number(metric.aggregate())}
        truth = object_map(label, image).astype(np.int32)
        predicted = polygons_to_label_map(features.geometry, truth.shape)
        dice, aji = DiceMetric(ignore_empty=False), AggregatedJaccardIndex()  # rightly nothing: 1
        maps = [torch.as_tensor(each)[None, None] for each in (predicted, truth)]
        dice(maps[0] > 0, maps[1] > 0)
        aji(maps[0], maps[1])
        return {"dice": _number(dice.aggregate()), "aji": _number(aji.aggregate())}


def _number(value: Any) -> float:
    value = value[0] if isinstance(value, (list, tuple)) else value
    return float(torch.as_tensor(value).float().mean())
