"""A large list is checked once, and again as soon as anything in it changes."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from monai_ext.base.errors import DataListError
from monai_ext.base.files import write_png
from monai_ext.data import check_label_item, check_mask_item, checked_lists, load_datalist

LISTS = ("training", "validation")


class Place:
    """A data set that counts as large, and how often its items were checked."""

    def __init__(self, folder):
        self.folder, self.checked = folder, []
        self.content = {name: [{"image": f"{name}{i}.png", "label": i} for i in range(2)] for name in LISTS}
        for name in LISTS:
            for item in self.content[name]:
                write_png(folder / item["image"], np.full((8, 8, 3), 200, np.uint8))

    def load(self, splits=LISTS, check=None):
        (self.folder / "dataset.json").write_text(json.dumps(self.content))
        self.checked.clear()
        return load_datalist(self.folder, splits, check or partial(counted, self), path_keys=["image"])

    def __repr__(self):
        return "place"  # an argument of the check, the same after a move


def counted(place, item):
    place.checked.append(item["image"])
    return check_label_item(item)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(checked_lists, "LARGE", 4)
    (tmp_path / "data").mkdir()
    return Place(tmp_path / "data")


def test_an_unchanged_list_is_checked_once(place, capsys):
    first = place.load()
    assert len(place.checked) == 4
    assert place.load() == first
    assert place.checked == []
    assert "the 2 items of 'validation' are as they were when they were checked" in capsys.readouterr().out


def test_a_small_list_is_checked_always_and_leaves_nothing(place):
    place.content["validation"].pop()
    for _ in range(2):
        place.load()
        assert len(place.checked) == 3
    assert not (place.folder / ".checked.json").exists()


def change_a_file(place):
    path = place.folder / "training0.png"
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))


def change_a_size(place):
    path = place.folder / "training0.png"
    before = path.stat()
    write_png(path, np.zeros((9, 9, 3), np.uint8))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change_a_label(place):
    place.content["training"][0]["label"] = 1


def change_a_name(place):
    (place.folder / "training0.png").rename(place.folder / "other.png")
    place.content["training"][0]["image"] = "other.png"


@pytest.mark.parametrize("change", [change_a_file, change_a_size, change_a_label, change_a_name])
def test_a_list_with_a_change_is_checked_again_and_no_other(place, change):
    place.load()
    change(place)
    place.load()
    assert sorted(Path(path).name[:8] for path in place.checked) in (
        ["training", "training"],
        ["other.pn", "training"],
    )
    place.load()
    assert place.checked == []


def test_what_is_wrong_is_not_remembered(place):
    place.content["training"][0]["label"] = 7
    for _ in range(2):
        with pytest.raises(DataListError, match="whole number"):
            place.load()
        assert len(place.checked) == 4


def test_a_file_that_went_missing_is_named(place):
    place.load()
    (place.folder / "training1.png").unlink()
    with pytest.raises(DataListError, match=r"training1\.png: expected a file, found none"):
        place.load()


def test_another_check_or_its_arguments_or_version_look_again(place, monkeypatch):
    place.load()
    with pytest.raises(DataListError, match="expected a mask under the key"):
        place.load(check=check_mask_as("mask"))
    place.load(check=partial(check_label_item, classes=2))
    with pytest.raises(DataListError, match="whole number 0 to 0"):
        place.load(check=partial(check_label_item, classes=1))
    monkeypatch.setattr(checked_lists, "__version__", "0.0.0")
    place.load()
    assert len(place.checked) == 4


def check_mask_as(key):
    return partial(check_mask_item, key=key)


def test_what_cannot_be_named_is_checked_always(place):
    for _ in range(2):
        place.load(check=lambda item: counted(place, item))
        assert len(place.checked) == 4


def test_a_folder_that_was_moved_need_not_be_checked_again(place):
    place.load()
    place.folder = place.folder.rename(place.folder.with_name("elsewhere"))
    place.load()
    assert place.checked == []


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_torn_memory_counts_for_nothing(place, text):
    place.load()
    (place.folder / ".checked.json").write_text(text)
    place.load()
    assert len(place.checked) == 4


def test_lists_of_other_splits_are_remembered_beside(place):
    place.content["test"] = [{"image": f"test{i}.png", "label": i} for i in (0, 1, 0, 1)]
    for item in place.content["test"]:
        write_png(place.folder / item["image"], np.zeros((8, 8, 3), np.uint8))
    place.load()
    place.load(["test"])
    assert len(place.checked) == 4
    for splits in (LISTS, ["test"]):
        place.load(splits)
        assert place.checked == []


def test_a_folder_that_cannot_be_written_to(place, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(checked_lists, "atomic_path", refuse)
    for _ in range(2):
        place.load()
        assert len(place.checked) == 4
