"""Keeping the state file of an inference run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.transforms import MapTransform

from monai_ext.data.cohort import Cohort

__all__ = ["MarkDoned"]


class MarkDoned(MapTransform):
    """Records that an image is done; the last transform of an inference's post-processing.

    Args:
        keys: keys of MetaTensors that name their file.
        cohort: whose images they are.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.data import Cohort
        >>> from monai_ext.transforms import LoadFieldd, MarkDoned
        >>> Image.fromarray(np.full((20, 30, 3), 255, np.uint8)).save(folder / "field.png")
        >>> cohort = Cohort(folder / "field.png", folder / "out")
        >>> _ = MarkDoned("image", cohort)(LoadFieldd()(cohort.items[0]))
        >>> [entry["status"] for entry in cohort.state.values()]
        ['done']
    """

    def __init__(self, keys: str | Sequence[str], cohort: Cohort) -> None:
        super().__init__(keys)
        self.cohort = cohort

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Record the images of one item."""
        for key in self.key_iterator(data):
            self.cohort.done(str(data[key].meta["filename_or_obj"]))
        return dict(data)
