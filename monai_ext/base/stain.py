"""Stain vectors of H&E images, and images changed in optical density, where stains add up (Beer-Lambert).

With white level ``I0`` and optical density ``OD = log(I0 / I)``, a pixel holding ``c`` of each stain has
``OD = S @ c``, the columns of ``S`` (3, 2) being unit absorbance vectors: **hematoxylin is column 0**, eosin column 1.
Normalising and jittering both come down to one 3x3 matrix applied to OD, so both share :func:`apply_stain_matrix`.

Images are RGB and channel-first, ``(3, H, W)`` or batched ``(B, 3, H, W)``, on any device: numpy arrays, tensors or
MetaTensors; what comes back has the same kind, dtype and value range. Two numbers say how values become light:

- ``max_value``, the full scale: 255 for uint8, 65535 for uint16 and 1 for floating point unless given. Floating-point
  images in 0-255 (what ``LoadImage`` gives) need ``max_value=255``, 12-bit images in uint16 ``max_value=4095``.
  Floating-point values far outside (half the scale or more) are refused, not guessed at.
- ``source_intensity``, the white level I0 as a fraction of the full scale, one number or one per channel: what glass
  looks like in this scanner. The default 240/255 is that of the published implementations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type

from monai_ext.base.errors import InputError

__all__ = [
    "HE_STAINS",
    "MACENKO_STAINS",
    "MACENKO_STAIN_MAXIMA",
    "SOURCE_INTENSITY",
    "StainBatch",
    "Stains",
    "apply_stain_matrix",
    "estimate_stains",
    "jitter_stain_matrix",
    "stains_of_density",
    "unmix",
]

# Ruifrok & Johnston 2001, rows R, G, B; columns hematoxylin, eosin
HE_STAINS = ((0.65, 0.07), (0.70, 0.99), (0.29, 0.11))
# the target that every port of Macenko 2009 uses, and its 99th percentiles of concentration
MACENKO_STAINS = ((0.5626, 0.2159), (0.7201, 0.8012), (0.4062, 0.5581))
MACENKO_STAIN_MAXIMA = (1.9705, 1.0308)

SOURCE_INTENSITY = 240 / 255
BETA = 0.15  # mean OD above which a pixel is tissue
MAX_PIXELS = 2**15  # moves the vectors of real fields by 0.1 degrees against reading every pixel
MIN_TISSUE_PIXELS = 64  # fewer say nothing about a 1 % percentile
MIN_STAIN_ANGLE = math.radians(5)  # closer vectors are one stain and its noise
DARKEST = 1 / 1024  # of the full scale: a quarter of an 8-bit grey level stands for black, whose OD is infinite

FULL_SCALE = {torch.uint8: 255.0, torch.uint16: 65535.0}


class Stains(NamedTuple):
    """What Macenko's method finds in an image, for each image of a batch.

    Args:
        vectors: unit absorbance vectors (..., 3, 2); hematoxylin is column 0.
        maxima: 99th percentile of each stain's concentration over tissue (..., 2).
        found: whether the image holds enough tissue of two colours for the other two to mean anything (...).
    """

    vectors: torch.Tensor
    maxima: torch.Tensor
    found: torch.Tensor


class StainBatch:
    """An image of any kind as a plain batched tensor (B, 3, H, W), its scale, and the way back."""

    def __init__(
        self, image: NdarrayOrTensor, source_intensity: float | Sequence[float], max_value: float | None
    ) -> None:
        self.image = image
        if isinstance(image, np.ndarray):  # torch takes neither negative strides nor foreign byte orders
            native = np.require(image, image.dtype.newbyteorder("="), ["C", "W"])
            tensor = torch.from_numpy(native)
        elif isinstance(image, torch.Tensor):
            tensor = image.as_tensor() if isinstance(image, MetaTensor) else image
        else:
            raise InputError("image", "a numpy array or a tensor", type(image).__name__)
        if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3 or not tensor.numel():
            raise InputError("image", "RGB, (3, H, W) or (B, 3, H, W)", f"shape {tuple(tensor.shape)}")
        self.pixels = tensor if tensor.ndim == 4 else tensor[None]
        self.scale = self._full_scale(tensor, max_value)
        # log I0 (3,)
        white = torch.as_tensor(source_intensity, dtype=torch.float32, device=tensor.device)
        self.white = (white * self.scale).log().expand(3)

    @staticmethod
    def _full_scale(tensor: torch.Tensor, max_value: float | None) -> float:
        scale = max_value or (1.0 if tensor.is_floating_point() else FULL_SCALE.get(tensor.dtype))
        if scale is None:
            raise InputError("image", "uint8, uint16 or floating point, or a max_value", str(tensor.dtype))
        if tensor.is_floating_point():
            # interpolation may overshoot a little; 0-255 or standardised values taken for 0-1 must not go unseen
            low, high = (float(value) for value in tensor.aminmax())
            if low < -0.5 * scale or high > 1.5 * scale:
                raise InputError("image", f"values from 0 to {scale:g} (else give max_value)", f"{low:g} to {high:g}")
        return scale

    def log(self, step: int = 1) -> torch.Tensor:
        """Natural logarithm (B, 3, N) of every `step`-th pixel of every `step`-th row."""
        pixels = self.pixels[..., ::step, ::step].to(torch.float32, copy=True)
        return pixels.clamp_(min=DARKEST * self.scale).log_().flatten(2)

    def density(self, max_pixels: int | None) -> torch.Tensor:
        """Optical density (B, 3, N) on a regular grid of at most `max_pixels`."""
        height, width = self.pixels.shape[-2:]
        step = 1 if max_pixels is None else math.ceil(math.sqrt(height * width / max_pixels))
        return self.white[:, None] - self.log(max(step, 1))

    def apply(self, matrix: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        """``I0 exp(-(matrix @ OD + tissue * offset))``, see :func:`apply_stain_matrix`; (B, 3, H, W)."""
        log = self.log()
        matrix = matrix.to(log).expand(len(log), 3, 3)
        # the same in logarithms of light: log I' = matrix @ log I + (1 - matrix) @ log I0
        out = torch.baddbmm((self.white - matrix @ self.white)[..., None], matrix, log)
        if offset is not None:
            tissue = (self.white.mean() - log.mean(1, keepdim=True)).div_(BETA).clamp_(0, 1)
            out.baddbmm_(offset.to(log).expand(len(log), 3)[..., None], tissue, alpha=-1)
        out.exp_()
        if not self.pixels.is_floating_point():
            out.add_(0.5)  # the cast below truncates
        return out.clamp_(max=self.scale).to(self.pixels.dtype).view(self.pixels.shape)

    def restore(self, pixels: torch.Tensor) -> NdarrayOrTensor:
        """`pixels` (B, 3, H, W) in the shape and kind of the image."""
        return convert_to_dst_type(pixels.view(tuple(self.image.shape)), self.image, dtype=pixels.dtype)[0]


def unmix(vectors: torch.Tensor) -> torch.Tensor:
    """Closed-form pseudo-inverse (..., 2, 3) of two stain vectors (..., 3, 2)."""
    gram = vectors.mT @ vectors
    h, he, e = gram[..., 0, 0], gram[..., 0, 1], gram[..., 1, 1]
    adjugate = torch.stack([e, -he, -he, h], -1).unflatten(-1, (2, 2))
    return adjugate @ vectors.mT / (h * e - he * he).clamp(min=1e-8)[..., None, None]


def _upper_percentile(values: torch.Tensor, valid: torch.Tensor, percent: float) -> torch.Tensor:
    """Percentile 100 - `percent` of `values` (B, C, N) where `valid` (B, N), interpolated as numpy does; (B, C)."""
    channels, size = values.shape[1:]
    tail = min(int((size - 1) * percent / 100) + 2, size)  # only so many need sorting
    top = values.masked_fill(~valid[:, None], -torch.inf).topk(tail).values
    rank = (valid.sum(-1) - 1).clamp(min=0) * (percent / 100)
    low = rank.long()[:, None]
    index = torch.cat([low, (low + 1).clamp(max=tail - 1)], -1)[:, None].expand(-1, channels, -1)
    upper, lower = top.gather(-1, index).nan_to_num(neginf=0).unbind(-1)
    return torch.lerp(upper, lower, rank[:, None] - low)


def stains_of_density(density: torch.Tensor, alpha: float, beta: float) -> Stains:
    """Macenko's stains of optical densities (B, 3, N); no branch depends on the data, so nothing waits for a GPU."""
    tissue = density.mean(1) > beta
    count = tissue.sum(-1)
    masked = density * tissue[:, None]
    # about the origin, not the mean: the stains' plane goes through it. That is the paper's SVD of the OD tuples, and
    # its first vector lies among the pixels, where their angles cannot wrap around
    moment = masked @ masked.mT / count.clamp(min=1)[:, None, None]
    plane = torch.linalg.eigh(moment).eigenvectors[..., [2, 1]]
    plane = torch.where(plane.sum(1, keepdim=True) < 0, -plane, plane)
    first, second = (plane.mT @ density).unbind(1)
    angle = torch.atan2(second, first)
    low, high = _upper_percentile(torch.stack([-angle, angle], 1), tissue, alpha).unbind(1)
    ends = torch.stack([-low, high], -1)
    vectors = plane @ torch.stack([ends.cos(), ends.sin()], 1)
    # hematoxylin is blue because it absorbs red; eosin lets red pass
    vectors = torch.where((vectors[:, 0, 0] < vectors[:, 0, 1])[:, None, None], vectors.flip(-1), vectors)
    maxima = _upper_percentile(unmix(vectors) @ density, tissue, 1)
    reliable = (count >= MIN_TISSUE_PIXELS) & (low + high > MIN_STAIN_ANGLE) & (maxima > 0).all(-1)
    return Stains(vectors, maxima, reliable)


