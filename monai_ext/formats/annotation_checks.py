"""What is wrong with annotations that can be read: of another slide, in another unit, of classes spelled twice."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features

__all__ = ["Identities", "misfits", "same_unit", "spelling_problems"]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_LEAST_UM2 = 10.0  # half of a nucleus of these is smaller than any that is seen in tissue
_SLACK = 1.0  # px
_FEW = 5  # objects, of which nothing can be said
_COARSE = 0.9  # um/px, from which px and um cannot be told apart
_ALIKE = np.log(1.3)  # two ratios of lengths


def misfits(
    features: Features, path: str | os.PathLike, shape: Sequence[int], mpp: float | None, image: str | os.PathLike
) -> list[str]:
    """Say whether annotations can be of an image: they lie in it, and are in its pixels.

    Args:
        features: of a whole file.
        path: that file.
        shape: rows and columns of the image's file, px.
        mpp: um/px of the file; None if unknown.
        image: the image's file.

    Returns:
        what is wrong, a line each. Annotations in micrometres lie in the image too: they are known by the size of
        their objects, of which half are smaller than 10 um2, where there are five or more.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.annotation_checks import misfits
        >>> misfits(Features([shapely.box(900, 0, 950, 50)]), "a.geojson", (400, 600), 0.25, "a.svs")
        ['a.geojson: expected objects inside a.svs (600 x 400 px), found 1 of 1 outside, as at x 900, y 0']
        >>> nuclei = Features([shapely.box(x, 20, x + 6, 26) for x in range(0, 100, 10)])
        >>> misfits(nuclei, "a.geojson", (400, 600), 0.25, "a.svs")[0].split(", ")[1]
        'found objects of 2.2 um2 in the median'
    """
    bounds = shapely.bounds(features.geometry)
    rows, cols = shape
    outside = ((bounds[:, 2:] < -_SLACK) | (bounds[:, :2] > np.array([cols, rows]) + _SLACK)).any(axis=1)
    problems = []
    if outside.any():
        x, y = bounds[np.argmax(outside), :2]
        found = f"{int(outside.sum())} of {len(outside)} outside, as at x {x:.0f}, y {y:.0f}"
        problems.append(str(InputError(path, f"objects inside {image} ({cols} x {rows} px)", found)))
    area = shapely.area(features.geometry)
    sized = area > 0
    if mpp is not None and mpp < _COARSE and sized.sum() >= _FEW:
        median = float(np.median(area[sized])) * mpp**2
        right, lower = bounds[sized, 2].max(), bounds[sized, 3].max()
        if median < _LEAST_UM2 and right <= cols * mpp and lower <= rows * mpp:
            found = f"objects of {median:.1f} um2 in the median, within {right:.0f} x {lower:.0f}: micrometres?"
            problems.append(str(InputError(path, f"coordinates in px of {image} ({cols} x {rows})", found)))
    return problems


def same_unit(found: Features, true: Features, path: str | os.PathLike, reference: str | os.PathLike) -> list[str]:
    """Say whether two annotations can be of one image: they meet, and are drawn in one unit.

    Args:
        found: objects of ``path``.
        true: objects of ``reference``.
        path: the file.
        reference: the other.

    Returns:
        what is wrong, a line each: no object's bounds meet any of the other's; or objects and the part of the plane
        that they fill are smaller in one proportion, as micrometres are than pixels, and hardly an object meets any.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.annotation_checks import same_unit
        >>> nuclei = Features([shapely.box(x, y, x + 20, y + 20) for x in range(9, 500, 99) for y in range(9, 500, 99)])
        >>> in_um = Features(shapely.transform(nuclei.geometry, lambda xy: xy * 0.25))
        >>> same_unit(nuclei, nuclei, "a", "b"), len(same_unit(nuclei, in_um, "a", "b"))
        ([], 1)
    """
    sides = [side.geometry[shapely.area(side.geometry) > 0] for side in (found, true)]
    if not all(map(len, sides)):
        return []
    expected, (one, other) = f"the image of {reference}, in its px", sides
    boxes = [shapely.box(*shapely.total_bounds(side)) for side in sides]
    if not boxes[0].intersects(boxes[1]):
        places = " and ".join("{:.0f},{:.0f} to {:.0f},{:.0f}".format(*box.bounds) for box in boxes)
        return [str(InputError(path, expected, f"objects apart from those: {places}"))]
    if min(map(len, sides)) < _FEW:
        return []
    sizes = [np.sqrt(np.median(shapely.area(side))) for side in sides]
    size = np.log(sizes[1] / sizes[0])
    extents = np.log(np.array(boxes[1].bounds[2:]) / np.array(boxes[0].bounds[2:]))
    met = np.unique(shapely.STRtree(other).query(shapely.centroid(one), predicate="intersects")[0])
    if abs(size) > _ALIKE and (abs(extents - size) < _ALIKE).all() and len(met) < len(one) / 2:
        text = f"those are {np.exp(size):.2g} times as large, and so is what they fill: px and micrometres?"
        return [str(InputError(path, expected, text))]
    return []


def spelling_problems(
    counts: Mapping[str | None, int], where: str | os.PathLike, classes: Mapping[str, Sequence[str]] | None = None
) -> list[str]:
    """Classes that differ from another in nothing but case and blanks, a line each: they would be two.

    Args:
        counts: how many objects have a class of each name.
        where: the file or folder.
        classes: ``{class: its names in the files}``, where the user said so: names of one class may be spelled as
            they like, and of names that are left out those are wrong that spell one of these.

    Examples:
        >>> from monai_ext.formats.annotation_checks import spelling_problems
        >>> spelling_problems({"Tumor": 120, "tumor ": 3, "Stroma": 50}, "ssa")
        ["ssa: expected one spelling of each class, found 120 of 'Tumor' and 3 of 'tumor '"]
        >>> spelling_problems({"Tumor": 120, "tumor ": 3}, "ssa", {"tumour": ["Tumor", "tumor "]})
        []
    """
    owner = {alias: name for name, aliases in (classes or {}).items() for alias in (name, *aliases)}
    alike: dict[str, list[str]] = {}
    for name in [*owner, *(name for name in counts if name is not None and name not in owner)]:
        alike.setdefault(" ".join(name.casefold().split()), []).append(name)
    problems = []
    for names in alike.values():
        if len({(name in owner, owner.get(name, name)) for name in names}) > 1:
            found = " and ".join(f"{counts.get(name, 0)} of {name!r}" for name in names)
            problems.append(str(InputError(where, "one spelling of each class", found)))
    return problems


class Identities:
    """Objects that are in the files of two images: one of these is a copy of the other's.

    Only QuPath's UUIDs count; other programs number the objects of every file from 1.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.annotation_checks import Identities
        >>> nucleus = Features([shapely.box(0, 0, 9, 9)], ids=["0f8fad5b-d9cb-469f-a165-70867728950e"])
        >>> identities = Identities()
        >>> identities.add(nucleus, "ea/s1.geojson", "s1"), identities.add(nucleus, "ssa/s1.geojson", "s1")
        ([], [])
        >>> identities.add(nucleus, "ea/s2.geojson", "s2")
        ['ea/s2.geojson: expected objects of its own, found 1 of 1 with ids that are in ea/s1.geojson']
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[str, str]] = {}

    def add(self, features: Features, path: str | os.PathLike, image: str) -> list[str]:
        """Take the objects of a file, which is of ``image``; what is wrong with it, a line at most."""
        ids = [name for name in features.ids if name is not None and _UUID.fullmatch(name)]
        shared = [self._seen[name][1] for name in ids if name in self._seen and self._seen[name][0] != image]
        for name in ids:
            self._seen.setdefault(name, (image, str(path)))
        if not shared:
            return []
        found = f"{len(shared)} of {len(features)} with ids that are in {shared[0]}"
        return [str(InputError(path, "objects of its own", found))]
