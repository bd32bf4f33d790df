"""Training patches of a field, with or without points: position, rotation, shift and mirror in one interpolation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple_rep

from monai_ext.base.errors import InputError
from monai_ext.data.field_tiles import Tile

__all__ = ["RandFieldPatchesd", "patch_matrix", "warp_points"]

_INSIDE = 0.1  # of a patch's side, which a figure that was drawn for stays away from the border
_SHIFTS = 9
_RING = 43  # px: the largest ring, 2.5 x 17 px, of a figure outside a patch reaches into it


def patch_matrix(
    centre: Sequence[float], size: int | Sequence[int], angle: float, mirror: bool, zoom: float = 1.0
) -> np.ndarray:
    """The ``(2, 3)`` map from coordinates x, y of a field to those of a patch.

    Args:
        centre: row, column of the field that comes to lie in the middle of the patch, px.
        size: side of the patch, px, or rows and columns.
        angle: rotation, degrees.
        mirror: flip left and right after the rotation.
        zoom: pixels of the patch per pixel of the field.

    Examples:
        >>> from monai_ext.transforms.patches import patch_matrix, warp_points
        >>> matrix = patch_matrix(centre=(50, 80), size=11, angle=90, mirror=False)
        >>> warp_points(np.array([[50, 80]]), matrix).round(3).tolist()  # the middle of the patch
        [[5.0, 5.0]]
    """
    turn = np.deg2rad(angle)
    linear = zoom * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    if mirror:
        linear[0] *= -1
    middle = (np.array(ensure_tuple_rep(size, 2)[::-1]) - 1) / 2
    return np.column_stack([linear, middle - linear @ np.array([centre[1], centre[0]], dtype=np.float64)])


def warp_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points ``(N, 2)`` row, column through a map of x, y such as :func:`patch_matrix` gives.

    Examples:
        >>> from monai_ext.transforms.patches import patch_matrix, warp_points
        >>> matrix = patch_matrix(centre=(50, 80), size=11, angle=0, mirror=False)
        >>> warp_points(np.array([[52, 79]]), matrix).round(3).tolist()
        [[7.0, 4.0]]
    """
    return (points[:, ::-1] @ matrix[:, :2].T + matrix[:, 2])[:, ::-1]


