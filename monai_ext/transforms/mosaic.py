"""Vessels as mosaics of their patches with cells, and back (LoopNet, Zhang et al., CVPR 2023, section 3).

A vessel's image is divided into square patches of three times the mean cell size. Those with cells become the places of
a mosaic of fixed size, whatever the size of the vessel; what is found at a place of the mosaic is put back to where its
patch lies. Patches are numbered row by row in the vessel's own grid.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_numpy, convert_to_tensor

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag

__all__ = [
    "CellGridMosaic",
    "CellGridMosaicd",
    "CutCellPatches",
    "CutCellPatchesd",
    "PatchClassesd",
    "spread_patches",
]

WHITE = 255


class CutCellPatches(Transform):
    """The patches of a vessel that hold any part of a cell, brought to one size.

    It is deterministic and leaves little of a large vessel, so it is what a data set should cache.

    Args:
        cell_size: mean size of a cell, px of the vessel's image; :class:`~monai_ext.transforms.KCFPseudoMask` has it
            from its templates.
        scale: side of a patch in cells.
        patch: side that patches are brought to, px.
        keep_background: keep the other patches too, but for those of one colour, as beyond a vessel's outline.

    Raises:
        InputError: sizes that are not positive.

    Examples:
        >>> from monai_ext.transforms import CutCellPatches
        >>> image = np.random.RandomState(0).randint(256, size=(3, 20, 20)).astype(np.uint8)
        >>> mask = np.zeros((1, 20, 20), bool)
        >>> mask[0, 15, 5] = True
        >>> patches, numbers, cells = CutCellPatches(cell_size=5, scale=2, patch=8)(image, mask)
        >>> tuple(patches.shape), numbers.tolist(), cells.tolist()  # the third of 2 x 2 patches of 10 px
        ((1, 3, 8, 8), [2], [True])
    """

    def __init__(self, cell_size: float, scale: float = 3.0, patch: int = 32, keep_background: bool = False) -> None:
        for name, value in (("cell_size", cell_size), ("scale", scale), ("patch", patch)):
            if not value > 0:
                raise InputError(name, "a positive number", repr(value))
        self.patch_px, self.patch = max(1, round(cell_size * scale)), patch
        self.keep_background = as_flag(keep_background, "keep_background")

    def grid_shape(self, image_shape: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of patches in an image ``(..., H, W)``; the last ones may reach over its border."""
        height, width = image_shape[-2:]
        return math.ceil(height / self.patch_px), math.ceil(width / self.patch_px)

    def __call__(
        self, image: NdarrayOrTensor, mask: NdarrayOrTensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Cut a vessel up, a row of patches at a time.

        Args:
            image: uint8 ``(3, H, W)``, white beyond the vessel's lumen.
            mask: bool ``(1, H, W)``, the cells.

        Returns:
            uint8 patches ``(N, 3, patch, patch)``; their numbers, int64 ``(N,)``, ascending; and whether each holds a
            cell, bool ``(N,)``. ``N`` is 0 for a vessel without cells.

        Raises:
            InputError: another type or shape, or a mask that does not fit the image.
        """
        pixels, cells = convert_to_numpy(image), convert_to_numpy(mask)
        if pixels.ndim != 3 or len(pixels) != 3 or pixels.dtype != np.uint8:
            raise InputError("image", "uint8 (3, H, W)", f"{pixels.dtype} {pixels.shape}")
        if cells.shape != (1, *pixels.shape[1:]):
            raise InputError("mask", f"a mask of its image's size {(1, *pixels.shape[1:])}", str(cells.shape))
        rows, cols = self.grid_shape(pixels.shape)
        side, width = self.patch_px, cols * self.patch_px
        patches, numbers, holds = [], [], []
        for row in range(rows):
            strip = np.full((side, width, 3), WHITE, np.uint8)
            part = pixels[:, row * side : (row + 1) * side]
            strip[: part.shape[1], : part.shape[2]] = np.moveaxis(part, 0, -1)
            inside = np.zeros((side, width), bool)
            inside[: part.shape[1], : part.shape[2]] = cells[0, row * side : (row + 1) * side]
            tiles = strip.reshape(side, cols, side, 3).swapaxes(0, 1)
            blank = (tiles == tiles[:, :1, :1]).all(axis=(1, 2, 3))
            cell = inside.reshape(side, cols, side).any(axis=(0, 2)) & ~blank
            for col in np.flatnonzero(~blank if self.keep_background else cell):
                patches.append(_resized(tiles[col], self.patch))
                numbers.append(row * cols + int(col))
                holds.append(bool(cell[col]))
        stack = np.stack(patches) if patches else np.zeros((0, 3, self.patch, self.patch), np.uint8)
        return torch.from_numpy(stack), torch.tensor(numbers, dtype=torch.int64), torch.tensor(holds, dtype=torch.bool)


def _resized(tile: np.ndarray, side: int) -> np.ndarray:
    """``(h, w, 3)`` as ``(3, side, side)``."""
    smaller = side < tile.shape[0]
    resized = cv2.resize(
        np.ascontiguousarray(tile), (side, side), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )
    return np.moveaxis(resized, -1, 0)


class CellGridMosaic(Randomizable, Transform):
    """Patches of a vessel as a mosaic of ``grid`` x ``grid`` places, white where there are fewer.

    The places are filled row by row: in an order drawn at each call (for training, as the paper's "randomly
    concatenated"), or as the patches follow each other in the vessel (for evaluation). With more patches than places
    ``limit`` decides: ``"draw"`` takes as many as fit by chance; ``"split"`` makes as many mosaics as it takes, equally
    full.

    Args:
        grid: places along a side.
        shuffle: draw the order of the patches.
        limit: ``"draw"`` or ``"split"``; by default the former where patches are shuffled, else the latter.
        spacing: use each second (2) or third (3) row and column only. A graph convolution is a mean over nine places,
            so the locating head predicts nearly the same for adjacent patches; apart, each has its own prediction.

    Raises:
        InputError: an argument outside its range.

    Examples:
        >>> from monai_ext.transforms import CellGridMosaic
        >>> patches, numbers = torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 2, 5])
        >>> [mosaic] = CellGridMosaic(grid=2, shuffle=False)(patches, numbers, torch.tensor([True, True, True]))
        >>> tuple(mosaic["image"].shape), mosaic["order"].tolist()
        ((3, 16, 16), [[[0, 2], [5, -1]]])
        >>> CellGridMosaic.inverse(mosaic["cells"].int(), mosaic["order"], grid_shape=(2, 3)).tolist()
        [[[1, 0, 1], [0, 0, 1]]]
    """

    def __init__(self, grid: int = 20, shuffle: bool = True, limit: str | None = None, spacing: int = 1) -> None:
        if grid < 1:
            raise InputError("grid", "at least one place", repr(grid))
        if spacing < 1:
            raise InputError("spacing", "at least 1", repr(spacing))
        if limit not in (None, "draw", "split"):
            raise InputError("limit", "'draw' or 'split'", repr(limit))
        self.grid, self.shuffle = grid, as_flag(shuffle, "shuffle")
        self.limit = limit or ("draw" if self.shuffle else "split")
        self.places = torch.arange(grid**2).view(grid, grid)[::spacing, ::spacing].flatten()
        self._orders: list[np.ndarray] = [np.zeros(0, np.int64)]

    def randomize(self, count: int) -> None:
        """Decide which of ``count`` patches each mosaic takes, in which order."""
        places = len(self.places)
        order = self.R.permutation(count) if self.shuffle or self.limit == "draw" else np.arange(count)
        if self.limit == "draw":
            order = order[:places]
        if not self.shuffle:
            order = np.sort(order)
        self._orders = np.array_split(order, max(1, math.ceil(len(order) / places)))

    def __call__(
        self,
        patches: NdarrayOrTensor,
        numbers: NdarrayOrTensor,
        cells: NdarrayOrTensor,
        classes: NdarrayOrTensor | None = None,
    ) -> list[dict[str, torch.Tensor]]:
        """Put patches together.

        Args:
            patches: uint8 ``(N, 3, S, S)``.
            numbers: ``(N,)`` of the patches, as :class:`CutCellPatches` gives them.
            cells: ``(N,)`` bool, whether each holds a cell.
            classes: ``(N,)`` int64 class of each patch, where it is known.

        Returns:
            The mosaics, of which there is one where the patches fit or are drawn. Each has ``image``, uint8
            ``(3, grid S, grid S)``; ``cells``, bool ``(1, grid, grid)``, the places with a cell; ``order``, int64
            ``(1, grid, grid)``, the number of the patch at each place, -1 where it is blank; and, where classes are
            given, ``classes``, int64 ``(1, grid, grid)``, 0 where it is blank.
        """
        patches, numbers, cells = (convert_to_tensor(value, track_meta=False) for value in (patches, numbers, cells))
        # of each kind, its values by patch and that of a blank place
        grids = {"cells": (cells, False), "order": (numbers, -1)}
        if classes is not None:
            grids["classes"] = (convert_to_tensor(classes, track_meta=False), 0)
        self.randomize(len(patches))
        return [self._mosaic(patches, grids, torch.from_numpy(order)) for order in self._orders]

    def _mosaic(
        self, patches: torch.Tensor, grids: Mapping[str, tuple[torch.Tensor, int]], order: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        def arrange(values: torch.Tensor, blank: int) -> torch.Tensor:
            filled = values.new_full((self.grid**2, *values.shape[1:]), blank)
            filled[self.places[: len(order)]] = values[order]
            return filled

        image = _joined(arrange(patches, WHITE), (self.grid, self.grid))
        return {"image": image} | {name: arrange(*grid).view(1, self.grid, self.grid) for name, grid in grids.items()}

    @staticmethod
    def inverse(
        values: NdarrayOrTensor | Sequence[NdarrayOrTensor],
        order: NdarrayOrTensor | Sequence[NdarrayOrTensor],
        grid_shape: Sequence[int],
        fill: float = 0,
    ) -> torch.Tensor:
        """Map values of the places of a vessel's mosaics back to where their patches lie.

        Args:
            values: of one mosaic ``(C, grid s, grid s)``, s x s values of each place: a map of the network (s = 1) or
                the mosaic itself; or a list or batch of them, one for each mosaic.
            order: ``(1, grid, grid)``, or as many.
            grid_shape: rows and columns of patches in the vessel.
            fill: of patches that are in no mosaic.

        Returns:
            ``(C, rows s, cols s)`` of the type and on the device of the values.

        Raises:
            InputError: values that do not fit the order, or numbers beyond the vessel.
        """
        values, order = (_batched(value, name) for value, name in ((values, "values"), (order, "order")))
        grid, (rows, cols) = order.shape[-1], grid_shape
        side = values.shape[-1] // grid
        if values.shape[0] != order.shape[0] or values.shape[-2:] != (side * grid,) * 2 or not side:
            shapes = f"{tuple(values.shape)} and {tuple(order.shape)}"
            raise InputError("values", "(C, grid s, grid s) for each order (1, grid, grid)", shapes)
        origin = order.reshape(-1).to(values.device)
        if origin.numel() and int(origin.max()) >= rows * cols:
            raise InputError("order", f"patches of {rows} x {cols}", f"number {int(origin.max())}")
        used = origin >= 0
        tiles = values.new_full((rows * cols, values.shape[1], side, side), fill)
        tiles[origin[used]] = torch.cat([_parted(mosaic, grid) for mosaic in values])[used]
        return _joined(tiles, (rows, cols))


def _joined(tiles: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """``(rows * cols, C, s, s)`` side by side as ``(C, rows s, cols s)``."""
    _, channels, side, _ = tiles.shape
    rows, cols = grid
    return (
        tiles.view(rows, cols, channels, side, side).permute(2, 0, 3, 1, 4).reshape(channels, rows * side, cols * side)
    )


def _parted(image: torch.Tensor, grid: int) -> torch.Tensor:
    """The opposite of :func:`_joined` for a square grid."""
    channels, side = image.shape[0], image.shape[1] // grid
    parts = image.reshape(channels, grid, side, grid, side).permute(1, 3, 0, 2, 4)
    return parts.reshape(grid * grid, channels, side, side)


def _batched(values: Any, name: str) -> torch.Tensor:
    stacked = torch.stack([torch.as_tensor(one) for one in values]) if isinstance(values, (list, tuple)) else values
    stacked = convert_to_tensor(stacked, track_meta=False)
    stacked = stacked[None] if stacked.ndim == 3 else stacked
    if stacked.ndim != 4:
        raise InputError(name, "shape (C, H, W), or a batch or list of it", str(tuple(stacked.shape)))
    return stacked


def spread_patches(values: NdarrayOrTensor, patch_px: int, shape: Sequence[int]) -> torch.Tensor:
    """A map of a vessel's patches ``(C, rows, cols)`` as ``(C, H, W)`` of its image: each patch of one value.

    Examples:
        >>> from monai_ext.transforms import spread_patches
        >>> spread_patches(torch.tensor([[[1, 2]]]), patch_px=2, shape=(2, 3)).tolist()
        [[[1, 1, 2], [1, 1, 2]]]
    """
    height, width = shape
    spread = convert_to_tensor(values, track_meta=False)
    spread = spread.repeat_interleave(patch_px, -2)[:, :height].repeat_interleave(patch_px, -1)[..., :width]
    if tuple(spread.shape[1:]) != (height, width):
        raise InputError(
            "values", f"patches of {patch_px} px that cover {height} x {width} px", f"{tuple(values.shape)}"
        )
    return spread


class CutCellPatchesd(MapTransform):
    """Dictionary twin of :class:`CutCellPatches`: patches take the image's place, the cell mask is dropped.

    Adds ``patch_numbers``, ``patch_cells``, ``grid_shape`` (rows, columns), ``vessel_shape`` (height, width) and
    ``patch_px``, with which maps go back.

    Args:
        keys: key of the image.
        cell_size: see :class:`CutCellPatches`.
        mask_key: the cells.
        scale: see :class:`CutCellPatches`.
        patch: see :class:`CutCellPatches`.
        keep_background: see :class:`CutCellPatches`.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import CutCellPatchesd
        >>> image = np.random.RandomState(0).randint(256, size=(3, 20, 20)).astype(np.uint8)
        >>> item = {"image": image, "cell_mask": np.ones((1, 20, 20), bool)}
        >>> item = CutCellPatchesd("image", cell_size=5, scale=2, patch=8)(item)
        >>> tuple(item["image"].shape), item["patch_numbers"].tolist(), item["grid_shape"].tolist()
        ((4, 3, 8, 8), [0, 1, 2, 3], [2, 2])
    """

    def __init__(
        self,
        keys: KeysCollection,
        cell_size: float,
        mask_key: str = "cell_mask",
        scale: float = 3.0,
        patch: int = 32,
        keep_background: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.cut = CutCellPatches(cell_size, scale, patch, keep_background)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut the vessel up."""
        d = dict(data)
        for key in self.key_iterator(d):
            shape = tuple(d[key].shape[-2:])
            d["grid_shape"] = torch.tensor(self.cut.grid_shape(shape))
            d["vessel_shape"], d["patch_px"] = torch.tensor(shape), self.cut.patch_px
            d[key], d["patch_numbers"], d["patch_cells"] = self.cut(d[key], d.pop(self.mask_key))
        return d


