"""The layout for vessels of one's own, and what may be wrong with it."""

from __future__ import annotations

import gzip
import json

import cv2
import numpy as np
import pytest
import shapely
import tifffile

from monai_ext.base.errors import DataListError
from monai_ext.data import Features, load_datalist, read_geojson, read_mask, read_points, write_geojson
from monai_ext.data.vessels import check_vessel_item
from monai_ext.formats import label_map_to_polygons
from monai_ext.prepare import prepare_pvid
from tests.formats.torture import BY_NAME

PARTS = ("training", "validation", "test")
SHAPE = (40, 50)


def release(folder, slides=10, vessels=3, header="vessel,slide,label"):
    """Every third vessel is invaded; masks are PNG and GeoJSON by turns."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines, points = [header], ["vessel,row,col"]
    for number in range(slides * vessels):
        name, invaded = f"v{number:03d}", number % 3 == 0
        cv2.imwrite(str(folder / "images" / f"{name}.png"), rng.integers(0, 255, (*SHAPE, 3)))
        if number % 2:
            write_geojson(folder / "masks" / f"{name}.geojson", Features([shapely.box(5, 10, 30, 35)]))
        else:
            mask = np.zeros(SHAPE, np.uint8)
            mask[10:35, 5:30] = 255
            cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
        lines.append(f"{name},S{number // vessels},{('healthy', 'MVI')[invaded] if number % 2 else int(invaded)}")
        points += [f"{name},12,{col}" for col in (7, 20.5)] if invaded else []
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    (folder / "centroids.csv").write_text("\n".join(points) + "\n")
    return folder


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def problems(src, dst):
    with pytest.raises(DataListError) as error:
        prepare_pvid(src, dst)
    assert not dst.exists()
    return error.value.problems


def test_vessels_masks_centroids_and_a_split_by_slide(tmp_path):
    path = prepare_pvid(release(tmp_path / "src"), tmp_path / "dst")
    content = json.loads(path.read_text())
    groups = {part: {item["group"] for item in content[part]} for part in PARTS}
    assert {part: len(groups[part]) for part in PARTS} == {"training": 6, "validation": 2, "test": 2}
    assert len(set().union(*groups.values())) == 10
    lists = load_datalist(path.parent, PARTS, check_vessel_item, ("image",), ("mask", "centroids"))
    items = [item for part in PARTS for item in lists[part]]
    assert len(items) == 30
    expected = np.zeros(SHAPE, bool)
    expected[10:35, 5:30] = True
    for item in items:
        assert item["label"] == (int(item["image"][-7:-4]) % 3 == 0)
        np.testing.assert_array_equal(read_mask(item["mask"]) > 0, expected)
        assert read_points(item["centroids"]).tolist() == ([[12, 7], [12, 20.5]] if item["label"] else [])
    assert sum(item["label"] for item in items) == 10


def test_a_slide_of_several_files_is_no_crop(tmp_path):
    """Whose index alone would be copied."""
    src = release(tmp_path / "src")
    image = src / "images/v001.vms"
    BY_NAME["Hamamatsu VMS"].write(image)
    image.with_suffix(".png").unlink()
    (problem,) = problems(src, tmp_path / "dst")
    assert problem == f"{image}: expected a crop in one file (PNG, TIFF, ...), found a slide of several files"


def test_without_masks_and_centroids(tmp_path):
    src = release(tmp_path / "src")
    for path in (src / "masks").iterdir():
        path.unlink()
    (src / "centroids.csv").unlink()
    content = json.loads(prepare_pvid(src, tmp_path / "dst").read_text())
    assert all(item.keys() == {"image", "label", "group"} for part in PARTS for item in content[part])


def test_a_stated_split_and_resolution(tmp_path):
    src = release(tmp_path / "src", header="vessel,slide,label,split,mpp")
    lines = (src / "labels.csv").read_text().splitlines()
    parts = ["train", "val", "test", *["Training"] * 7]
    told = [f"{line},{parts[n // 3]},{0.25 if n % 2 else ''}" for n, line in enumerate(lines[1:])]
    (src / "labels.csv").write_text("\n".join([lines[0], *told]))
    content = json.loads(prepare_pvid(src, tmp_path / "dst").read_text())
    assert {item["group"] for item in content["validation"]} == {"S1"}
    assert {item["group"] for item in content["test"]} == {"S2"}
    assert [item.get("mpp") for item in content["validation"]] == [0.25, None, 0.25]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        pytest.param("v003,S1,MVI\n", "", "expected a label of v003.png, found none", id="no line"),
        pytest.param("v003,S1,MVI", "v003,S1,", "of vessel 'v003', found ''", id="no label"),
        pytest.param("v003,S1,MVI", "v003,S1,perhaps", "of vessel 'v003', found 'perhaps'", id="label"),
        pytest.param("v003,S1,MVI", "v003,,MVI", "expected the slide of vessel 'v003'", id="no slide"),
        pytest.param("v003,S1", "v002,S1", "expected one line for vessel 'v002', found 2", id="twice"),
        pytest.param("v003,S1,MVI", "v003,S1,MVI\nv999,S1,MVI", "v999: expected an image, found none", id="no image"),
        pytest.param("v003,S1,MVI", "v003,S1,healthy", "no cancerous cells in a healthy vessel", id="healthy"),
        pytest.param("vessel,slide,label", "vessel,slide,class", "found no label", id="columns"),
    ],
)
def test_what_is_wrong_with_the_labels(tmp_path, old, new, expected):
    src = release(tmp_path / "src")
    change(src / "labels.csv", old, new)
    assert any(expected in problem for problem in problems(src, tmp_path / "dst"))


def test_a_slide_in_two_splits(tmp_path):
    src = release(tmp_path / "src", slides=3, header="vessel,slide,label,split")
    lines = (src / "labels.csv").read_text().splitlines()
    told = [f"{line},{('training', 'test')[n == 1]}" for n, line in enumerate(lines[1:])]
    (src / "labels.csv").write_text("\n".join([lines[0], *told]))
    (problem,) = problems(src, tmp_path / "dst")
    assert "expected slide 'S0' in one split, found it in test and training" in problem


def test_every_problem_is_told_at_once(tmp_path):
    src = release(tmp_path / "src")
    (src / "masks" / "v004.png").unlink()
    change(src / "labels.csv", "v003,S1,MVI", "v003,S1,?")
    change(src / "centroids.csv", "v000,12,7", "v000,12,x")
    change(src / "centroids.csv", "v006,12,7", "vXXX,12,7")
    found = "\n".join(problems(src, tmp_path / "dst"))
    assert len(found.splitlines()) == 4
    for expected in (
        "lumen of v004.png",
        "found '?'",
        "line 2: expected numbers row,col, found '12,x'",
        "found 'vXXX'",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda src: cv2.imwrite(str(src / "masks/v000.png"), np.ones((9, 9))), "mask of its image's size (40, 50)"),
        (lambda src: cv2.imwrite(str(src / "masks/v000.png"), np.zeros(SHAPE)), "found an empty mask"),
        (lambda src: (src / "masks/v001.geojson").write_text("{"), "GeoJSON"),
        (lambda src: (src / "images/v001.png").write_bytes(b"x"), "a readable image"),
        (lambda src: change(src / "centroids.csv", "v000,12,7", "v000,12,700"), "centroids inside its 40 x 50 px"),
        (lambda src: (src / "labels.csv").unlink(), "expected CSV with the columns"),
    ],
    ids=["mask size", "empty mask", "broken outline", "broken image", "centroid outside", "no labels"],
)
def test_what_is_wrong_with_the_files(tmp_path, spoil, expected):
    src = release(tmp_path / "src")
    spoil(src)
    assert expected in "\n".join(problems(src, tmp_path / "dst"))


def outlined(folder, kinds=("healthy", "MVI"), slides=5):
    """Slides of noise, each with a vessel of each kind."""
    (folder / "slides").mkdir(parents=True)
    boxes = [shapely.box(10 + 100 * n, 20, 60 + 100 * n, 90) for n in range(len(kinds))]
    for number in range(slides):
        pixels = np.random.default_rng(number).integers(0, 200, (120, 400, 3), np.uint8)
        options = {"photometric": "rgb", "tile": (64, 64), "resolutionunit": "CENTIMETER", "metadata": None}
        tifffile.imwrite(folder / f"slides/s{number}.tif", pixels, resolution=(40000, 40000), **options)
        features = Features(boxes, list(kinds), names=["a", None][: len(kinds)])
        write_geojson(folder / f"slides/s{number}_vessels.geojson", features)
    return folder


def test_vessels_outlined_on_slides(tmp_path):
    src = outlined(tmp_path / "src")
    content = json.loads(prepare_pvid(src, tmp_path / "dst").read_text())
    items = {item["image"]: item for part in PARTS for item in content[part]}
    assert {len(content[part]) for part in PARTS} == {2, 6}
    assert sorted(items)[:2] == ["images/s0_a.png", "images/s0_vessel_0002.png"]
    invaded = items["images/s0_vessel_0002.png"]
    assert (invaded["label"], invaded["group"], invaded["mpp"]) == (1, "s0", pytest.approx(0.25))
    assert items["images/s0_a.png"]["label"] == 0
    image = cv2.imread(str(tmp_path / "dst" / invaded["image"]))[..., ::-1]
    np.testing.assert_array_equal(image, tifffile.imread(src / "slides/s0.tif")[20:90, 110:160])
    assert (read_mask(tmp_path / "dst" / invaded["mask"]) > 0).all()
    lists = load_datalist(tmp_path / "dst", PARTS, check_vessel_item, ["image"], ["mask"])
    assert len(lists["training"]) == 6


@pytest.mark.parametrize("kind", ["annotations", pytest.param("segmentation", marks=pytest.mark.slow)])
def test_vessels_outlined_in_dicom(tmp_path, kind):
    """On slides in DICOM: the same vessels and cells as by GeoJSON."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    from monai_ext.exchange import convert
    from tests.formats.dicom_slides import write_slide

    src = marked_slides(tmp_path / "src") if kind == "annotations" else outlined(tmp_path / "src")
    for path in sorted((src / "slides").glob("*.tif")):
        write_slide(src / "slides" / path.stem, tifffile.imread(path), overview=False)
        path.unlink()
    prepared = {"geojson": prepare_pvid(src, tmp_path / "geojson")}
    for path in sorted((src / "slides").glob("*.geojson")):
        stem = path.name.removesuffix("_vessels.geojson")
        convert(path, f"dicom-{kind[:3]}", slide=src / "slides" / stem, dst=tmp_path / "ann", drawn=True)
        (tmp_path / "ann" / f"{stem}_vessels_{kind}.dcm").rename(path.with_suffix(".dcm"))
        path.unlink()
    prepared["dicom"] = prepare_pvid(src, tmp_path / "dicom")
    lists = {}
    for name, path in prepared.items():
        content = json.loads(path.read_text())
        rows = [
            (item["group"], part, item["label"], item.get("mpp"), read_mask(path.parent / item["mask"]).tobytes(),
             cv2.imread(str(path.parent / item["image"])).tobytes(),
             sorted(read_points(path.parent / item["centroids"]).tolist()) if "centroids" in item else None)
            for part in PARTS
            for item in content[part]
        ]  # fmt: skip
        lists[name] = sorted(rows, key=lambda row: row[:3])
    assert len(lists["dicom"]) == 10
    assert lists["dicom"] == lists["geojson"]


