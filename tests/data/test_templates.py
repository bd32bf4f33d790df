"""Templates: read from a folder, cut at points, and what the command shows of them."""

from __future__ import annotations

import csv
import sys

import cv2
import numpy as np
import pytest

from monai_ext import __main__
from monai_ext.base.errors import InputError
from monai_ext.data import Features, read_field, write_geojson, write_points
from monai_ext.data.templates import keep_templates, read_templates
from monai_ext.prepare.templates import choose_templates, cut_templates
from monai_ext.transforms.kcf import KCFPseudoMask

PLACES = np.array([[30, 40], [30, 90], [70, 60], [75, 120], [100, 30]])
SIZE = 15


def cells(shape=(130, 150)):
    """Blue disks with dark rims on pink: RGB."""
    image = np.full((*shape, 3), (235, 190, 215), np.uint8)
    for row, col in PLACES:
        cv2.circle(image, (int(col), int(row)), 6, (90, 60, 140), -1)
        cv2.circle(image, (int(col), int(row)), 6, (40, 20, 90), 1)
    return image


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "vessel.png"
    cv2.imwrite(str(path), cells()[..., ::-1])
    return path


def test_points_of_qupath_and_of_csv_cut_the_same(image, tmp_path):
    chosen = PLACES[:2]
    points = write_points(tmp_path / "p.csv", chosen)
    drawn = Features.from_points(np.r_[chosen, [[5.0, 5.0]]], classes=["Cell", "Cell", "Ignore"])
    qupath = write_geojson(tmp_path / "p.geojson", drawn)
    first = choose_templates(tmp_path / "a", image=image, points=points, size=SIZE)
    second = choose_templates(tmp_path / "b", image=image, points=qupath, size=SIZE, classes="Cell")
    templates = read_templates(first)
    assert list(templates) == ["template_00", "template_01"]
    for name, template in templates.items():
        assert template.shape == (3, SIZE, SIZE)
        np.testing.assert_array_equal(template, read_templates(second)[name])
    row, col = chosen[0]
    np.testing.assert_array_equal(
        np.moveaxis(templates["template_00"], 0, -1), cells()[row - 7 : row + 8, col - 7 : col + 8]
    )
    assert KCFPseudoMask(first).cell_size == SIZE


def test_it_shows_what_they_find(image, tmp_path):
    points = write_points(tmp_path / "p.csv", PLACES[:1])
    folder = choose_templates(tmp_path / "t", image=image, points=points, size=SIZE)
    rows = list(csv.DictReader((folder / "preview" / "found.csv").open()))
    found = sorted((round(float(row["row"])), round(float(row["col"]))) for row in rows)
    assert found == sorted(map(tuple, PLACES.tolist()))
    assert {row["template"] for row in rows} == {"template_00"}
    picture = cv2.imread(str(folder / "preview" / "vessel.png"))
    assert picture.shape[0] == 130
    assert picture.shape[1] > 150 + 90


def test_crops_of_one_s_own_and_other_images_to_look_at(image, tmp_path):
    folder = tmp_path / "crops"
    folder.mkdir()
    cv2.imwrite(str(folder / "big.png"), cells()[20:41, 30:51, ::-1])
    made = choose_templates(tmp_path / "t", crops=folder, show=[image])
    assert list(read_templates(made)) == ["big"]
    assert (made / "preview" / "vessel.png").is_file()
    with pytest.raises(InputError, match="overwrite"):
        choose_templates(made, crops=folder)
    cv2.imwrite(str(folder / "other.png"), cells()[60:81, 50:71, ::-1])
    (folder / "big.png").unlink()
    assert list(read_templates(choose_templates(made, crops=folder, overwrite=True))) == ["other"]


def test_another_resolution(image, tmp_path):
    points = write_points(tmp_path / "p.csv", PLACES[:1])
    folder = choose_templates(tmp_path / "t", image=image, points=points, size=9, mpp=0.25, target_mpp=0.5)
    (template,) = read_templates(folder).values()
    half = read_field(image, 0.25, 0.5).image
    row, col = 15, 20  # (30 + .5) / 2 - .5 and so on, to the nearest pixel
    np.testing.assert_array_equal(template, half[:, row - 4 : row + 5, col - 4 : col + 5])


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], "points on typical cells, found none"),
        ([[3, 40]], "1 that do not, the first at row 3, col 40"),
        ([[110, 100]], "template that shows a cell, found one colour"),
    ],
)
def test_unusable_points_are_refused(points, expected):
    with pytest.raises(InputError, match=expected):
        cut_templates(np.moveaxis(cells(), -1, 0), np.array(points, float).reshape(-1, 2), SIZE)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), r"crops of cells .* found none"),
        (lambda folder: folder.write_text(""), "a folder of templates, found a file"),
        (
            lambda folder: (folder.mkdir(), cv2.imwrite(str(folder / "a.png"), np.full((9, 9, 3), 7))),
            "found one colour",
        ),
        (lambda folder: (folder.mkdir(), cv2.imwrite(str(folder / "a.png"), np.eye(2) * 255)), "at least 3 x 3 px"),
        (lambda folder: (folder.mkdir(), (folder / "a.png").write_text("x")), "a readable image"),
    ],
    ids=["missing", "empty", "file", "one colour", "tiny", "no image"],
)
def test_unusable_folders_are_refused(tmp_path, make, expected):
    make(tmp_path / "t")
    with pytest.raises(InputError, match=expected):
        read_templates(tmp_path / "t")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "--image, --points and --size, or --crops"),
        ({"image": "vessel.png", "points": "p.csv"}, "not all of them"),
        ({"image": "vessel.png", "points": "p.csv", "size": 15, "crops": "c"}, "found both"),
        ({"image": "vessel.png", "points": "p.csv", "size": 2}, "a whole number of px from 3"),
        ({"image": "vessel.png", "points": "far.csv", "size": 15}, "points inside the image"),
        ({"image": "none.png", "points": "p.csv", "size": 15}, "no such file"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(image, tmp_path, monkeypatch, capsys, options, expected):
    monkeypatch.chdir(tmp_path)
    write_points("p.csv", PLACES[:1])
    write_points("far.csv", [[30, 400]])
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["monai_ext", "templates", "--dst", "out", *arguments])
    with pytest.raises(SystemExit) as code:
        __main__.main()
    said = capsys.readouterr().err.strip()
    assert code.value.code == 1
    assert expected in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_templates_travel_with_weights(tmp_path):
    crops = {name: np.random.default_rng(n).integers(0, 255, (3, 9, 11), np.uint8) for n, name in enumerate("ab")}
    for name, crop in crops.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.moveaxis(crop, 0, -1)[..., ::-1])
    (tmp_path / "models/templates").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "models/templates/old.png"), np.zeros((5, 5), np.uint8))
    kept = keep_templates(tmp_path, tmp_path / "models")
    assert kept == tmp_path / "models/templates"
    found = read_templates(kept)
    assert found.keys() == crops.keys()
    for name, crop in crops.items():
        np.testing.assert_array_equal(found[name], crop)
    assert keep_templates(kept, tmp_path / "models") == kept  # its own: left alone
    assert read_templates(kept).keys() == crops.keys()
