"""Training patches of a field, with or without points: position, rotation, shift and mirror in one interpolation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type, convert_to_numpy

from monai_ext.base.errors import InputError

__all__ = ["RandFieldPatchesd", "patch_matrix", "warp_points"]

_RING = 43  # px: the largest ring, 2.5 x 17 px, of a figure outside a patch reaches into it


def patch_matrix(centre: Sequence[float], size: int, angle: float, mirror: bool, zoom: float = 1.0) -> np.ndarray:
    """The ``(2, 3)`` map from coordinates x, y of a field to those of a patch.

    Args:
        centre: row, column of the field that comes to lie in the middle of the patch, px.
        size: side of the patch, px.
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
    middle = (size - 1) / 2
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
    """Cuts patches out of a field, those with figures oversampled, each as a random variant.

    Li et al. (2019) cut overlapping patches of about 500 px and multiply the ones that hold a mitosis: 8 rotations x
    9 shifts of 20 px x 2 mirror images = 144 variants for the data sets of 2013 to 2016 (negatives: 4 rotations), or 16
    rotations x 9 x 2 for 2012 (negatives: 4 rotations x 2). Here a variant is drawn for each patch at each epoch, which
    is the same in expectation and needs no disk. Image, masks and points go through one affine map; what lies outside
    the field is ``fill``, white glass, and therefore honest background.

    Args:
        keys: images and masks ``(C, H, W)``, and points ``(N, 2)`` row, column; ``points_key`` tells
            which is which.
        points_key: the key of the points; None for fields without any, where every patch is as a negative one.
        size: side of a patch, px.
        num_samples: patches per field and epoch.
        positive: share of patches that hold at least one figure (where the field has one).
        rotations: number of equidistant angles for positive and negative patches, from 0 degrees on.
        mirrors: 2 to mirror half of the patches or 1 for none, for positive and negative patches.
        shift: step of the nine shifts of a positive patch, px; 0 for none.
        zoom: smallest and largest magnification, drawn log-uniformly; (1, 1), none, in the paper.
        fill: value outside the field, in the image's own units.
        mask_keys: keys that are masks: nearest neighbour, 0 outside the field.

    Raises:
        InputError: a share or count out of range.

    Examples:
        >>> from monai_ext.transforms import RandFieldPatchesd
        >>> cut = RandFieldPatchesd(["image", "label"], size=100, num_samples=2, positive=1.0).set_random_state(0)
        >>> patches = cut({"image": np.zeros((3, 300, 400), np.uint8), "label": np.array([[150, 250]])})
        >>> [patch["image"].shape for patch in patches]
        [(3, 100, 100), (3, 100, 100)]
        >>> all(bool((patch["label"] >= 0).all() and (patch["label"] < 100).all()) for patch in patches)
        True
    """

    def __init__(
        self,
        keys: KeysCollection,
        points_key: str | None = "label",
        size: int = 500,
        num_samples: int = 4,
        positive: float = 0.5,
        rotations: tuple[int, int] = (8, 4),
        mirrors: tuple[int, int] = (2, 1),
        shift: int = 20,
        zoom: tuple[float, float] = (1.0, 1.0),
        fill: float = 255,
        mask_keys: Sequence[str] = (),
    ) -> None:
        super().__init__(keys)
        if not 0 <= positive <= 1:
            raise InputError("positive", "a share from 0 to 1", repr(positive))
        if not 0 < zoom[0] <= zoom[1]:
            raise InputError("zoom", "0 < smallest <= largest", repr(zoom))
        if size < 1 or num_samples < 1 or min(*rotations, *mirrors) < 1 or max(mirrors) > 2:
            raise InputError(
                "RandFieldPatchesd",
                "size, num_samples and rotations of at least 1, mirrors of 1 or 2",
                f"{size}, {num_samples}, {rotations}, {mirrors}",
            )
        self.points_key, self.size, self.num_samples, self.positive = points_key, size, num_samples, positive
        self.rotations, self.mirrors, self.shift = tuple(rotations), tuple(mirrors), shift
        self.zoom = tuple(zoom)
        self.fill, self.mask_keys = fill, tuple(mask_keys)
        self.matrix = np.eye(2, 3)

    def randomize(self, shape: Sequence[int], points: np.ndarray) -> None:
        """Draw the map of one patch into ``matrix``.

        Args:
            shape: ``(H, W)`` of the field.
            points: ``(N, 2)`` figures.
        """
        reach = self.size / 2
        positive = len(points) > 0 and self.R.random_sample() < self.positive
        low = np.minimum(reach, np.array(shape) / 2)
        high = np.maximum(np.array(shape) - reach, np.array(shape) / 2)
        if positive:
            figure = points[self.R.randint(len(points))]
            # a tenth of the side is kept free, so that the figure stays inside after shift and rotation
            centre = np.clip(figure + self.R.uniform(-0.4, 0.4, 2) * self.size / np.sqrt(2), low, high)
            centre = centre + self.shift * self.R.randint(-1, 2, 2)
        else:
            centre = self.R.uniform(low, high)
        kind = 0 if positive else 1
        angle = 360 / self.rotations[kind] * self.R.randint(self.rotations[kind])
        mirror = bool(self.R.randint(self.mirrors[kind]))
        zoom = float(np.exp(self.R.uniform(*np.log(self.zoom))))
        self.matrix = patch_matrix(centre, self.size, angle, mirror, zoom)
        if positive and not self._inside(figure[None], 0)[0]:
            # turning or magnifying a patch at the field's border has moved the figure out: it goes to the middle
            self.matrix = patch_matrix(figure, self.size, angle, mirror, zoom)

    def _inside(self, points: np.ndarray, margin: float) -> np.ndarray:
        moved = warp_points(points, self.matrix)
        return ((moved > -0.5 - margin) & (moved < self.size - 0.5 + margin)).all(axis=1)

    def _warp(self, array: np.ndarray, value: NdarrayOrTensor, mask: bool) -> NdarrayOrTensor:
        warped = cv2.warpAffine(
            array,
            self.matrix,
            (self.size, self.size),
            flags=cv2.INTER_NEAREST if mask else cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0 if mask else (self.fill,) * 4,
        )
        warped = np.ascontiguousarray(np.moveaxis(warped.reshape(self.size, self.size, -1), -1, 0))
        return convert_to_dst_type(warped, value, dtype=warped.dtype)[0]

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """``num_samples`` dictionaries with the patches; points whose ring cannot reach a patch are dropped."""
        labels = () if self.points_key is None else data[self.points_key]
        points = convert_to_numpy(labels, wrap_sequence=True).reshape(-1, 2)
        others = [k for k in self.key_iterator(data) if k != self.points_key]
        # channels last, once for all patches of the field
        arrays = {k: np.ascontiguousarray(np.moveaxis(convert_to_numpy(data[k]), 0, -1)) for k in others}
        shape = arrays[others[0]].shape[:2]
        patches = []
        for _ in range(self.num_samples):
            self.randomize(shape, points)
            near = points[self._inside(points, _RING)]
            patch = dict(data) | {k: self._warp(arrays[k], data[k], k in self.mask_keys) for k in others}
            if self.points_key is not None:
                patch[self.points_key] = torch.as_tensor(warp_points(near, self.matrix).copy(), dtype=torch.float32)
            patches.append(patch)
        return patches
