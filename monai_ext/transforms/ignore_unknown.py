"""Labels hold where something is known."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform

from monai_ext.transforms.concentric import IGNORED

__all__ = ["IgnoreUnknownd"]


class IgnoreUnknownd(MapTransform):
    """Overwrite label maps where nothing is known, so that a loss leaves these pixels out.

    Args:
        keys: keys of label maps ``(1, H, W)``.
        known_key: of a mask ``(1, H, W)``, not 0 where the label is known; an item without it is known as a whole.
        value: what such a loss leaves out, as ``ConcentricLoss`` and ``KnownPixels`` do.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import IgnoreUnknownd
        >>> item = {"label": torch.tensor([[[0, 1, 1]]]), "known": torch.tensor([[[1, 1, 0]]])}
        >>> IgnoreUnknownd("label")(item)["label"].tolist()
        [[[0, 1, 255]]]
    """

    def __init__(
        self,
        keys: KeysCollection = "label",
        known_key: str = "known",
        value: int = IGNORED,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.known_key, self.value = known_key, value

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, NdarrayOrTensor]:
        """Overwrite; the maps become tensors."""
        d = dict(data)
        known = d.get(self.known_key)
        for key in () if known is None else self.key_iterator(d):
            d[key] = torch.as_tensor(d[key]).masked_fill(torch.as_tensor(known) == 0, self.value)
        return d
