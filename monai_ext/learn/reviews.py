"""What reviewers said of the objects of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.base.files import path_below
from monai_ext.view.cases import find_cases
from monai_ext.view.opened import Opened, Settings
from monai_ext.view.review_log import Decision

__all__ = ["KEPT", "REJECTED", "UNSEEN", "SlideReview", "read_reviews"]

#: What holds of an object: it is one, it is none, or nobody has said.
KEPT, REJECTED, UNSEEN = 1, 0, -1
_POINT = 0  # shapely's type number


@dataclass(frozen=True, eq=False)
class SlideReview:
    """The objects of a slide, and what was said of each.

    Attributes:
        name: of its files below the run's folder, without a suffix.
        image: its file.
        mpp: um/px of the file where it does not state them.
        geometry: ``(N,)``, px of the file.
        verdict: ``(N,)`` of :data:`KEPT`, :data:`REJECTED`, :data:`UNSEEN`.
        classes: ``(N,)`` names as they were corrected, or ``None``.
    """

    name: str
    image: Path
    mpp: float | None
    geometry: np.ndarray
    verdict: np.ndarray
    classes: np.ndarray

    @cached_property
    def tree(self) -> shapely.STRtree:
        """Finds objects by place."""
        return shapely.STRtree(self.geometry)


def read_reviews(
    src: str | os.PathLike, slides: str | os.PathLike | None = None, points: bool = False, mpp: float | None = None
) -> list[SlideReview]:
    """The slides of a run of whose objects anything was said.

    Args:
        src: the output folder of a run, with the logs that ``monai-ext view`` wrote.
        slides: see :func:`~monai_ext.view.find_cases`.
        points: objects are places: a detection and its outline are one, and what was given another class than the
            run's is none.
        mpp: um/px of all images, in place of what they state.

    Raises:
        InputError: no run, no corrections, those of another result alone, or a slide that is not where it was.
    """
    cases = [case for case in find_cases(src, slides).cases if case.log is not None and case.log.is_file()]
    if lost := [case.name for case in cases if case.image is None]:
        expected = "slides where the run found them, or --slides with the folder that they are in now"
        raise InputError(src, expected, f"{len(lost)} with corrections elsewhere, the first: {lost[0]}")
    reviews, others = [], 0
    for case in cases:
        opened = Opened(case, Settings(reviewer="", mpp=mpp))
        decisions = opened.log.decisions()
        others += opened.log.of_others
        if decisions:
            name = path_below(case.stem, src).as_posix()
            reviews.append(_review(name, opened, decisions, points))
    if not reviews:
        found = f"{others} corrections of an earlier result" if others else "none"
        raise InputError(src, "corrections of its objects, made with monai-ext view", found)
    return reviews


def _review(name: str, opened: Opened, decisions: Mapping[int, Decision], points: bool) -> SlideReview:
    features, reader = opened.features, opened.tiles.reader
    unit = _units(features.geometry) if points else np.arange(len(features))
    geometry = shapely.centroid(features.geometry) if points else features.geometry
    verdict, classes = np.full(len(features), UNSEEN), features.classes.copy()
    for decision in sorted(decisions.values(), key=lambda each: each.number):  # of two about one, the later
        number = unit[decision.object]
        renamed = decision.action == "class" and decision.name != features.classes[decision.object]
        verdict[number] = REJECTED if decision.action == "reject" or (points and renamed) else KEPT
        if decision.action == "class":
            classes[number] = decision.name
    first = unit == np.arange(len(unit))
    told = reader.base_mpp if reader.resolution_source == "mpp" else None
    return SlideReview(name, opened.case.image, told, geometry[first], verdict[first], classes[first])


def _units(geometry: np.ndarray) -> np.ndarray:
    """``(N,)`` the object that each one belongs to: an outline to the point in it, all others to themselves."""
    unit, kinds = np.arange(len(geometry)), shapely.get_type_id(geometry)
    points, outlines = np.flatnonzero(kinds == _POINT), np.flatnonzero(kinds != _POINT)
    boxes = shapely.box(*shapely.bounds(geometry[outlines]).reshape(-1, 4).T)  # a bent blob's centre is beside it
    outline, point = shapely.STRtree(geometry[points]).query(boxes, predicate="intersects")
    unit[outlines[outline]] = points[point]
    return unit
