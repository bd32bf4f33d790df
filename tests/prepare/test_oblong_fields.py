"""Fields whose file states oblong pixels: copied as they are, cut as square ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_ext.formats.image import read_field
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields
from monai_ext.transforms import LoadFieldd


@pytest.mark.parametrize(("tile", "count"), [(None, 1), (64, 6)])
def test_oblong_pixels_are_copied_as_they_are_and_cut_as_square_ones(tile, count, tmp_path):
    """.25 um down and .5 across, with labels in px of the file."""
    labels = np.zeros((96, 80), np.int32)
    labels[20:40, 10:20], labels[60:80, 30:40] = 1, 2  # squares of 5 um
    resolution = {"resolution": (20_000, 40_000), "resolutionunit": "CENTIMETER"}
    image = np.full((96, 80, 3), 200, np.uint8)
    src = tmp_path / "src"
    src.mkdir()
    tifffile.imwrite(src / "a.tif", image, photometric="rgb", metadata=None, **resolution)
    assert read_field(src / "a.tif").image.shape == (3, 96, 160)
    source = FieldSource("g", "a", src / "a.tif", lambda _: Truth(labels))
    prepare_fields("oblong", src, tmp_path / "out", lambda *_: [source], tile=tile)
    lists = json.loads((tmp_path / "out" / "dataset.json").read_text())
    items = [item for part in ("training", "validation", "test") for item in lists.get(part, [])]
    assert len(items) == count
    seen = np.zeros((96, 160), bool)
    for item in items:
        paths = {key: str(tmp_path / "out" / item[key]) for key in ("image", "label")}
        square = LoadFieldd("image", mask_keys=["label"], target_mpp=0.25)(paths)
        assert square["image"].shape[1:] == square["label"].shape[1:]
        row, col = (0, 0) if tile is None else map(int, Path(item["image"]).stem.split("_")[-2:])
        height, width = square["label"].shape[1:]
        seen[row : row + height, col : col + width] |= np.asarray(square["label"])[0] > 0
    assert seen.sum() == 2 * 20 * 20