def estimate_stains(
    image: NdarrayOrTensor | Iterable[NdarrayOrTensor],
    *,
    alpha: float = 1.0,
    beta: float = BETA,
    max_pixels: int | None = MAX_PIXELS,
    source_intensity: float | Sequence[float] = SOURCE_INTENSITY,
    max_value: float | None = None,
) -> Stains:
    """Stain vectors of a slide by Macenko et al., ISBI 2009.

    Tissue is where the mean OD of the three channels exceeds `beta`. (Asking it of every channel, as ports of the
    method do, would discard pure eosin, which hardly absorbs red.) OD is projected on the plane of its first two
    singular vectors; the percentiles `alpha` and ``100 - alpha`` of the angle in that plane are the stains; the one
    that absorbs more red is hematoxylin.

    Args:
        image: an image (3, H, W), a batch (B, 3, H, W), or any iterable of images, pooled into one estimate.
        alpha: percentile of the angle, in percent.
        beta: OD threshold of tissue.
        max_pixels: each image is read on a regular grid of at most so many pixels; None reads all of them.
        source_intensity: white level as a fraction of the full scale, see the module.
        max_value: full scale, see the module.

    Returns:
        `Stains` with vectors (3, 2), maxima (2,) and found ().

    Raises:
        InputError: an image is not RGB, or its values are outside the full scale.
    """
    images = [image] if isinstance(image, (np.ndarray, torch.Tensor)) else image
    density = [
        StainBatch(each, source_intensity, max_value).density(max_pixels).transpose(0, 1).flatten(1) for each in images
    ]
    if not density:
        raise InputError("image", "at least one image", "none")
    return Stains(*(value[0] for value in stains_of_density(torch.cat(density, -1)[None], alpha, beta)))


