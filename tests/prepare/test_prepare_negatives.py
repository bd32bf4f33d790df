"""Tissue without a figure as a data set of its own, and beside one with figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_ext.base.errors import DataListError
from monai_ext.data import FieldTiles, load_datalist
from monai_ext.prepare import prepare_negatives
from monai_ext.transforms import LoadFieldd


def write(path, shade, size=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), shade, np.uint8)).save(path)


def items(path):
    content = json.loads(Path(path).read_text())
    return {item["image"]: (part, item) for part in ("training", "validation", "test") for item in content[part]}


def test_each_folder_is_a_case(tmp_path):
    for case in "abcdefghij":
        for number in range(2):
            write(tmp_path / "src" / case / f"{number}.png", ord(case))
    write(tmp_path / "src" / "alone.png", 10)
    path = prepare_negatives(tmp_path / "src", tmp_path / "dst")
    got = items(path)
    assert len(got) == 21
    assert got["images/alone.png"][1]["group"] == "alone"
    parts = {item["group"]: part for part, item in got.values()}
    assert set(parts.values()) == {"training", "validation", "test"}
    for part, item in got.values():
        assert parts[item["group"]] == part
        assert item["mpp"] == 0.25
        assert (path.parent / item["label"]).read_text() == "row,col\n"


def test_healthy_patches_of_a_labelled_data_set_keep_their_lists(tmp_path):
    lists = {"training": [], "validation": [], "test": []}
    for number, (part, label) in enumerate(
        [("training", 0), ("training", 1), ("validation", 0), ("test", 0), ("test", 1)]
    ):
        write(tmp_path / "src" / "images" / f"{number}.png", 100 + number)
        lists[part].append({"image": f"images/{number}.png", "label": label, "mpp": 0.972, "group": f"g{number}"})
    (tmp_path / "src" / "dataset.json").write_text(json.dumps(lists))
    got = items(prepare_negatives(tmp_path / "src", tmp_path / "dst"))
    assert {name: (part, item["mpp"], item["group"]) for name, (part, item) in got.items()} == {
        "images/0.png": ("training", 0.972, "g0"),
        "images/2.png": ("validation", 0.972, "g2"),
        "images/3.png": ("test", 0.972, "g3"),
    }


def test_a_data_set_of_points_is_none_to_take_negatives_from(tmp_path):
    write(tmp_path / "src" / "a.png", 1)
    (tmp_path / "src" / "dataset.json").write_text(json.dumps({"training": [{"image": "a.png", "label": "a.csv"}]}))
    with pytest.raises(DataListError) as caught:
        prepare_negatives(tmp_path / "src", tmp_path / "dst")
    assert caught.value.problems == [f"{tmp_path / 'src' / 'dataset.json'}: expected labels 0 and 1, found 'a.csv'"]
    assert not (tmp_path / "dst").exists()


def test_patches_come_from_both_sets(tmp_path):
    write(tmp_path / "figures" / "f.png", 200)
    lists = {part: [{"image": "f.png", "label": [[30, 30]], "mpp": 0.25}] for part in ("training", "validation")}
    (tmp_path / "figures" / "dataset.json").write_text(json.dumps(lists))
    for case in range(10):
        write(tmp_path / "src" / f"{case}.png", 50)
    prepare_negatives(tmp_path / "src", tmp_path / "negatives", mpp=0.5)
    joined = load_datalist([tmp_path / "figures", tmp_path / "negatives"], ["training", "validation"])
    load = LoadFieldd("image", points_keys=["label"], target_mpp=0.25)
    tiles = FieldTiles(joined["training"], load=load, size=64, positive=0.6)
    shades = np.array([int(tiles.fields[field]["image"][0, 0, 0]) for field in tiles.field])
    assert len(shades) == 1 + 7 * 4  # 64 px of .5 um are 128 of .25
    assert tiles.weights[shades == 200].sum() == pytest.approx(0.6)
    assert tiles.weights[shades == 50].sum() == pytest.approx(0.4)
