"""A square of an image, with one label."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monai_ext.base.files import write_png
from monai_ext.base.threads import cache_in_threads
from monai_ext.data.tiles import LABEL_FOLDERS
from monai_ext.formats.image import read_field
from monai_ext.prepare.samples import Sample

__all__ = ["Tile", "image_pixels"]


@cache_in_threads(8)  # the tiles of an image come one after the other
def image_pixels(path: Path) -> np.ndarray:
    """``(H, W, 3)`` uint8 RGB of an image file."""
    return np.moveaxis(read_field(path).image, 0, -1)


@dataclass(eq=False)
class Tile(Sample):
    """A square of an image."""

    image: Path
    corner: tuple[int, int]
    size: int
    label: int
    mpp: float | None

    @property
    def labels(self) -> int:
        """The label."""
        return self.label

    def check(self) -> list[str]:
        """The image was read to find the square."""
        return []

    def write(self, dst: Path, link: bool) -> dict[str, object]:  # noqa: ARG002 - there is no file to link
        """The pixels, in the folder of its label."""
        relative_path = f"{LABEL_FOLDERS[self.label]}/{self.name}.png"
        write_png(dst / relative_path, self.pixels())
        entry: dict[str, object] = {"image": relative_path, "label": self.label}
        return entry if self.mpp is None else entry | {"mpp": self.mpp}

    def pixels(self) -> np.ndarray:
        """``(size, size, 3)`` uint8 RGB."""
        row, col = self.corner
        return image_pixels(self.image)[row : row + self.size, col : col + self.size]
