"""Single crops as the items of a data set whose images become several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from monai.data import Dataset

__all__ = ["CropDataset"]


class CropDataset(Dataset):
    """Every crop of every image is an item, so that batches, shuffling and scores are of crops.

    A transform that returns a list, such as :class:`~monai_ext.transforms.GridCropsd`, would otherwise make batches of
    as many crops as the drawn images happen to have.

    Args:
        data: a map-style data set whose items are lists of dictionaries; each image is read once here, to count its
            crops, and again for each crop unless ``data`` keeps it (``CacheDataset``).
        transform: of a crop; what is random belongs here.

    Examples:
        >>> from monai_ext.data import CropDataset
        >>> crops = CropDataset([[{"image": 1}, {"image": 2}], [{"image": 3}]])
        >>> [crop["image"] for crop in crops]
        [1, 2, 3]
    """

    def __init__(
        self, data: Sequence[Sequence[Mapping[str, Any]]], transform: Callable[[Any], Any] | None = None
    ) -> None:
        super().__init__(data, transform)
        self.places = [(number, crop) for number in range(len(data)) for crop in range(len(data[number]))]

    def __len__(self) -> int:
        return len(self.places)

    def _transform(self, index: int) -> Any:
        number, crop = self.places[index]
        item = deepcopy(self.data[number][crop])  # a cache hands out its own
        return item if self.transform is None else self.transform(item)