def test_lumens_of_crops_in_dicom(tmp_path):
    """Annotations of crops that are no DICOM: px of the crop."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    from monai_ext.exchange import convert

    src = release(tmp_path / "src", slides=5)
    before = prepare_pvid(src, tmp_path / "png")
    for path in sorted((src / "masks").glob("*.png")):
        outlines = label_map_to_polygons(read_mask(path) > 0)[1]
        drawn = write_geojson(tmp_path / f"{path.stem}.geojson", Features(outlines))
        convert(drawn, "dicom-ann", slide=src / "images" / path.name, dst=src / "masks")
        path.unlink()
    after = prepare_pvid(src, tmp_path / "dicom")
    assert after.read_bytes() == before.read_bytes()
    masks = sorted((tmp_path / "png/masks").iterdir())
    assert masks
    for mask in masks:
        np.testing.assert_array_equal(read_mask(tmp_path / "dicom/masks" / mask.name), read_mask(mask))


def marked_slides(folder, point=(130.5, 40.5)):
    """Outlined slides, of which the first has QuPath's points in its invaded vessel."""
    src = outlined(folder)
    path = src / "slides/s0_vessels.geojson"
    vessels = read_geojson(path)
    shapes = [*vessels.geometry, shapely.Point(point), shapely.MultiPoint([(112.5, 22.5), (150.5, 80.5)])]
    write_geojson(path, Features(shapes, [*vessels.classes, None, "Cancerous"], names=[*vessels.names, None, None]))
    return src


