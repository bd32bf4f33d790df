"""Objects of one image, found twice: what both have, and what only one has."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
import shapely

from monai_ext.formats.geojson import Features
from monai_ext.formats.roles import Annotated, countable, split_roles, units, with_nuclei
from monai_ext.metrics.detection import detection_scores, match_detections
from monai_ext.reports.agreement import inside_regions, match_outlines, outline_overlaps

__all__ = ["KINDS", "RADIUS_UM", "Comparison", "compare_objects"]

#: What an object is: found by both; by both, with another class; by this side alone; by the other side alone.
KINDS = ("both", "class", "only", "missed")
#: Within which a detection is a true one, as the bundle of mitoses is scored (30 px of .25 um).
RADIUS_UM = 7.5
_RADIUS_PX = 30.0  # of an image without a resolution, which that bundle takes as it is
_BOTH, _CLASS, _ONLY = range(3)
_POINTS = (0, 4)  # shapely's type numbers
_PLACE = "place in the file"


@dataclass(frozen=True, eq=False)
class Comparison:
    """What became of it.

    Attributes:
        kinds: ``(N,)`` of each object of this side its place among :data:`KINDS`; -1 where it was not compared: regions
            around objects, and what lies beyond the other's regions.
        missed: objects of the other side that this one lacks.
        counts: ``(4,)`` how many objects are of each of :data:`KINDS`.
        how: objects were matched.
    """

    kinds: np.ndarray
    missed: Features
    counts: np.ndarray
    how: str

    def scores(self) -> dict[str, float]:
        """Precision, recall and F1 of this side, as if the other were the truth; a class counts for nothing here."""
        both, other_class, only, missed = self.counts.tolist()
        return {name: float(score) for name, score in detection_scores([both + other_class, only, missed]).items()}


def compare_objects(
    found: Features,
    other: Features,
    mpp: float | None = None,
    *,
    radius_um: float = RADIUS_UM,
    where: tuple[str | os.PathLike, str | os.PathLike] = ("", ""),
) -> Comparison:
    """Match objects of one image with others, as the project's own measures do.

    Where either side has points, by their centres: :func:`~monai_ext.metrics.match_detections`. Outlines match by an
    IoU above .5, as in PQ; of QuPath's cells by the nucleus. What counts as an object say
    :func:`~monai_ext.formats.roles.split_roles` and :func:`~monai_ext.formats.roles.units`; as in ``report cells`` what
    lies beyond the regions that the other side was drawn in is left out.

    Args:
        found: this side, all of the file, in square px.
        other: the other side, likewise.
        mpp: um/px; without it a match is within 30 px.
        radius_um: farthest that two centres may lie apart.
        where: the files, for messages.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.view.comparison import compare_objects
        >>> cells = Features([shapely.box(0, 0, 9, 9), shapely.box(50, 50, 59, 59)])
        >>> truth = Features([shapely.box(1, 0, 10, 9), shapely.box(20, 0, 29, 9)])
        >>> compared = compare_objects(cells, truth)
        >>> compared.kinds.tolist(), len(compared.missed), compared.scores()["f1"]
        ([0, 2], 1, 0.5)
    """
    one, reference = (_counted(side, path) for side, path in zip((found, other), where, strict=True))
    sides = [one.objects[inside_regions(one.objects, reference)], reference.objects]
    pairs, seen, how = _match(*(with_nuclei(side) for side in sides), mpp, radius_um)
    places = [side.measurements[_PLACE].astype(int) for side in sides]
    classes = [side.classes for side in sides]
    same_names = {*classes[0]} & {*classes[1]} - {None}
    differs = classes[0][pairs[:, 0]] != classes[1][pairs[:, 1]] if same_names else np.zeros(len(pairs), bool)
    kinds = np.full(len(found), -1)
    kinds[places[0][seen[0]]] = _ONLY
    kinds[places[0][pairs[:, 0]]] = np.where(differs, _CLASS, _BOTH)
    missed = np.setdiff1d(seen[1], pairs[:, 1])
    counts = np.append(np.bincount(kinds[kinds >= 0], minlength=3), len(missed))
    return Comparison(kinds[units(found.geometry)], other[places[1][missed]], counts, how)


def _counted(features: Features, where: str | os.PathLike) -> Annotated:
    """What counts as an object, each with its place in the file."""
    numbered = replace(features, measurements={_PLACE: np.arange(len(features), dtype=float)})
    objects, regions = split_roles(countable(numbered, where, areas=False), where)
    whole = units(features.geometry) == np.arange(len(features))
    return Annotated(objects[whole[objects.measurements[_PLACE].astype(int)]], regions)


def _match(
    one: Features, other: Features, mpp: float | None, radius_um: float
) -> tuple[np.ndarray, list[np.ndarray], str]:
    """``(K, 2)`` pairs, of each side the objects that were compared, and how they were."""
    sides = one.geometry, other.geometry
    if any(np.isin(shapely.get_type_id(side), _POINTS).any() for side in sides):
        centres = [shapely.get_coordinates(shapely.centroid(side)) for side in sides]
        radius, how = (radius_um / mpp, f"{radius_um:g} um") if mpp else (_RADIUS_PX, f"{_RADIUS_PX:g} px")
        return match_detections(*centres, radius), [np.arange(len(side)) for side in sides], f"centres within {how}"
    overlaps, *seen = outline_overlaps(*sides)
    return match_outlines(overlaps, *seen), seen, "IoU above .5"
