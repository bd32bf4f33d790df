"""Regions, contours and annotations, without a server."""

import cv2
import numpy as np
import pytest
import shapely
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.data import regions
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.label import (
    as_annotation,
    found_features,
    has_finding,
    has_object,
    in_region,
    load_region,
    load_vessel_region,
    object_map,
    object_points,
    training_label,
    uncertainty,
)
from monai_ext.transforms import LabelImaged, VesselDiagnosis


@pytest.fixture
def image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels[..., ::-1])
    return tmp_path / "a.png", pixels


def test_a_region_has_a_margin_and_knows_its_place(image):
    path, pixels = image
    region = load_region(path, (150, 100), (50, 40), target_mpp=0.25)
    assert region.meta["corner"] == (86, 36)
    assert region.meta["region"] == (150, 100, 200, 140)
    np.testing.assert_array_equal(region.numpy(), np.moveaxis(pixels[36:204, 86:264], -1, 0))
    centres = [[64.5, 64.5], [10, 10], [113, 103], [114.5, 64]]  # in the region but for the second and the last
    found = in_region(Features(shapely.points(centres)), region)
    assert shapely.get_coordinates(found.geometry).tolist() == [[150.5, 100.5], [199, 139]]


def test_a_region_of_another_resolution(image):
    region = load_region(image[0], (0, 0), (0, 0), target_mpp=0.5, mpp=0.25)
    assert region.shape == (3, 150, 200)
    assert (region.meta["scale"], region.meta["mpp"], region.meta["file_shape"]) == (2, 0.5, (300, 400))


@pytest.mark.parametrize("target", [0.25, 0.5, 0.6])
def test_a_region_lies_where_the_whole_image_has_it(image, target):
    path, _ = image
    whole = load_region(path, (0, 0), (0, 0), target, mpp=0.25)
    region = load_region(path, (240, 180), (60, 60), target, mpp=0.25)
    np.testing.assert_allclose(region.pixdim[:2], whole.meta["mpp"] / 1000)
    first = np.linalg.inv(whole.affine.numpy()) @ region.affine.numpy() @ [0, 0, 0, 1]
    row, col = np.rint(first[:2]).astype(int)
    np.testing.assert_allclose(first[:2], (row, col), atol=1e-6)
    assert row > 0
    assert col > 0
    _, height, width = region.shape
    np.testing.assert_array_equal(region.numpy(), whole.numpy()[:, row : row + height, col : col + width])


@pytest.mark.parametrize(("location", "size"), [((400, 0), (5, 5)), ((-1, 0), (5, 5)), ((0, 0), (-5, 5))])
def test_a_region_outside(image, location, size):
    with pytest.raises(InputError, match="inside its 400 x 300 px"):
        load_region(image[0], location, size, target_mpp=0.25)


def test_a_region_too_large(image, monkeypatch):
    monkeypatch.setattr(regions, "_MOST_PIXELS", 10**4)
    with pytest.raises(InputError, match=r"found 178 x 168 px at 0\.25 um/px"):  # 50 x 40 with what surrounds it
        load_region(image[0], (150, 100), (50, 40), mpp=0.25, target_mpp=0.25)


def test_a_region_is_a_vessel_s_lumen(image):
    path, pixels = image
    whole = load_vessel_region(path, (150, 100), (50, 40), 0.5)
    assert "outline" not in whole
    np.testing.assert_array_equal(whole["image"].numpy(), np.moveaxis(pixels[100:140, 150:200], -1, 0))
    drawn = load_vessel_region(
        path, (150, 100), (50, 40), 0.5, outline=[[150, 100], [170, 100], [170, 130], [150, 130]]
    )
    assert (drawn["image"][:, 30:] == 255).all()
    assert (drawn["image"][..., 20:] == 255).all()
    np.testing.assert_array_equal(drawn["image"][:, :30, :20], whole["image"][:, :30, :20])
    np.testing.assert_array_equal(drawn["source"], whole["image"])
    assert shapely.from_wkt(drawn["outline"]).bounds == (0, 0, 20, 30)


@pytest.mark.parametrize(
    ("outline", "found"),
    [
        ("abc", "three or more"),
        ([[1, 2]], "three or more"),
        ([[0, 0], [9, 0], [9, 9]], "a vessel's lumen, found an empty mask"),
    ],
)
def test_an_outline_that_is_none(image, outline, found):
    with pytest.raises(InputError, match=found):
        load_vessel_region(image[0], (150, 100), (50, 40), 0.5, outline=outline)


@pytest.mark.parametrize(("score", "invaded"), [(0.9, True), (0.4, False)])
def test_a_vessel_has_a_verdict_and_suspicious_parts_if_it_is_invaded(score, invaded):
    heat = np.zeros((3, 2, 2))
    heat[1, 0, 0] = heat[2, 0, 1] = heat[0, 1] = 1  # a healthy patch, a cancerous one, two without cells
    cells = np.array([[4, 4], [4, 14], [5, 15]])
    found = found_features({"diagnosis": VesselDiagnosis("v", score, invaded, heat, 2, cells, 10, (20, 20))})
    names, counts = np.unique(found.classes.astype(str), return_counts=True)
    suspicious = {"Cancerous patch": 1, "Tumor": 2} if invaded else {}
    verdict = "Invaded vessel" if invaded else "Healthy vessel"
    assert dict(zip(names, counts, strict=True)) == {"Healthy cell": 1, verdict: 1} | suspicious
    assert has_finding(found) == invaded
    assert uncertainty(found) == pytest.approx(1 - abs(2 * score - 1))


