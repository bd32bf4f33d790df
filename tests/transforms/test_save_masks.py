import json

import cv2
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.data.datalist import check_mask_item, load_datalist
from monai_ext.formats.image import read_mask
from monai_ext.transforms import LoadFieldd, SaveMasksd

SHAPE = (40, 60)
PARTS = ("training", "validation")


def squares(shape=SHAPE, numbers=(1, 2)):
    ids = np.zeros(shape, np.int32)
    for place, number in enumerate(numbers):
        ids[4:16, 20 * place + 2 : 20 * place + 14] = number
    return ids


def data_set(folder, names=("a.png", "b.png"), split=len):
    """Images of noise, all with one instance map; the last one is for validation."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    items = []
    for seed, name in enumerate(names):
        image = np.random.default_rng(seed).integers(0, 255, (*SHAPE, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / name), image)
        tifffile.imwrite(folder / "labels/all.tif", squares(numbers=(1,)).astype(np.uint16))
        items.append({"image": f"images/{name}", "label": "labels/all.tif", "group": f"slide {seed}", "mpp": 0.25})
    (folder / "dataset.json").write_text(json.dumps({"training": items[:-1], "validation": items[-1:]}))
    return folder


def loaded(item, target_mpp=None):
    return LoadFieldd("image", target_mpp=target_mpp)(item)["image"]


def lists_of(folder):
    return load_datalist(folder, PARTS, check_mask_item)


def read_again(path):
    return load_datalist(path.parent, PARTS, check_mask_item, optional_path_keys=["known"])


def test_maps_take_the_place_of_the_training_labels(tmp_path):
    lists = lists_of(data_set(tmp_path / "data", ("a.png", "b.png", "c.png")))
    save = SaveMasksd(["seeds", "known"], ["label", "known"], tmp_path / "out", lists)
    known = np.indices(SHAPE)[0] > 10
    for number, item in enumerate(lists["training"]):
        maps = {"seeds": squares(numbers=(7, 300 + number))[None], "known": torch.from_numpy(known[None])}
        data = {"source": loaded(item), **maps}
        assert save(data).keys() == data.keys()
    found = read_again(save.close("a seed"))
    assert [item["image"] for item in found["training"]] == [
        str(tmp_path / "out" / "../data/images" / name) for name in ("a.png", "b.png")
    ]
    for number, item in enumerate(found["training"]):
        np.testing.assert_array_equal(read_mask(item["label"]), squares(numbers=(7, 300 + number)))
        np.testing.assert_array_equal(read_mask(item["known"]), known)
        assert (item["group"], item["mpp"]) == (f"slide {number}", 0.25)
    (other,) = found["validation"]
    assert "known" not in other
    np.testing.assert_array_equal(read_mask(other["label"]), squares(numbers=(1,)))  # as it was


def test_paths_are_relative_to_the_data_set(tmp_path):
    folder = data_set(tmp_path / "data")
    lists = lists_of(folder)
    save = SaveMasksd("seeds", "label", folder / "seeds", lists)
    save({"source": loaded(lists["training"][0]), "seeds": squares()[None]})
    content = json.loads(save.close().read_text())
    assert content["training"][0]["image"] == "../images/a.png"
    assert content["training"][0]["label"] == "label/a.tif"
    assert content["validation"][0]["label"] == "../labels/all.tif"
    folder.rename(tmp_path / "moved")  # both go together
    assert read_again(tmp_path / "moved/seeds/dataset.json")


@pytest.mark.parametrize("target", [0.5, 1.0, 0.125])
@pytest.mark.parametrize("highest", [2, 70_000])
def test_maps_have_the_size_of_the_file(target, highest, tmp_path):
    lists = lists_of(data_set(tmp_path / "data"))
    image = loaded(lists["training"][0], target)
    factor = 0.25 / target
    assert image.shape[1:] == tuple(round(side * factor) for side in SHAPE)
    ids = squares(numbers=(1, highest))
    small = cv2.resize(ids.astype(np.float32), image.shape[:0:-1], interpolation=cv2.INTER_NEAREST_EXACT)
    save = SaveMasksd(["seeds", "known"], ["label", "known"], tmp_path / "out", lists)
    save({"source": image, "seeds": small.astype(np.int32)[None], "known": small[None] > 0})
    item = read_again(save.close())["training"][0]  # whose check compares the sizes
    written = read_mask(item["label"])
    assert written.shape == SHAPE
    assert set(np.unique(written)) == {0, 1, highest}
    coarse = max(1, round(1 / factor))  # px of the file in one of the map
    differ = (written != ids).any(axis=0).sum()
    assert differ <= 4 * coarse
    np.testing.assert_array_equal(read_mask(item["known"]) > 0, written > 0)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (squares(numbers=(1, 65_535)), np.uint16),
        (squares(numbers=(1, 65_536)), np.int32),
        (squares(numbers=()), np.uint16),
        (squares() > 0, np.uint8),
    ],
    ids=["16 bits", "32 bits", "empty", "mask"],
)
def test_maps_are_as_small_as_their_numbers_allow(values, dtype, tmp_path):
    lists = lists_of(data_set(tmp_path / "data"))
    save = SaveMasksd("seeds", "label", tmp_path / "out", lists)
    save({"source": loaded(lists["training"][0]), "seeds": values[None]})
    written = tifffile.imread(tmp_path / "out/label/a.tif")
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, values)


def test_images_that_differ_in_their_suffix_have_maps_of_their_own(tmp_path):
    lists = lists_of(data_set(tmp_path / "data", ("a.png", "a.tif", "b.png")))
    save = SaveMasksd("seeds", "label", tmp_path / "out", lists)
    for number, item in enumerate(lists["training"]):
        save({"source": loaded(item), "seeds": squares(numbers=(number + 5,))[None]})
    found = read_again(save.close())["training"]
    assert [read_mask(item["label"]).max() for item in found] == [5, 6]


def test_nothing_found_is_an_error_where_something_is_needed(tmp_path):
    lists = lists_of(data_set(tmp_path / "data", ("a.png", "b.png", "c.png")))
    save = SaveMasksd(["seeds", "known"], ["label", "known"], tmp_path / "out", lists)
    known = {"known": np.ones((1, *SHAPE), bool)}  # background is known, which makes no seed
    for item in lists["training"]:
        save({"source": loaded(item), "seeds": np.zeros((1, *SHAPE), np.int32), **known})
    with pytest.raises(InputError, match=r"out: expected at least one seed, found none in 2 images"):
        save.close("at least one seed")
    assert not (tmp_path / "out/dataset.json").exists()
    assert save.close().is_file()  # fine where nothing is needed
    save({"source": loaded(lists["training"][0]), "seeds": squares()[None], **known})
    assert save.close("at least one seed").is_file()


def test_a_chain_of_data_sets(tmp_path):
    """Masks of masks: the images lie outside the folder of the list that is read."""
    data = data_set(tmp_path / "data")
    lists = lists_of(data)
    first = SaveMasksd("seeds", "label", tmp_path / "cycle/seeds", lists)
    first({"source": loaded(lists["training"][0]), "seeds": squares(numbers=(1,))[None]})
    lists = load_datalist(first.close().parent, PARTS, check_mask_item)
    second = SaveMasksd(["label", "found"], ["label", "found"], tmp_path / "cycle/masks_1", lists)
    maps = {"label": squares(numbers=(1, 2))[None], "found": squares(numbers=(3,))[None]}
    second({"source": loaded(lists["training"][0]), **maps})
    found = load_datalist(second.close().parent, PARTS, check_mask_item, optional_path_keys=["found"])
    (item,) = found["training"]
    assert (tmp_path / "data/images/a.png").samefile(item["image"])
    for name, expected in maps.items():
        np.testing.assert_array_equal(read_mask(item[name]), expected[0])
    written = (tmp_path / "cycle/masks_1").glob("*/*")
    assert {"/".join(path.parts[-2:]) for path in written} == {"found/a.tif", "label/a.tif"}
    assert (data / "labels/all.tif").samefile(found["validation"][0]["label"])


def test_an_image_without_a_file(tmp_path):
    lists = lists_of(data_set(tmp_path / "data"))
    save = SaveMasksd("seeds", "label", tmp_path / "out", lists)
    with pytest.raises((InputError, KeyError)):
        save({"source": MetaTensor(torch.zeros(3, *SHAPE)), "seeds": squares()[None]})
