"""Vessels of images and slides, and the check of a data set of them."""

from __future__ import annotations

import gzip
import json

import cv2
import numpy as np
import pytest
import shapely
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from shapely.geometry import mapping

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data import Features, load_datalist, write_geojson, write_points
from monai_ext.data.vessels import SlideVessels, check_vessel_image, check_vessel_item, keep_lumen, vessel_items
from monai_ext.transforms.load_vessel import LoadVesseld
from monai_ext.transforms.lumen import KeepLumen, KeepLumend

SHAPE = (60, 80)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image if image.ndim == 2 else image[..., ::-1])
    return path


@pytest.fixture
def tissue(tmp_path):
    image = np.random.default_rng(0).integers(0, 250, (*SHAPE, 3), dtype=np.uint8)
    return image, save(tmp_path / "tissue.png", image)


# ---- lumen


def test_beyond_the_lumen_it_is_white(tissue):
    image = np.moveaxis(tissue[0], -1, 0)
    lumen = np.zeros(SHAPE, np.uint8)
    lumen[10:20, 5:50] = 255
    kept = keep_lumen(image, lumen)
    np.testing.assert_array_equal(kept[:, 10:20, 5:50], image[:, 10:20, 5:50])
    assert (kept[:, lumen == 0] == 255).all()
    assert (image[:, lumen == 0] < 255).all()  # the given one is left alone
    tensor = KeepLumen()(torch.from_numpy(image), torch.from_numpy(lumen)[None])
    np.testing.assert_array_equal(tensor, kept)
    item = KeepLumend("image")({"image": MetaTensor(image), "mask": lumen[None]})
    assert list(item) == ["image"]
    np.testing.assert_array_equal(item["image"], kept)
    assert KeepLumend("image")({"image": image})["image"] is image  # no mask: taken as it is


@pytest.mark.parametrize(
    ("mask", "expected"),
    [(np.ones((60, 79)), "a mask of its image's size"), (np.zeros(SHAPE), "lumen, found an empty mask")],
)
def test_a_mask_that_does_not_fit_is_refused(mask, expected):
    image = np.zeros((3, *SHAPE), np.uint8)
    with pytest.raises(InputError, match=expected):
        keep_lumen(image, mask)
    with pytest.raises(InputError, match=r"mask of vessel_3\.png"):
        KeepLumend("image")({"image": MetaTensor(image, meta={"filename_or_obj": "vessel_3.png"}), "mask": mask[None]})


# ---- vessels of a slide


def test_vessels_of_an_image(tissue, tmp_path):
    image, path = tissue
    outlines = [shapely.box(10, 5, 30, 25), shapely.Polygon([(40, 10), (79, 10), (60, 55)]), shapely.Point(3, 3)]
    file = write_geojson(
        tmp_path / "v.geojson", Features(outlines, classes=["Vessel", "Other", "Vessel"], names=["portal", None, None])
    )
    square, triangle = SlideVessels(path, file, mpp=0.5)
    assert (square.name, triangle.name) == ("portal", "vessel_0002")
    assert (square.kind, square.mpp, square.scale) == ("Vessel", 0.5, 1)
    assert square.offset == (5, 10)
    np.testing.assert_array_equal(square.image, np.moveaxis(image[5:25, 10:30], -1, 0))
    assert square.lumen.all()
    assert triangle.image.shape == (3, 45, 39)
    assert (triangle.image[:, ~triangle.lumen] == 255).all()
    inside = np.moveaxis(image[10:55, 40:79], -1, 0)[:, triangle.lumen]
    np.testing.assert_array_equal(triangle.image[:, triangle.lumen], inside)
    assert [v.name for v in SlideVessels(path, file, mpp=0.5, classes=["Other"])] == ["vessel_0001"]


def test_vessels_at_another_resolution_lie_in_the_same_place(tissue, tmp_path):
    _, path = tissue
    file = write_geojson(tmp_path / "v.geojson", Features([shapely.box(21, 10, 41, 30)]))
    (vessel,) = SlideVessels(path, file, target_mpp=1.0, mpp=0.5)
    assert (vessel.scale, vessel.mpp) == (2, 1)
    assert vessel.offset == (10, 20)
    assert vessel.image.shape == (3, 10, 11)
    assert vessel.lumen.sum() == 10 * 10


