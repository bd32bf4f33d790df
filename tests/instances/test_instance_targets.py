import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.instances.targets import check_targets, collate_targets, instances_to_target, target_to_instances
from tests.discs import disc_image, grid_ids

GAPPED = np.array([[[0, 5, 5, 0], [200, 5, 0, 0], [200, 0, 0, 9]]])  # 5 and 200 touch


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float32]
)
def test_maps_of_any_width(dtype):
    ids = np.where(GAPPED == 200, 100, GAPPED).astype(dtype)
    for kind in (ids, MetaTensor(torch.from_numpy(ids.astype(np.float32)))):
        target = instances_to_target(kind)
        assert type(target["masks"]) is torch.Tensor
        assert torch.equal(target["masks"], torch.from_numpy(np.concatenate([k == GAPPED for k in (5, 9, 200)])))
        assert target["boxes"].tolist() == [[1, 0, 3, 2], [3, 2, 4, 3], [0, 1, 1, 3]]
        assert target["weights"].tolist() == [1, 1, 1]
        assert target["known"] is None
        assert target_to_instances(target).tolist() == [[[0, 1, 1, 0], [3, 1, 0, 0], [3, 0, 0, 2]]]


def test_ids_beyond_sixteen_bits():
    ids = np.zeros((1, 3, 4), np.uint32)
    ids[0, 0, 0], ids[0, 2, 3] = 4_000_000_000, 70_000
    assert instances_to_target(ids)["boxes"].tolist() == [[3, 2, 4, 3], [0, 0, 1, 1]]


def test_weights_and_what_is_known():
    target = instances_to_target(GAPPED, weights=0.34, known=np.ones((1, 3, 4), np.uint8))
    assert target["weights"].tolist() == pytest.approx([0.34] * 3)
    assert target["known"].all()
    assert target["known"].dtype == torch.bool
    each = torch.tensor([1, 0, 0.5])
    assert torch.equal(instances_to_target(GAPPED, each)["weights"], each)


def test_no_nuclei():
    target = instances_to_target(np.zeros((1, 5, 6), np.uint8))
    assert [tuple(target[key].shape) for key in ("masks", "boxes", "weights")] == [(0, 5, 6), (0, 4), (0,)]
    assert not target_to_instances(target).any()
    assert check_targets(torch.rand(1, 3, 5, 6), [target])


def test_many_and_round_trip():
    ids = grid_ids(21)
    assert torch.equal(target_to_instances(instances_to_target(ids)).long(), ids)


def test_overlapping_masks_have_an_outcome():
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, 1:3, 1:3], masks[1, :, 2:5], masks[2, 1, 1] = True, True, True  # the last is covered
    target = {"masks": masks, "boxes": torch.rand(3, 4), "weights": torch.ones(3), "known": None}
    painted = target_to_instances(target)[0]
    assert torch.equal(painted == 1, masks[0])
    assert torch.equal(painted == 2, masks[1] & ~masks[0])
    assert painted.max() == 2


@pytest.mark.parametrize(
    ("instances", "expected"),
    [
        (GAPPED > 0, "integer instance ids"),
        (GAPPED / 2, "integer instance ids"),
        (-GAPPED, "instance ids >= 0"),
        (GAPPED[0], r"a map of shape \(1, H, W\)"),
        (GAPPED[None], r"a map of shape \(1, H, W\)"),
    ],
)
def test_unusable_maps(instances, expected):
    with pytest.raises(InputError, match=expected):
        instances_to_target(instances)


def test_as_many_weights_as_instances():
    with pytest.raises(InputError, match="one for each of 3 instances"):
        instances_to_target(GAPPED, [1.0, 2.0])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"masks": torch.zeros(5, 96, 96)}, "bool masks"),
        ({"masks": torch.zeros(5, 96, 96, dtype=torch.bool)}, "at least one pixel"),
        ({"masks": torch.ones(5, 96, 95, dtype=torch.bool)}, r"target 1, masks: expected shape \(5, 96, 96\)"),
        ({"boxes": torch.zeros(4, 4)}, r"target 1, boxes: expected shape \(5, 4\)"),
        ({"boxes": torch.zeros(5, 4)}, "an empty box"),
        ({"weights": -torch.ones(5)}, "at least 0"),
        ({"weights": torch.full((5,), torch.nan)}, "at least 0"),
        ({"known": torch.ones(1, 96, 96, dtype=torch.bool)}, r"known: expected shape \(96, 96\)"),
        ({"weights": None}, "weights: expected shape .* found none"),
    ],
)
def test_targets_that_do_not_fit(change, expected):
    image, ids = disc_image()
    target = instances_to_target(ids)
    assert len(check_targets(torch.stack([image, image]), [target, target])) == 2
    with pytest.raises(InputError, match=expected):
        check_targets(torch.stack([image, image]), [target, {**target, **change}])
    with pytest.raises(InputError, match="one for each of 2 images, found 1"):
        check_targets(torch.stack([image, image]), [target])


def item(seed, **more):
    image, ids = disc_image(seed, side=48, count=1 + seed)
    return {"image": MetaTensor(image), "label": instances_to_target(ids), **more}


def test_images_are_stacked_and_targets_listed():
    items = [item(0, name="a"), item(1, name="b"), item(2, name="c")]
    batch = collate_targets(items)
    assert batch.keys() == {"image", "label", "name"}
    assert type(batch["image"]) is torch.Tensor
    assert torch.equal(batch["image"], torch.stack([each["image"].as_tensor() for each in items]))
    assert [len(target["masks"]) for target in batch["label"]] == [1, 2, 3]
    assert all(found is each["label"] for found, each in zip(batch["label"], items, strict=True))
    assert batch["name"] == ["a", "b", "c"]


def test_patches_of_an_image_follow_one_another():
    first, second, third = item(0), item(1), item(2)
    batch = collate_targets([[first, second], third])
    assert batch["image"].shape == (3, 3, 48, 48)
    assert [len(target["masks"]) for target in batch["label"]] == [1, 2, 3]
    check_targets(batch["image"], batch["label"])


def test_images_of_two_sizes_are_no_batch():
    with pytest.raises(RuntimeError, match="size"):
        collate_targets([item(0), {**item(1), "image": torch.zeros(3, 48, 50)}])
