"""PatchCamelyon: both layouts, splits, limits, damage."""

from __future__ import annotations

import csv
import json
from collections import Counter

import cv2
import h5py
import numpy as np
import pytest
import tifffile

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data import check_label_item, load_datalist
from monai_ext.prepare import prepare_pcam

PARTS = ("training", "validation", "test")
MPP = 0.972  # um/px: level 2 of slides at 0.243


def read(path):
    return load_datalist(
        path.parent,
        [part for part in PARTS if json.loads(path.read_text())[part]],
        check=check_label_item,
        path_keys=("image",),
    )


def patch(number):
    return np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)


def kaggle(src, count=40):
    (src / "train").mkdir(parents=True)
    (src / "test").mkdir()
    lines = ["id,label"]
    for number in range(count):
        tifffile.imwrite(src / "train" / f"{number:040x}.tif", patch(number))
        lines.append(f"{number:040x},{number % 4 == 0:d}")
    tifffile.imwrite(src / "test" / f"{'f' * 40}.tif", patch(0))
    (src / "train_labels.csv").write_text("\n".join(lines) + "\n")
    return src


def name(part, kind):
    return f"camelyonpatch_level_2_split_{part}_{kind}"


def hdf5(src, counts=None, slides=None, chunks=None):
    """Label = number % 2; patches of a part come from two slides of its own."""
    src.mkdir(parents=True, exist_ok=True)
    for offset, (part, count) in enumerate((counts or {"train": 12, "valid": 4, "test": 6}).items()):
        numbers = range(100 * offset, 100 * offset + count)
        with h5py.File(src / f"{name(part, 'x')}.h5", "w") as file:
            file.create_dataset(
                "x", data=np.stack([patch(n) for n in numbers]), chunks=chunks, compression=chunks and 4
            )
        with h5py.File(src / f"{name(part, 'y')}.h5", "w") as file:
            file["y"] = (np.array(numbers, np.uint8) % 2).reshape(-1, 1, 1, 1)
        if slides is not None:
            with (src / f"{name(part, 'meta')}.csv").open("w", newline="") as file:
                table = csv.writer(file)
                table.writerow(["", "coord_y", "coord_x", "tumor_patch", "center_tumor_patch", "wsi"])
                table.writerows([i, 6016, 63104, True, bool(n % 2), slides(part, n)] for i, n in enumerate(numbers))
    return src


def own_slide(part, number):
    return f"camelyon16_{part}_{number % 2}"


# ------------------------------------------------------------------------------------------------------------ Kaggle


def test_kaggle(tmp_path):
    src = kaggle(tmp_path / "src")
    lists = read(prepare_pcam(src, tmp_path / "dst"))
    assert [len(lists[part]) for part in PARTS] == [28, 4, 8], "70/10/20"
    assert [sum(item["label"] for item in lists[part]) for part in PARTS] == [7, 1, 2], "stratified"
    for item in (item for items in lists.values() for item in items):
        number = int(item["group"], 16)
        assert item["label"] == (number % 4 == 0)
        assert item["mpp"] == pytest.approx(MPP)
        np.testing.assert_array_equal(tifffile.imread(item["image"]), patch(number))


def test_kaggle_seeds_and_links(tmp_path):
    src = kaggle(tmp_path / "src")
    first = prepare_pcam(src, tmp_path / "a", link=True)
    again = prepare_pcam(src, tmp_path / "b")
    other = prepare_pcam(src, tmp_path / "c", seed=1)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    item = read(first)["test"][0]
    assert (src / "train" / f"{item['group']}.tif").samefile(item["image"])


def test_kaggle_problems_come_together(tmp_path):
    src = kaggle(tmp_path / "src")
    table = (src / "train_labels.csv").read_text().splitlines()
    table[3] = table[3][:-1] + "2"
    table[4] = table[4][:-1] + "0.0"
    (src / "train_labels.csv").write_text("\n".join([*table, table[5], "missing,1"]))
    broken = src / "train" / f"{7:040x}.tif"
    broken.write_bytes(broken.read_bytes()[:500])
    with pytest.raises(DataListError) as error:
        prepare_pcam(src, tmp_path / "dst")
    for words in ("found '2'", "found '0.0'", "each id once", "missing.tif: expected a patch", f"{broken}: expected a"):
        assert any(words in line for line in error.value.problems), words
    assert len(error.value.problems) == 5


def test_kaggle_without_columns(tmp_path):
    src = kaggle(tmp_path / "src", 4)
    (src / "train_labels.csv").write_text("image;class\n1;0\n")
    with pytest.raises(DataListError, match="expected a column id, label, found"):
        prepare_pcam(src, tmp_path / "dst")


