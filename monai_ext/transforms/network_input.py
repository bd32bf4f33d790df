"""Images as a network takes them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

__all__ = ["NetworkInputd"]


class NetworkInputd(MapTransform):
    """Turns RGB images into a network's input, the dictionary twin of :class:`~monai_ext.networks.InputConvention`.

    Args:
        keys: of images ``(3, H, W)``, or batches of them, 0 to 255; they become float32 tensors without metadata.
        convention: what the network's weights were trained with.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import NetworkInputd
        >>> to_input = NetworkInputd("image", lambda image: (image.float() - 128) / 64)
        >>> to_input({"image": np.full((3, 1, 2), 192, np.uint8)})["image"][0].tolist()
        [[1.0, 1.0]]
    """

    def __init__(
        self, keys: KeysCollection, convention: Callable[[Any], Any], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.convention = convention

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the images."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.convention(convert_to_tensor(d[key], track_meta=False))
        return d