def marked_items(dataset):
    content = json.loads(dataset.read_text())
    items = [item for part in PARTS for item in content[part]]
    return {
        item["image"][7:-4]: read_points(dataset.parent / item["centroids"]).tolist() if "centroids" in item else None
        for item in items
    }


def test_cells_marked_by_points_on_slides(tmp_path):
    """They were not read, so that nothing could judge locating."""
    found = marked_items(prepare_pvid(marked_slides(tmp_path / "src"), tmp_path / "dst"))
    assert sorted(found["s0_vessel_0002"]) == [[2, 2], [20, 20], [60, 40]]  # px of the crop, from (20, 110)
    assert [found[f"s{n}_vessel_0002"] for n in range(1, 5)] == [None] * 4  # nobody looked
    assert [found[f"s{n}_a"] for n in range(5)] == [[]] * 5


def test_cells_listed_beside_slides(tmp_path):
    src = marked_slides(tmp_path / "src")
    (src / "centroids.csv").write_text("slide,row,col\ns0,21,111\ns3,30.5,120\n")
    found = marked_items(prepare_pvid(src, tmp_path / "dst"))
    assert sorted(found["s0_vessel_0002"]) == [[1, 1], [2, 2], [20, 20], [60, 40]]
    assert found["s3_vessel_0002"] == [[10.5, 10]]
    assert found["s1_vessel_0002"] is None
    (src / "centroids.csv").write_text("slide,row,col\ns9,21,111\n")
    assert "expected images in slides/, found 's9'" in "\n".join(problems(src, tmp_path / "other"))


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ((80.5, 40.5), "inside the outlines of vessels, found 1 outside, the first at row 40, column 80"),
        ((20.5, 40.5), "s0.tif, a: expected no cancerous cells in a healthy vessel, found 1"),
    ],
    ids=["outside", "healthy"],
)
def test_cells_where_there_are_none(tmp_path, point, expected):
    (problem,) = problems(marked_slides(tmp_path / "src", point), tmp_path / "dst")
    assert expected in problem


