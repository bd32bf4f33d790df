"""Radiographs and their masks, as a network is trained on them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.transforms import LoadFieldd, LoadRadiographd

SHAPE = (200, 150)


@pytest.fixture
def item(tmp_path):
    """A breast in black air, and a mask as JPEG makes it."""
    image, mask = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    image[50:150, :60] = 120
    mask[80:110, 20:50] = 255
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "m.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 60])
    return {"image": str(tmp_path / "a.png"), "label": str(tmp_path / "m.jpg")}


def test_black_stays_black(item):
    loaded = LoadRadiographd("image", mask_keys=["label"])(item)
    assert loaded["image"].shape == (3, *SHAPE)
    assert loaded["image"][:, 0, 0].tolist() == [0, 0, 0]
    assert loaded["image"].unique().tolist() == [0, 120]
    assert loaded["image"].meta["filename_or_obj"] == item["image"]
    assert LoadFieldd("image")(item)["image"][:, 0, 100].tolist() == [255] * 3, "what a field's loader makes of the air"


def test_masks_are_binary(item, tmp_path):
    assert len(np.unique(cv2.imread(item["label"], cv2.IMREAD_UNCHANGED))) > 2
    label = LoadRadiographd("image", mask_keys=["label"])(item)["label"]
    assert label.dtype == torch.int32
    assert label.unique().tolist() == [0, 1]
    assert int(label.sum()) == pytest.approx(900, abs=20)
    cv2.imwrite(str(tmp_path / "one.png"), np.eye(*SHAPE, dtype=np.uint8))
    assert (
        int(LoadRadiographd("image", mask_keys=["label"])(item | {"label": str(tmp_path / "one.png")})["label"].sum())
        == 150
    )


def test_a_mask_of_another_size(item, tmp_path):
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((20, 15), np.uint8))
    with pytest.raises(
        InputError, match=r"small\.png: expected a mask of its image's size \(200, 150\), found \(20, 15\)"
    ):
        LoadRadiographd("image", mask_keys=["label"])(item | {"label": str(tmp_path / "small.png")})
