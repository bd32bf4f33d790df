"""CBIS-DDSM: tiny releases in both layouts, with the peculiarities of the true one."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from monai_ext.base.errors import DataListError
from monai_ext.data.datalist import check_mask_item, load_datalist
from monai_ext.formats.image import read_mask
from monai_ext.formats.radiograph import read_radiograph
from monai_ext.prepare import prepare_cbis_ddsm
from monai_ext.transforms.concentric import mask_to_boxes
from tests.formats.dicom_files import write_dicom

PARTS = ("training", "validation", "test")
SHAPE = (90, 60)
HEADER = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,mass margins,"
    "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
)
BOXES = {1: (10, 20, 30, 40), 2: (50, 10, 60, 40)}  # of the first and the second mass

#: Patient, side, view, pathology of each mass. P_00009 has two masses in one image, P_00012 a benign one besides.
TRAINING = [
    *(
        (f"P_0000{n}", "LEFT", "CC", ("MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK")[n % 3 :][:1])
        for n in range(1, 9)
    ),
    ("P_00001", "LEFT", "MLO", ("MALIGNANT",)),
    ("P_00009", "RIGHT", "CC", ("MALIGNANT", "MALIGNANT")),
    ("P_00012", "RIGHT", "MLO", ("MALIGNANT", "BENIGN")),
]
TEST = [("P_00100", "LEFT", "CC", ("MALIGNANT",)), ("P_00101", "LEFT", "CC", ("BENIGN",))]


def mask(box, shape=SHAPE):
    array = np.zeros(shape, np.uint8)
    array[box[0] : box[2], box[1] : box[3]] = 255
    return array


def mammogram(number, shape=SHAPE):
    return np.random.default_rng(number).integers(0, 200, shape).astype(np.uint8)


def tables(src: Path):
    """Yield each file of the release: its case, whether it is the mask, its pixels."""
    src.mkdir(parents=True, exist_ok=True)
    for prefix, cases, name in (("Mass-Training", TRAINING, "train"), ("Mass-Test", TEST, "test")):
        rows = []
        for number, (patient, side, view, pathologies) in enumerate(cases):
            case = f"{prefix}_{patient}_{side}_{view}"
            yield case, "image", mammogram(number)
            for index, pathology in enumerate(pathologies, start=1):
                yield f"{case}_{index}", "mask", mask(BOXES[index])
                yield f"{case}_{index}", "crop", mammogram(number, (24, 25))
                # the true tables end the last path with a line break, in quotes, and swap the mask's with the crop's
                paths = [
                    f"{case}/1.2/1.3/000000.dcm",
                    f"{case}_{index}/1.4/1.5/000000.dcm",
                    f"{case}_{index}/1.4/1.5/000001.dcm\n",
                ]
                rows.append([patient, 3, side, view, index, "mass", "OVAL", "X", 4, pathology, 4, *paths])
        with (src / f"mass_case_description_{name}_set.csv").open("w", newline="") as file:
            csv.writer(file).writerows([HEADER.split(","), *rows])


def folders(src: Path, write=lambda path, pixels: cv2.imwrite(str(path), pixels), suffix=".png") -> Path:
    """The Cancer Imaging Archive's folders; crop and mask lie in one, the crop now first, now second."""
    for case, kind, pixels in tables(src):
        number = 1 if kind == "image" or (kind == "mask") == bool(sum(case.encode()) % 2) else 2
        path = src / "CBIS-DDSM" / case / "1.2.840.10008" / "1.3.6.1.4" / f"1-{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, pixels)
    return src