@pytest.mark.parametrize("kind", ["masks", "slides"])
def test_an_outline_that_crosses_itself(tmp_path, kind):
    """It was made valid, and of the vessel a half was left."""
    bow = shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    if kind == "masks":
        src = release(tmp_path / "src")
        path = write_geojson(src / "masks/v001.geojson", Features([bow]))
        item = {"image": str(src / "images/v001.png"), "mask": str(path), "label": 0}
        (problem,) = check_vessel_item(item)
        assert "found object 1 crossing itself at x, y = 20, 20" in problem
    else:
        src = outlined(tmp_path / "src")
        path = src / "slides/s0_vessels.geojson"
        write_geojson(path, Features([bow], "MVI", names=["of the left lobe"]))
    (problem,) = problems(src, tmp_path / "dst")
    name = "object 1" if kind == "masks" else "of the left lobe"
    expected = f"expected outlines that do not cross themselves, found {name} crossing itself at x, y = 20, 20"
    assert problem == f"{path}: {expected}"


def test_the_vessels_for_locating_have_a_list_of_their_own(tmp_path):
    """Section 4: another 130 vessels, apart from those that test the diagnosis."""
    src = release(tmp_path / "src", slides=4, header="vessel,slide,label,split")
    lines = (src / "labels.csv").read_text().splitlines()
    parts = ["train", "val", "test", "Locating"]
    told = [f"{line},{parts[n // 3]}" for n, line in enumerate(lines[1:])]
    (src / "labels.csv").write_text("\n".join([lines[0], *told]))
    content = json.loads((dst := prepare_pvid(src, tmp_path / "dst")).read_text())
    assert {part: {item["group"] for item in content[part]} for part in (*PARTS, "locating")} == {
        **{part: {f"S{n}"} for n, part in enumerate(PARTS)},
        "locating": {"S3"},
    }
    lists = load_datalist(dst.parent, ["locating"], check_vessel_item, ("image",), ("mask", "centroids"))
    assert len(lists["locating"]) == 3
    content["locating"][0]["group"] = "S0"  # a slide that it was trained on
    dst.write_text(json.dumps(content))
    with pytest.raises(DataListError, match="found it in locating and training"):
        load_datalist(dst.parent, ["training"], check_vessel_item, ("image",), ("mask", "centroids"))