def test_a_mask_of_several_vessels(tissue, tmp_path):
    _, path = tissue
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:20, 4:15] = mask[30:50, 40:70] = 255
    parts = list(SlideVessels(path, save(tmp_path / "mask.png", mask), mpp=0.5))
    assert [(part.offset, part.image.shape) for part in parts] == [((3, 4), (3, 17, 11)), ((30, 40), (3, 20, 30))]
    mask[30:50, 40:70] = 2
    numbered = list(SlideVessels(path, save(tmp_path / "mask.png", mask), mpp=0.5))
    assert sorted(part.offset for part in numbered) == [(3, 4), (30, 40)]


def test_what_reaches_over_the_border_is_cut_off(tissue, tmp_path):
    file = write_geojson(tmp_path / "v.geojson", Features([shapely.box(60, 40, 200, 200)]))
    (vessel,) = SlideVessels(tissue[1], file, mpp=0.5)
    assert vessel.image.shape == (3, 20, 20)


@pytest.mark.parametrize(
    ("outlines", "expected"),
    [
        ([shapely.box(100, 100, 120, 120)], "vessels inside"),
        ([shapely.Point(3, 3)], "outlines of vessels, found none"),
        ([], "outlines of vessels, found none"),
    ],
)
def test_unusable_outlines_are_refused(tissue, tmp_path, outlines, expected):
    file = write_geojson(tmp_path / "v.geojson", Features(outlines))
    with pytest.raises(InputError, match=expected):
        list(SlideVessels(tissue[1], file, mpp=0.5))


def test_a_mask_of_another_size_is_refused(tissue, tmp_path):
    with pytest.raises(InputError, match="mask of its image's size"):
        list(SlideVessels(tissue[1], save(tmp_path / "mask.png", np.ones((9, 9), np.uint8)), mpp=0.5))


# ---- items of a data set


@pytest.fixture
def dataset(tmp_path):
    """Two vessels in two lists; returns what writes the list with changes to the first item, and reads it."""
    rng = np.random.default_rng(0)
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:50, 5:70] = 1
    items = []
    for name, label in (("a", 1), ("b", 0)):
        save(tmp_path / f"{name}.png", rng.integers(0, 255, (*SHAPE, 3), dtype=np.uint8))
        save(tmp_path / f"{name}_mask.png", mask)
        write_points(tmp_path / f"{name}.csv", [[10, 20]] * label)
        items.append({"image": f"{name}.png", "label": label, "mask": f"{name}_mask.png", "group": name})
        items[-1]["centroids"] = f"{name}.csv"

    def read(drop=(), **change):
        first = {key: value for key, value in (items[0] | change).items() if key not in drop}
        content = {"training": [first], "validation": [items[1]], "test": []}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
        return load_datalist(tmp_path, ("training", "validation"), check_vessel_item, ("image",), ("mask", "centroids"))

    return tmp_path, read


def test_good_vessels_pass(dataset):
    folder, read = dataset
    lists = read()
    assert lists["training"][0]["mask"] == str(folder / "a_mask.png")
    assert len(read(drop=("mask", "centroids"))["training"]) == 1


@pytest.mark.parametrize(
    ("drop", "change", "expected"),
    [
        pytest.param(("label",), {}, "a whole number 0 to 1, found none", id="no label"),
        pytest.param((), {"label": 2}, "a whole number 0 to 1, found 2", id="label"),
        pytest.param((), {"label": 0}, "no cancerous cells in a healthy vessel", id="healthy with cancerous cells"),
        pytest.param((), {"mask": "small.png"}, "expected the size of", id="mask does not fit"),
        pytest.param((), {"mask": "empty.png"}, "found an empty mask", id="empty mask"),
        pytest.param((), {"mask": "none.png"}, "expected a file, found none", id="no mask file"),
        pytest.param((), {"centroids": "far.csv"}, "expected points row,col inside 60 x 80 px", id="centroids outside"),
        pytest.param((), {"group": "b"}, "group 'b' in one list", id="slide in two splits"),
    ],
)
def test_bad_vessels_are_named(dataset, drop, change, expected):
    folder, read = dataset
    save(folder / "small.png", np.ones((9, 9), np.uint8))
    save(folder / "empty.png", np.zeros(SHAPE, np.uint8))
    write_points(folder / "far.csv", [[10, 200]])
    with pytest.raises(DataListError) as error:
        read(drop, **change)
    (problem,) = error.value.problems
    assert expected in problem


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["v", "V", "v_2", "V_3", "../v", "", "vessel_0002", None, "ü" * 300]), min_size=1))
def test_vessels_are_files_of_their_own(tmp_path, tissue, names):
    outlines = tmp_path / "slide_vessels.geojson"
    write_geojson(outlines, Features([shapely.box(5, 5, 30, 30)] * len(names), names=names))
    found = SlideVessels(tissue[1], outlines, mpp=0.5).names
    assert len({name.lower() for name in found}) == len(names)
    assert not any(set(name) & set("/\\.") or len(name.encode()) > 120 for name in found)
    assert found[0] == {"../v": "v", "": "vessel_0001", None: "vessel_0001", "ü" * 300: "ü" * 50}.get(*names[:1] * 2)


