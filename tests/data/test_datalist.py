import json
import pickle
from functools import partial

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.datalist import check_label_item, check_mask_item, load_datalist

ROWS, COLS = 40, 60


class Place:
    """A data set in the making: two images a list and their points."""

    def __init__(self, folder):
        self.folder = folder
        self.content = {}
        for number, name in enumerate(("training", "validation", "test")):
            self.content[name] = []
            for index in range(2):
                stem = f"{name}{index}"
                self.image(f"{stem}.png")
                self.points(f"{stem}.csv", "3,4\n20,50\n")
                self.content[name].append(
                    {"image": f"{stem}.png", "label": f"{stem}.csv", "group": f"p{number}{index}"}
                )

    def image(self, name, rows=ROWS):
        cv2.imwrite(str(self.folder / name), np.full((rows, COLS, 3), 200, np.uint8))

    def points(self, name, text):
        (self.folder / name).write_bytes(text.encode())

    def load(self, *args, **options):
        (self.folder / "dataset.json").write_text(json.dumps(self.content))
        return load_datalist(self.folder, *args, **options)

    def problems(self, *args, **options):
        with pytest.raises(DataListError) as caught:
            self.load(*args, **options)
        assert str(caught.value).count("\n") == len(caught.value.problems)  # one line each, after the first
        return caught.value.problems


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_good_list(place):
    place.content["training"][0] |= {"mpp": 0.25, "lookalikes": "training1.csv"}
    lists = place.load()
    assert [len(items) for items in lists.values()] == [2, 2, 2]
    first = lists["training"][0]
    assert first == {
        "image": str(place.folder / "training0.png"),
        "label": str(place.folder / "training0.csv"),
        "lookalikes": str(place.folder / "training1.csv"),
        "group": "p00",
        "mpp": 0.25,
    }
    assert set(place.load(["test"])) == {"test"}


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty: no mitoses"),
        pytest.param("row,col\n", id="header alone"),
        pytest.param("3,4\r\n20,50\r\n", id="Windows line ends"),
        pytest.param("0,0\n39,59\n0,59\n", id="corner pixels"),
        pytest.param("-0.5,-0.5\n39.5,59.5\n", id="on the border"),
    ],
)
def test_good_points(place, text):
    place.points("training0.csv", text)
    assert place.load()["training"][0]["label"].endswith("training0.csv")


def missing_image(place):
    (place.folder / "training0.png").unlink()
    return "training0.png: expected a file, found none"


def missing_label(place):
    (place.folder / "test1.csv").unlink()
    return "test1.csv: expected a file, found none"


def missing_mask(place):
    place.content["training"][1]["mask"] = "mask.png"
    return "mask.png: expected a file, found none"


def empty_image(place):
    (place.folder / "validation0.png").write_bytes(b"")
    return "validation0.png: expected an image, found an empty file"


def truncated_image(place):
    path = place.folder / "validation1.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (ROWS, COLS, 3)))
    path.write_bytes(path.read_bytes()[:2000])
    return "validation1.png: expected a readable image, found"


def wrong_column(place):
    place.points("training1.csv", "name,col\nx,3\n")
    return "training1.csv, line 1: expected two numbers row,col"


def words_in_points(place):
    place.points("test0.csv", "row,col\n3,4\n5,many\n")
    return "test0.csv, line 3: expected two numbers row,col"


def swapped(place):
    place.points("test0.csv", "3,4\n50,20\n59,1\n")
    return (
        "test0.csv: expected points row,col inside * (40 x 60 px), found 2 of 3 outside, "
        "the first at row 50, col 20; all are inside as col,row: swapped?"
    )


def outside(place):
    place.points("test0.csv", "3,4\n100,200\n")
    return (
        "test0.csv: expected points row,col inside * (40 x 60 px), found 1 of 2 outside, the first at row 100, col 200"
    )