def apply_stain_matrix(
    image: NdarrayOrTensor,
    matrix: NdarrayOrTensor,
    offset: NdarrayOrTensor | None = None,
    source_intensity: float | Sequence[float] = SOURCE_INTENSITY,
    max_value: float | None = None,
) -> NdarrayOrTensor:
    """Map an image's optical density linearly: ``OD' = matrix @ OD + tissue * offset``.

    White (OD 0) stays white: `tissue` rises from 0 on glass to 1 at a mean OD of 0.15, so that an offset does not tint
    the background. Results beyond the full scale are clipped to it.

    Args:
        image: RGB image (3, H, W) or (B, 3, H, W), see the module for dtypes and ranges.
        matrix: (3, 3), or (B, 3, 3) with one matrix an image.
        offset: (3,) or (B, 3) in OD; None is none.
        source_intensity: white level as a fraction of the full scale, see the module.
        max_value: full scale, see the module.

    Returns:
        The image, same kind, shape, dtype and range.

    Raises:
        InputError: the image is not RGB, or its values are outside the full scale.
    """
    batch = StainBatch(image, source_intensity, max_value)
    offset = None if offset is None else torch.as_tensor(offset)
    return batch.restore(batch.apply(torch.as_tensor(matrix), offset))


def jitter_stain_matrix(
    alpha: NdarrayOrTensor, beta: NdarrayOrTensor, stains: NdarrayOrTensor | Sequence[Sequence[float]] = HE_STAINS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrix and offset in OD that turn each stain's concentration ``c`` into ``alpha * c + beta``.

    What lies outside the plane of the stains (pigment, blood, noise) is kept, so alpha = 1, beta = 0 is the identity.

    Args:
        alpha: factor for each stain (..., 2).
        beta: shift of each stain's concentration (..., 2).
        stains: absorbance vectors (..., 3, 2).

    Returns:
        matrix (..., 3, 3) and offset (..., 3) for :func:`apply_stain_matrix`.
    """
    vectors = torch.as_tensor(stains, dtype=torch.float32)
    alpha, beta = (torch.as_tensor(each).to(vectors) for each in (alpha, beta))
    matrix = torch.eye(3).to(vectors) + vectors * (alpha - 1)[..., None, :] @ unmix(vectors)
    return matrix, (vectors @ beta[..., None])[..., 0]