@pytest.mark.real_data
@pytest.mark.slow
def test_real_patches(tmp_path, real_data):
    lists = read(prepare_pcam(real_data / "pcam", tmp_path, link=True))
    assert [len(lists[part]) for part in PARTS] == [840, 120, 240]
    assert [sum(item["label"] for item in lists[part]) for part in PARTS] == [420, 60, 120]


# -------------------------------------------------------------------------------------------------------------- HDF5


@pytest.mark.parametrize("chunks", [None, (3, 96, 96, 3)])
def test_hdf5_keeps_the_official_split(tmp_path, chunks):
    path = prepare_pcam(hdf5(tmp_path / "src", slides=own_slide, chunks=chunks), tmp_path / "dst")
    assert json.loads(path.read_text())["split"] == "paper"
    lists = read(path)
    assert [len(lists[part]) for part in PARTS] == [12, 4, 6]
    for offset, (short, part) in enumerate(zip(("train", "valid", "test"), PARTS, strict=True)):
        for index, item in enumerate(lists[part]):
            number = 100 * offset + index
            assert (item["label"], item["group"], item["mpp"]) == (number % 2, own_slide(short, number), MPP)
            np.testing.assert_array_equal(cv2.imread(item["image"])[..., ::-1], patch(number))


def test_hdf5_without_meta(tmp_path):
    lists = read(prepare_pcam(hdf5(tmp_path / "src"), tmp_path / "dst"))
    groups = Counter(item["group"] for items in lists.values() for item in items)
    assert set(groups.values()) == {1}


def test_hdf5_one_part_alone(tmp_path):
    lists = read(prepare_pcam(hdf5(tmp_path / "src", {"test": 6}), tmp_path / "dst"))
    assert {part: len(items) for part, items in lists.items()} == {"test": 6}


@pytest.mark.parametrize("limit", [1, 5, 1000])
def test_limit(tmp_path, limit):
    src = hdf5(tmp_path / "src", {"train": 30, "valid": 8, "test": 6})
    lists = read(prepare_pcam(src, tmp_path / "dst", limit=limit))
    for part, count in zip(PARTS, (30, 8, 6), strict=True):
        assert len(lists[part]) == min(limit, count)
        assert abs(sum(item["label"] for item in lists[part]) - len(lists[part]) / 2) <= 0.5, "the labels' shares"
    assert len(list((tmp_path / "dst").rglob("*.png"))) == sum(map(len, lists.values()))


@pytest.mark.parametrize("limit", [0, -3, "many", 2.5, True])
def test_bad_limit(tmp_path, limit):
    with pytest.raises(InputError, match="limit: expected a number of patches"):
        prepare_pcam(hdf5(tmp_path / "src"), tmp_path / "dst", limit=limit)


def damage(src, what):
    x, y, meta = (src / f"{name('valid', kind)}" for kind in ("x.h5", "y.h5", "meta.csv"))
    if what == "zipped":
        x.rename(f"{x}.gz")
    elif what == "no labels":
        y.unlink()
    elif what == "cut off":
        x.write_bytes(x.read_bytes()[:50_000])
    elif what == "key":
        with h5py.File(x, "w") as file:
            file.create_group("x")
    elif what == "count":
        with h5py.File(y, "w") as file:
            file["y"] = np.zeros((3, 1, 1, 1), np.uint8)
    elif what == "values":
        with h5py.File(y, "w") as file:
            file["y"] = np.array([0, 1, 7, 1], np.uint8).reshape(-1, 1, 1, 1)
    elif what == "meta":
        meta.write_text("".join(meta.read_text().splitlines(keepends=True)[:-1]))
    elif what == "chunk":
        with h5py.File(x) as file:
            chunk = file["x"].id.get_chunk_info(1)
        with x.open("r+b") as file:
            file.seek(chunk.byte_offset)
            file.write(b"\0" * chunk.size)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("zipped", r"split_valid_x\.h5\.gz: expected an unpacked file \(gunzip"),
        ("no labels", r"valid_x\.h5: expected camelyonpatch_level_2_split_valid_y\.h5 beside it, found none"),
        ("cut off", r"valid_x\.h5: expected a complete HDF5 file, found .*truncated"),
        ("key", r"valid_x\.h5: expected an array x, found none"),
        ("count", r"valid_x\.h5: expected x of shape \(3, 96, 96, 3\), uint8.*found \(4, 96, 96, 3\)"),
        ("values", r"valid_y\.h5: expected labels 0 and 1, found \[7\]"),
        ("meta", r"valid_meta\.csv: expected a line for each of 4 patches, found 3"),
        ("chunk", r"valid_x\.h5: expected a readable patch 2"),
    ],
)
def test_damaged_hdf5(tmp_path, what, message):
    src = hdf5(tmp_path / "src", slides=own_slide, chunks=(2, 96, 96, 3))
    damage(src, what)
    with pytest.raises(DataListError, match=message):
        prepare_pcam(src, tmp_path / "dst")
    assert not (tmp_path / "dst").exists()