def test_a_file_names_the_slides_for_locating(tmp_path):
    src = marked_slides(tmp_path / "src")
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"training": ["s1", "s2"], "validation": ["s3"], "test": ["s4"], "locating": ["s0"]}))
    content = json.loads(prepare_pvid(src, tmp_path / "dst", split=split).read_text())
    assert [item["group"] for item in content["locating"]] == ["s0", "s0"]
    assert len(content["training"]) == 4


def test_outlines_without_a_label_or_without_a_file_are_named(tmp_path):
    src = outlined(tmp_path / "src", ("MVI", "Vessel"))
    (src / "slides/s4_vessels.geojson").unlink()
    found = problems(src, tmp_path / "dst")
    assert len(found) == 5
    assert "s0_vessels.geojson: expected outlines of class healthy or MVI, found Vessel" in found[0]
    assert "s4_vessels.geojson" in found[-1]


def test_outlined_slides_with_regions_parts_and_compression(tmp_path, capsys):
    lumens = [shapely.box(x, 10, x + 30, 40) for x in (10, 60, 110)]
    (tmp_path / "src" / "slides").mkdir(parents=True)
    image = np.random.default_rng(0).integers(0, 255, (60, 160, 3), np.uint8)
    resolution = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "src" / "slides" / "a.tif", image, photometric="rgb", **resolution)
    path = tmp_path / "src" / "slides" / "a_vessels.geojson"
    features = Features([shapely.box(0, 0, 160, 60), *lumens], [None, "MVI", "healthy", "healthy"])
    write_geojson(path, features)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    content = json.loads(prepare_pvid(tmp_path / "src", tmp_path / "dst", split="test").read_text())
    assert sorted(item["label"] for item in content["test"]) == [0, 0, 1]
    assert "annotations taken for regions as they enclose others: 1" in capsys.readouterr().err
    path.with_name(f"{path.name}.gz").unlink()
    write_geojson(path, Features([shapely.MultiPolygon(lumens)], "healthy"))
    options = {"split": "test", "split_parts": True}
    content = json.loads(prepare_pvid(tmp_path / "src", tmp_path / "parts", **options).read_text())
    assert len(content["test"]) == 3


def test_a_folder_without_slides_is_an_error(tmp_path):
    (tmp_path / "src" / "slides").mkdir(parents=True)
    assert "expected images of the pvid release, found none" in "\n".join(problems(tmp_path / "src", tmp_path / "dst"))


def test_a_region_around_a_lumen_is_none(tmp_path):
    src = release(tmp_path / "src")
    drawn = [shapely.box(0, 0, 50, 40), shapely.box(5, 10, 30, 35)]
    path = write_geojson(src / "masks" / "v001.geojson", Features(drawn, object_types=["annotation", "detection"]))
    path.with_name("v001.geojson.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    content = json.loads(prepare_pvid(src, tmp_path / "dst").read_text())
    [item] = [item for part in PARTS for item in content[part] if "v001" in item["image"]]
    assert (read_mask(tmp_path / "dst" / item["mask"]) > 0).sum() == 25 * 25
