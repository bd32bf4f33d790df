"""MIDOG++ and labels of atypical figures: tiny releases in the official layouts."""

from __future__ import annotations

import json
from collections import Counter

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.datalist import check_label_item, load_datalist
from monai_ext.prepare import prepare_atypical, prepare_midogpp
from tests.prepare.test_prepare import PARTS, image, points, read, text

TYPES = (
    "human breast cancer",
    "canine lung cancer",
    "canine lymphosarcoma",
    "canine cutaneous mast cell tumor",
    "human neuroendocrine tumor",
    "canine soft tissue sarcoma",
    "human melanoma",
)
UNANNOTATED = 151  # stands in the JSON, and neither in the CSV nor in the download


def midogpp(src, of_each=8):
    """Of each type so many cases; every fourth is a test case. Case 1 has no figure."""
    entries, annotations, lines = [], [], ["Slide;Dataset;Tumor;Scanner;Origin;Species"]
    for number in range(1, of_each * len(TYPES) + 1):
        kind = TYPES[(number - 1) // of_each]
        image(src / "images" / f"{number:03}.tiff")
        entries.append({"id": number, "file_name": f"{number:03}.tiff", "width": 60, "height": 40, "tumor_type": kind})
        spelt = kind.replace("lymphosarcoma", "lymphoma")
        lines.append(
            f"{number};{'train' if number % 4 else 'test'};{spelt};Hamammatsu XR;UMC Utrecht;{kind.split()[0]}"
        )
        boxes = [] if number == 1 else [(1, [-5, -10, 45, 40]), (1, [5.5, 0, 55.5, 50]), (2, [10, -10, 60, 40])]
        annotations += [
            {"bbox": box, "category_id": category, "image_id": number, "labels": [1, 1], "id": len(annotations) + i}
            for i, (category, box) in enumerate(boxes)
        ]
    entries.append({"id": UNANNOTATED, "file_name": f"{UNANNOTATED}.tiff", "width": 60, "height": 40})
    content = {"info": {}, "licenses": [], "images": entries, "annotations": annotations, "categories": []}
    text(src / "databases" / "MIDOG++.json", json.dumps(content))
    text(src / "databases" / "MultiDomainMitoticFigureDataset.json", "{}")  # the repository has it too
    text(src / "datasets_xvalidation.csv", "\n".join(lines) + "\n")
    return src


def kinds(content, part):
    return Counter(item["tumor"] for item in content[part])


def test_the_papers_split(tmp_path):
    path = prepare_midogpp(midogpp(tmp_path / "src"), tmp_path / "dst")
    content = read(path)
    assert content["split"] == "paper"
    assert kinds(content, "test") == dict.fromkeys(TYPES, 2)
    assert (len(content["training"]), len(content["validation"])) == (34, 8), "a fifth of the training cases"
    items = {item["group"]: item for part in PARTS for item in content[part]}
    assert len(items) == 56
    assert points(path, items["002"]) == [[15, 20], [25, 30.5]]
    assert points(path, items["002"], "lookalikes") == [[15, 35]]
    assert points(path, items["001"]) == [], "a case that was looked through and has none"
    expected = {"tumor": TYPES[2], "scanner": "Hamamatsu XR", "origin": "UMC Utrecht", "species": "canine"}
    assert {key: items["017"][key] for key in expected} == expected


@pytest.mark.parametrize("kind", [TYPES[2], TYPES[6]])
def test_leave_one_domain_out(tmp_path, kind):
    content = read(prepare_midogpp(midogpp(tmp_path / "src"), tmp_path / "dst", leave_out=kind))
    assert content["left_out"] == kind
    assert kinds(content, "test") == {kind: 2}
    trained = kinds(content, "training") + kinds(content, "validation")
    assert trained == {other: 6 for other in TYPES if other != kind}, "no test case of another type"
    assert len(content["validation"]) in (7, 8)


def test_without_the_table_of_cases(tmp_path, capsys):
    src = midogpp(tmp_path / "src")
    (src / "datasets_xvalidation.csv").unlink()
    content = read(prepare_midogpp(src, tmp_path / "a"))
    assert content["split"] == "random"
    assert "no datasets_xvalidation.csv" in capsys.readouterr().err
    assert "scanner" not in content["training"][0]
    content = read(prepare_midogpp(src, tmp_path / "b", leave_out=TYPES[6]))
    assert kinds(content, "test") == {TYPES[6]: 8}
    assert TYPES[6] not in kinds(content, "training")


def test_wrong_releases(tmp_path):
    src = midogpp(tmp_path / "src")
    with pytest.raises(InputError, match=r"leave_out: expected canine cutaneous mast cell tumor, .*, found 'melanoma'"):
        prepare_midogpp(src, tmp_path / "dst", leave_out="melanoma")
    with pytest.raises(InputError, match="leave_out: expected no --split of another kind beside it, found 'random'"):
        prepare_midogpp(src, tmp_path / "dst", leave_out=TYPES[6], split="random")
    for number in range(10, 40):
        (src / "images" / f"{number:03}.tiff").unlink()
    image(src / "again" / "002.tiff")
    table = src / "datasets_xvalidation.csv"
    lines = table.read_text().splitlines()
    lines[3] = lines[3].replace(";", ",")
    lines[4] = lines[4].replace(";test;", ";tets;")
    table.write_text("\n".join([*lines, lines[5]]))
    with pytest.raises(DataListError) as error:
        prepare_midogpp(src, tmp_path / "dst")
    for words in (
        "datasets_xvalidation.csv, line 4: expected 6 cells between semicolons",
        "expected for slide 4 one line with train or test, found 'tets'",
        "expected for slide 5 one line with train or test, found its line twice",
        "expected image 010.tiff, found none",
        "expected 10 further images, 030.tiff to 039.tiff, found none",
        "002.tiff: expected one image of that name, found also",
    ):
        assert any(words in line for line in error.value.problems), words
    assert not (tmp_path / "dst").exists()
    (src / "databases" / "MIDOGpp.json").write_bytes((src / "databases" / "MIDOG++.json").read_bytes())
    with pytest.raises(DataListError, match=r"expected one COCO file such as MIDOG\+\+.json"):
        prepare_midogpp(src, tmp_path / "dst")


# ---------------------------------------------------------------------------------------------------------- atypical

AMI_BR = (
    ",slide,dataset,uid,x,y,expert1_label,expert2_label,expert1_atypical,expert2_atypical,expert3_atypical,"
    "majority_atypical"
)
MIDOG25 = "image_id,filename,coordinateX,coordinateY,Tumor,Scanner,Origin,Species,expert1,expert2,expert3,majority"


def ami_br(path, rows):
    lines = [
        f"{number},{slide},{dataset},{uid},{x},{y},NMF metaphase,AMF other,{atypical},{atypical},True,{atypical}"
        for number, (slide, dataset, uid, x, y, atypical) in enumerate(rows)
    ]
    return text(path, "\n".join([AMI_BR, *lines]) + "\n")


def midog25(path, rows):
    lines = [f"{name},{slide},{x},{y},t,s,o,Human,{label},{label},,{label}" for name, slide, x, y, label in rows]
    return text(path, "\n".join([MIDOG25, *lines]) + "\n")


def test_atypical_figures_are_a_second_class(tmp_path, capsys):
    src = midogpp(tmp_path / "src")
    first = ami_br(
        tmp_path / "Ami-Br.csv",
        [
            ("002.tiff", "MIDOG21", 6, 20, 15, True),
            ("002.tiff", "MIDOG21", 7, 30, 25, False),
            ("x.tif", "TUPAC16", 1, 1, 1, True),
        ],
    )
    second = midog25(tmp_path / "m.csv", [("1.png", "003.tiff", 31, 25, "NMF")])
    path = prepare_midogpp(src, tmp_path / "dst", atypical=[first, second])
    items = {item["group"]: item for part in PARTS for item in read(path)[part]}
    assert points(path, items["002"], "atypical") == [[15, 20]]
    assert points(path, items["003"], "atypical") == []
    assert "atypical" not in items["004"], "no list speaks of it"
    told = capsys.readouterr().err
    assert "speaks also of 1 images that are not in this data set" in told
    assert "silent about 1 figures" in told
    loaded = load_datalist(path.parent, ["training"], optional_path_keys=("lookalikes", "atypical"))
    assert sum("atypical" in item for item in loaded["training"]) <= 2


def test_lists_that_do_not_fit(tmp_path):
    src = midogpp(tmp_path / "src")
    wrong = midog25(
        tmp_path / "m.csv",
        [("1.png", "002.tiff", 55, 5, "NMF"), ("2.png", "003.tiff", 20, 15, "no"), ("3.png", "001.tiff", 1, 1, "AMF")],
    )
    with pytest.raises(DataListError) as error:
        prepare_midogpp(src, tmp_path / "dst", atypical=[wrong, src / "datasets_xvalidation.csv", "gone.csv"])
    for words in (
        "each place of the list of atypical figures, found none at row 5, col 55",
        "001.tiff: expected a figure",
        "AMF, NMF, True or False, found 'no' in the line of 2.png",
        "datasets_xvalidation.csv: expected the columns slide, dataset",
        "gone.csv: expected the columns",
    ):
        assert any(words in line for line in error.value.problems), words


def patch(path, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((128, 128, 3), value, np.uint8))


def classes(path):
    lists = load_datalist(path.parent, PARTS, check=check_label_item, path_keys=("image",), allow_empty=True)
    return {item["group"]: item["label"] for part in PARTS for item in lists[part]}, lists


def test_patches_of_midog_2025(tmp_path):
    rows = [(f"{n}.png", f"{n // 4 + 201}.tiff", n, n, "AMF" if n % 4 == 0 else "NMF") for n in range(40)]
    midog25(tmp_path / "src" / "MIDOG25_Atypical_Classification_Train_Set.csv", rows)
    for name, *_ in rows:
        patch(tmp_path / "src" / "MIDOG25_Binary_Classification_Train_Set" / name)
    path = prepare_atypical(tmp_path / "src", tmp_path / "dst")
    groups, lists = classes(path)
    assert sorted(groups) == [str(number) for number in range(201, 211)], "the case"
    assert sum(item["label"] for part in PARTS for item in lists[part]) == 10
    assert {item["mpp"] for item in lists["training"]} == {0.25}
    (tmp_path / "src" / "MIDOG25_Binary_Classification_Train_Set" / "7.png").unlink()
    with pytest.raises(DataListError, match=r"expected 40 patches, found none of 1, as 7.png"):
        prepare_atypical(tmp_path / "src", tmp_path / "dst2")


def test_patches_of_ami_br(tmp_path, capsys):
    rows = [(f"{n // 2 + 1:03}.tiff", "MIDOG21" if n < 10 else "TUPAC16", n, n, n, n % 3 == 0) for n in range(20)]
    ami_br(tmp_path / "src" / "Ami-Br.csv", rows)
    for number in range(18):  # patches of the agreed figures alone
        patch(tmp_path / "src" / "patches" / f"{'MIDOG21' if number < 10 else 'TUPAC16'}_{number}.png")
    groups, lists = classes(prepare_atypical(tmp_path / "src", tmp_path / "dst"))
    assert sum(len(lists[part]) for part in PARTS) == 18
    assert len(groups) == 9
    assert "2 figures of Ami-Br.csv have no patch: left out" in capsys.readouterr().err


def test_patches_in_folders(tmp_path):
    for number in range(8):
        patch(tmp_path / "src" / "AtNorM-Br" / "Normal" / f"{number}.png")
        patch(tmp_path / "src" / "AtNorM-Br" / "Atypical" / f"TCGA-AA-000{number % 2}-01Z_{number}.png")
    groups, lists = classes(prepare_atypical(tmp_path / "src", tmp_path / "dst"))
    assert sum(len(lists[part]) for part in PARTS) == 16
    assert {group for group, label in groups.items() if label} == {"TCGA-AA-0000", "TCGA-AA-0001"}
    patch(tmp_path / "src" / "copy" / "Normal" / "3.png")
    with pytest.raises(DataListError, match=r"3\.png: expected one patch of that name, found also"):
        prepare_atypical(tmp_path / "src", tmp_path / "dst2")