class PatchClassesd(MapTransform):
    """Classes of the patches of :class:`CutCellPatchesd`, from centroids of cancerous cells.

    A patch with at least one centroid is cancerous (our reading of the paper). Adds ``patch_classes``, int64 ``(N,)``:
    2 cancerous, 1 a cell without, 0 neither; all -100, which losses ignore, where an invaded vessel's cells are not
    marked. And ``missed``, the number of cancerous patches that were not cut, as no cell was found there; -1 where
    unknown.

    Args:
        keys: key of the centroids, ``(N, 2)`` row and column, px of the vessel's image; dropped. A vessel without
            them is unknown if it is invaded, and has none if it is not.
        label_key: the label, 1 if invaded.

    Examples:
        >>> from monai_ext.transforms import PatchClassesd
        >>> item = {"patch_numbers": torch.tensor([0, 2]), "patch_cells": torch.tensor([True, True])}
        >>> item |= {"grid_shape": torch.tensor([2, 2]), "patch_px": 10}  # as CutCellPatchesd adds them
        >>> item = PatchClassesd()({**item, "label": 1, "centroids": torch.tensor([[15.0, 5.0], [5.0, 15.0]])})
        >>> item["patch_classes"].tolist(), item["missed"]
        ([1, 2], 1)
    """

    def __init__(self, keys: KeysCollection = "centroids", label_key: str = "label") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the classes."""
        d = dict(data)
        numbers, classes = d["patch_numbers"], d["patch_cells"].long()
        centroids = [convert_to_tensor(d.pop(key), track_meta=False) for key in self.key_iterator(d)]
        invaded = bool(d[self.label_key])
        marked = torch.zeros(0, dtype=torch.int64)
        if centroids and invaded:
            patch = torch.div(centroids[0].round().long(), d["patch_px"], rounding_mode="floor")
            marked = torch.unique(patch[:, 0] * int(d["grid_shape"][1]) + patch[:, 1])
        cancerous = torch.isin(numbers, marked)
        unknown = invaded and not centroids
        d["patch_classes"] = torch.full_like(classes, -100) if unknown else classes.masked_fill(cancerous, 2)
        d["missed"] = -1 if unknown else len(marked) - int(cancerous.sum())
        return d


class CellGridMosaicd(Randomizable, MapTransform):
    """Dictionary twin of :class:`CellGridMosaic`, to follow :class:`CutCellPatchesd`.

    The patches give way to a mosaic; ``cells`` and ``order`` are added, and ``classes`` where there are
    ``patch_classes``. With ``limit="split"`` it returns a list of such dictionaries, one for each mosaic, which MONAI's
    loaders flatten; ``mosaic`` and ``mosaics`` number and count them. With ``stack`` the vessel stays one
    item, in which image, ``cells``, ``order`` and ``classes`` have the mosaics as their first dimension.

    Args:
        keys: key of the patches.
        grid: see :class:`CellGridMosaic`.
        shuffle: see :class:`CellGridMosaic`.
        limit: see :class:`CellGridMosaic`.
        spacing: see :class:`CellGridMosaic`.
        stack: give one item, whose mosaics are a batch.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai.transforms import Compose
        >>> from monai_ext.transforms import CellGridMosaicd, CutCellPatchesd
        >>> image = np.random.RandomState(0).randint(256, size=(3, 20, 30)).astype(np.uint8)
        >>> cut = CutCellPatchesd("image", cell_size=5, scale=2, patch=8)
        >>> mosaics = Compose([cut, CellGridMosaicd("image", grid=2, shuffle=False)])
        >>> first, second = mosaics({"image": image, "cell_mask": np.ones((1, 20, 30), bool)})  # six patches
        >>> first["order"].tolist(), second["order"].tolist()
        ([[[0, 1], [2, -1]]], [[[3, 4], [5, -1]]])
    """

    def __init__(
        self,
        keys: KeysCollection,
        grid: int = 20,
        shuffle: bool = True,
        limit: str | None = None,
        spacing: int = 1,
        stack: bool = False,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.mosaic = CellGridMosaic(grid, shuffle, limit, spacing)
        self.stack = as_flag(stack, "stack")

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> CellGridMosaicd:
        """Set the random state of this transform and of its array twin."""
        super().set_random_state(seed, state)
        self.mosaic.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any] | list[dict[Hashable, Any]]:
        """Put the mosaic, or the mosaics, together."""
        d = dict(data)
        items = [d]
        for key in self.key_iterator(d):
            mosaics = self.mosaic(d[key], d.pop("patch_numbers"), d.pop("patch_cells"), d.pop("patch_classes", None))
            if self.stack:
                mosaics = [{name: torch.stack([mosaic[name] for mosaic in mosaics]) for name in mosaics[0]}]
            items = [
                d | {key: mosaic.pop("image"), **mosaic, "mosaic": number, "mosaics": len(mosaics)}
                for number, mosaic in enumerate(mosaics)
            ]
        return items if self.mosaic.limit == "split" and not self.stack else items[0]
