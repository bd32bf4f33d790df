"""Images as a coarser or more compressed scan of the same tissue would show them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type, convert_to_numpy
from monai.utils.enums import TransformBackends

from monai_ext.base.errors import InputError

__all__ = ["RandScanQuality", "RandScanQualityd"]


class RandScanQuality(RandomizableTransform):
    """Resamples an image to a coarser grid, compresses it as JPEG, and brings it back to its own grid.

    A network for .25 um/px also meets slides that were scanned at .5 um/px and enlarged, and slides compressed to a
    fraction of the size of its training images. Blurred nuclei and the blocks of JPEG are then new to it, which costs
    false alarms.

    Args:
        prob: probability for an image to be changed.
        zoom: smallest and largest magnification of the coarser grid, at most 1, drawn log-uniformly.
        quality: lowest and highest quality of the JPEG, 1 to 100, drawn uniformly.

    Raises:
        InputError: a magnification or a quality out of range.

    Examples:
        >>> from monai_ext.transforms import RandScanQuality
        >>> rescan = RandScanQuality(prob=1.0, zoom=(0.5, 0.5), quality=(50, 50)).set_random_state(0)
        >>> tile = np.zeros((3, 64, 64), np.uint8)
        >>> tile[:, 20:40, 20:40] = 200
        >>> scanned = rescan(tile)
        >>> scanned.shape, scanned.dtype, bool(scanned[0, 30, 19] > 20)  # the edge is no longer sharp
        ((3, 64, 64), dtype('uint8'), True)
    """

    backend = (TransformBackends.NUMPY,)

    def __init__(
        self, prob: float = 0.1, zoom: tuple[float, float] = (0.5, 1.0), quality: tuple[int, int] = (30, 95)
    ) -> None:
        RandomizableTransform.__init__(self, prob)
        if not 0 < zoom[0] <= zoom[1] <= 1:
            raise InputError("zoom", "0 < smallest <= largest <= 1", repr(zoom))
        if not 1 <= quality[0] <= quality[1] <= 100:
            raise InputError("quality", "1 <= lowest <= highest <= 100", repr(quality))
        self.zoom, self.quality = tuple(zoom), tuple(quality)
        self.drawn_zoom, self.drawn_quality = 1.0, 100

    def randomize(self, data: Any = None) -> None:
        """Draw ``drawn_zoom`` and ``drawn_quality``."""
        super().randomize(data)
        self.drawn_zoom = float(np.exp(self.R.uniform(*np.log(self.zoom))))
        self.drawn_quality = int(self.R.randint(self.quality[0], self.quality[1] + 1))

    def __call__(self, image: NdarrayOrTensor, randomize: bool = True) -> NdarrayOrTensor:
        """Rescan an image ``(3, H, W)``, RGB, uint8; without ``randomize`` as the last one was.

        Raises:
            InputError: an image of another kind.
        """
        if randomize:
            self.randomize()
        pixels = convert_to_numpy(image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) != 3:
            raise InputError("RandScanQuality", "an RGB image (3, H, W), uint8", f"{pixels.shape}, {pixels.dtype}")
        if not self._do_transform:
            return image
        rows, columns = pixels.shape[1:]
        size = max(1, round(columns * self.drawn_zoom)), max(1, round(rows * self.drawn_zoom))
        pixels = cv2.resize(np.ascontiguousarray(np.moveaxis(pixels, 0, -1)), size, interpolation=cv2.INTER_AREA)
        # the order of channels does matter: JPEG weighs them
        done, packed = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.drawn_quality])
        assert done, "OpenCV wrote no JPEG"
        pixels = cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1]
        pixels = cv2.resize(pixels, (columns, rows), interpolation=cv2.INTER_LINEAR)
        return convert_to_dst_type(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), image, dtype=pixels.dtype)[0]


class RandScanQualityd(RandomizableTransform, MapTransform):
    """Dictionary-based version of :class:`RandScanQuality`; all keys share one draw.

    Args:
        keys: keys of the images.
        prob: probability for an item to be changed.
        zoom: smallest and largest magnification of the coarser grid, at most 1.
        quality: lowest and highest quality of the JPEG, 1 to 100.
        allow_missing_keys: do not raise if a key is missing.

    Examples:
        >>> from monai_ext.transforms import RandScanQualityd
        >>> rescan = RandScanQualityd("image", prob=1.0, zoom=(0.5, 0.5)).set_random_state(0)
        >>> tile = np.random.RandomState(0).randint(0, 255, (3, 32, 32)).astype(np.uint8)
        >>> bool(rescan({"image": tile})["image"].std() < tile.std())  # the finest grain is gone
        True
    """

    backend = RandScanQuality.backend

    def __init__(
        self,
        keys: KeysCollection,
        prob: float = 0.1,
        zoom: tuple[float, float] = (0.5, 1.0),
        quality: tuple[int, int] = (30, 95),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.rescan = RandScanQuality(prob, zoom, quality)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandScanQualityd:
        """Seed the draws."""
        super().set_random_state(seed, state)
        self.rescan.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Rescan the images of an item."""
        d = dict(data)
        self.rescan.randomize()
        for key in self.key_iterator(d):
            d[key] = self.rescan(d[key], randomize=False)
        return d
