"""Writing what inference made of each image, the moment it is there."""

from __future__ import annotations

from collections.abc import Callable

from monai.handlers import PostProcessing
from monai.transforms import Compose

from monai_ext.data.cohort import Cohort
from monai_ext.transforms.mark_done import MarkDoned

__all__ = ["WriteResults"]


class WriteResults(PostProcessing):
    """Saves an image's results, then marks the image as done, in this order: what is done has been written.

    Args:
        save: the dictionary transform that writes.
        cohort: whose images these are.
        key: entry with the image as it was read, whose metadata name the file.
    """

    def __init__(self, save: Callable, cohort: Cohort, key: str = "source") -> None:
        super().__init__(Compose([save, MarkDoned(key, cohort)]))
