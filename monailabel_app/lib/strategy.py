"""Which image to annotate next: the one that a network is least sure of."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from lib.errors import check_name
from lib.infer import BundleInfer
from monai_ext.base.errors import InputError
from monai_ext.formats.levels import open_levels
from monai_ext.label import uncertainty

__all__ = ["Uncertainty"]

_MOST_PIXELS = 16_000_000  # an annotator outlines fields; slides are too large to look at while somebody waits

logger = logging.getLogger(__name__)


class Uncertainty(Strategy):
    """The unlabelled image with the highest mean of 1 - confidence over what is found in it.

    Slides are left out. What was computed is kept with the image until the network's weights change.

    Args:
        infers: the bundles by name.
    """

    def __init__(self, infers: Mapping[str, BundleInfer]) -> None:
        super().__init__("The image that a network is least sure of; give its name as model")
        self.infers = infers

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """The image, with the value; ``None`` where all are labelled.

        Args:
            request: ``model``, by default the first; ``max_samples``, how many images at most are looked at.
            datastore: the images.
        """
        model = request.get("model") or next(iter(self.infers))
        check_name(model, list(self.infers), "model")
        images = sorted(datastore.get_unlabeled_images())[: int(request.get("max_samples") or 0) or None]
        values = {}
        for image in images:
            try:
                levels, _ = open_levels(Path(datastore.get_image_uri(image)), "openslide")
                if math.prod(levels.shapes[0]) > _MOST_PIXELS:
                    continue
                values[image] = self._of(model, image, datastore)
            except InputError as error:  # the others continue
                logger.warning("left out: %s", error)
        if not values:
            return None
        best = max(values, key=values.__getitem__)
        return {"id": best, "uncertainty": values[best], "model": model}

    def _of(self, model: str, image: str, datastore: Datastore) -> float:
        infer = self.infers[model]
        weights = Path(infer.get_path()).stat().st_mtime_ns
        before = datastore.get_image_info(image).get("uncertainties", {})
        if before.get(model, {}).get("weights") != weights:
            path = datastore.get_image_uri(image)
            value = uncertainty(infer.find({"model": model, "image": path}))
            before = {**before, model: {"value": value, "weights": weights}}
            datastore.update_image_info(image, {"uncertainties": before})
        return before[model]["value"]
