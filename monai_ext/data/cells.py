"""Cells of an image: outline, position, measurements and class of each, as people and QuPath read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import shapely

from monai_ext.base.colours import class_colours
from monai_ext.base.errors import InputError
from monai_ext.data.nuclei import crop_patches
from monai_ext.formats.geojson import Color, Features
from monai_ext.formats.measurements import Shapes, measure_instances, simplify_outlines, solidity
from monai_ext.formats.outlines import label_map_to_polygons
from monai_ext.formats.resolution import Scale

__all__ = ["Cells", "Grid", "class_columns", "find_cells", "summarize_cells"]

_DIGITS = 4  # of measurements
_COORDINATE_DIGITS = 2  # of outlines in px of level 0


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an array lie on their slide or image.

    Attributes:
        mpp: um per px of the array.
        scale: px of level 0 per px of the array; ``row, col`` where they differ.
        offset: ``row, col`` of its upper left corner in px of level 0.
        limits: ``rows, cols`` of level 0, beyond which no outline goes; ``None`` for none.
        stated: whether ``mpp`` is stated at all; one that is only assumed gives no um.
    """

    mpp: float
    scale: Scale = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    limits: tuple[int, int] | None = None
    stated: bool = True


@dataclass(frozen=True)
class Cells:
    """N cells, one column per property.

    Attributes:
        outlines: ``(N,)`` shapely polygons of the nuclei, ``x, y`` in px of level 0.
        centres: ``(N, 2)`` float64 ``row, col`` of the centroids in px of level 0, whole numbers are pixel centres.
        measurements: ``(N,)`` float64 by name: ``area_um2``, ``perimeter_um`` (NaN where the resolution is unknown),
            ``eccentricity``, ``solidity``, ``nucleus_probability`` (mean over the nucleus).
        probabilities: ``(N, C)`` float64 of the classes; ``C`` is 0 without a classifier.
        class_names: names of the C classes.
        ids: ``(N,)`` their ids in the instance map.
    """

    outlines: np.ndarray
    centres: np.ndarray
    measurements: Mapping[str, np.ndarray]
    probabilities: np.ndarray
    class_names: tuple[str, ...] = ()
    ids: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __len__(self) -> int:
        return len(self.outlines)

    def __getitem__(self, index: slice | np.ndarray) -> Cells:
        return Cells(
            self.outlines[index],
            self.centres[index],
            {name: values[index] for name, values in self.measurements.items()},
            self.probabilities[index],
            self.class_names,
            self.ids[index],
        )

    @cached_property
    def class_ids(self) -> np.ndarray:
        """``(N,)`` the likeliest class of each; -1 without a classifier."""
        return self.probabilities.argmax(axis=1) if self.class_names else np.full(len(self), -1)

    @property
    def classes(self) -> np.ndarray:
        """``(N,)`` its name, ``None`` without a classifier."""
        return np.array([*self.class_names, None], dtype=object)[self.class_ids]

    @property
    def confidence(self) -> np.ndarray:
        """``(N,)`` probability of the likeliest class, or of being a nucleus at all."""
        return self.probabilities.max(axis=1) if self.class_names else self.measurements["nucleus_probability"]

    def numbers(self) -> dict[str, np.ndarray]:
        """All that is measured of each, confidence and probabilities included, ``(N,)`` by name."""
        columns = class_columns(self.class_names)
        return {
            "confidence": self.confidence,
            **dict(zip(columns, self.probabilities.T, strict=True)),
            **self.measurements,
        }

    def table(self) -> pd.DataFrame:
        """A row for each: ``row, col`` in px of level 0, ``class``, and all numbers."""
        position = {"row": self.centres[:, 0], "col": self.centres[:, 1]}
        return pd.DataFrame({**position, "class": self.classes, **self.numbers()})

    def features(self, colours: Mapping[str, Color] | None = None, object_type: str = "detection") -> Features:
        """The cells as QuPath's objects.

        Args:
            colours: RGB of each class.
            object_type: ``"detection"`` or ``"annotation"``.
        """
        return Features(
            self.outlines,
            self.classes,
            self.numbers(),
            object_type,
            colors=class_colours(self.class_names, colours),
        )

    def least_certain_first(self) -> Cells:
        """The same cells in the order in which a reviewer should see them."""
        return self[np.lexsort((self.centres[:, 1], self.centres[:, 0], self.confidence))]