class RandFieldPatchesd(Randomizable, MapTransform):
    """Cuts patches out of a field, each as a random variant.

    Li et al. (2019) cut overlapping patches of about 500 px and multiply the ones that hold a mitosis: 8 rotations x
    9 shifts of 20 px x 2 mirror images = 144 variants for the data sets of 2013 to 2016 (negatives: 4 rotations), or 16
    rotations x 9 x 2 for 2012 (negatives: 4 rotations x 2). Which tile of which field is cut
    :class:`~monai_ext.data.FieldTiles` decides, at the weights that these numbers give; of its variants one is drawn
    each time, which needs no disk. A field without a tile is cut anywhere, as what holds no figure.

    Image, masks and points go through one affine map; what lies outside the field is ``fill``, white glass, and
    therefore honest background.

    Args:
        keys: images and masks ``(C, H, W)``, and points ``(N, 2)`` row, column; ``points_key`` tells
            which is which.
        points_key: the key of the points; None for fields without any, where every patch is as a negative one.
        size: side of a patch, px, or rows and columns.
        num_samples: patches at a time.
        rotations: number of equidistant angles for positive and negative patches, from 0 degrees on.
        mirrors: 2 to mirror half of the patches or 1 for none, for positive and negative patches.
        shift: step of the nine shifts of a positive patch, px; 0 for none.
        zoom: smallest and largest magnification, drawn log-uniformly; (1, 1), none, in the paper.
        jitter: cut anywhere on the tile, or anywhere about one of its points; ``False`` for the tile itself, as in the
            paper.
        fill: value outside the field, in the image's own units.
        mask_keys: keys that are masks: nearest neighbour, 0 outside the field.

    Raises:
        InputError: a count out of range.

    Examples:
        >>> from monai_ext.data import Tile
        >>> from monai_ext.transforms import RandFieldPatchesd
        >>> cut = RandFieldPatchesd(["image", "label"], size=100, num_samples=2).set_random_state(0)
        >>> item = {"image": np.zeros((3, 300, 400), np.uint8), "label": np.array([[150, 250]])}
        >>> tile = Tile(corner=(100, 200), size=(100, 100), positive=True, points=item["label"])
        >>> patches = cut({**item, "tile": tile})
        >>> [(patch["image"].shape, len(patch["label"])) for patch in patches]
        [((3, 100, 100), 1), ((3, 100, 100), 1)]
        >>> cut.variants
        (144, 4)
    """

    def __init__(
        self,
        keys: KeysCollection,
        points_key: str | None = "label",
        size: int | Sequence[int] = 500,
        num_samples: int = 1,
        rotations: tuple[int, int] = (8, 4),
        mirrors: tuple[int, int] = (2, 1),
        shift: int = 20,
        zoom: tuple[float, float] = (1.0, 1.0),
        jitter: bool = True,
        fill: float = 255,
        mask_keys: Sequence[str] = (),
    ) -> None:
        super().__init__(keys)
        if not 0 < zoom[0] <= zoom[1]:
            raise InputError("zoom", "0 < smallest <= largest", repr(zoom))
        self.size = ensure_tuple_rep(size, 2)
        if min(*self.size, num_samples, *rotations, *mirrors) < 1 or max(mirrors) > 2:
            raise InputError(
                "RandFieldPatchesd",
                "size, num_samples and rotations of at least 1, mirrors of 1 or 2",
                f"{size}, {num_samples}, {rotations}, {mirrors}",
            )
        self.points_key, self.num_samples = points_key, num_samples
        self.rotations, self.mirrors, self.shift = tuple(rotations), tuple(mirrors), shift
        self.zoom, self.jitter = tuple(zoom), jitter
        self.fill, self.mask_keys = fill, tuple(mask_keys)
        self.matrix = np.eye(2, 3)

    @property
    def variants(self) -> tuple[int, int]:
        """How many variants there are of a patch with a figure and of another one, apart from jitter and zoom."""
        positive, other = (turns * flips for turns, flips in zip(self.rotations, self.mirrors, strict=True))
        return positive * (_SHIFTS if self.shift else 1), other

    def randomize(self, shape: Sequence[int], tile: Tile) -> None:
        """Draw the map of one patch into ``matrix``.

        Args:
            shape: ``(H, W)`` of the field.
            tile: where to cut.
        """
        size, shape = np.array(self.size), np.array(shape)
        corner, extent = np.array(tile.corner), np.array(tile.size)
        low, high = np.minimum(size, shape) / 2, np.maximum(shape - size / 2, shape / 2)
        points = np.asarray(tile.points).reshape(-1, 2)
        wanted = points[self.R.randint(len(points))] if len(points) else None
        if not self.jitter:
            centre = corner + (extent - 1) / 2
        elif wanted is not None:
            # a tenth of the side is kept free, so that the figure stays inside after shift and rotation
            reach = (0.5 - _INSIDE) * size / np.sqrt(2)
            centre = np.clip(wanted + self.R.uniform(-reach, reach), low, high)
        else:
            centre = self.R.uniform(np.clip(corner, low, high), np.clip(corner + extent, low, high))
        if tile.positive:
            centre = centre + self.shift * self.R.randint(-1, 2, 2)
        kind = 0 if tile.positive else 1
        angle = 360 / self.rotations[kind] * self.R.randint(self.rotations[kind])
        mirror = bool(self.R.randint(self.mirrors[kind]))
        zoom = float(np.exp(self.R.uniform(*np.log(self.zoom))))
        self.matrix = patch_matrix(centre, self.size, angle, mirror, zoom)
        if wanted is not None and tile.positive:
            # turned, shifted or magnified, the patch may have left the figure behind
            moved = warp_points(wanted[None], self.matrix)[0]
            kept = np.clip(moved, _INSIDE * size, (1 - _INSIDE) * size - 1) if not self._inside(moved, 0) else moved
            self.matrix[:, 2] += (kept - moved)[::-1]

    def _inside(self, moved: np.ndarray, margin: float) -> np.ndarray:
        """Which points of the patch ``(..., 2)`` lie in it, or as near to it as ``margin``."""
        return ((moved > -0.5 - margin) & (moved < np.array(self.size) - 0.5 + margin)).all(axis=-1)

    def _warp(self, array: NdarrayOrTensor, mask: bool) -> NdarrayOrTensor:
        """The patch of an image ``(C, H, W)``, of whose pixels only those near the patch are touched."""
        rows, columns = self.size
        back = cv2.invertAffineTransform(self.matrix)
        corners = np.array([[-1, -1], [-1, columns], [rows, -1], [rows, columns]])
        places = warp_points(corners, back)
        shape = np.array(array.shape[1:])
        first = np.clip(np.floor(places.min(0)).astype(int) - 1, 0, shape - 1)
        last = np.clip(np.ceil(places.max(0)).astype(int) + 2, first + 1, shape)
        near = convert_to_numpy(array[:, first[0] : last[0], first[1] : last[1]])
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ first[::-1]
        warped = cv2.warpAffine(
            np.ascontiguousarray(np.moveaxis(near, 0, -1)),
            matrix,
            (columns, rows),
            flags=cv2.INTER_NEAREST if mask else cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0 if mask else (self.fill,) * 4,
        )
        warped = np.ascontiguousarray(np.moveaxis(warped.reshape(rows, columns, -1), -1, 0))
        return convert_to_dst_type(warped, array, dtype=warped.dtype)[0]

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """``num_samples`` dictionaries with the patches; points whose ring cannot reach a patch are dropped."""
        d = dict(data)
        labels = () if self.points_key is None else d[self.points_key]
        points = convert_to_numpy(labels, wrap_sequence=True).reshape(-1, 2)
        others = [k for k in self.key_iterator(d) if k != self.points_key]
        shape = d[others[0]].shape[1:]
        tile = d.pop("tile", None) or Tile((0, 0), shape)
        patches = []
        for _ in range(self.num_samples):
            self.randomize(shape, tile)
            patch = d | {k: self._warp(d[k], k in self.mask_keys) for k in others}
            if self.points_key is not None:
                moved = warp_points(points, self.matrix)
                patch[self.points_key] = torch.as_tensor(moved[self._inside(moved, _RING)].copy(), dtype=torch.float32)
            patches.append(patch)
        return patches
