"""Detections from a probability map: smooth, binarise, label, measure, filter (SegMitos, section 3.3)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple_rep

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.base.otsu import otsu_threshold

__all__ = ["BlobDetections", "BlobDetectionsd"]

_FLAT = 1e-6  # what float32 filtering and blending leave as noise: a range below it is a constant map


class BlobDetections(Transform):
    """Turn a probability map into point detections, as SegMitos does (section 3.3).

    The map is smoothed with a Gaussian and binarised (``>``); its 8-connected blobs are the candidates. Area, mean
    score and score-weighted centroid are read on the smoothed map, and a blob is kept if ``area > min_area`` and
    ``mean score > min_score``. Each row of the paper's Table 1 is an argument: ``smooth=False``, ``holistic=False``,
    ``min_area=0``, ``min_score=0``.

    The paper does not give its Gaussian. The released filter has 10 x 10 taps and a sigma of .25 px; on an even grid
    that is a 2 x 2 box, of standard deviation .5 px, and moves the map by half a pixel. The default is the centred
    Gaussian of that standard deviation; ``sigma=0.25, kernel_size=10`` is the released filter itself.

    Otsu's threshold is undefined on a constant map: no pixel lies above it, whatever its value, so nothing is detected.
    With a fixed threshold, a constant map above it is one blob.

    Args:
        sigma: standard deviation of the Gaussian in px.
        kernel_size: taps of the Gaussian along each axis; by default enough for four sigma on either side.
        threshold: ``"otsu"``, or a fixed probability in [0, 1].
        holistic: one Otsu threshold for the whole field; otherwise one for each patch (the paper's ablation).
        patch_size: side in px of the patches that are binarised on their own where ``holistic`` is false.
        min_area: a1 of the paper, in px; 0 keeps every blob.
        min_score: s1 of the paper, a probability; 0 keeps every blob.
        smooth: whether to smooth at all.

    Raises:
        InputError: when an argument is out of its range.

    Examples:
        >>> from monai_ext.transforms import BlobDetections
        >>> prob = np.zeros((1, 64, 64), np.float32)
        >>> prob[0, 10:20, 30:40] = 0.9
        >>> points, labels = BlobDetections(smooth=False)(prob)
        >>> points.numpy().round(2).tolist() == [[14.5, 34.5, 100, np.float32(0.9)]]  # row, col, area, score
        True
        >>> labels.shape, int(labels.max())
        ((64, 64), 1)
    """

    def __init__(
        self,
        sigma: float = 0.5,
        *,
        kernel_size: int | None = None,
        threshold: float | str = "otsu",
        holistic: bool = True,
        patch_size: int = 500,
        min_area: float = 0,
        min_score: float = 0.0,
        smooth: bool = True,
    ) -> None:
        if sigma <= 0:
            raise InputError("BlobDetections sigma", "a positive number of px", repr(sigma))
        if threshold != "otsu" and not (isinstance(threshold, float | int) and 0 <= threshold <= 1):
            raise InputError("BlobDetections threshold", '"otsu" or a probability in [0, 1]', repr(threshold))
        if patch_size < 1:
            raise InputError("BlobDetections patch_size", "a positive number of px", repr(patch_size))
        kernel = cv2.getGaussianKernel(kernel_size or 2 * int(4 * sigma + 0.5) + 1, sigma)
        self.kernel = kernel if as_flag(smooth, "smooth") else None
        self.threshold = threshold
        self.patch_size = None if as_flag(holistic, "holistic") else patch_size
        self.min_area = min_area
        self.min_score = min_score

    def __call__(self, prob: NdarrayOrTensor) -> tuple[torch.Tensor, NdarrayOrTensor]:
        """Detect.

        Args:
            prob: ``(1, H, W)`` or ``(H, W)`` probabilities in [0, 1]; array, tensor on any device, or MetaTensor.

        Returns:
            ``points``, a float32 CPU tensor ``(N, 4)`` of row, col (px, a pixel's centre is a whole number), area (px)
            and mean score, best score first; and ``labels``, an int32 map ``(H, W)`` of the input's kind in which blob
            ``i + 1`` is row ``i`` of ``points`` and 0 is background.

        Raises:
            InputError: when the map has another shape, holds NaN, or holds values outside [0, 1].
        """
        image = self._smoothed(prob)
        binary = self._binary(image)
        labels = cv2.connectedComponents(binary, connectivity=8, ltype=cv2.CV_32S)[1]

        inside = cv2.findNonZero(binary)  # None where there are none
        col, row = np.zeros((2, 0), np.intp) if inside is None else inside.reshape(-1, 2).T.astype(np.intp)
        blob, score = labels[row, col], image[row, col]
        area, mass = np.bincount(blob, minlength=1), np.bincount(blob, score, minlength=1)
        area[0] = mass[0] = 1  # background, dropped below: avoids divisions by 0
        points = np.stack(
            [np.bincount(blob, row * score, 1) / mass, np.bincount(blob, col * score, 1) / mass, area, mass / area], 1
        )

        keep = (area > self.min_area) & (points[:, 3] > self.min_score)
        keep[0] = False
        kept = np.flatnonzero(keep)
        kept = kept[np.lexsort((points[kept, 1], points[kept, 0], -points[kept, 3]))]
        rank = np.zeros(len(area), np.int32)
        rank[kept] = np.arange(1, len(kept) + 1)
        labels[row, col] = rank[blob]
        return torch.from_numpy(points[kept].astype(np.float32)), convert_to_dst_type(labels, prob, dtype=np.int32)[0]

    def _smoothed(self, prob: NdarrayOrTensor) -> np.ndarray:
        values = prob.float() if isinstance(prob, torch.Tensor) else prob  # numpy has no bfloat16
        image = np.ascontiguousarray(convert_to_numpy(values), dtype=np.float32)
        if image.ndim == 3 and image.shape[0] == 1:
            image = image[0]
        if image.ndim != 2 or image.size == 0:
            raise InputError("probability map", "shape (1, H, W) or (H, W)", str(tuple(prob.shape)))
        low, high, *_ = cv2.minMaxLoc(image)
        if not cv2.checkRange(image)[0] or low < -_FLAT or high > 1 + _FLAT:
            raise InputError("probability map", "values in [0, 1]", f"NaN or values in [{low:g}, {high:g}]")
        if self.kernel is None:
            return image
        return cv2.sepFilter2D(image, -1, self.kernel, self.kernel, borderType=cv2.BORDER_REFLECT)

    def _binary(self, image: np.ndarray) -> np.ndarray:
        if self.threshold != "otsu":
            return (image > self.threshold).view(np.uint8)
        if self.patch_size is None:
            return (image > otsu_threshold(image)).view(np.uint8)
        binary = np.zeros(image.shape, np.uint8)
        side = self.patch_size
        for top in range(0, image.shape[0], side):
            for left in range(0, image.shape[1], side):
                patch = np.ascontiguousarray(image[top : top + side, left : left + side])
                binary[top : top + side, left : left + side] = patch > otsu_threshold(patch)
        return binary


class BlobDetectionsd(MapTransform):
    """Dictionary twin of :class:`BlobDetections`: keeps the map, adds the detections.

    Args:
        keys: keys of ``(C, H, W)`` probability maps.
        points_key: where the ``(N, 4)`` points go; one for each key.
        labels_key: where the ``(H, W)`` label map goes; one for each key, None to leave it out.
        channel: channel of the map to read: 1 is the foreground of a two-class softmax.
        allow_missing_keys: whether a missing key is left alone.
        **blob_args: arguments of :class:`BlobDetections`.

    Examples:
        >>> from monai_ext.transforms import BlobDetectionsd
        >>> pred = torch.zeros(2, 64, 64)
        >>> pred[1, 10:20, 30:40] = 0.9
        >>> item = BlobDetectionsd(min_area=50)({"pred": pred})
        >>> item["points"][:, :2].round().tolist(), tuple(item["blobs"].shape)
        ([[14.0, 34.0]], (64, 64))
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        points_key: str | Sequence[str] = "points",
        labels_key: str | Sequence[str] | None = "blobs",
        channel: int = 1,
        allow_missing_keys: bool = False,
        **blob_args: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.points_key = ensure_tuple_rep(points_key, len(self.keys))
        self.labels_key = ensure_tuple_rep(labels_key, len(self.keys))
        self.channel = channel
        self.detect = BlobDetections(**blob_args)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add points and labels; raises InputError where a map is unusable."""
        d = dict(data)
        for key, points_key, labels_key in self.key_iterator(d, self.points_key, self.labels_key):
            if d[key].ndim != 3 or not -d[key].shape[0] <= self.channel < d[key].shape[0]:
                raise InputError(f"{key!r}", f"shape (C, H, W) with a channel {self.channel}", str(tuple(d[key].shape)))
            d[points_key], labels = self.detect(d[key][self.channel])
            if labels_key is not None:
                d[labels_key] = labels
        return d