def test_a_slide_in_two_parts(tmp_path):
    src = hdf5(tmp_path / "src", slides=lambda part, number: "s")
    with pytest.raises(DataListError, match="expected each slide in one part, found s in training and validation"):
        prepare_pcam(src, tmp_path / "dst")


def test_two_layouts_at_once(tmp_path):
    hdf5(tmp_path / "src")
    kaggle(tmp_path / "src", 4)
    with pytest.raises(DataListError, match=r"expected one of .*found .*train_labels.csv"):
        prepare_pcam(tmp_path / "src", tmp_path / "dst")


# ------------------------------------------------------------------------------------------------------------- masks


def masked(src, counts=None, shift=0):
    """Tumour in a corner of every patch, and in the middle of the positive ones."""
    hdf5(src, counts or {"train": 40, "valid": 4, "test": 6}, lambda part, n: f"camelyon16_{part}_{n // 4}")
    with h5py.File(src / f"{name('train', 'mask')}.h5", "w") as file:
        masks = np.zeros(((counts or {"train": 40})["train"], 96, 96, 1), np.uint8)
        masks[:, :20, :20] = 1
        masks[(1 + shift) % 2 :: 2, 40:50, 40:60] = 1
        file["mask"] = masks
    return src


def test_masks_of_the_training_patches(tmp_path):
    path = prepare_pcam(masked(tmp_path / "src"), tmp_path / "dst", masks=True)
    assert json.loads(path.read_text())["split"] == "random", "the release's own parts would leave one list"
    lists = read(path)
    assert sum(map(len, lists.values())) == 40, "the patches of the other parts have none"
    assert all(lists[part] for part in PARTS)
    slides = [{item["group"] for item in lists[part]} for part in PARTS]
    assert not slides[0] & slides[1] | slides[0] & slides[2] | slides[1] & slides[2]
    for item in (item for items in lists.values() for item in items):
        mask = cv2.imread(item["mask"], cv2.IMREAD_UNCHANGED)
        assert np.unique(mask).tolist() == [0, 255]
        assert (mask[32:64, 32:64].max() > 0) == item["label"]
        assert (mask > 0).sum() == 400 + 200 * item["label"]


def test_masks_are_asked_for(tmp_path):
    path = prepare_pcam(masked(tmp_path / "src"), tmp_path / "dst")
    assert json.loads(path.read_text())["split"] == "paper"
    assert not any("mask" in item for items in read(path).values() for item in items)


def test_masks_that_are_not_those_of_the_patches(tmp_path):
    def fails(message, src, **options):
        with pytest.raises(DataListError, match=message):
            prepare_pcam(src, tmp_path / "dst", masks=True, **options)
        assert not (tmp_path / "dst").exists()

    fails(
        "train_mask.h5: expected tumour in the middle of the positive patches alone, found so in 0%",
        masked(tmp_path / "a", shift=1),
    )
    (tmp_path / "b").mkdir()
    fails(r"expected camelyonpatch_level_2_split_train_mask.h5 \(--masks\), found none", hdf5(tmp_path / "b"))
    fails("expected the release's HDF5 files, which have masks, found Kaggle's", kaggle(tmp_path / "c"))
    alone = masked(tmp_path / "d")
    (alone / f"{name('train', 'x')}.h5").unlink()
    (alone / f"{name('train', 'y')}.h5").unlink()
    fails("train_mask.h5: expected camelyonpatch_level_2_split_train_x.h5|train_y.h5 beside it, found none", alone)
    other = masked(tmp_path / "e")
    with h5py.File(other / f"{name('train', 'mask')}.h5", "w") as file:
        file["mask"] = np.zeros((39, 96, 96, 1), np.uint8)
    fails(r"expected mask of shape \(40, 96, 96, 1\), as its patches, found \(39, 96, 96, 1\)", other)


def test_a_release_that_was_unpacked_twice(tmp_path):
    hdf5(tmp_path / "src" / "one")
    hdf5(tmp_path / "src" / "two")
    with pytest.raises(DataListError) as error:
        prepare_pcam(tmp_path / "src", tmp_path / "dst")
    assert sum("expected one file of that name, found also" in line for line in error.value.problems) == 6


def test_a_table_with_mixed_separators(tmp_path):
    src = hdf5(tmp_path / "src", slides=own_slide)
    meta = src / f"{name('train', 'meta')}.csv"
    lines = meta.read_text().splitlines()
    for number in (2, 5):
        lines[number] = lines[number].replace(",", ";")
    meta.write_text("\n".join(lines))
    with pytest.raises(DataListError) as error:
        prepare_pcam(src, tmp_path / "dst")
    for number in (3, 6):
        assert any(f"line {number}: expected 6 cells between commas" in line for line in error.value.problems)