def points_in_the_list(place):
    place.content["test"][0]["label"] = [[5, 6], [70, 6]]
    return (
        "label of *test0.png: expected points row,col inside * (40 x 60 px), found 1 of 2 outside, the first at row 70"
    )


def triples_in_the_list(place):
    place.content["test"][0]["label"] = [[5, 6, 7]]
    return "label of *test0.png: expected pairs of numbers row, col"


def no_points_at_all(place):
    place.content["test"][0]["label"] = None
    return "label of *test0.png: expected pairs of numbers row, col"


def empty_list(place):
    place.content["validation"] = []
    return "dataset.json: expected a list 'validation' with at least one item, found none"


def no_list(place):
    del place.content["test"]
    return "dataset.json: expected a list 'test' with at least one item, found none"


def no_list_but_a_number(place):
    place.content["test"] = 5
    return "dataset.json: expected a list 'test', found int"


def group_in_two(place):
    place.content["test"][0]["group"] = "p00"
    return "dataset.json: expected group 'p00' in one list, found it in test and training"


def missing_key(place):
    del place.content["training"][1]["label"]
    return "dataset.json: expected keys ['image', 'label'] in training[1], found no ['label']"


def no_dictionary(place):
    place.content["training"][0] = "training0.png"
    return "dataset.json: expected keys ['image', 'label'] in training[0], found no ['image', 'label']"


def no_path(place):
    place.content["training"][0]["image"] = 5
    return "dataset.json: expected a path as image in training[0], found 5"


PROBLEMS = [
    missing_image, missing_label, missing_mask, empty_image, truncated_image, wrong_column, words_in_points, swapped,
    outside, points_in_the_list, triples_in_the_list, no_points_at_all, empty_list, no_list, no_list_but_a_number,
    group_in_two, missing_key, no_dictionary, no_path,
]  # fmt: skip


def said(expected, lines):
    """How many lines say this; ``*`` stands for anything, as the folder."""
    parts = [part for part in expected.split("*") if part]
    return sum(all(part in line for part in parts) and "\n" not in line for line in lines)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda f: f.__name__.replace("_", " "))
def test_each_problem_is_named(place, problem):
    expected = problem(place)
    lines = place.problems()
    assert len(lines) == 1, lines
    assert said(expected, lines) == 1, lines
    assert str(place.folder) in lines[0]


def test_all_problems_are_reported_together(place):
    found = [missing_image, missing_label, empty_image, truncated_image, wrong_column, swapped, group_in_two]
    expected = [problem(place) for problem in found]
    place.content["test"].append({"image": "test0.png"})
    lines = place.problems()
    assert all(said(line, lines) == 1 for line in expected), lines
    assert len(lines) == len(expected) + 1


def test_problems_of_other_lists_do_not_stop_a_run_but_shared_groups_do(place):
    missing_label(place)  # of the test list
    assert len(place.load(["training", "validation"])) == 2
    group_in_two(place)
    assert said("expected group 'p00' in one list", place.problems(["training", "validation"])) == 1


