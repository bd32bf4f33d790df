"""Slides and nuclei as the Imaging Data Commons has them: tiny ones, of known truth, and what may be wrong."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.data import read_field, read_mask
from monai_ext.prepare import prepare_idc
from tests.formats.dicom_slides import group, on_glass, write_annotations, write_slide
from tests.prepare.test_prepare_cells import items, problems

SIZE = 64
CORNERS = [(row, col) for row in (8, 70) for col in (10, 80, 150)]  # of nuclei, 8 x 6 px: one in each square


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 200, (140, 230, 3)).astype(np.uint8)


def nuclei(kind: str = "2D") -> list[np.ndarray]:
    boxes = [np.array([[x, y], [x + 6, y], [x + 6, y + 8], [x, y + 8]], np.float64) for y, x in CORNERS]
    return boxes if kind == "2D" else [on_glass(box) for box in boxes]


def idc(src: Path, patients: int = 7, kinds=("2D", "3D")) -> Path:
    """As idc-index lays its downloads; one slide of each patient, annotated in pixels or in mm."""
    for number in range(patients):
        barcode = f"TCGA-AA-{number:04d}-01Z-00-DX1"
        study = src / "tcga_luad" / barcode[:12] / "1.2.3"
        slide = write_slide(study / f"SM_{number}", pixels(number), barcode=barcode)
        kind = kinds[number % len(kinds)]
        boxes = nuclei(kind)
        groups = [group(1, "POLYGON", boxes[:4]), group(2, "RECTANGLE", boxes[4:], meaning="Lymphocyte")]
        write_annotations(study / f"ANN_{number}" / "nuclei.dcm", slide, groups, kind)
    return src


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_idc(tmp_path, ending):
    src = idc(tmp_path / "src")
    for path in sorted(src.rglob("*.dcm")):  # as an archive may call them
        path.rename(path.with_suffix(ending))
    content, found = items(prepare_idc(src, tmp_path / "dst", size=SIZE, squares=0))
    assert content["class_names"] == ["Lymphocyte", "Nucleus"]
    assert content["split"] == "slide"
    assert {item["group"] for item in found} == {f"TCGA-AA-{number:04d}" for number in range(7)}
    assert len(found) == 7 * 6, "whole squares that hold a nucleus"
    for each in found:
        number = int(each["group"][-4:])
        row, col = map(int, Path(each["image"]).stem.split("_"))
        image = np.moveaxis(read_field(each["image"]).image, 0, -1)
        assert np.array_equal(image, pixels(number)[row : row + SIZE, col : col + SIZE])
        assert each["mpp"] == pytest.approx(0.25)
        truth, kinds = np.zeros((140, 230), int), np.zeros((140, 230), int)
        for index, (y, x) in enumerate(CORNERS):
            truth[y : y + 8, x : x + 6] = index + 1
            kinds[y : y + 8, x : x + 6] = 2 if index < 4 else 1
        part = np.s_[row : row + SIZE, col : col + SIZE]
        assert np.array_equal(read_mask(each["label"]) > 0, truth[part] > 0)
        assert np.array_equal(read_mask(each["classes"]), kinds[part])
        assert len(np.unique(read_mask(each["label"]))) == len(np.unique(truth[part]))


def test_idc_at_another_resolution(tmp_path):
    """Twice as coarse; what is drawn depends on the seed alone."""
    src = idc(tmp_path / "src", 1)
    _, found = items(prepare_idc(src, tmp_path / "dst", size=32, target_mpp=0.5, squares=2, split="test"))
    assert len(found) == 2
    for each in found:
        assert each["mpp"] == pytest.approx(0.5)
        label = read_mask(each["label"])
        assert label.max() == 1
        assert (label > 0).sum() in (12, 16), "a nucleus of 8 x 6 px is 4 x 3; at odd corners a row or column more"
    again = items(prepare_idc(src, tmp_path / "again", size=32, target_mpp=0.5, squares=2, split="test"))[1]
    assert [Path(each["image"]).name for each in again] == [Path(each["image"]).name for each in found]


def test_idc_problems(tmp_path):
    src = idc(tmp_path / "src", 5, kinds=("2D",))
    files = [src / f"tcga_luad/TCGA-AA-{number:04d}/1.2.3/ANN_{number}/nuclei.dcm" for number in range(5)]
    slide = write_slide(tmp_path / "elsewhere", pixels(9))
    box = nuclei()[:1]
    # another slide's; in mm of an unknown frame; in mm though it says px; a slide annotated twice; twice unzipped
    write_annotations(files[0], slide, [group(1, "POLYGON", box)])
    write_annotations(files[1], slide, [group(1, "POLYGON", nuclei("3D")[:1])], "3D")
    own = write_slide(src / "own", pixels(5), barcode="TCGA-BB-0001-01Z")
    write_annotations(src / "own" / "mm.dcm", own, [group(1, "POLYGON", [box[0] + 4000])])
    shutil.copytree(files[2].parent, src / "again")
    shutil.copytree(src / "tcga_luad/TCGA-AA-0003/1.2.3/SM_3", src / "copy")
    second = write_slide(src / "second", pixels(6), barcode="TCGA-CC-0001-01Z")
    write_annotations(src / "second/a.dcm", second, [group(1, "POLYGON", box)])
    write_annotations(src / "second/b.dcm", second, [group(1, "POLYGON", box)])
    points = write_slide(src / "points", pixels(7), barcode="TCGA-DD-0001-01Z")
    write_annotations(src / "points/a.dcm", points, [group(1, "POINT", [each[:1] for each in box])])
    (src / "torn.dcm").write_bytes(files[4].read_bytes()[:600])
    found = problems("idc", src, tmp_path / "dst", size=SIZE).splitlines()
    for words in (
        f"{files[0]}: expected its slide (of ",
        f"{files[1]}: expected its slide (of ",
        "own/mm.dcm: expected objects inside ",
        "(230 x 140 px), found 1 of 1 outside, as at x 4010, y ",
        f"{files[2]}: expected one file of this annotation, found also {src / 'again/nuclei.dcm'}",
        "expected one folder with the slide",
        f"second/b.dcm: expected one annotation of {src / 'second/level_1.dcm'}, found also {src / 'second/a.dcm'}",
        "points/a.dcm: expected outlines of nuclei, found none",
        "torn.dcm: expected what the standard asks for",
    ):
        assert any(words in line for line in found), (words, found)
    assert len(found) == 8


def test_idc_leaves_out_what_has_no_annotation(tmp_path, capsys):
    src = idc(tmp_path / "src", 2)
    write_slide(src / "bare", pixels(8), barcode="TCGA-EE-0001-01Z")
    write_slide(src / "report", pixels(8), levels=(1,), SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    _, found = items(prepare_idc(src, tmp_path / "dst", size=SIZE, split="test"))
    assert {each["group"] for each in found} == {"TCGA-AA-0000", "TCGA-AA-0001"}
    said = capsys.readouterr().err
    assert "1 slides without an annotation left out" in said
    assert "2 DICOM files of other kinds left out" in said
    shutil.rmtree(src / "tcga_luad")
    assert "found 1 slides, 0 annotations" in problems("idc", src, tmp_path / "none")


def test_idc_without_pydicom(tmp_path, monkeypatch):
    src = idc(tmp_path / "src", 2)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(InputError, match=rf"^{src}: expected pydicom .*monai_ext\[dicom\].*, found no such package$"):
        prepare_idc(src, tmp_path / "dst")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 16}, "size: expected a whole number, at least 32, found 16"),
        ({"squares": -1}, "squares: expected a whole number, at least 0, found -1"),
        ({"squares": 1.5}, "squares: .* found 1.5"),
    ],
)
def test_choices_that_cannot_be(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        prepare_idc(tmp_path, tmp_path / "dst", **options)


def test_of_two_scans_of_a_glass_the_one_that_is_named(tmp_path):
    """They share a coordinate system, in which the annotation's places in mm are; the names are against it."""
    scans = [write_slide(tmp_path / f"src/{n}", pixels(n), FrameOfReferenceUID="1.2.3") for n in (0, 1)]
    write_annotations(tmp_path / "src/0/a.dcm", scans[1], [group(1, "POLYGON", nuclei("3D"))], "3D")
    _, found = items(prepare_idc(tmp_path / "src", tmp_path / "dst", size=SIZE, squares=1, split="test"))
    assert len(found) == 1
    row, col = map(int, Path(found[0]["image"]).stem.split("_"))
    image = np.moveaxis(read_field(found[0]["image"]).image, 0, -1)
    assert np.array_equal(image, pixels(1)[row : row + SIZE, col : col + SIZE])