def kaggle(src: Path) -> Path:
    """The JPEG copy: files by their series, which dicom_info.csv names; calcifications are in it too."""
    rows = [["file_path", "image_path", "PatientID", "SeriesDescription"]]
    kinds = {"image": "full mammogram images", "mask": "ROI mask images", "crop": "cropped images"}
    for number, (case, kind, pixels) in enumerate(tables(src / "csv")):
        path = src / "jpeg" / f"1.3.6.1.4.1.9590.100.1.2.{number}" / f"1-{number:03}.jpg"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 70])
        relative = path.relative_to(src)
        rows.append(
            [f"CBIS-DDSM/dicom/{number}/1-1.dcm", f"CBIS-DDSM/{relative}", case, kinds[kind] if number % 3 else ""]
        )
    rows.append(["CBIS-DDSM/dicom/x/1-1.dcm", "CBIS-DDSM/jpeg/x/1-1.jpg", "Calc-Training_P_00005_RIGHT_CC", ""])
    with (src / "csv" / "dicom_info.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return src


def dicom(src: Path) -> Path:
    """As the archive has it: the crop and the mask of a mass are of one series."""

    def write(path: Path, pixels: np.ndarray) -> None:
        series = "1.2." + ".".join(str(letter) for letter in path.parts[-4][-12:].encode())
        write_dicom(path, pixels.astype(np.uint16) << 8, series=series)

    return folders(src, write, ".dcm")


def read(path: Path):
    lists = load_datalist(path.parent, PARTS, check=check_mask_item)
    return {Path(item["image"]).stem: item for part in PARTS for item in lists[part]}, lists


LAYOUTS = [
    pytest.param(folders, id="folders"),
    pytest.param(kaggle, id="jpeg"),
    pytest.param(dicom, id="dicom", marks=pytest.mark.slow),  # ITK is imported in ten seconds
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout, capsys):
    items, lists = read(prepare_cbis_ddsm(layout(tmp_path / "src"), tmp_path / "dst"))
    assert {Path(item["image"]).stem for item in lists["test"]} == {
        "Mass-Test_P_00100_LEFT_CC",
        "Mass-Test_P_00101_LEFT_CC",
    }
    assert len(items) == 13
    assert 1 <= len(lists["validation"]) <= 4
    groups = [{item["group"] for item in lists[part]} for part in PARTS]
    assert not groups[0] & groups[1]
    for name, item in items.items():
        masses = {n: kinds for p, s, v, kinds in [*TRAINING, *TEST] for n in [f"{p}_{s}_{v}"]}[name.split("_", 1)[1]]
        expected = np.zeros(SHAPE, bool)
        for index, kind in enumerate(masses, start=1):
            expected |= (kind == "MALIGNANT") & (mask(BOXES[index]) > 0)
        label = read_mask(item["label"])
        assert np.unique(label).tolist() in ([0], [0, 255]), "binary, whatever JPEG made of it"
        assert (label > 0).sum() == pytest.approx(expected.sum(), abs=12), name
        assert ((label > 0) != expected).mean() < 0.01
        assert len(mask_to_boxes(label)) == sum(kind == "MALIGNANT" for kind in masses)
        assert read_radiograph(item["image"]).image.shape == SHAPE
        assert "mpp" not in item
    assert "13 of 13 mammograms do not state the size of their pixels" in capsys.readouterr().err


@pytest.mark.slow
def test_images_of_more_bits_and_a_size_of_pixels(tmp_path):
    src = folders(tmp_path / "src")
    case = src / "CBIS-DDSM" / "Mass-Test_P_00100_LEFT_CC"
    (png,) = case.rglob("*.png")
    png.unlink()
    write_dicom(case / "1.2" / "1-1.dcm", mammogram(0).astype(np.uint16) * 256 + 99, spacing="0.05\\0.05")
    items, _ = read(prepare_cbis_ddsm(src, tmp_path / "dst"))
    item = items["Mass-Test_P_00100_LEFT_CC"]
    assert item["mpp"] == 50
    np.testing.assert_array_equal(read_radiograph(item["image"]).image, mammogram(0))


def test_benign_masses_count_if_asked_for(tmp_path):
    items, _ = read(prepare_cbis_ddsm(folders(tmp_path / "src"), tmp_path / "dst", benign=True))
    assert all(read_mask(item["label"]).max() == 255 for item in items.values())
    assert len(mask_to_boxes(read_mask(items["Mass-Training_P_00012_RIGHT_MLO"]["label"]))) == 2


def test_a_mask_of_another_size(tmp_path, capsys):
    src = folders(tmp_path / "src")
    (first, second) = sorted((src / "CBIS-DDSM" / "Mass-Test_P_00100_LEFT_CC_1").rglob("*.png"))
    path = first if read_mask(first).shape == SHAPE else second
    cv2.imwrite(str(path), cv2.resize(mask(BOXES[1]), (121, 180), interpolation=cv2.INTER_NEAREST))
    items, _ = read(prepare_cbis_ddsm(src, tmp_path / "dst"))
    label = read_mask(items["Mass-Test_P_00100_LEFT_CC"]["label"])
    assert label.shape == SHAPE
    assert ((label > 0) != (mask(BOXES[1]) > 0)).mean() < 0.02
    assert "is brought to its mammogram's (90, 60)" in capsys.readouterr().err


def test_a_patient_of_both_lists(tmp_path, capsys):
    src = folders(tmp_path / "src")
    for name in ("Mass-Test_P_00100_LEFT_CC", "Mass-Test_P_00100_LEFT_CC_1"):
        (src / "CBIS-DDSM" / name).rename(src / "CBIS-DDSM" / name.replace("P_00100", "P_00009"))
    table = src / "mass_case_description_test_set.csv"
    table.write_text(table.read_text().replace("P_00100", "P_00009"))
    _, lists = read(prepare_cbis_ddsm(src, tmp_path / "dst"))
    assert "P_00009 (test)" in {item["group"] for item in lists["test"]}
    assert "in the training and in the test list of the release: P_00009" in capsys.readouterr().err
    _, lists = read(prepare_cbis_ddsm(src, tmp_path / "random", split="random"))
    assert sum("P_00009" in {item["group"] for item in lists[part]} for part in PARTS) == 1


def test_all_problems_together(tmp_path):
    src = folders(tmp_path / "src")
    images = src / "CBIS-DDSM"
    for path in (images / "Mass-Training_P_00003_LEFT_CC").rglob("*.png"):
        path.unlink()  # an image that is gone; its mask is not
    (broken,) = (images / "Mass-Training_P_00001_LEFT_CC").rglob("*.png")
    broken.write_bytes(broken.read_bytes()[:100])
    for path in (images / "Mass-Training_P_00009_RIGHT_CC_2").rglob("*.png"):
        path.unlink()
    for path in (images / "Mass-Training_P_00012_RIGHT_MLO_1").rglob("*.png"):
        cv2.imwrite(str(path), mammogram(1, (30, 30)))  # two crops
    again = images / "again" / "Mass-Training_P_00006_LEFT_CC"
    again.mkdir(parents=True)
    cv2.imwrite(str(again / "1-1.png"), mammogram(0))
    table = src / "mass_case_description_train_set.csv"
    text = (
        table.read_text()
        .replace("P_00004,3,LEFT,CC,1", "P_00004;3;LEFT;CC;1")
        .replace("BENIGN_WITHOUT_CALLBACK", "UNKNOWN", 1)
    )
    table.write_text(text)
    with pytest.raises(DataListError) as error:
        prepare_cbis_ddsm(src, tmp_path / "dst")
    for words in (
        "mammogram Mass-Training_P_00003_LEFT_CC for the masks Mass-Training_P_00003_LEFT_CC_1, found none",
        f"{broken}: expected",
        "expected the mask Mass-Training_P_00009_RIGHT_CC_2, found none",
        "expected one mask of its mammogram's size (90, 60), found 1-1.png (30, 30), 1-2.png (30, 30)",
        "expected one mammogram Mass-Training_P_00006_LEFT_CC, found",
        "expected 14 cells between commas",
        "'UNKNOWN'",
    ):
        assert any(words in line for line in error.value.problems), words
    assert not (tmp_path / "dst").exists()


def test_parts_that_are_missing_are_named(tmp_path):
    src = folders(tmp_path / "src")
    for path in (src / "CBIS-DDSM").rglob("Mass-Test*/**/*.png"):
        path.unlink()
    with pytest.raises(DataListError, match="expected the 2 mammograms of Mass-Test, found none of them") as error:
        prepare_cbis_ddsm(src, tmp_path / "dst")
    assert len(error.value.problems) == 1
    (src / "mass_case_description_test_set.csv").unlink()
    with pytest.raises(DataListError, match=r"expected one mass_case_description_test_set\.csv, found none"):
        prepare_cbis_ddsm(src, tmp_path / "dst")


def test_a_jpeg_copy_that_is_incomplete_or_there_twice(tmp_path):
    src = kaggle(tmp_path / "src")
    files = sorted((src / "jpeg").rglob("*.jpg"))
    files[0].unlink()
    with pytest.raises(DataListError) as error:
        prepare_cbis_ddsm(src, tmp_path / "dst")
    assert any("dicom_info.csv: expected 1 further images, as jpeg/" in line for line in error.value.problems)
    folders(src)
    with pytest.raises(DataListError) as error:
        prepare_cbis_ddsm(src, tmp_path / "dst")
    problems = "\n".join(error.value.problems)
    assert "expected one copy of the images, found folders Mass-T" in problems
    assert "expected one mass_case_description_train_set.csv, found" in problems
