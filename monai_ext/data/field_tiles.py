"""Tiles of all fields as the items to draw patches from, so that what is rare is drawn by patch and not by file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from monai.data import CacheDataset, Dataset
from monai.utils import convert_to_numpy, ensure_tuple_rep

from monai_ext.base.errors import InputError
from monai_ext.formats.suffixes import without_suffix

__all__ = ["FieldTiles", "Tile", "tile_corners"]

_FIGURE, _LOOKALIKE, _OTHER = range(3)
_WIDTH, _NO_BREAK = 120, "\N{NO-BREAK SPACE}"  # characters of a line, and one that ends none


@dataclass(frozen=True)
class Tile:
    """Where on a field a patch is to be cut.

    Attributes:
        corner: row, column of the first pixel.
        size: rows, columns.
        positive: whether it holds a figure.
        points: ``(N, 2)`` row, column of what it was drawn for: its figures, or its look-alikes; none elsewhere.
    """

    corner: tuple[int, int]
    size: tuple[int, int]
    positive: bool = False
    points: np.ndarray | tuple = ()


def tile_corners(shape: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The first pixels of the fewest tiles that cover a field, evenly spaced; they overlap where sides do not divide.

    Args:
        shape: ``(H, W)`` of the field.
        size: rows, columns of a tile; a field's side that is shorter has one tile of its own length.

    Returns:
        ``(N, 2)`` int, row and column, row by row.

    Examples:
        >>> from monai_ext.data.field_tiles import tile_corners
        >>> tile_corners((500, 1100), (500, 500)).tolist()
        [[0, 0], [0, 300], [0, 600]]
    """
    firsts = [
        np.rint(np.linspace(0, max(side - length, 0), -(-side // length))).astype(int)
        for side, length in zip(shape, size, strict=True)
    ]
    return np.stack(np.meshgrid(*firsts, indexing="ij"), -1).reshape(-1, 2)


class FieldTiles(Dataset):
    """Every tile of every field is an item, with the weight at which it is to be drawn.

    SegMitos's patches are cut from all fields, those with a figure are multiplied, and training draws from all of them
    (Li et al. 2019, sections 3.1.4 and 4.2 to 4.5). A draw by file would give each file the same share, whatever its
    size, and the few patches with a figure of a file that has any far too little. ``weights`` are for
    ``torch.utils.data.WeightedRandomSampler``; a figure belongs to each tile that holds it.

    Args:
        data: the items of a data list, a field each, or fields that are loaded. All are looked at once here.
        transform: of the field's dictionary with a :class:`Tile` under ``tile``, such as
            :class:`~monai_ext.transforms.RandFieldPatchesd`.
        load: makes of an item a field, a dictionary with an image ``(C, H, W)``; nothing random. ``None`` for fields
            that are loaded.
        cache_rate: share of the loaded fields that is kept in RAM; the others are loaded again for each of their tiles.
        size: side of a tile, px, or rows and columns.
        positive: share of draws from tiles with a figure, where there are both kinds; or
        multipliers: how often a tile with a figure counts and how often another one, such as the numbers of the
            paper's variants, 576 and 4.
        lookalikes: share of the draws without a figure that are from tiles with a look-alike; 0 for as they come.
        points_key: the key of the figures, ``(N, 2)`` row, column; ``None`` where there are none, so that all tiles
            count the same.
        image_key: the key of the image.
        lookalikes_key: the key of the look-alikes, ``(N, 2)``; a field may lack it.
        group_key: the key of the case, in the items of the list; a field without one is a case of its own.
        known_key: the key of a mask ``(1, H, W)``, not 0 where the labels are known: a tile without any such pixel
            teaches nothing and is no item. A field without one is known as a whole.

    Raises:
        InputError: both or neither of ``positive`` and ``multipliers``, a share out of range, or a share of
            look-alikes where there are none.

    Examples:
        >>> from monai_ext.data import FieldTiles
        >>> image = np.zeros((3, 100, 400))
        >>> fields = [{"image": image, "label": [[20, 30]]}, {"image": image[..., :100], "label": []}]
        >>> tiles = FieldTiles(fields, size=100, multipliers=(6, 1))
        >>> len(tiles), tiles.weights.round(1).tolist()
        (5, [0.6, 0.1, 0.1, 0.1, 0.1])
        >>> tiles[0]["tile"].corner, tiles[0]["tile"].points.tolist()
        ((0, 0), [[20, 30]])
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Callable[[Any], Any] | None = None,
        load: Callable[[Any], Any] | Sequence[Callable[[Any], Any]] | None = None,
        cache_rate: float = 1.0,
        size: int | Sequence[int] = 500,
        positive: float | None = None,
        multipliers: Sequence[float] | None = None,
        lookalikes: float = 0.0,
        points_key: str | None = "label",
        image_key: str = "image",
        lookalikes_key: str = "lookalikes",
        group_key: str = "group",
        known_key: str = "known",
    ) -> None:
        super().__init__(data, transform)
        self.fields = data
        if load is not None:  # what is kept is handed out as it is: no patch shares its pixels
            self.fields = CacheDataset(data, load, cache_rate=cache_rate, copy_cache=False, progress=False)
        self.size = ensure_tuple_rep(size, 2)
        self.keys = {_FIGURE: points_key, _LOOKALIKE: lookalikes_key if lookalikes else None}
        self._image_key, self._group_key, self._known_key = image_key, group_key, known_key
        if points_key is not None and (positive is None) is (multipliers is None):
            raise InputError("FieldTiles", "either positive or multipliers", f"{positive} and {multipliers}")
        for name, value in (("positive", positive), ("lookalikes", lookalikes)):
            if value is not None and not 0 <= value <= 1:
                raise InputError(name, "a share from 0 to 1", repr(value))
        with ThreadPoolExecutor() as pool:
            parts = list(pool.map(self._tiles_of, range(len(data))))
        groups, self.points, corners, kinds, extents = zip(*parts, strict=True)
        self.field = np.repeat(np.arange(len(parts)), [len(each) for each in corners])
        self.corner, self.kind = np.concatenate(corners), np.concatenate(kinds)
        self.extent = np.array(extents)
        self.cases, case = np.unique(groups, return_inverse=True)
        self.case = case[self.field]
        if lookalikes and _LOOKALIKE not in self.kind:
            raise InputError("lookalikes", f"points under {lookalikes_key!r} in dataset.json", "no tile with any")
        self.weights = self._weighted(positive, multipliers, lookalikes)

    def _tiles_of(self, number: int) -> tuple[str, dict[int, np.ndarray], np.ndarray, np.ndarray, tuple[int, int]]:
        item = self.fields[number]
        image = item[self._image_key]
        shape = tuple(image.shape[-2:])
        name = getattr(image, "meta", {}).get("filename_or_obj", f"field {number}")
        points = {
            kind: convert_to_numpy(item[key], wrap_sequence=True).reshape(-1, 2)
            for kind, key in self.keys.items()
            if key is not None and key in item
        }
        extent = tuple(min(pair) for pair in zip(self.size, shape, strict=True))
        corners = tile_corners(shape, extent)
        if self._known_key in item:
            known = convert_to_numpy(item[self._known_key])[0]
            kept = [known[row : row + extent[0], col : col + extent[1]].any() for row, col in corners]
            corners = corners[kept]
        kinds = np.full(len(corners), _OTHER)
        for kind in (_LOOKALIKE, _FIGURE):
            if kind in points:
                kinds[_holds(corners, extent, points[kind]).any(1)] = kind
        return str(item.get(self._group_key, without_suffix(name).name)), points, corners, kinds, extent

    def _weighted(self, positive: float | None, multipliers: Sequence[float] | None, lookalikes: float) -> np.ndarray:
        counts = np.bincount(self.kind, minlength=3).astype(float)
        figure = self.kind == _FIGURE
        if multipliers is not None:
            share = multipliers[0] * counts[_FIGURE]
            share /= share + multipliers[1] * (len(self.kind) - counts[_FIGURE])
        else:
            share = positive if positive is not None else 0.0
        share = float(figure.all()) if figure.all() or not figure.any() else share
        rest = 1 - share
        shares = np.array([share, 0, rest])
        if counts[_LOOKALIKE]:
            alike = lookalikes if counts[_OTHER] else 1.0
            shares[[_LOOKALIKE, _OTHER]] = rest * alike, rest * (1 - alike)
        weights = (shares / np.maximum(counts, 1))[self.kind]
        return weights / weights.sum()

    def __len__(self) -> int:
        return len(self.field)

    def _transform(self, index: int) -> Any:
        field, kind = self.field[index], self.kind[index]
        corner, extent = self.corner[index], self.extent[field]
        points = self.points[field].get(kind, np.zeros((0, 2)))
        tile = Tile(
            tuple(corner.tolist()),
            tuple(extent.tolist()),
            bool(kind == _FIGURE),
            points[_holds(corner[None], extent, points)[0]],
        )
        item = {**self.fields[field], "tile": tile}
        return item if self.transform is None else self.transform(item)

    def summary(self) -> str:
        """What will be drawn, in a few lines: the share of patches with a figure, and the share of each case."""
        figure = self.kind == _FIGURE
        size = " x ".join(str(side) for side in self.size)
        parts = [f"{len(self):,} tiles of {size} px in {len(self.points):,} fields"]
        if self.keys[_FIGURE] is not None:
            parts.append(f"{self.weights[figure].sum():.1%} of patches with a figure ({figure.sum():,} tiles)")
        if self.keys[_LOOKALIKE] is not None:
            alike = self.kind == _LOOKALIKE
            parts.append(f"{self.weights[alike].sum():.1%} with a look-alike instead ({alike.sum():,} tiles)")
        shares = np.bincount(self.case, self.weights, len(self.cases))
        # lines break between cases alone
        cases = [f"{name} {share:.1%}".replace(" ", _NO_BREAK) for name, share in zip(self.cases, shares, strict=True)]
        listed = textwrap.fill(", ".join(cases), _WIDTH, initial_indent="  ", subsequent_indent="  ")
        return f"{'; '.join(parts)}\npatches of each case:\n{listed.replace(_NO_BREAK, ' ')}"


def _holds(corners: np.ndarray, size: Sequence[int], points: np.ndarray) -> np.ndarray:
    """``(tiles, points)``: which tile holds which point; a pixel reaches .5 px to each side of its centre."""
    inside = points[None] - corners[:, None] + 0.5
    return ((inside >= 0) & (inside < np.asarray(size))).all(-1)
