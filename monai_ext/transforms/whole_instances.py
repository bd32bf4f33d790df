"""Instances in one piece each, none below a least area in um2."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy

from monai_ext.base.errors import InputError
from monai_ext.instances.pieces import whole_instances

__all__ = ["WholeInstances", "WholeInstancesd"]


class WholeInstances(Transform):
    """Leave the largest piece of each instance, and leave out those below a least area.

    Pieces are of pixels that share a side; see :func:`~monai_ext.instances.whole_instances` for why they are not
    joined. Where an image's resolution is unknown, the least area is one in px of the network's grid: what it has at
    ``mpp``.

    Args:
        min_area_um2: smaller instances are left out; 0 for none.
        unscaled_area_um2: the same where a call does not say the resolution; default ``min_area_um2``.
        mpp: um per px, where a call does not say; only needed for a least area.

    Raises:
        InputError: a negative area.

    Examples:
        >>> from monai_ext.transforms import WholeInstances
        >>> instances = np.zeros((1, 20, 20), np.int32)
        >>> instances[0, 2:8, 2:8] = instances[0, 12, 12] = 4  # a nucleus and a speck of its mask
        >>> instances[0, 15:17, 15:17] = 9  # 1 um2 at .5 um/px
        >>> whole = WholeInstances(min_area_um2=2)(instances, mpp=0.5)
        >>> int(whole.max()), int((whole > 0).sum())
        (1, 36)
    """

    def __init__(
        self, min_area_um2: float = 0.0, *, unscaled_area_um2: float | None = None, mpp: float | None = None
    ) -> None:
        unscaled = min_area_um2 if unscaled_area_um2 is None else unscaled_area_um2
        for name, value in {"min_area_um2": min_area_um2, "unscaled_area_um2": unscaled}.items():
            if not value >= 0:
                raise InputError(name, "a least area of at least 0", repr(value))
        self.min_area_um2, self.unscaled_area_um2, self.mpp = float(min_area_um2), float(unscaled), mpp

    def __call__(self, instances: NdarrayOrTensor, mpp: float | None = None) -> NdarrayOrTensor:
        """Apply the rule.

        Args:
            instances: integers ``(1, H, W)`` or ``(H, W)``, 0 is background; array, tensor on any device, or
                MetaTensor.
            mpp: um per px; ``None`` or 0 where it is unknown.

        Returns:
            int32 map of the input's shape and kind, numbered from 1 without gaps in the order of the ids.

        Raises:
            InputError: there is a least area, and neither the call nor the constructor says the resolution.
        """
        least = self.min_area_um2 if mpp else self.unscaled_area_um2
        scale = float(mpp or self.mpp or 0)
        if least and scale <= 0:
            raise InputError("WholeInstances mpp", "um per px, for a least area in um2", "none")
        values = convert_to_numpy(instances)
        whole, _ = whole_instances(values.reshape(values.shape[-2:]), least / scale**2 if least else 0)
        return convert_to_dst_type(whole.reshape(values.shape), instances, dtype=np.int32)[0]


class WholeInstancesd(MapTransform):
    """Dictionary twin of :class:`WholeInstances`; the maps are replaced.

    Args:
        keys: keys of instance maps ``(1, H, W)``.
        image_key: an image, a MetaTensor, whose metadata may give ``mpp``, as ``LoadFieldd`` writes it.
        allow_missing_keys: whether a missing key is left alone.
        **options: arguments of :class:`WholeInstances`.

    Examples:
        >>> from monai.data import MetaTensor
        >>> from monai_ext.transforms import WholeInstancesd
        >>> item = {"instances": torch.zeros(1, 20, 20, dtype=torch.int32)}
        >>> item["instances"][0, :4, :4] = 1  # 16 px
        >>> item["source"] = MetaTensor(torch.zeros(3, 20, 20), meta={"mpp": 0.5})
        >>> int(WholeInstancesd(min_area_um2=5)(item)["instances"].max())
        0
    """

    def __init__(
        self,
        keys: KeysCollection = "instances",
        image_key: str = "source",
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.keep = image_key, WholeInstances(**options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the rule to each key."""
        d = dict(data)
        image = d.get(self.image_key)
        mpp = image.meta.get("mpp") if isinstance(image, MetaTensor) else None
        for key in self.key_iterator(d):
            d[key] = self.keep(d[key], mpp)
        return d
