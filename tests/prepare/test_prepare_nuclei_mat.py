"""CoNSeP and the ccRCC grading data: tiny releases in the official layouts, and what may be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from monai_ext import prepare
from monai_ext.base.errors import DataListError, InputError
from monai_ext.data import check_mask_item, load_datalist, read_mask
from monai_ext.prepare import prepare_ccrcc, prepare_consep
from monai_ext.prepare.mat import read_instances

PARTS = ("training", "validation", "test")
SHAPE = (40, 50)
MPP = 0.25


def instances(shape=SHAPE, ids=(3, 7, 300)):
    """A bar for each id, ids with gaps."""
    found = np.zeros(shape)
    for number, value in enumerate(ids):
        found[5:15, 3 + 12 * number : 11 + 12 * number] = value
    return found


def write(folder, name, label, image_shape=SHAPE, images="Images", labels="Labels"):
    for kind in (images, labels):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(len(name)).randint(0, 255, (*image_shape, 3), np.uint8)
    cv2.imwrite(str(folder / images / f"{name}.png"), pixels)
    savemat(folder / labels / f"{name}.mat", label, do_compression=True)


def consep(src, train=27, test=14):
    for part, count in (("Train", train), ("Test", test)):
        for number in range(1, count + 1):
            label = {"inst_map": instances(), "type_map": instances() > 0, "inst_type": np.ones((3, 1))}
            write(src / part, f"{part.lower()}_{number}", label)
            (src / part / "Overlay").mkdir(exist_ok=True)
            (src / part / "Overlay" / f"{part.lower()}_{number}.png").write_bytes(b"no image of ours")
    return src


def ccrcc(src, images=(7, 1, 2), patients=3, labels=""):
    """Patients whose images are in several parts; the parts number their images alike."""
    for part, count in zip(("Train", "Valid", "Test"), images, strict=True):
        for number in range(count):
            name = f"TCGA-B0-{5000 + number % patients}-01Z-00-DX1.{number:08d}.svs"
            label = {"instance_map": instances().astype(np.int32), "class_map": instances() > 0, "TCGA_file_name": name}
            write(src / part, f"{number:03d}", label, images="", labels=labels)
    return src


def content(path):
    found = json.loads(path.read_text())
    return found, load_datalist(path.parent, [part for part in PARTS if found[part]], check_mask_item)


def problems(name, src, dst):
    with pytest.raises(DataListError) as error:
        getattr(prepare, f"prepare_{name}")(src, dst)
    assert not (dst / "dataset.json").exists()
    return error.value.problems


def test_consep(tmp_path):
    src = consep(tmp_path / "src")
    found, lists = content(prepare_consep(src, tmp_path / "dst"))
    assert found["split"] == "paper", "no test image of the release enters training"
    assert [len(found[part]) for part in PARTS] == [26, 1, 14]
    assert all(item["group"].startswith("test_") == (part == "test") for part in PARTS for item in found[part])
    for item in (item for items in lists.values() for item in items):
        assert item["mpp"] == MPP
        label = read_mask(item["label"])
        assert np.array_equal(label, instances(ids=(1, 2, 3))), "numbered without gaps"
        original = src / item["group"].split("_")[0].capitalize() / "Images" / f"{item['group']}.png"
        assert Path(item["image"]).read_bytes() == original.read_bytes()
    other, _ = content(prepare_consep(src, tmp_path / "other", split="paper", seed=1))
    assert other["validation"] != found["validation"]
    assert other["test"] == found["test"]
    assert len(content(prepare_consep(src, tmp_path / "dealt", split="slide"))[0]["test"]) == 6, "70/15/15"


def test_consep_without_its_test_part_has_no_papers_split(tmp_path):
    src = consep(tmp_path / "src", test=0)
    with pytest.raises(InputError, match="split: expected 'random', 'test' or a file"):
        prepare_consep(src, tmp_path / "dst", split="paper")
    assert content(prepare_consep(src, tmp_path / "dst"))[0]["split"] == "slide"


def test_ccrcc(tmp_path, capsys):
    src = ccrcc(tmp_path / "src")
    found, lists = content(prepare_ccrcc(src, tmp_path / "dst"))
    assert [len(found[part]) for part in PARTS] == [7, 1, 2], "the release's folders"
    assert "in several of the release's parts: group is the image" in capsys.readouterr().err
    groups = [item["group"] for part in PARTS for item in found[part]]
    assert len(set(groups)) == 10
    for item in (item for items in lists.values() for item in items):
        assert np.array_equal(read_mask(item["label"]), instances(ids=(1, 2, 3)))
        assert item["mpp"] == MPP
    dealt, _ = content(prepare_ccrcc(src, tmp_path / "dealt", split="slide"))
    patients = [{item["group"] for item in dealt[part]} for part in PARTS]
    assert set().union(*patients) == {"TCGA-B0-5000", "TCGA-B0-5001", "TCGA-B0-5002"}
    assert sum(map(len, patients)) == 3, "no patient in two parts"


def test_ccrcc_keeps_patients_together_where_the_release_does(tmp_path, capsys):
    src = tmp_path / "src"
    for number, part in enumerate(("training", "val", "test set")):
        for image in range(2):
            name = f"TCGA-B0-{5000 + number}-01Z.svs"
            write(src / part, f"{number}{image}", {"instance_map": instances(), "TCGA_file_name": name})
    found, _ = content(prepare_ccrcc(src, tmp_path / "dst", split="paper"))
    assert [{item["group"] for item in found[part]} for part in PARTS] == [{f"TCGA-B0-500{n}"} for n in range(3)]
    assert "several" not in capsys.readouterr().err


def test_what_is_wrong_is_listed_together(tmp_path, capsys):
    src = consep(tmp_path / "src", 8, 2)
    train = src / "Train"
    write(train, "train_1", {"other": 1})
    write(train, "train_2", {"inst_map": instances((50, 40))})
    write(train, "train_3", {"inst_map": instances() + 0.5})
    write(train, "train_4", {"inst_map": -instances()})
    whole = (train / "Labels/train_5.mat").read_bytes()
    (train / "Labels/train_5.mat").write_bytes(whole[: len(whole) // 2])
    (train / "Images/train_6.png").write_bytes(b"no image")
    (train / "Images/train_7.png").unlink()
    (train / "Labels/train_8.mat").unlink()
    (src / "Test/more").mkdir()
    (src / "Test/more/test_1.png").write_bytes((src / "Test/Images/test_1.png").read_bytes())
    found = problems("consep", src, tmp_path / "dst")
    for name, words in (
        ("train_1.mat", "found no 'inst_map'"),
        ("train_2.mat", "inst_map of its image's size (40, 50), found (50, 40)"),
        ("train_3.mat", "whole numbers from 0"),
        ("train_4.mat", "whole numbers from 0"),
        ("train_5.mat", "expected a MATLAB file"),
        ("train_6.png", "expected a readable image"),
        ("train_7.mat", "expected its image, found none"),
        ("test_1.png", "expected one PNG of this name"),
    ):
        assert sum(name in line and words in line for line in found) == 1, (name, found)
    assert len(found) == 8
    assert "1 images without labels left out" in capsys.readouterr().err


def test_no_release(tmp_path):
    (tmp_path / "src").mkdir()
    for name in ("consep", "ccrcc"):
        (line,) = problems(name, tmp_path / "src", tmp_path / "dst")
        assert "expected Train/Images/<name>.png and Train/Labels/<name>.mat, found 0 PNG and 0 MAT files" in line


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "uint32", "int64", "float32", "float64"])
def test_maps_of_any_numbers(tmp_path, dtype):
    ids = (3, 7, 200) if dtype == "uint8" else (3, 7, 30_000)
    savemat(tmp_path / "a.mat", {"inst_map": instances(ids=ids).astype(dtype)})
    found = read_instances(tmp_path / "a.mat", "inst_map", SHAPE)
    assert found.dtype == np.int32
    assert np.array_equal(found, instances(ids=ids))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.5, 2.0**31])
def test_maps_of_what_are_no_ids(tmp_path, value):
    savemat(tmp_path / "a.mat", {"inst_map": np.full(SHAPE, value)})
    with pytest.raises(InputError, match=r"a\.mat: expected inst_map of whole numbers from 0"):
        read_instances(tmp_path / "a.mat", "inst_map", SHAPE)


def test_maps_of_text(tmp_path):
    savemat(tmp_path / "a.mat", {"inst_map": np.array(["ab", "cd"])})
    with pytest.raises(InputError, match=r"a\.mat: expected inst_map of "):
        read_instances(tmp_path / "a.mat", "inst_map", SHAPE)