# ---- what is drawn around vessels, parts, crossing outlines


def _feature(geometry, kind, children=(), **properties):
    properties = {"objectType": kind, "childObjects": list(children), **properties}
    return {"type": "Feature", "geometry": geometry and mapping(geometry), "properties": properties}


LUMENS = [shapely.box(x, 10, x + 10, 30) for x in (5, 30, 55)]


@pytest.mark.parametrize("kind", ["annotation", "detection"])
@pytest.mark.parametrize("around", ["annotation", "tmaCore"])
def test_a_region_around_vessels_is_none(tissue, tmp_path, kind, around):
    vessels = [_feature(lumen, kind) for lumen in LUMENS]
    flat = [_feature(shapely.box(0, 0, 80, 60), around), *vessels]
    nested = [_feature(None, "root", [_feature(shapely.box(0, 0, 80, 60), around, vessels)])]
    for content in (flat, nested):
        file = tmp_path / "v.geojson"
        file.write_text(json.dumps(content))
        found = SlideVessels(tissue[1], file, mpp=0.5)
        assert [outline.bounds for outline in found.geometry] == [lumen.bounds for lumen in LUMENS]


def test_named_vessels_among_cells(tissue, tmp_path):
    cells = [_feature(shapely.box(x, 40, x + 2, 42), "detection") for x in range(5, 70, 5)]
    spots = [_feature(lumen.centroid.buffer(2), "detection") for lumen in LUMENS]
    drawn = [_feature(lumen, "annotation", classification={"name": "Vessel"}) for lumen in LUMENS]
    file = tmp_path / "v.geojson"
    file.write_text(json.dumps([*drawn, *cells, *spots]))
    assert len(SlideVessels(tissue[1], file, mpp=0.5, classes=["Vessel"])) == 3
    assert len(SlideVessels(tissue[1], file, mpp=0.5)) == len(cells) + len(spots), "detections are the objects"
    results = [_feature(lumen, "annotation", classification={"name": "Invaded vessel"}) for lumen in LUMENS]
    file.write_text(json.dumps([*results, *spots]))
    assert len(SlideVessels(tissue[1], file, mpp=0.5)) == 3, "our own results, with the patches in them"


def test_parts_are_vessels_by_option(tissue, tmp_path, capsys):
    file = write_geojson(tmp_path / "tissue_vessels.geojson", Features([shapely.MultiPolygon(LUMENS)], "Vessel"))
    compressed = file.with_name(f"{file.name}.gz")
    compressed.write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    items = vessel_items([{"image": str(tissue[1])}], mpp=0.5)
    assert (len(items), items[0]["outlines"]) == (1, str(compressed))
    assert "split_parts makes each part" in capsys.readouterr().err
    items = vessel_items([{"image": str(tissue[1])}], mpp=0.5, split_parts=True)
    assert [LoadVesseld("image", mpp=0.5)(item)["image"].shape for item in items] == [(3, 20, 10)] * 3
    check_vessel_image(tissue[1], 0.5, least=10, split_parts=True)


def test_crops_follow_areas_and_repaired_outlines(tissue, tmp_path):
    point_outside = shapely.GeometryCollection([LUMENS[0], shapely.Point(79, 59)])
    bow_tie = shapely.Polygon([(30, 10), (50, 30), (50, 10), (30, 30), (30, 20), (0, 20), (30, 20)])
    file = write_geojson(tmp_path / "v.geojson", Features([point_outside, bow_tie]))
    one, other = SlideVessels(tissue[1], file, mpp=0.5)
    assert one.image.shape == (3, 20, 10)
    assert other.image.shape == (3, 20, 20)
    assert other.lumen.sum() == pytest.approx(200, abs=20)
