"""Tiles with and without nuclei from whole slides, by a rule on the tissue and on how much of it is nuclei."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.otsu import otsu_threshold
from monai_ext.base.stain import HE_STAINS, SOURCE_INTENSITY
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.suffixes import without_suffix
from monai_ext.formats.tissue import tissue_mask
from monai_ext.prepare.patches import slide_reader
from monai_ext.prepare.tile import Tile

__all__ = ["SlideRule", "hematoxylin", "nuclear_share", "nuclear_threshold"]

_THUMBNAIL_MPP = 8.0
_TISSUE = 0.75  # of a tile; the rest may be glass
_SMOOTH_UM = 0.5
_SPECK_UM = 2.0  # thinner objects are no nuclei
_STAINED = (0.5, 1.2)  # concentrations between which nuclei begin, whatever is in the slide
_PALE = 0.7  # of the threshold: in a negative tile nothing may reach even that, as pale nuclei do
_SAMPLE = 64  # squares of a slide that its threshold is from
_TRIES = 30  # squares examined per wanted tile
_UNMIX = np.linalg.pinv(np.array(HE_STAINS) / np.linalg.norm(HE_STAINS, axis=0))[:1]
_DENSITY = -np.log(np.clip(np.arange(256) / (255 * SOURCE_INTENSITY), 1 / 255, 1)).astype(np.float32)


def hematoxylin(image: np.ndarray, mpp: float) -> np.ndarray:
    """How much hematoxylin each pixel holds, slightly smoothed.

    Args:
        image: uint8 ``(3, H, W)`` RGB.
        mpp: its resolution, um/px.

    Returns:
        ``(H, W)`` float32 concentration in units of optical density, by the fixed vectors of hematoxylin and eosin.
    """
    density = cv2.LUT(np.ascontiguousarray(np.moveaxis(image, 0, -1)), _DENSITY)
    return cv2.GaussianBlur(cv2.transform(density, _UNMIX), (0, 0), max(_SMOOTH_UM / mpp, 0.3))


def nuclear_threshold(images: Iterable[np.ndarray], mpp: float) -> float:
    """The concentration of hematoxylin above which a slide's pixels are nuclei: Otsu's, within bounds.

    The bounds keep a slide without nuclei from being parted into two kinds of stroma.

    Args:
        images: tissue of the slide, uint8 ``(3, H, W)`` RGB each.
        mpp: their resolution, um/px.
    """
    pixels = [hematoxylin(image, mpp)[::4, ::4].reshape(-1, 1) for image in images]
    return float(np.clip(otsu_threshold(np.concatenate(pixels)), *_STAINED))


def nuclear_share(image: np.ndarray, mpp: float, threshold: float) -> float:
    """The share of an image's area that is nuclei by their hematoxylin; what is thinner than 2 um does not count.

    Args:
        image: uint8 ``(3, H, W)`` RGB.
        mpp: its resolution, um/px.
        threshold: see :func:`nuclear_threshold`.
    """
    mask = (hematoxylin(image, mpp) > threshold).view(np.uint8)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(1, round(_SPECK_UM / mpp)),) * 2)
    return float(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk).mean())


@dataclass(eq=False)
class _SlideTile(Tile):
    """A square of a slide, px of its grid."""

    target_mpp: float = 0.25
    slide_mpp: float | None = None

    def pixels(self) -> np.ndarray:
        reader = slide_reader(self.image, self.target_mpp, self.slide_mpp)
        return np.moveaxis(reader.read(*self.corner, self.size, self.size), 0, -1)


@dataclass(frozen=True)
class SlideRule:
    """Which squares of a slide are drawn.

    Squares lie side by side, at least three quarters of each is tissue. One is positive where nuclei, found by their
    hematoxylin, cover at least ``least`` of it, and negative where at most ``most`` of it has even .7 of the
    hematoxylin that nuclei begin with; others are doubtful and left out. Squares are examined in random
    order, until there are enough or 30 times as many as wanted were examined.

    Args:
        size: side of a tile, px.
        per_slide: at most so many tiles of either label from a slide.
        least: share of a positive tile that nuclei cover.
        most: share of a negative tile that may be covered.
        mpp: um/px of the tiles; a slide's level within 10 % of it is taken as it is.
        slide_mpp: um/px of level 0 where a slide does not state it.
        seed: of the drawing.
    """

    size: int = 224
    per_slide: int = 200
    least: float = 0.05
    most: float = 0.002
    mpp: float = 0.25
    slide_mpp: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.most < self.least:
            raise InputError("most", f"a share from 0, below least ({self.least:g})", repr(self.most))

    def draw(self, path: Path) -> list[Tile]:
        """The tiles of a slide, or of an image of tissue, in random order.

        Raises:
            InputError: it cannot be read or does not state its resolution.
        """
        reader = slide_reader(path, self.mpp, self.slide_mpp)
        corners = self._squares(reader)
        # a stream for each name, so that a slide's tiles do not depend on the other slides
        group = without_suffix(path).name
        corners = np.random.RandomState([self.seed, zlib.crc32(group.encode())]).permutation(corners).tolist()
        if not corners:
            return []
        sample = (reader.read(*corner, self.size, self.size) for corner in corners[:_SAMPLE])
        threshold = nuclear_threshold(sample, reader.mpp)
        tiles: dict[int, list[Tile]] = {0: [], 1: []}
        for row, col in corners[: _TRIES * self.per_slide]:
            label = self._label(reader.read(row, col, self.size, self.size), reader.mpp, threshold)
            if label is None or len(tiles[label]) == self.per_slide:
                continue
            name = f"{group}/{row:06d}_{col:06d}"
            arguments = group, name, path, (row, col), self.size, label, reader.mpp
            tiles[label].append(_SlideTile(*arguments, self.mpp, self.slide_mpp))
            if all(len(drawn) == self.per_slide for drawn in tiles.values()):
                break
        return [*tiles[1], *tiles[0]]

    def _label(self, image: np.ndarray, mpp: float, threshold: float) -> int | None:
        if nuclear_share(image, mpp, threshold) >= self.least:
            return 1
        return 0 if nuclear_share(image, mpp, _PALE * threshold) <= self.most else None

    def _squares(self, reader: SlideReader) -> np.ndarray:
        """``(N, 2)`` first row and column of the squares on tissue, px of the reader's grid."""
        scale = reader.thumbnail_scale(_THUMBNAIL_MPP)
        thumbnail, valid = reader.overview(_THUMBNAIL_MPP)
        tissue = tissue_mask(thumbnail, reader.base_mpp * scale, valid=valid)
        side = self.size * reader.scale / scale  # px of the thumbnail
        sums = cv2.integral(tissue.view(np.uint8))
        whole = [int(length / reader.scale) // self.size for length in reader.level0_shape]
        rows, cols = (
            np.minimum(np.round(np.arange(count + 1) * side).astype(int), limit)
            for count, limit in zip(whole, tissue.shape, strict=True)
        )
        corners = sums[np.ix_(rows, cols)]
        covered = corners[1:, 1:] - corners[:-1, 1:] - corners[1:, :-1] + corners[:-1, :-1]
        area = np.outer(np.diff(rows), np.diff(cols))
        return np.argwhere((covered >= _TISSUE * area) & (area > 0)) * self.size
