"""Stain normalisation and augmentation of H&E images; :mod:`monai_ext.base.stain` holds the algorithms.

Images are RGB and channel-first, ``(3, H, W)`` or batched ``(B, 3, H, W)``, on any device: numpy arrays, tensors or
MetaTensors; what comes back has the same kind, dtype and value range.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform, Transform
from monai.utils import TransformBackends, convert_to_numpy

from monai_ext.base.errors import InputError
from monai_ext.base.stain import (
    BETA,
    HE_STAINS,
    MACENKO_STAIN_MAXIMA,
    MACENKO_STAINS,
    MAX_PIXELS,
    SOURCE_INTENSITY,
    StainBatch,
    Stains,
    estimate_stains,
    jitter_stain_matrix,
    stains_of_density,
    unmix,
)
from monai_ext.formats.image import read_field
from monai_ext.formats.scanned import blank_unscanned

__all__ = ["MacenkoNormalize", "MacenkoNormalized", "RandStainJitter", "RandStainJitterd"]


class MacenkoNormalize(Transform):
    """Normalise H&E stains to a target (Macenko et al., ISBI 2009).

    The stains of a tile are noisy: call :meth:`fit` once for a slide (on a thumbnail, or on some of its tiles), then
    apply the transform to each tile. Not fitted, every image (each one of a batch) is normalised by its own stains.

    An image with too little tissue, or of one colour only, has no two stains: it is returned unchanged. White (I0)
    stays white. Black areas that were never scanned (:mod:`monai_ext.formats.scanned`) are no stain.

    Args:
        target_stains: absorbance vectors to reach (3, 2), hematoxylin first; by default what ports of Macenko use.
        target_maxima: 99th percentile of each stain's concentration to reach (2,).
        reference: an image file or array whose stains are the target, in place of these two.
        alpha: percentile of the angle that defines the stains, in percent.
        beta: mean OD above which a pixel is tissue.
        max_pixels: stains are estimated on a regular grid of at most so many pixels an image; None is all of them.
        source_intensity: white level as a fraction of the full scale, one number or one per channel.
        max_value: full scale; None is 255 for uint8, 65535 for uint16, 1 for floating point.

    Raises:
        InputError: the reference cannot be read, or has too little tissue or one colour only.

    Examples:
        >>> from monai_ext.base.stain import HE_STAINS, MACENKO_STAINS, estimate_stains
        >>> from monai_ext.transforms import MacenkoNormalize
        >>> amounts = np.random.RandomState(0).gamma(2, 0.3, size=(2, 64 * 64))  # of hematoxylin and eosin
        >>> tile = (240 * np.exp(-np.array(HE_STAINS) @ amounts)).astype(np.uint8).reshape(3, 64, 64)
        >>> normalized = MacenkoNormalize()(tile)
        >>> stains = [estimate_stains(image).vectors.numpy() for image in (tile, normalized)]
        >>> [bool((abs(vectors - MACENKO_STAINS) < 0.02).all()) for vectors in stains]  # the target is reached
        [False, True]
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(
        self,
        target_stains: NdarrayOrTensor | Sequence[Sequence[float]] = MACENKO_STAINS,
        target_maxima: NdarrayOrTensor | Sequence[float] = MACENKO_STAIN_MAXIMA,
        *,
        reference: str | os.PathLike | NdarrayOrTensor | None = None,
        alpha: float = 1.0,
        beta: float = BETA,
        max_pixels: int | None = MAX_PIXELS,
        source_intensity: float | Sequence[float] = SOURCE_INTENSITY,
        max_value: float | None = None,
    ) -> None:
        self.target_stains = torch.as_tensor(target_stains, dtype=torch.float32)
        self.target_maxima = torch.as_tensor(target_maxima, dtype=torch.float32)
        self.alpha, self.beta, self.max_pixels = alpha, beta, max_pixels
        self.source_intensity, self.max_value = source_intensity, max_value
        self.source: Stains | None = None
        if reference is not None:
            self._aim_at(reference)

    def settings(self) -> dict[str, Any]:
        """All that determines the result, but for the image and what :meth:`fit` found, as JSON values."""
        options = {name: value for name, value in vars(self).items() if name != "source"}
        return {name: value.tolist() if isinstance(value, torch.Tensor) else value for name, value in options.items()}

    def _estimate(self, image: NdarrayOrTensor | Iterable[NdarrayOrTensor]) -> Stains:
        images = [image] if isinstance(image, (np.ndarray, torch.Tensor)) else image
        return estimate_stains(
            (_blank_gaps(each, self.max_value) for each in images),
            alpha=self.alpha,
            beta=self.beta,
            max_pixels=self.max_pixels,
            source_intensity=self.source_intensity,
            max_value=self.max_value,
        )

    def fit(self, image: NdarrayOrTensor | Iterable[NdarrayOrTensor]) -> MacenkoNormalize:
        """Estimate the stains of a slide from an image, a batch or an iterable of images; later calls use them."""
        self.source = self._estimate(image)
        return self

    def _aim_at(self, reference: str | os.PathLike | NdarrayOrTensor) -> None:
        """Take the target from an image."""
        is_file = isinstance(reference, (str, os.PathLike))
        target = self._estimate(read_field(reference).image if is_file else reference)
        if not target.found:
            name = reference if is_file else "reference image"
            raise InputError(name, "tissue with two stains", "too little tissue, or a single colour")
        self.target_stains, self.target_maxima = target.vectors.cpu(), target.maxima.cpu()

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Normalise an image (3, H, W) or a batch (B, 3, H, W).

        Raises:
            InputError: the image is not RGB, or its values are outside the full scale.
        """
        batch = StainBatch(image, self.source_intensity, self.max_value)
        source = self.source or _own_stains(image, batch, self.max_pixels, self.alpha, self.beta)
        vectors, maxima, reliable = (value.to(batch.pixels.device) for value in source)
        scaled = self.target_stains.to(vectors) * (self.target_maxima.to(maxima) / maxima)[..., None, :]
        matrix = torch.where(reliable[..., None, None], scaled @ unmix(vectors), torch.eye(3).to(vectors))
        out = batch.apply(matrix)
        if not reliable.all():  # untouched, where the way through logarithms would round
            out = torch.where(reliable.view(-1, 1, 1, 1), out, batch.pixels)
        return batch.restore(out)


def _own_stains(image: NdarrayOrTensor, batch: StainBatch, max_pixels: int | None, alpha: float, beta: float) -> Stains:
    """The stains of each image of a batch."""
    scanned = _blank_gaps(image, batch.scale)
    if scanned is not image:
        batch = StainBatch(scanned, (batch.white.exp() / batch.scale).tolist(), batch.scale)
    return stains_of_density(batch.density(max_pixels), alpha, beta)


def _blank_gaps(image: NdarrayOrTensor, max_value: float | None) -> NdarrayOrTensor:
    """An image ``(..., 3, H, W)`` with black areas, as large as only scanners leave them, in white: no stain.

    Images on a GPU are left as they are, as looking would wait for it, and so is what is no image.
    """
    if isinstance(image, torch.Tensor) and (image.device.type != "cpu" or image.dtype == torch.bfloat16):
        return image
    pixels = convert_to_numpy(image)
    scale = max_value or {"uint8": 255.0, "uint16": 65535.0}.get(pixels.dtype.name, 1.0)
    if pixels.ndim not in (3, 4) or pixels.shape[-3] != 3 or pixels.dtype.kind not in "uf" or not pixels.size:
        return image
    eight_bits = pixels if pixels.dtype == np.uint8 and scale == 255 else np.clip(pixels * (255 / scale), 0, 255)
    planes = eight_bits.reshape(-1, *pixels.shape[-3:]).astype(np.uint8)
    gaps = [blank_unscanned(np.ascontiguousarray(np.moveaxis(each, 0, -1)))[1] for each in planes]
    if all(valid is None for valid in gaps):
        return image
    valid = np.stack([np.ones(pixels.shape[-2:], bool) if each is None else each for each in gaps])
    valid = valid.reshape(*pixels.shape[:-3], 1, *pixels.shape[-2:])
    blank = np.where(valid, pixels, np.asarray(scale, pixels.dtype))
    return blank if isinstance(image, np.ndarray) else torch.from_numpy(blank)


class RandStainJitter(RandomizableTransform):
    """Augment H&E images by jittering each stain's concentration: ``c' = alpha * c + beta``.

    alpha ~ U(1 - sigma1, 1 + sigma1) and beta ~ U(-sigma2, sigma2), one pair for each stain (Tellez et al., IEEE TMI
    2018; "HED-light" is sigma1 = sigma2 = 0.05, "HED-strong" 0.2). The background is not tinted. Each image of a batch
    has its own draw, and its own chance `prob`. The draw stays in `alpha` and `beta` (B, 2): calling with
    ``randomize=False`` replays it, and so does :func:`jitter_stain_matrix` with :func:`apply_stain_matrix`.

    Args:
        prob: probability for an image to be changed.
        sigma1: half width of the factor's range.
        sigma2: half width of the shift's range, in concentration (OD along the stain's vector).
        stains: absorbance vectors (3, 2), hematoxylin first; None takes each image's own (:func:`estimate_stains`), and
            the default ones where an image has too little tissue.
        source_intensity: white level as a fraction of the full scale, one number or one per channel.
        max_value: full scale; None is 255 for uint8, 65535 for uint16, 1 for floating point.

    Examples:
        >>> from monai_ext.base.stain import HE_STAINS
        >>> from monai_ext.transforms import RandStainJitter
        >>> amounts = np.random.RandomState(0).gamma(2, 0.3, size=(2, 64 * 64))  # of hematoxylin and eosin
        >>> tile = (240 * np.exp(-np.array(HE_STAINS) @ amounts)).astype(np.uint8).reshape(3, 64, 64)
        >>> jitter = RandStainJitter(prob=1.0, sigma1=0.2, sigma2=0.2).set_random_state(0)
        >>> jittered = jitter(tile)
        >>> jittered.shape, np.array_equal(jittered, tile), np.array_equal(jittered, jitter(tile, randomize=False))
        ((3, 64, 64), False, True)
    """

    backend = (TransformBackends.TORCH, TransformBackends.NUMPY)

    def __init__(
        self,
        prob: float = 0.1,
        sigma1: float = 0.05,
        sigma2: float = 0.05,
        *,
        stains: NdarrayOrTensor | Sequence[Sequence[float]] | None = HE_STAINS,
        source_intensity: float | Sequence[float] = SOURCE_INTENSITY,
        max_value: float | None = None,
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        self.sigma1, self.sigma2 = sigma1, sigma2
        self.stains = stains
        self.source_intensity, self.max_value = source_intensity, max_value
        self.alpha, self.beta = np.ones((1, 2)), np.zeros((1, 2))

    def randomize(self, batch_size: int = 1) -> None:
        """Draw `alpha` and `beta` (B, 2) for so many images."""
        chosen = self.R.random_sample((batch_size, 1)) < self.prob
        self.alpha = np.where(chosen, self.R.uniform(1 - self.sigma1, 1 + self.sigma1, (batch_size, 2)), 1)
        self.beta = np.where(chosen, self.R.uniform(-self.sigma2, self.sigma2, (batch_size, 2)), 0)
        self._do_transform = bool(chosen.any())

    def __call__(self, image: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Jitter an image (3, H, W) or a batch (B, 3, H, W).

        Raises:
            InputError: the image is not RGB, or its values are outside the full scale.
        """
        batch = StainBatch(image, self.source_intensity, self.max_value)
        if randomize:
            self.randomize(len(batch.pixels))
        if not self._do_transform:
            return image
        stains = self.stains
        if stains is None:
            estimated = _own_stains(image, batch, MAX_PIXELS, 1.0, BETA)
            stains = torch.where(
                estimated.found[:, None, None], estimated.vectors, torch.tensor(HE_STAINS).to(estimated.vectors)
            )
        return batch.restore(batch.apply(*jitter_stain_matrix(self.alpha, self.beta, stains)))


