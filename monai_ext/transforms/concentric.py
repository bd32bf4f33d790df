"""Concentric labels: a disk of figure, an ignored ring, background (Li et al. 2019, section 3.2)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Randomizable, Transform
from monai.utils import convert_to_numpy

from monai_ext.base.errors import InputError

__all__ = [
    "IGNORED",
    "ConcentricLabel",
    "ConcentricLabeld",
    "RandConcentricLabel",
    "RandConcentricLabeld",
    "draw_concentric",
    "mask_to_boxes",
]

#: The label of pixels that take no part in the loss.
IGNORED = 255


def draw_concentric(
    centres: NdarrayOrTensor, inner: NdarrayOrTensor, outer: NdarrayOrTensor, shape: Sequence[int]
) -> np.ndarray:
    """Draw disks (1) and rings (255) on background (0); where figures are close, a disk wins over any ring.

    A pixel belongs to a circle if its centre is at most the radius away.

    Args:
        centres: ``(N, 2)`` row, column in px; may lie outside the image.
        inner: ``(N,)`` radii r of the disks, px.
        outer: ``(N,)`` radii R of the rings, px; no ring where R <= r.
        shape: ``(H, W)`` of the image.

    Returns:
        uint8 ``(1, H, W)`` with values 0, 1 and 255.

    Examples:
        >>> from monai_ext.transforms.concentric import draw_concentric
        >>> print(draw_concentric(centres=[[2, 2]], inner=[1], outer=[2], shape=(5, 5))[0])
        [[  0   0 255   0   0]
         [  0 255   1 255   0]
         [255   1   1   1 255]
         [  0 255   1 255   0]
         [  0   0 255   0   0]]
    """
    label = np.zeros(tuple(shape), np.uint8)
    centres = np.asarray(centres, dtype=np.float64).reshape(-1, 2)
    inner, outer = (np.broadcast_to(np.asarray(r, dtype=np.float64), len(centres)) for r in (inner, outer))
    for radii, value, drawn in ((outer, IGNORED, outer > inner), (inner, 1, inner > 0)):
        for centre, radius in zip(centres[drawn], radii[drawn], strict=True):
            # cv2.circle draws a polygon up to .7 px off, so the distance decides, in a window around the centre
            first = np.maximum(np.ceil(centre - radius), 0).astype(int)
            end = np.clip(np.floor(centre + radius) + 1, 0, shape).astype(int)
            window = tuple(slice(*ends) for ends in zip(first, end, strict=True))
            rows, cols = np.ogrid[window]
            label[window][(rows - centre[0]) ** 2 + (cols - centre[1]) ** 2 <= radius**2] = value
    return label[None]


def mask_to_boxes(mask: NdarrayOrTensor) -> np.ndarray:
    """Bounding boxes of the 8-connected components of a mask (one id) or of the instances of an id map.

    Args:
        mask: ``(1, H, W)`` or ``(H, W)``; 0 is background. With a single positive value components are counted,
            otherwise ids.

    Returns:
        float32 ``(N, 4)``: first row, first column, end row, end column, px (ends excluded).

    Examples:
        >>> from monai_ext.transforms.concentric import mask_to_boxes
        >>> mask = np.zeros((1, 10, 10), np.uint8)
        >>> mask[0, 2:5, 1:4] = mask[0, 7:9, 6:10] = 1
        >>> mask_to_boxes(mask).tolist()
        [[2.0, 1.0, 5.0, 4.0], [7.0, 6.0, 9.0, 10.0]]
    """
    from scipy import ndimage

    ids = convert_to_numpy(mask).astype(np.int64)
    ids = ids[0] if ids.ndim == 3 and len(ids) == 1 else ids
    if ids.ndim != 2:
        raise InputError("mask", "one channel of two dimensions", f"shape {tuple(np.shape(mask))}")
    if len(np.unique(ids[ids > 0])) <= 1:
        ids, _ = ndimage.label(ids > 0, structure=np.ones((3, 3)))
    slices = [box for box in ndimage.find_objects(ids) if box]
    return np.array([[r.start, c.start, r.stop, c.stop] for r, c in slices], np.float32).reshape(-1, 4)


def _centres_and_sizes(objects: NdarrayOrTensor) -> tuple[np.ndarray, np.ndarray]:
    boxes = convert_to_numpy(objects, wrap_sequence=True).astype(np.float64).reshape(-1, 4)
    return (boxes[:, :2] + boxes[:, 2:] - 1) / 2, boxes[:, 2:] - boxes[:, :2]


class ConcentricLabel(Transform):
    """Label map of weakly labelled round objects, with fixed radii or with radii from each object's size.

    ``source="points"`` is the paper's label for mitoses: r 12 and R 24 or r 15 and R 30 px; with ``outer=None`` there
    is no ring, which is its circle label. ``source="boxes"`` and ``"mask"`` are its label for mammographic masses,
    whose radii follow "the height and width of each mass" (section 4.6, Fig. 13); here, as the figure gives no formula,
    ``r = inner * min(h, w) / 2`` and ``R = outer * max(h, w) / 2``, so that with factors of 1 the disk lies inside an
    upright ellipse and the outer circle around it.

    Args:
        inner: r in px for points; a factor for boxes and masks.
        outer: R in px for points; a factor for boxes and masks; ``None`` for no ring.
        source: ``"points"`` ``(N, 2)`` row, column; ``"boxes"`` ``(N, 4)`` as from :func:`mask_to_boxes`; ``"mask"``
            ``(1, H, W)`` binary or instance map.

    Raises:
        InputError: unknown source, or radii that are not positive and growing.

    Examples:
        >>> from monai_ext.transforms import ConcentricLabel
        >>> label = ConcentricLabel(inner=2, outer=4)(np.array([[10, 10]]), shape=(21, 21))
        >>> tuple(label.shape), [int((label == value).sum()) for value in (1, 255)]  # px of figure and of ring
        ((1, 21, 21), [13, 36])
    """

    def __init__(self, inner: float = 12, outer: float | None = 24, source: str = "points") -> None:
        if source not in ("points", "boxes", "mask"):
            raise InputError("source", "'points', 'boxes' or 'mask'", repr(source))
        if inner <= 0 or (outer is not None and outer < inner):
            raise InputError("radii", "0 < inner <= outer", f"inner {inner}, outer {outer}")
        self.inner, self.outer, self.source = inner, outer, source

    def __call__(self, objects: NdarrayOrTensor, shape: Sequence[int]) -> torch.Tensor:
        """Draw the label map.

        Args:
            objects: points, boxes or a mask, as ``source`` says.
            shape: ``(H, W)`` of the map.

        Returns:
            uint8 tensor ``(1, H, W)``: 1 figure, 255 ignored, 0 background.
        """
        outer = 0.0 if self.outer is None else self.outer
        if self.source == "points":
            return torch.from_numpy(draw_concentric(_points(objects), self.inner, outer, shape))
        boxes = mask_to_boxes(objects) if self.source == "mask" else objects
        centres, sizes = _centres_and_sizes(boxes)
        inner = self.inner * sizes.min(axis=1) / 2
        return torch.from_numpy(draw_concentric(centres, inner, outer * sizes.max(axis=1) / 2, shape))


class RandConcentricLabel(Randomizable, Transform):
    """Concentric label whose radii are drawn anew for every figure at every call, so at every epoch.

    ``r`` is a uniform integer and ``R = round(u * r)`` with uniform ``u`` (Li et al. 2019, section 3.2: r between 10
    and 17 px, R 1.5 to 2.5 times r).

    Args:
        radius: smallest and largest r in px, both included.
        ratio: smallest and largest R / r.

    Examples:
        >>> from monai_ext.transforms import RandConcentricLabel
        >>> draw = RandConcentricLabel(radius=(10, 17), ratio=(1.5, 2.5)).set_random_state(0)
        >>> label = draw(np.array([[50, 50]]), shape=(101, 101))
        >>> label.unique().tolist(), bool(10 <= draw.inner[0] <= 17)
        ([0, 1, 255], True)
        >>> torch.equal(draw(np.array([[50, 50]]), shape=(101, 101), randomize=False), label)
        True
    """

    def __init__(self, radius: tuple[int, int] = (10, 17), ratio: tuple[float, float] = (1.5, 2.5)) -> None:
        if not 0 < radius[0] <= radius[1] or not 1 <= ratio[0] <= ratio[1]:
            raise InputError("radii", "0 < r_min <= r_max and 1 <= ratio_min <= ratio_max", f"{radius}, {ratio}")
        self.radius, self.ratio = tuple(radius), tuple(ratio)
        self.inner = self.outer = np.zeros(0)

    def randomize(self, count: int) -> None:
        """Draw r and R of ``count`` figures into ``inner`` and ``outer``."""
        self.inner = self.R.randint(self.radius[0], self.radius[1] + 1, size=count)
        self.outer = np.rint(self.R.uniform(*self.ratio, size=count) * self.inner)

    def __call__(self, points: NdarrayOrTensor, shape: Sequence[int], randomize: bool = True) -> torch.Tensor:
        """Draw the label map; with ``randomize=False`` with the radii of the call before.

        Args:
            points: ``(N, 2)`` row, column in px.
            shape: ``(H, W)`` of the map.
            randomize: draw new radii.

        Returns:
            uint8 tensor ``(1, H, W)``: 1 figure, 255 ignored, 0 background.
        """
        points = _points(points)
        if randomize:
            self.randomize(len(points))
        return torch.from_numpy(draw_concentric(points, self.inner, self.outer, shape))


def _points(objects: NdarrayOrTensor) -> np.ndarray:
    array = convert_to_numpy(objects, wrap_sequence=True)
    if array.size and (array.ndim != 2 or array.shape[1] < 2):
        raise InputError("points", "an array (N, 2) of row, column", f"shape {array.shape}")
    return array.reshape(-1, array.shape[-1] if array.size else 2)[:, :2]


class ConcentricLabeld(MapTransform):
    """Dictionary twin of :class:`ConcentricLabel`.

    Args:
        keys: the points, boxes or masks to replace by their label map.
        ref_key: the image ``(C, H, W)`` whose shape the map takes.
        inner: see :class:`ConcentricLabel`.
        outer: see :class:`ConcentricLabel`.
        source: see :class:`ConcentricLabel`.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import ConcentricLabeld
        >>> item = {"image": torch.zeros(3, 21, 21), "label": np.array([[10, 10]])}
        >>> label = ConcentricLabeld("label", inner=2, outer=None)(item)["label"]
        >>> tuple(label.shape), int(label.sum())
        ((1, 21, 21), 13)
    """

    def __init__(
        self,
        keys: KeysCollection,
        ref_key: str = "image",
        inner: float = 12,
        outer: float | None = 24,
        source: str = "points",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_key = ref_key
        self.label = ConcentricLabel(inner, outer, source)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Replace the objects by their label map."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.label(d[key], d[self.ref_key].shape[-2:])
        return d


class RandConcentricLabeld(Randomizable, MapTransform):
    """Dictionary twin of :class:`RandConcentricLabel`.

    Args:
        keys: the points to replace by their label map.
        ref_key: the image ``(C, H, W)`` whose shape the map takes.
        radius: see :class:`RandConcentricLabel`.
        ratio: see :class:`RandConcentricLabel`.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import RandConcentricLabeld
        >>> item = {"image": torch.zeros(3, 101, 101), "label": np.array([[50, 50]])}
        >>> label = RandConcentricLabeld("label").set_random_state(0)(item)["label"]
        >>> tuple(label.shape), label.unique().tolist()
        ((1, 101, 101), [0, 1, 255])
    """

    def __init__(
        self,
        keys: KeysCollection,
        ref_key: str = "image",
        radius: tuple[int, int] = (10, 17),
        ratio: tuple[float, float] = (1.5, 2.5),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.ref_key = ref_key
        self.label = RandConcentricLabel(radius, ratio)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandConcentricLabeld:
        """Set the random state of this transform and of its array twin."""
        super().set_random_state(seed, state)
        self.label.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Replace the points by a newly drawn label map."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.label(d[key], d[self.ref_key].shape[-2:])
        return d
