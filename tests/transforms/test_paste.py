"""Pasted nuclei and glass: what the maps say must be what the image shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from scipy.ndimage import binary_erosion

from monai_ext.base.errors import InputError
from monai_ext.transforms import RandPasteGlassd, RandPasteNucleid

DARK, LIGHT = 60, 220


def field(*discs, shape=(120, 140)):
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    ids = np.zeros(shape, np.int32)
    for number, (row, col, radius) in enumerate(discs, 1):
        ids[(rows - row) ** 2 + (cols - col) ** 2 <= radius**2] = number
    image = np.where(ids > 0, DARK, LIGHT).astype(np.uint8)[None].repeat(3, 0)
    return {"image": image, "label": ids[None]}


THREE = (30, 30, 9), (30, 90, 8), (85, 60, 10)


def paste(item, seed=0, **options):
    return RandPasteNucleid(**{"prob": 1.0, "vesicular": 0.0, **options}).set_random_state(seed)(item)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_the_maps_say_what_the_image_shows(seed):
    item = paste(field(*THREE), seed)
    ids, image = item["label"][0], item["image"][0].astype(int)
    inside = np.zeros(ids.shape, bool)
    for number in np.unique(ids[ids > 0]):
        inside |= binary_erosion(ids == number, iterations=4)  # away from blended edges
    outside = binary_erosion(ids == 0, iterations=4, border_value=1)
    assert (image[inside] < DARK + 40).all()
    assert (image[outside] > LIGHT - 40).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_at_least_half_of_what_was_there_at_each_paste_stays(seed):
    before = field(*THREE)
    ids = paste(before, seed, most=0.1)["label"][0]
    for number in (1, 2, 3):
        # eight copies at most, each may hide half of what is left
        assert (ids == number).sum() >= (before["label"][0] == number).sum() * 0.5**8
    assert (ids == before["label"][0])[ids <= 3].mean() > 0.9  # copies get numbers of their own


def test_vesicular_copies_are_light_inside():
    light = 0
    for seed in range(10):
        item = paste(field(*THREE), seed, vesicular=1.0)
        ids, image = item["label"][0], item["image"][0].astype(int)
        inside = np.zeros(ids.shape, bool)
        for number in np.unique(ids[ids > 3]):
            inside |= binary_erosion(ids == number, iterations=4)
        light += (image[inside] > DARK + 40).sum()
    assert light > 500


def test_some_copies_touch_others():
    touching = 0
    for seed in range(20):
        ids = paste(field(*THREE), seed)["label"][0]
        one, other = ids[:, :-1], ids[:, 1:]
        touching += ((one != other) & (one > 0) & (other > 0)).any()
    assert touching >= 10


def test_all_maps_get_the_copies_and_they_are_known():
    item = field(*THREE)
    item["found"] = np.where(item["label"] == 1, 1, 0)
    item["known"] = np.zeros(item["label"].shape, bool)
    for seed in range(10):
        out = paste(item, seed, mask_keys=["label", "found"])
        new = (out["label"] > 3) & (out["label"] != item["label"])
        np.testing.assert_array_equal(out["label"][new], out["found"][new])
        assert out["known"][new].all()
        assert new.any() == out["known"].any()
        assert out["known"].dtype == bool
        np.testing.assert_array_equal(item["known"], 0)  # what was given stays
    assert "known" not in paste(field(*THREE))


@pytest.mark.parametrize(
    "item",
    [
        field(),  # none
        field((0, 0, 20), (119, 139, 20)),  # cut by the border
        field((50, 50, 10), (50, 70, 10)),  # touching
    ],
)
def test_without_a_whole_nucleus_alone_nothing_changes(item):
    for seed in range(5):
        out = paste(item, seed)
        np.testing.assert_array_equal(out["image"], item["image"])
        np.testing.assert_array_equal(out["label"], item["label"])


def test_never_and_reproducible():
    item = field(*THREE)
    np.testing.assert_array_equal(paste(item, prob=0.0)["label"], item["label"])
    one, other = paste(item, 5), paste(item, 5)
    np.testing.assert_array_equal(one["image"], other["image"])
    assert (paste(item, 6)["label"] != one["label"]).any()


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_kinds_and_types_stay(kind):
    item = field(*THREE)
    out = paste({key: kind(value) for key, value in item.items()})
    for key, value in item.items():
        assert type(out[key]) is type(kind(value))
        assert out[key].dtype == kind(value).dtype
    np.testing.assert_array_equal(np.asarray(out["label"]), paste(item)["label"])


def test_arguments_out_of_range():
    with pytest.raises(InputError, match="prob: expected a share"):
        RandPasteNucleid(prob=2)
    with pytest.raises(InputError, match="min_solidity: expected a share"):
        RandPasteNucleid(min_solidity=-1)
    with pytest.raises(InputError, match="most: expected a number of at least 0"):
        RandPasteNucleid(most=-1)
    item = field(*THREE)
    with pytest.raises(InputError, match="the image's size"):
        paste({**item, "label": item["label"][:, :-1]})


def glass(item, seed=0, **options):
    return RandPasteGlassd(**{"prob": 1.0, **options}).set_random_state(seed)(item)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_glass_is_light_and_known_and_spares_nuclei(seed):
    item = field(*THREE)
    item["image"][item["label"].repeat(3, 0) == 0] = 140
    item["known"] = np.zeros(item["label"].shape, bool)
    out = glass(item, seed, most=0.4)
    known = out["known"][0]
    assert known.mean() <= 0.41
    core = binary_erosion(known, iterations=4)
    assert (out["image"][:, core] > 215).all()
    assert not (known & (item["label"][0] > 0)).any()
    np.testing.assert_array_equal(out["image"][:, item["label"][0] > 0], item["image"][:, item["label"][0] > 0])
    np.testing.assert_array_equal(out["label"], item["label"])
    far = binary_erosion(~known, iterations=8, border_value=1)
    np.testing.assert_array_equal(out["image"][:, far], item["image"][:, far])


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
def test_glass_keeps_kinds_and_types(kind):
    item = field(*THREE)
    out = glass({key: kind(value) for key, value in item.items()}, 3)
    for key, value in item.items():
        assert type(out[key]) is type(kind(value))
        assert out[key].dtype == kind(value).dtype
    np.testing.assert_array_equal(np.asarray(out["image"]), glass(item, 3)["image"])
    np.testing.assert_array_equal(glass(item, prob=0.0)["image"], item["image"])


def test_arguments_of_glass_out_of_range():
    with pytest.raises(InputError, match="most: expected a share"):
        RandPasteGlassd(most=1.1)
    with pytest.raises(InputError, match="cells: expected two numbers"):
        RandPasteGlassd(cells=(4, 3))
    item = field(*THREE)
    with pytest.raises(InputError, match="the image's size"):
        glass({**item, "label": item["label"][:, :-1]})