class MacenkoNormalized(MapTransform):
    """Dictionary-based version of :class:`MacenkoNormalize`.

    Args:
        keys: keys of the images to normalise.
        normalizer: the array transform, for one that is already fitted; None makes one of `kwargs`.
        allow_missing_keys: do not raise if a key is missing.
        kwargs: arguments of :class:`MacenkoNormalize`.

    Examples:
        >>> from monai_ext.base.stain import HE_STAINS
        >>> from monai_ext.transforms import MacenkoNormalize, MacenkoNormalized
        >>> amounts = np.random.RandomState(0).gamma(2, 0.3, size=(2, 64 * 64))  # of hematoxylin and eosin
        >>> tile = (240 * np.exp(-np.array(HE_STAINS) @ amounts)).astype(np.uint8).reshape(3, 64, 64)
        >>> normalize = MacenkoNormalized("image", MacenkoNormalize().fit(tile))
        >>> image = normalize({"image": torch.from_numpy(tile[:, :32, :32].copy())})["image"]
        >>> tuple(image.shape), image.dtype, bool((image.numpy() == tile[:, :32, :32]).all())
        ((3, 32, 32), torch.uint8, False)
    """

    backend = MacenkoNormalize.backend

    def __init__(
        self,
        keys: KeysCollection,
        normalizer: MacenkoNormalize | None = None,
        allow_missing_keys: bool = False,
        **kwargs: object,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.normalizer = normalizer or MacenkoNormalize(**kwargs)

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Normalise the images under `keys`."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.normalizer(d[key])
        return d


class RandStainJitterd(RandomizableTransform, MapTransform):
    """Dictionary-based version of :class:`RandStainJitter`; all keys share one draw.

    Args:
        keys: keys of the images to jitter, with equal batch sizes.
        prob: probability for an image to be changed.
        sigma1: half width of the factor's range.
        sigma2: half width of the shift's range.
        stains: absorbance vectors (3, 2), hematoxylin first; None takes each image's own.
        source_intensity: white level as a fraction of the full scale.
        max_value: full scale; None is 255 for uint8, 65535 for uint16, 1 for floating point.
        allow_missing_keys: do not raise if a key is missing.

    Examples:
        >>> from monai_ext.base.stain import HE_STAINS
        >>> from monai_ext.transforms import RandStainJitterd
        >>> amounts = np.random.RandomState(0).gamma(2, 0.3, size=(2, 64 * 64))  # of hematoxylin and eosin
        >>> tile = (240 * np.exp(-np.array(HE_STAINS) @ amounts)).astype(np.uint8).reshape(3, 64, 64)
        >>> item = RandStainJitterd(["image", "source"], prob=1.0).set_random_state(0)({"image": tile, "source": tile})
        >>> np.array_equal(item["image"], tile), np.array_equal(item["image"], item["source"])  # one draw for both
        (False, True)
    """

    backend = RandStainJitter.backend

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        *,
        sigma1: float = 0.05,
        sigma2: float = 0.05,
        stains: NdarrayOrTensor | Sequence[Sequence[float]] | None = HE_STAINS,
        source_intensity: float | Sequence[float] = SOURCE_INTENSITY,
        max_value: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.jitter = RandStainJitter(
            prob, sigma1, sigma2, stains=stains, source_intensity=source_intensity, max_value=max_value
        )

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandStainJitterd:
        """Seed the draws; see `monai.transforms.Randomizable`."""
        super().set_random_state(seed, state)
        self.jitter.set_random_state(seed, state)
        return self

    def __call__(
        self, data: Mapping[Hashable, NdarrayOrTensor], randomize: bool = True
    ) -> dict[Hashable, NdarrayOrTensor]:
        """Jitter the images under `keys`; ``randomize=False`` replays the last draw."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.jitter(d[key], randomize=randomize)
            randomize = False
        return d
