"""HoVer-Net's maps: from nuclei to how far a pixel is from its nucleus' centre, and back (Graham et al. 2019)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from monai.networks.layers import gaussian_1d
from skimage.segmentation import watershed
from torch import Tensor

from monai_ext.instances.sparse import SparseInstances

__all__ = ["hover_instances", "hover_maps"]

_DIFFERENCE, _MEAN = np.array([-1, -2, 0, 2, 1], np.float32) / 8, np.array([1, 4, 6, 4, 1], np.float32) / 16  # Sobel's
_GAUSS = gaussian_1d(torch.tensor(1.0)).numpy()


def hover_maps(instances: Tensor) -> Tensor:
    """Horizontal and vertical distances to the centroid of each pixel's instance, from -1 at its far left or top to 1.

    As MONAI's ``ComputeHoVerMaps``, without a pass over the image for each instance.

    Args:
        instances: integers ``(H, W)``, 0 is background.

    Returns:
        float32 ``(2, H, W)``, 0 in the background.
    """
    nuclei = SparseInstances.from_map(instances)
    position = torch.stack([nuclei.col, nuclei.row], dim=1)
    distance = position - nuclei.centroids.flip(1)[nuclei.owner]
    owner = nuclei.owner[:, None].expand(-1, 2)
    least, most = (
        distance.new_zeros(len(nuclei), 2).scatter_reduce_(0, owner, distance, way) for way in ("amin", "amax")
    )
    reach = torch.where(distance < 0, -least[nuclei.owner], most[nuclei.owner])
    maps = distance.new_zeros(2, instances.numel())
    maps[:, nuclei.pixel] = (distance / reach.where(reach > 0, 1)).T
    return maps.view(2, *instances.shape).float()


def hover_instances(
    probability: np.ndarray,
    hover: np.ndarray,
    *,
    threshold: float = 0.5,
    min_size: int = 10,
    border: float = 0.4,
    radius: int = 2,
) -> np.ndarray:
    """Part nuclei where the distances to their centres jump (section 3.2).

    What MONAI's ``HoVerNetInstanceMapPostProcessing`` does, with its numbers, in linear time: where a piece of the
    foreground holds one marker it is one nucleus, and only pieces with several are flooded. Pieces without a marker
    are left out. The jumps are judged against the sharpest of the image, as in the paper.

    Args:
        probability: ``(H, W)`` of nucleus, in [0, 1].
        hover: ``(2, H, W)`` horizontal and vertical distances.
        threshold: a pixel above it is nucleus.
        min_size: smaller pieces of the foreground, and smaller markers, are left out, px.
        border: strength of a jump from which a pixel is not in a marker, 0 to 1.
        radius: of the disc that smooths markers, px.

    Returns:
        int32 ``(H, W)``, nuclei numbered from 1 without gaps, 0 is background.
    """
    mask = _pieces((probability > threshold).view(np.uint8), min_size)[0] > 0
    jump = _jumps(np.asarray(hover, np.float32)) * mask
    disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
    inner = _without_holes((mask & (jump < border)).view(np.uint8))
    markers, count = _pieces(cv2.morphologyEx(inner, cv2.MORPH_OPEN, disc.view(np.uint8)), min_size)

    pieces = cv2.connectedComponents(mask.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1]
    seeded = np.flatnonzero(mask & (markers > 0))
    # the marker of each piece, if it has one only
    first = np.zeros(pieces.max() + 1, np.int32)
    first[pieces.flat[seeded]] = markers.flat[seeded]
    several = np.zeros(len(first), bool)
    several[pieces.flat[seeded[first[pieces.flat[seeded]] != markers.flat[seeded]]]] = True
    instances = first[pieces]
    crowded = several[pieces]
    if crowded.any():
        height = cv2.sepFilter2D((1 - jump) * mask, -1, _GAUSS, _GAUSS, borderType=cv2.BORDER_CONSTANT)
        instances[crowded] = watershed(-height, np.where(crowded, markers, 0), mask=crowded)[crowded]
    kept = np.bincount(instances.reshape(-1), minlength=count + 1) > 0
    kept[0] = False
    return (np.cumsum(kept) * kept).astype(np.int32)[instances]


def _jumps(hover: np.ndarray) -> np.ndarray:
    """How sharply the distances fall from left to right or from top to bottom, 0 to 1, ``(H, W)``."""
    kernels = ((_DIFFERENCE, _MEAN), (_MEAN, _DIFFERENCE))
    slopes = (
        cv2.sepFilter2D(each, -1, *kernel, borderType=cv2.BORDER_REFLECT_101)
        for each, kernel in zip(hover, kernels, strict=True)
    )
    return np.maximum(*(_normalised(-slope) for slope in slopes))


def _normalised(values: np.ndarray) -> np.ndarray:
    low, high, *_ = cv2.minMaxLoc(values)
    return (values - low) / ((high - low) or 1)


def _pieces(mask: np.ndarray, min_size: int) -> tuple[np.ndarray, int]:
    """4-connected pieces of a uint8 mask, numbered, the small ones 0; and the highest number."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4, ltype=cv2.CV_32S)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_size
    keep[0] = False
    return (np.arange(count) * keep).astype(np.int32)[labels], count - 1


def _without_holes(mask: np.ndarray) -> np.ndarray:
    """The uint8 mask with everything filled from which no way leads out, not even across corners."""
    outside = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    cv2.floodFill(outside, None, (0, 0), 2, flags=8)
    return np.ascontiguousarray(outside[1:-1, 1:-1] != 2).view(np.uint8)