def test_without_a_check_the_list_alone_is_looked_at(place):
    missing_image(place)
    assert len(place.load(check=None)["training"]) == 2
    empty_list(place)
    assert len(place.problems(check=None)) == 1


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"\xff\xfe"], ids=["missing", "empty", "cut", "list", "bytes"]
)
def test_no_list_at_all(content, tmp_path):
    if content is not None:
        (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(InputError, match=r"dataset\.json: expected"):
        load_datalist(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: expected a dataset folder"):
        load_datalist(tmp_path / "nowhere")


def test_masks(place):
    for items in place.content.values():
        for item in items:
            item["label"] = item["image"]
    place.load(check=check_mask_item)
    place.image("training0_mask.png", rows=ROWS + 1)
    place.content["training"][0]["label"] = "training0_mask.png"
    assert said(
        "training0_mask.png: expected the size of *, (40, 60), found (41, 60)", place.problems(check=check_mask_item)
    )


LABELS = {"check": check_label_item, "path_keys": ("image",)}


@pytest.fixture
def labelled(place):
    for items in place.content.values():
        for index, item in enumerate(items):
            item["label"] = index
    return place


def test_image_labels(labelled):
    labelled.content["test"][0]["mask"] = "test1.png"
    lists = labelled.load(**LABELS)
    assert [item["label"] for items in lists.values() for item in items] == [0, 1] * 3
    assert lists["test"][0]["mask"] == str(labelled.folder / "test1.png")


@pytest.mark.parametrize(
    ("label", "found"),
    [
        pytest.param(True, "true (bool)", id="bool"),
        pytest.param(1.0, "1.0 (float)", id="float"),
        pytest.param("1", '"1" (str)', id="text"),
        pytest.param([1], "[1] (list)", id="list"),
        pytest.param(2, "2 (int)", id="too large"),
        pytest.param(-1, "-1 (int)", id="negative"),
        pytest.param(None, "none", id="null"),
    ],
)
def test_bad_image_labels(labelled, label, found):
    labelled.content["training"][0]["label"] = label
    (line,) = labelled.problems(**LABELS)
    assert line == f"label of {labelled.folder / 'training0.png'}: expected a whole number 0 to 1, found {found}"


def test_more_classes_and_no_label_at_all(labelled):
    labelled.content["training"][0]["label"] = 2
    labelled.load(check=partial(check_label_item, classes=3), path_keys=("image",))
    del labelled.content["training"][0]["label"]
    (line,) = labelled.problems(**LABELS)
    assert line.endswith("expected a whole number 0 to 1, found none")


@pytest.mark.parametrize("masked", [False, True])
def test_resolution_of_labelled_images(masked, labelled):
    labelled.content["training"][0] |= {"mpp": "0.97"} | ({"mask": "test1.png"} if masked else {})
    (line,) = labelled.problems(**LABELS)
    assert line.endswith("training0.png: expected mpp in um/px, a positive number, found '0.97'")


def test_images_and_masks_of_labels(labelled):
    truncated_image(labelled)
    labelled.image("mask.png", rows=ROWS + 1)
    labelled.content["test"][1]["mask"] = "mask.png"
    labelled.content["test"][1]["label"] = True
    lines = labelled.problems(**LABELS)
    assert len(lines) == 3
    assert said("*: expected a readable image*", lines) == 1
    assert said("mask.png: expected the size of *, (40, 60), found (41, 60)", lines) == 1


def test_error_crosses_processes(place):
    missing_image(place)
    with pytest.raises(DataListError) as caught:
        place.load()
    error = caught.value
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.problems, back.where) == (str(error), error.problems, error.where)


def test_lists_of_several_folders_are_joined(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = Place(tmp_path / "a"), Place(tmp_path / "b")
    second.content |= {"validation": [], "test": []}
    first.load(), second.load(["training"])
    lists = load_datalist([tmp_path / "a", tmp_path / "b"])
    assert [len(items) for items in lists.values()] == [4, 2, 2]
    assert {item["group"] for item in lists["training"]} == {"a/p00", "a/p01", "b/p00", "b/p01"}
    assert lists["training"][-1]["image"] == str(tmp_path / "b/training1.png")
    first.content["test"] = []
    first.load(["training"])
    with pytest.raises(DataListError, match=r"a/dataset.json, .*b/dataset.json: expected a list 'test'"):
        load_datalist([tmp_path / "a", tmp_path / "b"])


def test_lists_may_be_empty_where_that_is_allowed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "a.png"}], "validation": []}))
    options = {"check": None, "path_keys": ("image",)}
    lists = load_datalist(tmp_path, allow_empty=True, **options)
    assert {name: len(items) for name, items in lists.items()} == {"training": 1, "validation": 0, "test": 0}
    with pytest.raises(DataListError, match="'validation' with at least one item"):
        load_datalist(tmp_path, **options)
    with pytest.raises(DataListError, match="'test' with at least one item"):
        load_datalist(tmp_path, ["validation", "test"], allow_empty=True, **options)
