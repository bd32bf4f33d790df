"""Converters: tiny releases in the official layouts, splits, and everything that may be wrong with a download."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import load_decathlon_datalist

from monai_ext import prepare
from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.datalist import load_datalist
from monai_ext.data.split import random_split
from monai_ext.formats.point_files import read_points
from monai_ext.prepare import prepare_amida13, prepare_midog, prepare_mitos12, prepare_mitos14, prepare_tupac16

PARTS = ("training", "validation", "test")
SHAPE = (40, 60)

RELEASES = [name.removeprefix("prepare_") for name in prepare.__all__ if name.startswith("prepare_")]
RELEASES = [name for name in RELEASES if name not in ("tiles", "folds")]  # which take a data set


def image(path: Path, shape=SHAPE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*shape, 3), 200, dtype=np.uint8))
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def read(path: Path) -> dict:
    """The list as written, checked: files exist, no group is in two parts, MONAI and the library read it."""
    content = json.loads(path.read_text())
    groups = defaultdict(set)
    for part in PARTS:
        for item in content[part]:
            groups[item["group"]].add(part)
            assert item.keys() >= {"image", "label", "group", "mpp"}
            for key in item.keys() & {"image", "label", "mask", "lookalikes"}:
                assert not Path(item[key]).is_absolute()
                assert (path.parent / item[key]).is_file()
        if content[part]:
            assert len(load_decathlon_datalist(path, is_segmentation=True, data_list_key=part)) == len(content[part])
    assert all(len(parts) == 1 for parts in groups.values())
    load_datalist(path.parent, [part for part in PARTS if content[part]])
    return content


def cases(content: dict, part: str) -> list[str]:
    return sorted({item["group"] for item in content[part]})


def points(path: Path, item: dict, key: str = "label") -> list:
    return read_points(path.parent / item[key]).tolist()


def tupac(src: Path, numbers, folder="mitoses_image_data") -> Path:
    """Each case has a field with as many mitoses as its number, at most five, and one without a CSV."""
    for number in numbers:
        case = f"{number:02}"
        image(src / folder / case / "01.tif")
        image(src / folder / case / "02.tif")
        lines = "".join(f"{i},{i + 30}\n" for i in range(number % 6))
        text(src / "mitoses_ground_truth" / case / "01.csv", lines)
    return src


# ------------------------------------------------------------------------------------------------------------ splits


@settings(deadline=None)  # a busy machine is no error
@given(
    st.dictionaries(st.text("0123456789", min_size=1, max_size=3), st.integers(0, 50), max_size=60), st.integers(0, 99)
)
def test_random_split(weights, seed):
    parts = random_split(weights, seed)
    assert parts.keys() == weights.keys()
    assert parts == random_split(dict(reversed(weights.items())), seed), "the order of the cases does not matter"
    sizes = {part: sum(value == part for value in parts.values()) for part in PARTS}
    for part, share in zip(PARTS, (0.7, 0.1, 0.2), strict=True):
        assert abs(sizes[part] - share * len(weights)) <= 2
    if sum(weight > 0 for weight in weights.values()) >= 3:
        for part in PARTS:
            assert any(weights[group] for group, own in parts.items() if own == part), "every part has labels"


def test_seeds_differ():
    weights = {f"{i}": i for i in range(40)}
    assert len({tuple(random_split(weights, seed).items()) for seed in range(5)}) == 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("s.json", {"01": "training", "02": "validation", "03": "test"}, id="json_by_case"),
        pytest.param("s.json", {"train": ["01"], "val": ["02"], "test": ["03"]}, id="json_by_part"),
        pytest.param("s.csv", "case,split\r\n01,train\r\n02,Validation\r\n03,test\r\n", id="csv"),
        pytest.param("s.csv", "\ufeff01,train\n02,val\n\n03,test", id="csv_without_header"),
    ],
)
def test_split_file(tmp_path, name, content):
    split = text(tmp_path / name, content if isinstance(content, str) else json.dumps(content))
    path = prepare_tupac16(tupac(tmp_path / "src", [1, 2, 3]), tmp_path / "dst", split=str(split))
    assert [cases(read(path), part) for part in PARTS] == [["01"], ["02"], ["03"]]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        pytest.param(
            "s.json",
            '{"train": ["01", "09"], "val": ["01"]}',
            ["01 is listed more", "02 of the release is not", "03 of", "09 is listed but"],
            id="cases",
        ),
        pytest.param(
            "s.csv", "01,train\n02,hold-out\n03,test", ["validation, test for case 02, found 'hold-out'"], id="part"
        ),
        pytest.param("s.json", "[1]", ["expected JSON {case: part}"], id="list"),
        pytest.param("s.csv", "01 train", ["expected JSON {case: part}"], id="one_column"),
        pytest.param("gone.json", None, ["'paper', 'random', 'test' or a file"], id="missing"),
    ],
)
def test_bad_split_file(tmp_path, name, content, lines):
    if content is not None:
        text(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        prepare_tupac16(tupac(tmp_path / "src", [1, 2, 3]), tmp_path / "dst", split=tmp_path / name)
    assert all(line in str(error.value) for line in lines)
    assert not (tmp_path / "dst").exists()


# ------------------------------------------------------------------------------------------------- AMIDA13 and TUPAC16


def test_tupac16(tmp_path, capsys):
    src = tupac(tmp_path / "src", range(1, 13))
    text(src / "__MACOSX" / "01" / "01.csv", "junk")
    text(src / "mitoses_ground_truth" / "01" / "._01.csv", "junk")
    path = prepare_tupac16(src, tmp_path / "dst")
    content = read(path)
    assert (content["name"], content["split"], content["seed"]) == ("tupac16", "random", 0)
    items = {item["image"]: item for part in PARTS for item in content[part]}
    assert len(items) == 24
    item = items["images/03/01.tif"]
    assert item == {"image": "images/03/01.tif", "label": "labels/03/01.csv", "group": "03", "mpp": 0.25}
    assert (path.parent / item["label"]).read_text() == "row,col\n0,30\n1,31\n2,32\n"
    assert points(path, items["images/03/02.tif"]) == []
    assert (path.parent / item["image"]).read_bytes() == (src / "mitoses_image_data/03/01.tif").read_bytes()
    assert "12 of 24 images have no CSV" in capsys.readouterr().err


def test_tupac16_paper_split(tmp_path, capsys):
    src = tupac(tmp_path / "src", range(1, 24), "mitoses_image_data_part_1")
    tupac(src, range(24, 48), "mitoses_image_data_part_2/mitoses_image_data_part_2")
    tupac(src, range(48, 74), "mitoses_image_data_part_3")
    content = read(prepare_tupac16(src, tmp_path / "dst"))
    assert content["split"] == "paper"
    assert cases(content, "validation") == ["30", "37", "44", "51", "58", "65", "72"]
    assert len(cases(content, "training")) == 66
    assert content["test"] == []
    assert "tupac16: paper split, validation: 7 cases" in capsys.readouterr().err


def test_paper_split_needs_the_papers_cases(tmp_path):
    with pytest.raises(InputError, match=r"split: expected 'random'.*not the cases of a paper's split"):
        prepare_tupac16(tupac(tmp_path / "src", [30, 37]), tmp_path / "dst", split="paper")


@pytest.mark.parametrize("separate", [False, True], ids=["one_tree", "two_trees"])
def test_amida13(tmp_path, separate):
    for number in range(1, 24):
        image(tmp_path / "src" / "images" / f"{number:02}" / "01.tif")
        text(tmp_path / "src" / ("labels" if separate else "images") / f"{number:02}" / "01.csv", "3,50\n")
    content = read(prepare_amida13(tmp_path / "src", tmp_path / "dst"))
    assert content["split"] == "paper"
    assert cases(content, "test") == [f"{number:02}" for number in range(13, 24)]
    assert (len(cases(content, "training")), len(cases(content, "validation"))) == (10, 2)


def test_amida13_is_the_beginning_of_tupac16(tmp_path, capsys):
    src = tupac(tmp_path / "src", range(1, 74))
    image(src / "mitoses-test-image-data" / "13" / "01.tif")
    content = read(prepare_amida13(src, tmp_path / "dst"))
    assert content["split"] == "paper"
    assert cases(content, "test") == [f"{number:02}" for number in range(13, 24)]
    assert sum(len(cases(content, part)) for part in PARTS) == 23
    assert "cases above 23, which are not AMIDA13's, left out (50)" in capsys.readouterr().err


def test_amida13_has_labels_of_its_test_cases(tmp_path):
    for number in range(1, 24):
        folder = tmp_path / "src" / ("training" if number <= 12 else "test") / f"{number:02}"
        image(folder / "01.tif")
        text(folder / "01.csv", "3,50\n")
    assert len(cases(read(prepare_amida13(tmp_path / "src", tmp_path / "dst")), "test")) == 11


def test_tupac16_with_the_test_images_beside_it(tmp_path, capsys):
    src = tupac(tmp_path / "src", range(1, 74))
    for number in range(1, 35):  # as the training cases are numbered
        image(src / "mitoses-test-image-data" / f"{number:02}" / "01.tif", (30, 30))
    content = read(prepare_tupac16(src, tmp_path / "dst"))
    assert content["split"] == "paper"
    assert sum(len(content[part]) for part in PARTS) == 2 * 73
    told = capsys.readouterr().err
    assert f"34 test images, whose labels are withheld, left out: inference takes {src}/mitoses-test-image-data" in told


def test_a_part_that_is_missing_is_named(tmp_path):
    src = tupac(tmp_path / "src", range(1, 24), "mitoses_image_data_part_1")
    tupac(src, range(48, 74), "mitoses_image_data_part_3")
    for number in range(24, 48):
        text(src / "mitoses_ground_truth" / f"{number:02}" / "01.csv", "3,50\n")
    with pytest.raises(DataListError) as error:
        prepare_tupac16(src, tmp_path / "dst")
    assert f"{src}: expected also mitoses_image_data_part_2, found mitoses_image_data_part_1, " in str(error.value)
    assert str(error.value).count("expected its image, found none") == 24
    assert not (tmp_path / "dst").exists()


def test_a_release_that_was_unpacked_twice(tmp_path):
    src = tupac(tmp_path / "src", [1, 2])
    tupac(src / "again", [1, 2])
    with pytest.raises(DataListError) as error:
        prepare_tupac16(src, tmp_path / "dst")
    problems = error.value.problems
    assert sum("expected one image of case" in line for line in problems) == 4
    assert sum("01.csv: expected the points of a field once" in line for line in problems) == 2


# -------------------------------------------------------------------------------------------------------- ICPR 2012


def mitos12(src: Path, slides=5, evaluation: str | None = None) -> Path:
    for slide in range(slides):
        for field in range(10):
            held_out = evaluation and field in (1, 4, 8)
            stem = f"A{slide:02}_{field:02}"
            folder = src / (evaluation if held_out else "") / f"A{slide:02}_v2"
            image(folder / f"{stem}.bmp")
            image(folder / f"{stem}.jpg")  # the outlines drawn in
            image(src / f"H{slide:02}_v2" / f"H{stem[1:]}.bmp")
            # x1,y1,x2,y2,...: two pixels at row 10, then a 2 x 2 block
            text(folder / f"{stem}.csv", "50,10,52,10\r\n1,2,2,2,1,3,2,3,\r\n\r\n")
    return src


def test_mitos12(tmp_path):
    path = prepare_mitos12(mitos12(tmp_path / "src"), tmp_path / "dst", masks=True)
    content = read(path)
    assert content["split"] == "paper"
    assert [len(content[part]) for part in PARTS] == [28, 7, 15]
    assert cases(content, "test") == [f"A{slide:02}_{field:02}" for slide in range(5) for field in (7, 8, 9)]
    item = content["test"][0]
    assert (item["image"], item["mpp"]) == ("images/A00_07.bmp", 0.2456)
    assert points(path, item) == [[10, 51], [2.5, 1.5]]
    mask = cv2.imread(str(path.parent / item["mask"]), cv2.IMREAD_UNCHANGED)
    assert (mask.shape, mask.dtype) == (SHAPE, np.uint16)
    assert np.argwhere(mask == 1).tolist() == [[10, 50], [10, 52]]
    assert np.argwhere(mask == 2).tolist() == [[2, 1], [2, 2], [3, 1], [3, 2]]


def test_mitos12_released_test_fields(tmp_path):
    content = read(prepare_mitos12(mitos12(tmp_path / "src", evaluation="evaluation"), tmp_path / "dst"))
    assert cases(content, "test") == [f"A{slide:02}_{field:02}" for slide in range(5) for field in (1, 4, 8)]
    assert "mask" not in content["test"][0]


def test_mitos12_by_slide(tmp_path):
    content = read(prepare_mitos12(mitos12(tmp_path / "src"), tmp_path / "dst", split="random"))
    assert sorted(case for part in PARTS for case in cases(content, part)) == ["A00", "A01", "A02", "A03", "A04"]
    assert all(content[part] for part in PARTS)


def test_mitos12_other_scanner(tmp_path):
    src = mitos12(tmp_path / "src", slides=1)
    with pytest.raises(DataListError, match=r"expected labels at H00_v2/H00_00\.csv, found none"):
        prepare_mitos12(src, tmp_path / "dst", scanner="H")
    text(src / "H00_v2" / "H00_00.csv", "1,2\n")
    content = read(prepare_mitos12(src, tmp_path / "dst", scanner="H"))
    assert content["training"][0]["mpp"] == 0.2273
    with pytest.raises(InputError, match="scanner: expected A or H, found 'M'"):
        prepare_mitos12(src, tmp_path / "dst", scanner="M")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param("1,2\n1,2,3\n", r"A00_00.csv, line 2: expected pixels x1,y1.*found '1,2,3'", id="odd"),
        pytest.param("1,2.5\n", "line 1: expected pixels", id="no_integer"),
        pytest.param(
            "1,2,59,39,60,39\n", r"A00_00.bmp: expected points inside its 40 rows x 60 col.*col 60", id="outside"
        ),
    ],
)
def test_mitos12_bad_pixels(tmp_path, lines, message):
    src = mitos12(tmp_path / "src", slides=1)
    text(src / "A00_v2" / "A00_00.csv", lines)
    with pytest.raises(DataListError, match=message):
        prepare_mitos12(src, tmp_path / "dst", masks=True)


# -------------------------------------------------------------------------------------------------------- ICPR 2014


def mitos14(src: Path, slides=("03", "04", "05", "07", "10", "11", "12", "14", "15"), scanner="A") -> Path:
    for slide in slides:
        name = f"{scanner}{slide}"
        image(src / name / "frames" / "x20" / f"{name}_00A.tiff")
        for letter in "abcd":
            image(src / name / "frames" / "x40" / f"{name}_00A{letter}.tiff")
            text(src / name / "mitosis" / f"{name}_00A{letter}_mitosis.csv", "50,10,0.9\n")
            text(src / name / "mitosis" / f"{name}_00A{letter}_not_mitosis.csv", "")
        text(src / name / "mitosis" / f"{name}_00Aa_not_mitosis.csv", "8,3,0.2\n7,3,0.1\n")
        text(src / name / "atypia" / "x20" / f"{name}_00A_decision_1.csv", "2\n")
    image(src / f"{scanner}06" / "frames" / "x40" / f"{scanner}06_00Aa.tiff")  # a test slide: no labels
    return src


def test_mitos14(tmp_path, capsys):
    path = prepare_mitos14(mitos14(tmp_path / "src"), tmp_path / "dst")
    content = read(path)
    assert content["split"] == "paper"
    assert cases(content, "validation") == ["A03"]
    assert cases(content, "training") == ["A04", "A05", "A07", "A10", "A11", "A12", "A14"]
    assert cases(content, "test") == ["A15"]
    item = content["validation"][0]
    assert (item["image"], item["mpp"]) == ("images/A03/A03_00Aa.tiff", 0.2455)
    assert points(path, item) == [[10, 50]], "x,y,confidence becomes row,col"
    assert points(path, item, "lookalikes") == [[3, 8], [3, 7]]
    assert "1 frames of slides without labels left out" in capsys.readouterr().err


def test_mitos14_at_x20(tmp_path):
    """A pixel of an x20 frame covers 2 x 2 pixels of an x40 frame; the four quadrants are a b / c d."""
    path = prepare_mitos14(mitos14(tmp_path / "src"), tmp_path / "dst", frames="x20")
    item = read(path)["validation"][0]
    rows, cols = SHAPE
    expected = [[(10 + r * rows + 0.5) / 2 - 0.5, (50 + c * cols + 0.5) / 2 - 0.5] for r in (0, 1) for c in (0, 1)]
    assert points(path, item) == expected
    assert (item["image"], item["mpp"]) == ("images/A03/A03_00A.tiff", 0.491)


def test_mitos14_without_the_papers_slides(tmp_path):
    content = read(prepare_mitos14(mitos14(tmp_path / "src", ["03", "04", "05"]), tmp_path / "dst"))
    assert content["split"] == "random"
    src = mitos14(tmp_path / "test", [])
    with pytest.raises(DataListError, match=r"expected frames at A03/frames/x40.*found 1 frames, none with labels"):
        prepare_mitos14(src, tmp_path / "dst2")
    with pytest.raises(InputError, match="frames: expected 'x40' or 'x20', found 'x10'"):
        prepare_mitos14(src, tmp_path / "dst2", frames="x10")


# ------------------------------------------------------------------------------------------------------------ MIDOG


def midog(src: Path, boxes=None) -> Path:
    images = [{"id": n, "file_name": f"{n:03}.tiff", "width": 60, "height": 40} for n in range(1, 6)]
    for entry in images:
        image(src / "images" / entry["file_name"])
    default = [(n, 1, [n, 5, n + 20, 15]) for n in range(1, 5)] + [(1, 2, [30, 20, 50, 40])]
    annotations = [{"image_id": i, "category_id": c, "bbox": b} for i, c, b in (default if boxes is None else boxes)]
    text(src / "MIDOG.json", json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return src


def test_midog(tmp_path, capsys):
    path = prepare_midog(midog(tmp_path / "src"), tmp_path / "dst")
    content = read(path)
    items = {item["group"]: item for part in PARTS for item in content[part]}
    assert sorted(items) == ["001", "002", "003", "004"], "nobody annotated 005"
    assert "1 images without any annotation left out" in capsys.readouterr().err
    assert points(path, items["001"]) == [[10, 11]]
    assert points(path, items["001"], "lookalikes") == [[30, 40]]
    assert points(path, items["002"], "lookalikes") == []
    assert items["001"]["mpp"] == 0.25

    path = prepare_midog(tmp_path / "src", tmp_path / "all", keep_unannotated=True, split="test")
    assert len(read(path)["test"]) == 5


def test_midog_bad_releases(tmp_path):
    def fails(message, **options):
        with pytest.raises(DataListError, match=message):
            prepare_midog(tmp_path / "src", tmp_path / "dst", **options)

    midog(tmp_path / "src", [(1, 3, [1, 1, 5, 5]), (1, 1, [30, 20, 25, 25])])
    fails(r"category 1 or 2 and a box.*found 3 \[1, 1, 5, 5\]\n.*found 1 \[30, 20, 25, 25\]")
    midog(tmp_path / "src")
    (tmp_path / "src" / "images" / "002.tiff").unlink()
    fails("expected image 002.tiff, found none")
    text(tmp_path / "src" / "other.json", "{}")
    fails("expected one COCO file.*found .*MIDOG.json, .*other.json")
    fails(
        "other.json: expected COCO with images and annotations, found KeyError", annotations=tmp_path / "src/other.json"
    )


# -------------------------------------------------------------------------------------------------- options, bad input


def test_everything_into_test(tmp_path):
    content = read(prepare_tupac16(tupac(tmp_path / "src", [1, 2]), tmp_path / "dst", split="test"))
    assert [len(content[part]) for part in PARTS] == [0, 0, 4]


def test_links(tmp_path):
    src = tupac(tmp_path / "src", [1])
    path = prepare_tupac16(src, tmp_path / "dst", link=True)
    assert (path.parent / "images/01/01.tif").samefile(src / "mitoses_image_data/01/01.tif")
    assert read(path)


def test_links_across_file_systems(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    path = prepare_tupac16(tupac(tmp_path / "src", [1]), tmp_path / "dst", link=True)
    assert (path.parent / "images/01/01.tif").is_symlink()
    assert read(path)


def test_overwrite(tmp_path):
    src = tupac(tmp_path / "src", [1, 2, 3])
    path = prepare_tupac16(src, tmp_path / "dst", link=True)
    first = path.read_bytes()
    with pytest.raises(
        InputError, match=r"dataset\.json: expected no data set there yet \(--overwrite True replaces it\)"
    ):
        prepare_tupac16(src, tmp_path / "dst")
    assert prepare_tupac16(src, tmp_path / "dst", overwrite=True).read_bytes() == first, "the same seed, the same list"
    assert not (path.parent / "images/01/01.tif").samefile(src / "mitoses_image_data/01/01.tif")


def test_overwriting_removes_what_was_listed(tmp_path):
    src = tupac(tmp_path / "src", [1, 2])
    path = prepare_tupac16(src, tmp_path / "dst")
    for kept in (tmp_path / "dst" / "notes.txt", tmp_path / "outside.png"):
        text(kept, "mine")
    content = json.loads(path.read_text())
    content["test"] += [{"image": "../outside.png", "label": 1, "mask": None}, "no item"]
    path.write_text(json.dumps(content))
    (src / "mitoses_image_data" / "02" / "02.tif").unlink()
    prepare_tupac16(src, tmp_path / "dst", overwrite=True)
    images = [str(path.relative_to(tmp_path / "dst")) for path in (tmp_path / "dst" / "images").rglob("*.tif")]
    assert sorted(images) == ["images/01/01.tif", "images/01/02.tif", "images/02/01.tif"]
    assert (tmp_path / "dst" / "notes.txt").exists()
    assert (tmp_path / "outside.png").exists(), "a list cannot reach out of its folder"
    path.write_text("no list")
    prepare_tupac16(src, tmp_path / "dst", overwrite=True)


def test_writing_below_the_source(tmp_path, monkeypatch):
    """What an earlier run wrote there is no part of the release, however the folders are named."""
    tupac(tmp_path, [1, 2, 3])
    monkeypatch.chdir(tmp_path)
    prepare_tupac16(tmp_path, "prepared")
    again = prepare_tupac16(".", tmp_path / "prepared", overwrite=True)
    assert sum(len(read(again)[part]) for part in PARTS) == 6
    with pytest.raises(InputError, match="dst: expected another folder than the release's"):
        prepare_tupac16(".", tmp_path)


def test_linked_folders_are_followed(tmp_path):
    tupac(tmp_path / "disk", [1, 2, 3])
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "release").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "src")
    content = read(prepare_tupac16(tmp_path / "src", tmp_path / "dst"))
    assert sum(len(content[part]) for part in PARTS) == 6


def test_a_failure_leaves_no_list(tmp_path, monkeypatch):
    src = tupac(tmp_path / "src", [1, 2])
    prepare_tupac16(src, tmp_path / "dst")
    monkeypatch.setattr("shutil.copyfile", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        prepare_tupac16(src, tmp_path / "dst", overwrite=True)
    assert not (tmp_path / "dst" / "dataset.json").exists(), "a list of files that are being replaced must not stay"
    assert not list((tmp_path / "dst").rglob(".*"))


@pytest.mark.parametrize("name", RELEASES)
def test_wrong_options(tmp_path, name):
    with pytest.raises(InputError, match=f"prepare {name}: expected its own options .*, found --masc$"):
        getattr(prepare, f"prepare_{name}")(tmp_path, tmp_path / "dst", masc=True)
    for seed in (-1, 1.5, "one", True):
        with pytest.raises(InputError, match="seed: expected a whole number from 0, found"):
            getattr(prepare, f"prepare_{name}")(tmp_path, tmp_path / "dst", seed=seed)


@pytest.mark.parametrize("name", RELEASES)
def test_wrong_folder(tmp_path, name):
    with pytest.raises(DataListError, match=f"expected the folder of the {name} release, found no such folder"):
        getattr(prepare, f"prepare_{name}")(tmp_path / "gone", tmp_path / "dst")
    with pytest.raises(DataListError, match="found a file"):
        getattr(prepare, f"prepare_{name}")(text(tmp_path / "file", ""), tmp_path / "dst")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataListError) as error:
        getattr(prepare, f"prepare_{name}")(tmp_path / "empty", tmp_path / "dst")
    looked_for = {
        "mitos12": "A00_v2/A00_00.bmp",
        "mitos14": "A03/frames/x40",
        "midog": "MIDOG.json",
        "midogpp": "MIDOG++.json",
        "atypical": "Ami-Br.csv",
        "negatives": "images of the negatives release",
        "cbis_ddsm": "mass_case_description_train_set.csv",
        "pcam": "train_labels.csv",
        "camelyon16": "normal_001.tif",
        "hploc": "normal_001.tif",
        "lizard": "Lizard_Images1/<name>.png",
        "pannuke": "Fold 1/images/fold1/images.npy",
        "nuinsseg": "<organ>/tissue images/<name>.png",
        "puma": "training_set_<kind>_roi_<n>.tif",
        "idc": "Microscopy Bulk Simple Annotations",
        "monuseg": "Annotations/<name>.xml",
        "consep": "Train/Labels/<name>.mat",
        "ccrcc": "Train/Labels/<name>.mat",
        "dsb2018": "stage1_train/<id>/images",
        "nucls": "rgb/<name>.png",
        "crchisto": "<class>/img<N>_<k>.jpeg",
        "qupath": "ssa or ea/<name>.geojson",
        "pvid": "labels.csv",
    }
    assert looked_for.get(name, "<case>/<nn>.tif") in str(error.value)
    assert not (tmp_path / "dst").exists()


def test_all_problems_are_reported_together(tmp_path):
    src = tupac(tmp_path / "src", range(1, 8))
    images, truth = src / "mitoses_image_data", src / "mitoses_ground_truth"
    (images / "01" / "01.tif").unlink()
    whole = (images / "02" / "01.tif").read_bytes()
    (images / "02" / "01.tif").write_bytes(whole[: len(whole) // 2])
    (images / "03" / "01.tif").write_bytes(b"no image")
    text(truth / "04" / "01.csv", "10,55\r\n20,59\r\n")  # inside: 40 rows, 60 columns
    text(truth / "05" / "01.csv", "55,10\n59,20\n")  # col,row
    text(truth / "06" / "01.csv", "10,55\n10,61\n")
    text(truth / "07" / "01.csv", "10,55\n10;12\n")
    image(src / "part_2" / "07" / "02.tif")
    with pytest.raises(DataListError) as error:
        prepare_tupac16(src, tmp_path / "dst")
    for beginning, end in (
        (f"{truth}/01/01.csv: expected its image", "found none"),
        (f"{images}/02/01.tif: expected a whole file of ", ": its end is missing"),
        (f"{images}/03/01.tif: expected a readable image", ""),
        (
            f"{images}/05/01.tif: expected points inside its 40 rows x 60 columns, found 2 of 2 outside",
            "all are inside as col,row: swapped?",
        ),
        (f"{images}/06/01.tif: expected points inside", "1 of 2 outside, the first at row 10, col 61"),
        (f"{truth}/07/01.csv, line 2: expected two numbers row,col", "found '10;12'"),
        (f"{src}/part_2/07/02.tif: expected one image of case 07, field 02", f"{images}/07/02.tif"),
    ):
        assert any(line.startswith(beginning) and line.endswith(end) for line in error.value.problems), beginning
    assert len(error.value.problems) == 7
    assert not (tmp_path / "dst").exists()


def test_points_on_the_border(tmp_path):
    src = tupac(tmp_path / "src", [1])
    truth = src / "mitoses_ground_truth" / "01" / "01.csv"
    text(truth, "0,0\n39,59\n-0.5,59.5\n")
    read(prepare_tupac16(src, tmp_path / "dst"))
    text(truth, "40,0\n")
    with pytest.raises(DataListError, match="the first at row 40, col 0; all are inside as col,row: swapped"):
        prepare_tupac16(src, tmp_path / "dst2")


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(np.full((40, 60, 4), 128, dtype=np.uint8), id="rgba"),
        pytest.param(np.full((40, 60, 3), 40_000, dtype=np.uint16), id="16bit"),
        pytest.param(np.full((40, 60), 255, dtype=np.uint8), id="white_grey"),
    ],
)
def test_ordinary_images(tmp_path, pixels):
    src = tupac(tmp_path / "src", [1])
    assert cv2.imwrite(str(src / "mitoses_image_data/01/01.tif"), pixels)
    read(prepare_tupac16(src, tmp_path / "dst"))


@pytest.mark.real_data
def test_real_fields(tmp_path):
    root = os.environ.get("MONAI_EXT_DATA")
    if not root:
        pytest.skip("MONAI_EXT_DATA is not set")
    path = prepare_tupac16(Path(root) / "mitosis_fields", tmp_path, link=True)
    content = read(path)
    assert content["split"] == "random"
    items = [item for part in PARTS for item in content[part]]
    assert len(items) == 108
    assert len({item["group"] for item in items}) == 49
    assert sum(len(points(path, item)) for item in items) == 729
    assert all(any(points(path, item) for item in content[part]) for part in PARTS)


def test_a_table_beside_the_case_folders_is_no_label(tmp_path, capsys):
    image = np.full((40, 40, 3), 200, np.uint8)
    for case in ("01", "02", "03"):
        (tmp_path / "src/mitoses_image_data" / case).mkdir(parents=True)
        (tmp_path / "src/mitoses_ground_truth" / case).mkdir(parents=True)
        tifffile.imwrite(tmp_path / "src/mitoses_image_data" / case / "01.tif", image)
        (tmp_path / "src/mitoses_ground_truth" / case / "01.csv").write_text("3,4\n")
    (tmp_path / "src/training_ground_truth.csv").write_text("case,score\n1,2\n")
    path = prepare_tupac16(tmp_path / "src", tmp_path / "dst", split="random", overwrite="false")
    assert len(json.loads(path.read_text())["training"]) == 1
    assert "training_ground_truth.csv" in capsys.readouterr().err
    with pytest.raises(InputError, match="no data set there yet"):
        prepare_tupac16(tmp_path / "src", tmp_path / "dst", overwrite="false")
