"""A vessel without the tissue around it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy

from monai_ext.data.vessels import keep_lumen

__all__ = ["KeepLumen", "KeepLumend"]


class KeepLumen(Transform):
    """Whitens what lies beyond a vessel's lumen (Zhang et al., CVPR 2023, section 3).

    Examples:
        >>> from monai_ext.transforms import KeepLumen
        >>> image, lumen = np.full((3, 1, 4), 128, np.uint8), np.array([[[0, 1, 1, 0]]])
        >>> KeepLumen()(image, lumen)[0].tolist()
        [[255, 128, 128, 255]]
    """

    def __call__(self, image: NdarrayOrTensor, lumen: NdarrayOrTensor, where: str = "mask") -> NdarrayOrTensor:
        """Remove the tissue.

        Args:
            image: uint8 ``(C, H, W)``.
            lumen: ``(1, H, W)``, 0 beyond the lumen.
            where: the mask's file, for the error.

        Returns:
            An image of the kind that was given.

        Raises:
            InputError: a mask that does not fit its image, or an empty one.
        """
        kept = keep_lumen(convert_to_numpy(image), convert_to_numpy(lumen), where)
        return convert_to_dst_type(kept, image, dtype=image.dtype)[0]


class KeepLumend(MapTransform):
    """Dictionary twin of :class:`KeepLumen`; a vessel without a mask is taken as it is.

    Args:
        keys: images ``(C, H, W)``.
        mask_key: the lumen ``(1, H, W)``, which is dropped.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import KeepLumend
        >>> item = {"image": torch.full((3, 1, 4), 128, dtype=torch.uint8), "mask": torch.tensor([[[0, 1, 1, 0]]])}
        >>> item = KeepLumend("image")(item)
        >>> item["image"][0].tolist(), list(item)
        ([[255, 128, 128, 255]], ['image'])
    """

    def __init__(self, keys: KeysCollection, mask_key: str = "mask", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key = mask_key
        self.keep = KeepLumen()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Whiten the tissue of each image."""
        d = dict(data)
        if self.mask_key not in d:
            return d
        lumen = d.pop(self.mask_key)
        for key in self.key_iterator(d):
            name = getattr(d[key], "meta", {}).get("filename_or_obj")
            d[key] = self.keep(d[key], lumen, f"{self.mask_key} of {name}" if name else self.mask_key)
        return d