def test_annotations_have_contours_and_points_by_label():
    boxes = [shapely.box(0, 0, 10, 10), shapely.box(20, 0, 22, 2)]
    features = Features([*boxes, shapely.Point(3.123, 4)], ["a", "a", "b"], colors={"a": (1, 2, 3)})
    found = as_annotation(features, (5, 6), (7, 8), {"b": (9, 9, 9)}, min_area=30)
    assert (found["location"], found["size"]) == ([5, 6], [7, 8])
    assert found["labels"] == {"a": [1, 2, 3], "b": [9, 9, 9]}
    a, b = found["elements"]
    assert sorted(a["contours"][0]) == [[0, 0], [0, 10], [10, 0], [10, 10]]
    assert len(a["contours"]) == 1
    assert b == {"label": "b", "contours": [], "points": [[3.12, 4]]}


def test_uncertainty_is_the_mean_doubt():
    assert uncertainty(Features(shapely.points([[0, 0], [1, 1]]), measurements={"score": [1, 0.5]})) == 0.25
    assert uncertainty(Features([])) == 0


def test_annotations_become_labels(image, tmp_path):
    path, _ = image
    label = tmp_path / "a.geojson"
    write_geojson(label, Features([shapely.box(10, 20, 14, 26)], "x"))
    assert (object_map(label, path) == 1)[20:26, 10:14].all()
    assert (object_map(label, path) > 0).sum() == 24
    assert has_object(label)
    healthy = write_geojson(tmp_path / "b.geojson", Features([shapely.box(0, 0, 9, 9)], "Healthy vessel"))
    assert not has_object(healthy)
    points = training_label(label, path, tmp_path / "out", "points")
    assert np.loadtxt(points, delimiter=",", skiprows=1).tolist() == [22.5, 11.5]
    assert training_label(path, path, tmp_path, "instances") == str(path)  # an image is taken as it is


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
@pytest.mark.parametrize(("first", "second"), [(255, 255), (1, 1), (3, 9)], ids=["a mask", "ones", "numbers"])
def test_centres_of_a_label_image(tmp_path, suffix, first, second):
    label = np.zeros((30, 40), np.uint8)
    label[2:5, 4:9], label[20:21, 30:33] = first, second
    cv2.imwrite(str(tmp_path / f"a{suffix}"), label)
    assert object_points(tmp_path / f"a{suffix}").tolist() == [[3, 6], [20, 31]]


def test_a_label_image_is_on_the_files_grid():
    source = MetaTensor(torch.zeros(3, 2, 3), meta={"scale": 2.0, "file_shape": (4, 6)})
    instances = torch.tensor([[[0, 7, 7], [300, 0, 0]]], dtype=torch.int32)
    label = LabelImaged()({"instances": instances, "source": source})["pred"]
    assert label.dtype == np.uint16
    np.testing.assert_array_equal(label.T, np.kron(instances[0].numpy(), np.ones((2, 2), int)))


def test_annotations_with_regions_become_labels_without(image, tmp_path):
    path, _ = image
    cells = [shapely.box(x, 20, x + 10, 30) for x in (20, 40, 60)]
    kinds = ["annotation", *["detection"] * 3]
    label = write_geojson(tmp_path / "a.geojson", Features([shapely.box(0, 0, 300, 200), *cells], object_types=kinds))
    assert np.unique(object_map(label, path), return_counts=True)[1].tolist() == [300 * 400 - 300, 100, 100, 100]
    assert len(object_points(label)) == 3
    only = write_geojson(tmp_path / "b.geojson", Features([shapely.box(0, 0, 300, 200)], "Region*"))
    assert not has_object(only)


def test_asap_annotations_become_labels(image, tmp_path):
    def annotation(kind, corners, group="None"):
        lines = "".join(f'<Coordinate Order="{n}" X="{x}" Y="{y}"/>' for n, (x, y) in enumerate(corners))
        part = f'<Annotation Name="{kind}" Type="{kind}" PartOfGroup="{group}">'
        return f"{part}<Coordinates>{lines}</Coordinates></Annotation>"

    def square(x, y, side):
        return [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]

    label = tmp_path / "a.xml"
    drawn = [
        annotation("Rectangle", square(0, 0, 200), "tissue"),
        annotation("Polygon", square(10, 10, 20), "tumour"),
        annotation("Spline", square(60, 10, 10), "tumour"),
        annotation("Polygon", square(15, 15, 5), "_2"),
        annotation("Measurement", [(0, 0), (90, 90)]),
        annotation("Polygon", [(0, 0), (90, 90)]),
    ]
    label.write_text(f"<ASAP_Annotations><Annotations>{''.join(drawn)}</Annotations></ASAP_Annotations>")
    instances = object_map(label, image[0])
    assert np.unique(instances, return_counts=True)[1].tolist() == [300 * 400 - 475, 375, 100]
    assert len(object_points(label)) == 2
    drawn = [annotation("Dot", [(5.5, 7.5)]), annotation("PointSet", [(1.5, 2.5), (3.5, 4.5)])]
    label.write_text(f"<ASAP_Annotations><Annotations>{''.join(drawn)}</Annotations></ASAP_Annotations>")
    assert object_points(label).tolist() == [[7, 5], [2, 1], [4, 3]]


def test_a_lumen_that_crosses_itself(image):
    path, _ = image
    crossing = [[150, 100], [190, 139], [190, 100], [150, 139]]
    drawn = load_vessel_region(path, (150, 100), (50, 40), 0.25, outline=crossing)
    assert shapely.from_wkt(drawn["outline"]).is_valid
    assert shapely.from_wkt(drawn["outline"]).area == pytest.approx(40 * 39 / 2)
