"""What reviewers said of the objects of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.base.files import path_below
from monai_ext.formats.roles import units
from monai_ext.view.cases import find_cases
from monai_ext.view.opened import Opened, Settings
from monai_ext.view.review_log import Decision

__all__ = ["KEPT", "REJECTED", "UNSEEN", "SlideReview", "read_reviews", "review_of"]

#: What holds of an object: it is one, it is none, or nobody has said.
KEPT, REJECTED, UNSEEN = 1, 0, -1


@dataclass(frozen=True, eq=False)
class SlideReview:
    """The objects of a slide, and what was said of each.

    Attributes:
        name: of its files below the run's folder, without a suffix.
        image: its file.
        mpp: um/px of the file where it does not state them.
        geometry: ``(N,)``, px of the file; after the result's objects those that were drawn.
        verdict: ``(N,)`` of :data:`KEPT`, :data:`REJECTED`, :data:`UNSEEN`.
        classes: ``(N,)`` names as they were corrected, or ``None``.
        drawn: ``(N,)`` whether a reviewer added it.
    """

    name: str
    image: Path
    mpp: float | None
    geometry: np.ndarray
    verdict: np.ndarray
    classes: np.ndarray
    drawn: np.ndarray

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
            run's is none. Without it objects are outlines, and a place that was drawn says nothing.
        mpp: um/px of all images, in place of what they state.

    Raises:
        InputError: no run, no corrections, those of another result alone, or a slide that is not where it was.
    """
    cases = [case for case in find_cases(src, slides).cases if case.log is not None and case.log.is_file()]
    if lost := [case.name for case in cases if case.image is None]:
        expected = "slides where the run found them, or --slides with the folder that they are in now"
        raise InputError(src, expected, f"{len(lost)} with corrections elsewhere, the first: {lost[0]}")
    seen, others = [], 0
    for case in cases:
        opened = Opened(case, Settings(reviewer="", mpp=mpp))
        if decisions := opened.log.decisions():
            seen.append((opened, decisions))
        others += opened.log.of_others
    if not seen:
        found = f"{others} corrections of an earlier result" if others else "none"
        raise InputError(src, "corrections of its objects, made with monai-ext view", found)
    found_classes = {name for opened, _ in seen for name in opened.written.classes}
    return [review_of(src, opened, decisions, points, found_classes) for opened, decisions in seen]


def review_of(
    src: str | os.PathLike,
    opened: Opened,
    decisions: Mapping[int, Decision],
    points: bool = False,
    found: Set[str | None] = frozenset(),
) -> SlideReview:
    """What was said of one slide.

    Args:
        src: the output folder of the run.
        opened: the slide.
        decisions: by the object's place in the result's file.
        points: see :func:`read_reviews`.
        found: the classes that the run finds: what is drawn as another one is none of its kind.
    """
    features, reader = opened.features, opened.tiles.reader
    geometry = features.geometry
    unit, drawn = np.arange(len(features)), np.arange(len(features)) >= len(opened.written)
    verdict, classes = np.full(len(features), UNSEEN), features.classes.copy()
    if points:
        unit[~drawn] = units(geometry[~drawn])
        geometry = shapely.centroid(geometry)
    for decision in sorted(decisions.values(), key=lambda each: each.number):  # of two about one, the later
        number = unit[decision.object]
        name = decision.name or features.classes[decision.object]
        own = found if drawn[number] else {features.classes[decision.object]}
        renamed = bool(own) and name not in own
        verdict[number] = REJECTED if decision.action == "reject" or (points and renamed) else KEPT
        if decision.action == "class":
            classes[number] = decision.name
    if not points:
        verdict[drawn & (shapely.area(geometry) == 0)] = UNSEEN
    name = path_below(opened.case.stem, src).as_posix()
    first = (unit == np.arange(len(unit))) & ~shapely.is_missing(geometry)
    told = reader.base_mpp if reader.resolution_source == "mpp" else None
    return SlideReview(name, opened.case.image, told, geometry[first], verdict[first], classes[first], drawn[first])
