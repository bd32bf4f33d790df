"""Cells found by a kernelised correlation filter: LoopNet's pseudo masks (Zhang et al., CVPR 2023, section 3.2.1).

The filter is that of Henriques et al., *High-speed tracking with kernelized correlation filters* (IEEE TPAMI 2015):
ridge regression from all cyclic shifts of a template to a narrow Gaussian, solved in the Fourier domain. A tracker
evaluates it on the cyclic shifts of one window; here the windows about all pixels of an image take their place, which
is what those shifts stand for. On an image that is periodic with the template's size both are the same.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy, convert_to_tensor
from scipy import ndimage
from scipy.spatial import cKDTree

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.data.templates import check_template, read_templates
from monai_ext.transforms.concentric import draw_concentric

__all__ = ["KCFPseudoMask", "KCFPseudoMaskd", "kernel_regression"]

_BLOCK = 512  # px: side of the pieces that are transformed at once; they stay in the processor's cache
_AT_ONCE = 8  # filters whose maps are held at once


def kernel_regression(
    template: torch.Tensor, regularisation: float, output_sigma: float, kernel_sigma: float
) -> torch.Tensor:
    """Dual weights of the ridge regression from a template's cyclic shifts to a Gaussian about no shift.

    Henriques et al. 2015, equations 17 and 30: ``F(alpha) = F(y) / (F(k) + lambda)`` with the kernel
    ``k(i) = exp(-|x - P^i x|^2 / (n sigma^2))`` between the template ``x`` and itself shifted by ``i``.

    Args:
        template: ``(C, h, w)``, n values 0 to 1.
        regularisation: lambda.
        output_sigma: standard deviation of ``y`` relative to ``sqrt(h w)``.
        kernel_sigma: sigma, in units of the values.

    Returns:
        alpha, ``(h, w)``, by shift as :func:`torch.fft.fftfreq` orders them: 0, 1, ..., -1.

    Examples:
        >>> from monai_ext.transforms.kcf import kernel_regression
        >>> template = torch.rand(3, 11, 9, generator=torch.Generator().manual_seed(0))
        >>> weights = kernel_regression(template, regularisation=1e-4, output_sigma=0.1, kernel_sigma=0.2)
        >>> tuple(weights.shape), int(weights.argmax())  # no shift weighs most
        ((11, 9), 0)
    """
    height, width = template.shape[-2:]
    spectrum = torch.fft.rfft2(template)
    overlap = torch.fft.irfft2(spectrum.abs().square().sum(0), s=(height, width))
    kernel = torch.exp(-2 * (overlap[0, 0] - overlap).clamp(min=0) / (template.numel() * kernel_sigma**2))
    rows, cols = (torch.fft.fftfreq(side, 1 / side, dtype=template.dtype) for side in (height, width))
    spread = output_sigma * (height * width) ** 0.5
    target = torch.exp(-(rows[:, None].square() + cols.square()) / (2 * spread**2))
    weights = torch.fft.rfft2(target) / (torch.fft.rfft2(kernel) + regularisation)
    return torch.fft.irfft2(weights, s=(height, width))


class _Bank(NamedTuple):
    """All filters as spectra on blocks of one size.

    Attributes:
        templates: ``(T, C, B, B / 2 + 1)``, times 2 / (n sigma^2).
        weights: ``(T, B, B / 2 + 1)``.
        boxes: ``(S, B, B / 2 + 1)``, the windows of each size that occurs, times 1 / (n sigma^2).
        energies: ``(T, 1, 1)``, squares of the templates, times 1 / (n sigma^2).
        means: ``(S, 1, 1)``, what turns the squares of a window's sums into what its mean adds to its squares.
    """

    templates: torch.Tensor
    weights: torch.Tensor
    boxes: torch.Tensor
    energies: torch.Tensor
    means: torch.Tensor


def _correlator(kernel: torch.Tensor, side: int, scale: float = 1) -> torch.Tensor:
    """The factor by which a block's spectrum is correlated with a kernel ``(..., h, w)`` about its middle pixel."""
    height, width = kernel.shape[-2:]
    padded = torch.nn.functional.pad(kernel * scale, (0, side - width, 0, side - height))
    return torch.fft.rfft2(padded.roll((-(height // 2), -(width // 2)), (-2, -1))).conj().resolve_conj()


def _turned(template: np.ndarray, rotations: int) -> list[np.ndarray]:
    """A template ``(C, h, w)`` in ``rotations`` directions; by right angles exactly."""
    turned = []
    for angle in (360 * number / rotations for number in range(rotations)):
        if angle % 90 == 0:
            turned.append(np.ascontiguousarray(np.rot90(template, int(angle // 90), axes=(1, 2))))
        else:
            turned.append(ndimage.rotate(template, angle, axes=(2, 1), reshape=False, order=1, mode="nearest"))
    return turned


class KCFPseudoMask(Transform):
    """Mask of the cells that resemble a template in one of its rotations.

    The response at a pixel is ``sum_i alpha_i exp(-|x - z_i|^2 / (n sigma^2))`` with the windows ``z_i`` about that
    pixel and its neighbours, white beyond the image's border, and the weights of :func:`kernel_regression`; it is about
    1 where the image is the template. Of all templates and rotations the highest response counts. Cells are its local
    maxima above a threshold; each is a disk of its template's size.

    The paper gives no setting. These are the ones of the filter's authors for raw pixels; four rotations, the maximum
    and the threshold are our reading. Absolute values are compared: of a slide that is stained more or less strongly
    than the templates fewer cells are found, unless stains are normalised before (``benchmarks/cells_found.py``).

    The image is gone through in blocks, so that besides image and mask the memory is the same for any image.

    Args:
        templates: a folder (:func:`~monai_ext.data.templates.read_templates`), or crops ``(C, h, w)``, perhaps by name:
            uint8, or float in 0 to 1.
        rotations: directions in which each template is looked for.
        threshold: share of the image's highest response from which a maximum is a cell.
        least: response below which there is no cell at all, however low the highest one is: empty vessels have none.
        regularisation: lambda of the ridge regression.
        output_sigma: standard deviation of its target relative to the template's side.
        kernel_sigma: of the Gaussian kernel, in units of pixels from 0 to 1.
        distance: least distance of two cells along rows or columns, px; by default half of ``cell_size``.
        subtract_mean: compare template and window each less its own mean of every channel. Plasma then resembles pale
            templates: with the other settings as they are fewer cells are found at equal false alarms.

    Attributes:
        names: of the templates.
        cell_size: mean side of the templates, px: the mean size of a cell where they are tight crops.

    Raises:
        InputError: a template that cannot serve, or a number outside its range.

    Examples:
        >>> from monai_ext.transforms import KCFPseudoMask
        >>> rows, cols = np.mgrid[-5:6, -5:6]
        >>> cell = np.stack(3 * [255 - 200 * np.exp(-(rows**2 + cols**2) / 12)]).astype(np.uint8)
        >>> image = np.full((3, 64, 64), 255, np.uint8)
        >>> image[:, 10:21, 30:41] = image[:, 40:51, 5:16] = cell
        >>> find = KCFPseudoMask([cell], rotations=1)
        >>> sorted(find.points(image)[:, :2].tolist()), find(image).shape
        ([[15.0, 35.0], [45.0, 10.0]], (1, 64, 64))
    """

    def __init__(
        self,
        templates: str | os.PathLike | Sequence[NdarrayOrTensor] | Mapping[str, NdarrayOrTensor],
        *,
        rotations: int = 4,
        threshold: float = 0.5,
        least: float = 0.15,
        regularisation: float = 1e-4,
        output_sigma: float = 0.1,
        kernel_sigma: float = 0.2,
        distance: int | None = None,
        subtract_mean: bool = False,
    ) -> None:
        if isinstance(templates, (str, os.PathLike)):
            templates = read_templates(templates)
        elif not isinstance(templates, Mapping):
            templates = {f"template {number}": template for number, template in enumerate(templates)}
        if not templates:
            raise InputError("templates", "at least one", "none")
        ranges = {"rotations": rotations, "regularisation": regularisation, "output_sigma": output_sigma}
        for name, value in (ranges | {"kernel_sigma": kernel_sigma}).items():
            if not value > 0:
                raise InputError(name, "a positive number", repr(value))
        for name, value in (("threshold", threshold), ("least", least)):
            if not 0 < value <= 1:
                raise InputError(name, "a number above 0, at most 1", repr(value))
        if rotations != int(rotations):
            raise InputError("rotations", "a whole number", repr(rotations))
        arrays = {name: convert_to_numpy(template) for name, template in templates.items()}
        for name, array in arrays.items():
            check_template(array, name)
            if len(array) != len(next(iter(arrays.values()))):
                raise InputError(name, "as many channels as the other templates", str(len(array)))
        self.names, self.rotations = list(arrays), int(rotations)
        self.threshold, self.least = threshold, least
        self.cell_size = float(np.mean([np.mean(array.shape[1:]) for array in arrays.values()]))
        self.distance = max(1, round(self.cell_size / 2)) if distance is None else int(distance)
        self.subtract_mean = as_flag(subtract_mean, "subtract_mean")
        self._filters = [
            torch.from_numpy(turned - turned.mean((1, 2), keepdims=True) if self.subtract_mean else turned).double()
            for name, array in arrays.items()
            for turned in _turned(_darkness(array, name), self.rotations)
        ]
        settings = (regularisation, output_sigma, kernel_sigma)
        self._weights = [kernel_regression(template, *settings) for template in self._filters]
        self._scales = [1 / (template.numel() * kernel_sigma**2) for template in self._filters]
        self._half = self.largest // 2 + 1
        self._banks: dict[tuple, _Bank] = {}

    @property
    def largest(self) -> int:
        """The longest side of a template, px; no side of an image may be shorter."""
        return max(side for template in self._filters for side in template.shape[1:])

    def __getstate__(self) -> dict[str, Any]:
        """The settings without the spectra, by which caches are named."""
        state = {**self.__dict__, "_banks": {}}
        state.pop("_size_of", None)
        return state

    def __call__(self, image: NdarrayOrTensor) -> NdarrayOrTensor:
        """Find the cells.

        Args:
            image: ``(C, H, W)``, uint8 or float in 0 to 1; array, tensor on any device, or MetaTensor.

        Returns:
            bool ``(1, H, W)`` of the image's kind: a disk on each cell; all False where there is none.

        Raises:
            InputError: an image smaller than a template, of other channels, or outside 0 to 1.
        """
        return self.mask(image, self.points(image))

    def mask(self, image: NdarrayOrTensor, points: torch.Tensor) -> NdarrayOrTensor:
        """The disks of cells that :meth:`points` found, bool ``(1, H, W)`` of the image's kind."""
        sides = np.array([np.mean(self._filters[n * self.rotations].shape[1:]) for n in range(len(self.names))])
        radii = sides[points[:, 3].long().numpy()] / 2
        disks = draw_concentric(points[:, :2], radii, np.zeros(len(radii)), image.shape[-2:]).astype(bool)
        return convert_to_dst_type(disks, image, dtype=bool if isinstance(image, np.ndarray) else torch.bool)[0]

    def points(self, image: NdarrayOrTensor) -> torch.Tensor:
        """Find the cells' positions; see :meth:`__call__` for the image.

        Returns:
            float32 CPU tensor ``(N, 4)``: row, column (px), response and number of the template, highest response
            first.
        """
        image = self._checked(image)
        candidates, near = [], self.distance
        for row, col, response, which in self._blocks(image, near):
            inner = slice(near, -near)
            maxima = (response == _highest_around(response, near))[inner, inner]
            maxima &= response[inner, inner] >= self.least
            position = maxima.nonzero()
            values = (response[inner, inner][maxima], which[inner, inner][maxima])
            candidates.append(torch.stack([position[:, 0] + row, position[:, 1] + col, *values], dim=1).cpu().double())
        points = torch.cat(candidates)
        points = points[points[:, 2] >= self.threshold * points[:, 2].max()] if len(points) else points
        points = points[np.lexsort(points[:, [1, 0, 2]].numpy().T * [[1], [1], [-1]])]
        # maxima this near are equally high: of a plateau one stays
        pairs = cKDTree(points[:, :2]).query_pairs(near + 0.5, p=np.inf, output_type="ndarray")
        kept = np.ones(len(points), bool)
        kept[pairs.max(axis=1)] = False
        return points[kept].float()

    def response(self, image: NdarrayOrTensor) -> torch.Tensor:
        """The highest response of all filters at each pixel, ``(H, W)``; see :meth:`__call__` for the image."""
        image = self._checked(image)
        whole = image.new_empty(image.shape[1:], dtype=_precision(image))
        for row, col, response, _ in self._blocks(image, 0):
            part = whole[row : row + response.shape[0], col : col + response.shape[1]]
            part.copy_(response[: part.shape[0], : part.shape[1]])
        return whole

    def _checked(self, image: NdarrayOrTensor) -> torch.Tensor:
        image = convert_to_tensor(image, track_meta=False)
        channels = len(self._filters[0])
        if image.ndim != 3 or len(image) != channels:
            raise InputError("image", f"shape ({channels}, H, W)", str(tuple(image.shape)))
        for number, template in enumerate(self._filters):
            if any(side > room for side, room in zip(template.shape[1:], image.shape[1:], strict=True)):
                expected = "a template no larger than the image ({} x {} px)".format(*image.shape[1:])
                raise InputError(
                    self.names[number // self.rotations], expected, "{} x {} px".format(*template.shape[1:])
                )
        return image

    def _blocks(self, image: torch.Tensor, margin: int) -> Iterator[tuple[int, int, torch.Tensor, torch.Tensor]]:
        """The response block by block.

        Yields:
            row and column at which a block begins; its highest response with ``margin`` px more around it, -inf beyond
            the image; and the number of the template that it is of.
        """
        height, width = image.shape[1:]
        halo = 2 * self._half + margin  # windows reach half a template around a pixel, the weights as far again
        side = _BLOCK
        while side > 256 and max(height, width) + 2 * halo <= side // 2:
            side //= 2
        while side < 8 * halo:
            side *= 2
        bank, step = self._bank(side, image), side - 2 * halo
        outer = slice(2 * self._half, side - 2 * self._half)
        for row in range(0, height, step):
            for col in range(0, width, step):
                response, which = self._respond(bank, _window(image, row - halo, col - halo, side))
                response, which = response[outer, outer], which[outer, outer]
                for axis, first, end in ((0, row, height), (1, col, width)):
                    pixel = torch.arange(first - margin, first + step + margin, device=image.device)
                    beyond = ((pixel < 0) | (pixel >= end)).nonzero().squeeze(1)
                    response.index_fill_(axis, beyond, -torch.inf)
                yield row, col, response, which // self.rotations

    def _respond(self, bank: _Bank, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Highest response ``(B, B)`` in a block ``(C, B, B)`` and the filter it is of; true but for the border."""
        size = block.shape[-2:]
        spectrum = torch.fft.rfft2(block)
        energy = torch.fft.irfft2(torch.fft.rfft2(block.square().sum(0)) * bank.boxes, s=size)
        if self.subtract_mean:
            sums = torch.fft.irfft2(spectrum * bank.boxes[:, None], s=size)
            energy = energy - sums.square().sum(1) * bank.means
        highest, which = None, None
        for first in range(0, len(bank.templates), _AT_ONCE):
            filters = slice(first, first + _AT_ONCE)
            overlap = torch.fft.irfft2((spectrum * bank.templates[filters]).sum(1), s=size)
            kernel = overlap.sub_(energy[self._size_of[filters]]).sub_(bank.energies[filters]).clamp_(max=0).exp_()
            response = torch.fft.irfft2(torch.fft.rfft2(kernel) * bank.weights[filters], s=size)
            values, number = response.max(dim=0)
            if highest is None:
                highest, which = values, number
            else:
                better = values > highest
                highest, which = torch.where(better, values, highest), torch.where(better, number + first, which)
        return highest, which

    def _bank(self, side: int, image: torch.Tensor) -> _Bank:
        key = (side, image.device, _precision(image))
        if key not in self._banks:
            to = {"device": image.device, "dtype": torch.promote_types(key[2], torch.complex64)}
            sizes = sorted({tuple(template.shape[1:]) for template in self._filters})
            self._size_of = [sizes.index(tuple(template.shape[1:])) for template in self._filters]
            pairs = list(zip(self._filters, self._scales, strict=True))
            scale_of = dict(zip(self._size_of, self._scales, strict=True))
            boxes = [torch.ones(size, dtype=torch.double) for size in sizes]
            energies = torch.stack([template.square().sum() * scale for template, scale in pairs])
            means = torch.tensor([1 / (h * w * scale_of[n]) for n, (h, w) in enumerate(sizes)], dtype=torch.double)
            self._banks[key] = _Bank(
                torch.stack([_correlator(template, side, 2 * scale) for template, scale in pairs]).to(**to),
                torch.stack([_correlator(torch.fft.fftshift(weights), side) for weights in self._weights]).to(**to),
                torch.stack([_correlator(box, side, scale_of[n]) for n, box in enumerate(boxes)]).to(**to),
                energies[:, None, None].to(image.device, key[2]),
                means[:, None, None].to(image.device, key[2]),
            )
        return self._banks[key]


def _darkness(image: Any, where: str = "image") -> Any:
    """1 - image for uint8 or floats in 0 to 1: what lies beyond the border, white glass, is then 0."""
    if image.dtype in (np.uint8, torch.uint8):
        return 1 - image / 255
    if image.dtype not in (np.float32, np.float64, torch.float32, torch.float64) or image.min() < 0 or image.max() > 1:
        raise InputError(where, "uint8, or float in 0 to 1", f"{image.dtype}, {image.min():g} to {image.max():g}")
    return 1 - image


def _precision(image: torch.Tensor) -> torch.dtype:
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def _window(image: torch.Tensor, row: int, col: int, side: int) -> torch.Tensor:
    """The darkness of ``side`` x ``side`` px of an image from a row and a column that may lie outside."""
    top, left = max(-row, 0), max(-col, 0)
    part = _darkness(image[:, row + top : row + side, col + left : col + side]).to(_precision(image))
    height, width = part.shape[1:]
    return torch.nn.functional.pad(part, (left, side - left - width, top, side - top - height))


def _highest_around(response: torch.Tensor, distance: int) -> torch.Tensor:
    """The highest value within ``distance`` px along rows and columns of each pixel of ``(H, W)``."""
    length, pad = 2 * distance + 1, distance
    rows = torch.nn.functional.max_pool2d(response[None], (length, 1), 1, (pad, 0))
    return torch.nn.functional.max_pool2d(rows, (1, length), 1, (0, pad))[0]


class KCFPseudoMaskd(MapTransform):
    """Dictionary twin of :class:`KCFPseudoMask`: keeps the image, adds the mask of its cells.

    Args:
        keys: images ``(C, H, W)``.
        templates: see :class:`KCFPseudoMask`.
        mask_key: where the mask goes, bool ``(1, H, W)``.
        points_key: where the cells' positions go, float32 ``(N, 4)``; ``None`` leaves them out.
        allow_missing_keys: pass over keys that are not there.
        **options: further arguments of :class:`KCFPseudoMask`.

    Examples:
        >>> from monai_ext.transforms import KCFPseudoMaskd
        >>> rows, cols = np.mgrid[-5:6, -5:6]
        >>> cell = np.stack(3 * [255 - 200 * np.exp(-(rows**2 + cols**2) / 12)]).astype(np.uint8)
        >>> image = np.pad(cell, ((0, 0), (10, 30), (20, 20)), constant_values=255)
        >>> find = KCFPseudoMaskd("image", templates={"cell": cell}, points_key="points", rotations=1)
        >>> item = find({"image": image})
        >>> item["points"][:, :2].tolist(), item["cell_mask"].shape
        ([[15.0, 25.0]], (1, 51, 51))
    """

    def __init__(
        self,
        keys: KeysCollection,
        templates: Any,
        mask_key: str = "cell_mask",
        points_key: str | None = None,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key, self.points_key = mask_key, points_key
        self.find = KCFPseudoMask(templates, **options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the mask; raises InputError as the array transform, naming the image's file where it is known."""
        d = dict(data)
        for key in self.key_iterator(d):
            try:
                points = self.find.points(d[key])
            except InputError as error:
                name = getattr(d[key], "meta", {}).get("filename_or_obj")
                raise InputError(
                    f"{name}: {error.where}" if name else error.where, error.expected, error.found
                ) from error
            d[self.mask_key] = self.find.mask(d[key], points)
            if self.points_key is not None:
                d[self.points_key] = points
        return d
