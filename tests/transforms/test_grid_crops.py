import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import Compose, RandFlipd, SpatialPad

from monai_ext.base.errors import InputError
from monai_ext.data import CropDataset
from monai_ext.transforms import GridCrops, GridCropsd


@pytest.mark.parametrize(("shape", "count"), [((600, 700), 12), ((224, 224), 1), ((225, 448), 4), ((100, 500), 3)])
def test_crops_cover_the_tile(shape, count):
    """Every pixel is numbered; all numbers come back, and nothing but tissue."""
    image = torch.arange(shape[0] * shape[1], dtype=torch.float64).reshape(1, *shape)
    crops = GridCrops(224)(image)
    assert [tuple(crop.shape) for crop in crops] == [(1, 224, 224)] * count
    assert torch.equal(torch.unique(torch.stack(crops)), image.flatten())
    inside = [crop for crop in crops if shape[0] >= 224]
    assert all(torch.equal(crop[0, :, 1:] - crop[0, :, :-1], torch.ones(224, 223).double()) for crop in inside)


@pytest.mark.parametrize("shape", [(224, 224), (150, 200), (224, 180)])
def test_tiles_up_to_the_size_are_one_crop_mirrored_outwards(shape):
    image = torch.rand(3, *shape)
    (crop,) = GridCrops(224)(image)
    assert torch.equal(crop, SpatialPad((224, 224), mode="reflect")(image).as_tensor())


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor], ids=["array", "tensor", "meta"])
def test_kinds_and_types(kind):
    image = np.random.default_rng(0).integers(0, 255, (3, 50, 70), np.uint8)
    crops = GridCrops(32)(kind(image))
    assert len(crops) == 6
    assert all(crop.dtype == torch.uint8 for crop in crops)
    assert np.array_equal(np.asarray(crops[-1]), image[:, 18:, 38:])
    assert crops[0].untyped_storage().nbytes() == 3 * 32 * 32, "a crop keeps its own pixels alone"


def test_a_crop_keeps_what_else_is_known_of_its_tile():
    image = MetaTensor(torch.rand(3, 70, 40), meta={"filename_or_obj": "tile.png", "mpp": 0.25})
    crops = GridCropsd("image", 32)({"image": image, "label": 1, "group": "slide"})
    assert len(crops) == 3 * 2
    assert all((crop["label"], crop["group"]) == (1, "slide") for crop in crops)
    assert {crop["image"].meta["filename_or_obj"] for crop in crops} == {"tile.png"}


@pytest.mark.parametrize("rate", [1.0, 0.0])
def test_a_data_set_of_crops_has_batches_of_one_size(rate):
    images = [torch.full((1, 40, 90), 1.0), torch.full((1, 32, 32), 2.0), torch.full((1, 32, 33), 3.0)]
    cut = Compose([GridCropsd("image", 32)])
    tiles = CacheDataset([{"image": i, "label": n} for n, i in enumerate(images)], cut, cache_rate=rate, progress=False)

    def spoil(item):
        item["image"] += 10  # the cache must not see it
        return item

    crops = CropDataset(tiles, Compose([spoil, RandFlipd("image", prob=0.5)]))
    assert len(crops) == 6 + 1 + 2
    for _ in range(2):
        assert [crop["label"] for crop in crops] == [0] * 6 + [1] + [2] * 2
        assert [float(crop["image"].mean()) for crop in crops] == [11.0] * 6 + [12.0] + [13.0] * 2
    assert len(crops[2:5]) == 3


def test_unusable_sizes():
    for size in (0, 2.5, True):
        with pytest.raises(InputError, match="GridCrops size: expected px"):
            GridCrops(size)
