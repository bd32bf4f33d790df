"""What releases hold: images with points, images with one label; each checks itself and writes itself."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path, write_png
from monai_ext.formats.image import read_field
from monai_ext.formats.point_files import write_points
from monai_ext.formats.points import points_outside
from monai_ext.formats.suffixes import image_suffix

__all__ = [
    "LabelledImage",
    "LabelledSample",
    "PointsImage",
    "Sample",
    "copy_or_link",
    "labels_per_group",
]

_MPP = 0.25

F = TypeVar("F", bound=Callable)


@dataclass
class Sample(ABC):
    """One image of a release with its labels.

    Args:
        group: the slide or patient it is from; a group is never in two parts.
        name: where its copies go, below ``images/``, ``labels/`` ... , without a suffix.
    """

    group: str
    name: str

    @property
    def piece(self) -> str:
        """The piece of tissue that it shows: no other sample shows any of that, but those of the same piece."""
        return self.name

    @property
    @abstractmethod
    def labels(self) -> int:
        """How many labels it carries: what a random split deals out evenly."""

    @abstractmethod
    def check(self) -> list[str]:
        """What is wrong with it, a line each."""

    @abstractmethod
    def write(self, dst: Path, link: bool) -> dict[str, object]:
        """Write it below ``dst`` (``link``: without copying the image); its data list entry, without the group."""


@dataclass
class PointsImage(Sample):
    """An image and the centroids of what is labelled in it.

    Args:
        image: the image's file.
        points: ``(N, 2)`` centroids ``row, col``.
        mpp: um per pixel; None: as the image file states, or 0.25 (a scanner's 40x) where it states nothing.
        lookalikes: centroids of cells that were mistaken for the labelled ones, if the release lists them.
        regions: pixels ``(M, 2)`` of each labelled cell; they are written as an instance mask.
        shape: height and width of the image, once it has been read.
        atypical: those of ``points`` that are atypical, if a list says so.
        more: further entries of the data list, such as the tumour's type.
    """

    image: Path
    points: np.ndarray
    mpp: float | None
    lookalikes: np.ndarray | None = None
    regions: list[np.ndarray] | None = None
    shape: tuple[int, int] = (0, 0)
    atypical: np.ndarray | None = None
    more: dict[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> int:
        """How many points."""
        return len(self.points)

    def check(self) -> list[str]:
        """Decode the image in full, because a download cut short still has a good header, and compare its points."""
        try:
            image = read_field(self.image, self.mpp)
        except InputError as error:
            return [str(error)]
        self.shape = image.file_shape
        if image.stretch == (1, 1):  # else the copy is to state its two sides itself
            self.mpp = self.mpp or image.mpp or _MPP
        labels = [self.points, self.lookalikes, *(self.regions or ())]
        outside = points_outside(np.concatenate([points for points in labels if points is not None]), self.shape)
        rows, columns = self.shape
        expected = f"{self.image}: expected points inside its {rows} rows x {columns} columns"
        return [] if outside is None else [f"{expected}, found {outside}"]

    def write(self, dst: Path, link: bool) -> dict[str, object]:
        """Image, points as CSV, and the optional files."""
        entry: dict[str, object] = {
            "image": f"images/{self.name}{image_suffix(self.image)}",
            "label": f"labels/{self.name}.csv",
        }
        copy_or_link(self.image, dst / entry["image"], link)
        write_points(dst / entry["label"], self.points)
        if self.mpp is not None:
            entry["mpp"] = self.mpp
        for key, points in (("lookalikes", self.lookalikes), ("atypical", self.atypical)):
            if points is not None:
                entry[key] = f"{key}/{self.name}.csv"
                write_points(dst / entry[key], points)
        if self.regions is not None:
            entry["mask"] = f"masks/{self.name}.png"
            mask = np.zeros(self.shape, dtype=np.uint16)
            for value, region in enumerate(self.regions, start=1):
                mask[tuple(region.T)] = value
            write_png(dst / entry["mask"], mask)
        return entry | self.more


@dataclass
class LabelledSample(Sample):
    """One image with one label.

    Args:
        label: its class, 0 or 1.
    """

    label: int

    @property
    def labels(self) -> int:
        """The label, so that a split has its share of either class in every part."""
        return self.label


@dataclass
class LabelledImage(LabelledSample):
    """An image file with one label.

    Args:
        image: the image's file.
        mpp: um per pixel.
    """

    image: Path
    mpp: float

    def check(self) -> list[str]:
        """Decode the image in full, because a download cut short still has a good header."""
        try:
            read_field(self.image)
        except InputError as error:
            return [str(error)]
        return []

    def write(self, dst: Path, link: bool) -> dict[str, object]:
        """The image as it is; the label stands in the list."""
        relative_path = f"images/{self.name}{image_suffix(self.image)}"
        copy_or_link(self.image, dst / relative_path, link)
        return {"image": relative_path, "label": self.label, "mpp": self.mpp}


def labels_per_group(samples: Iterable[Sample]) -> dict[str, int]:
    """The number of labels of each group."""
    weights: Counter[str] = Counter()
    for sample in samples:
        weights[sample.group] += sample.labels
    return dict(weights)


def copy_or_link(source: Path, target: Path, link: bool) -> None:
    """Copy or link a file; it appears whole or not at all."""
    with atomic_path(target) as temporary:
        if not link:
            shutil.copyfile(source, temporary)
            return
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another file system
            temporary.symlink_to(source.resolve())
