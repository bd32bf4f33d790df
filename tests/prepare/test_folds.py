import json
from collections import Counter

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.data.datalist import load_datalist
from monai_ext.prepare.folds import prepare_folds

GROUPS = {"training": "aabbccd", "validation": "ef", "test": "xy"}  # a group for each image


@pytest.fixture
def src(tmp_path):
    """Nine images of six groups for training and validation, two for testing; a class file of some."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lists = {}
    for part, groups in GROUPS.items():
        lists[part] = []
        for number, group in enumerate(groups):
            name = f"images/{part}_{number}.png"
            cv2.imwrite(str(folder / name), np.full((4, 4, 3), 255, np.uint8))
            lists[part].append({"image": name, "label": number % 2, "group": group, "marks": {"ea": name}, "mpp": 0.25})
    content = {"name": "toy", "class_names": ["u", "v"], "split": "random", **lists}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def lists_of(folder):
    return load_datalist(folder, ["training", "validation", "test"], check=None, path_keys=["image", "marks"])


def test_every_group_is_validated_once_and_the_test_list_stays(src, tmp_path):
    dst = prepare_folds(src, tmp_path / "folds", folds=3)
    assert sorted(path.name for path in dst.iterdir()) == ["fold_0", "fold_1", "fold_2"]
    validated = Counter()
    for number in range(3):
        lists = lists_of(dst / f"fold_{number}")
        groups = {part: {item["group"] for item in items} for part, items in lists.items()}
        assert not groups["training"] & groups["validation"]
        assert groups["training"] | groups["validation"] == set("abcdef")
        assert groups["test"] == {"x", "y"}
        assert len(lists["training"]) + len(lists["validation"]) == 9
        assert len(lists["validation"]) == 3  # of a size, though groups are not
        validated.update(groups["validation"])
    assert validated == Counter("abcdef")


def test_paths_lead_to_the_files_of_the_source(src, tmp_path):
    dst = prepare_folds(src, tmp_path / "elsewhere/folds", folds=2)
    content = json.loads((dst / "fold_1/dataset.json").read_text())
    assert content["name"] == "toy"
    assert content["class_names"] == ["u", "v"]
    assert content["split"] == "fold 1 of 2"
    for item in (item for items in lists_of(dst / "fold_1").values() for item in items):
        assert cv2.imread(item["image"]) is not None
        assert item["marks"]["ea"] == item["image"]
        assert item["mpp"] == 0.25
    assert not list(dst.rglob("*.png"))


def test_the_seed_decides_what_is_dealt(src, tmp_path):
    def dealt(name, seed):
        dst = prepare_folds(src, tmp_path / name, folds=3, seed=seed)
        return [{item["group"] for item in lists_of(dst / f"fold_{number}")["validation"]} for number in range(3)]

    assert dealt("one", 0) == dealt("other", 0)
    assert len({str(dealt(f"seed_{seed}", seed)) for seed in range(5)}) > 1


def test_images_without_a_group_are_groups_of_their_own(src, tmp_path):
    path = src / "dataset.json"
    content = json.loads(path.read_text())
    for items in (content[part] for part in GROUPS):
        for item in items:
            del item["group"]
    path.write_text(json.dumps(content))
    prepare_folds(src, tmp_path / "folds", folds=9)
    assert [len(lists_of(tmp_path / f"folds/fold_{number}")["validation"]) for number in range(9)] == [1] * 9


def test_older_folds_are_replaced_when_asked(src, tmp_path):
    prepare_folds(src, tmp_path / "folds", folds=3)
    with pytest.raises(InputError, match=r"no folds there yet .*found fold_0"):
        prepare_folds(src, tmp_path / "folds", folds=2)
    prepare_folds(src, tmp_path / "folds", folds=2, overwrite=True)
    assert len(list((tmp_path / "folds").glob("*/dataset.json"))) == 2


@pytest.mark.parametrize("folds", [1, 7, True, 2.5])
def test_as_many_folds_as_there_are_groups_at_most(src, tmp_path, folds):
    with pytest.raises(InputError, match=f"--folds: expected 2 to 6, the groups .*, found {folds!r}"):
        prepare_folds(src, tmp_path / "folds", folds=folds)


def test_the_source_is_a_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"dataset\.json.*no such file"):
        prepare_folds(tmp_path / "empty", tmp_path / "folds")
