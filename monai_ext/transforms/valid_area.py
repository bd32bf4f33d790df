"""Nothing is predicted where an image holds no data."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform

__all__ = ["KeepValidd"]


class KeepValidd(MapTransform):
    """Overwrite maps where their image was not scanned, or was filled up: there are no nuclei, and nothing to score.

    Networks see white there, but a shadow at the edge of data may still look like something. Comes first of what is
    done with a network's output.

    Args:
        keys: keys of maps ``(C, H, W)``.
        fill: the value that stands for nothing; by default a logit that no sigmoid, float16 or not, tells from 0.
        valid_key: of the bool ``(1, H, W)`` that :class:`~monai_ext.transforms.LoadFieldd` leaves; an item without it
            is data as a whole.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import KeepValidd
        >>> item = {"pred": torch.ones(1, 1, 3), "valid": torch.tensor([[[True, True, False]]])}
        >>> KeepValidd("pred")(item)["pred"].tolist()
        [[[1.0, 1.0, -20.0]]]
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        fill: float = -20.0,
        valid_key: str = "valid",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.fill, self.valid_key = fill, valid_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, NdarrayOrTensor]:
        """Overwrite; maps that need it are copied."""
        d = dict(data)
        valid = d.get(self.valid_key)
        for key in () if valid is None else self.key_iterator(d):
            outside = ~torch.as_tensor(valid, dtype=torch.bool, device=d[key].device)
            d[key] = d[key].masked_fill(outside, self.fill)
        return d