def class_columns(class_names: Sequence[str]) -> list[str]:
    """Names of the classes' probabilities among a cell's numbers."""
    return [f"probability_{name}" for name in class_names]


def find_cells(
    instances: np.ndarray,
    grid: Grid,
    *,
    probability: np.ndarray | None = None,
    image: np.ndarray | None = None,
    classifier: Callable[[np.ndarray], np.ndarray] | None = None,
    class_names: Sequence[str] = (),
    patch_size: int = 32,
    tolerance: float = 0.9,
    keep: Callable[[Shapes], np.ndarray] | None = None,
) -> Cells:
    """Measure, outline and classify the instances of a map, all of them in one go.

    Args:
        instances: ``(H, W)`` integers, 0 is background.
        grid: where the map lies.
        probability: ``(H, W)`` of being nucleus; 1 by default.
        image: uint8 ``(H, W, 3)`` RGB, for the classifier.
        classifier: gives logits ``(N, C)`` for patches uint8 ``(N, S, S, 3)``, as
            :class:`~monai_ext.inferers.PatchClassifier` does.
        class_names: of its C classes.
        patch_size: S, px.
        tolerance: outlines may move so far when corners are left out, px of level 0.
        keep: takes the M instances as measured, and gives which of them count, ``(M,)`` bool.

    Raises:
        InputError: a classifier that gives other than C scores.
    """
    shapes = measure_instances(instances, probability)
    chosen = np.ones(len(shapes.ids), bool) if keep is None else keep(shapes)
    if not chosen.all():
        kept = np.zeros(int(shapes.ids.max()) + 1, instances.dtype)
        kept[shapes.ids[chosen]] = shapes.ids[chosen]
        instances = kept[instances]
    exact = label_map_to_polygons(instances, grid.offset, grid.scale)[1]
    outlines = shapely.transform(simplify_outlines(exact, tolerance), lambda xy: _placed(xy, grid))
    centroids, mpp = shapes.centroids[chosen], grid.mpp if grid.stated else np.nan
    measured = {
        "area_um2": shapes.area[chosen] * mpp**2,
        "perimeter_um": shapes.perimeter[chosen] * mpp,
        "eccentricity": shapes.eccentricity[chosen],
        "solidity": solidity(exact),
        "nucleus_probability": shapes.mean[chosen] if probability is not None else np.ones(chosen.sum()),
    }
    if classifier is None:
        class_names, scores = (), np.zeros((len(centroids), 0))
    elif len(centroids):
        scores = classifier(crop_patches(image, centroids, patch_size)).astype(np.float64)
    else:
        scores = np.zeros((0, len(class_names)))
    if scores.shape[1] != len(class_names):
        raise InputError("classifier", f"scores of {', '.join(class_names)}", f"{scores.shape[1]} scores")
    odds = np.exp(scores - scores.max(axis=1, keepdims=True, initial=-np.inf))
    return Cells(
        outlines,
        ((centroids + 0.5) * np.asarray(grid.scale) + grid.offset - 0.5).round(_DIGITS),
        {name: values.round(_DIGITS) for name, values in measured.items()},
        (odds / odds.sum(axis=1, keepdims=True)).round(_DIGITS),
        tuple(class_names),
        shapes.ids[chosen],
    )


def _placed(xy: np.ndarray, grid: Grid) -> np.ndarray:
    most = np.inf if grid.limits is None else grid.limits[::-1]
    return np.clip(xy, 0, most).round(_COORDINATE_DIGITS)


def summarize_cells(class_ids: np.ndarray, class_names: Sequence[str], mm2: float | None) -> dict[str, Any]:
    """How many cells there are, and how many per mm2, in all and of each class.

    Args:
        class_ids: ``(N,)`` class of each cell; -1 for none.
        class_names: of the classes.
        mm2: area examined; ``None`` or 0 for none, which has no density.

    Returns:
        ``cells``, ``cells_per_mm2``, then ``<class>`` and ``<class>_per_mm2`` of each class.
    """
    numbers = np.bincount(class_ids[class_ids >= 0], minlength=len(class_names)).tolist()
    counts = {"cells": len(class_ids), **dict(zip(class_names, numbers, strict=True))}
    row: dict[str, Any] = {}
    for name, count in counts.items():
        row |= {name: count, f"{name}_per_mm2": round(count / mm2, 3) if mm2 else None}
    return row
