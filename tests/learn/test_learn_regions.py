"""Fields around what was reviewed, and what is known in them."""

import json

import numpy as np
import pytest
import shapely

from monai_ext.data import load_datalist
from monai_ext.data.nuclei import read_nuclei
from monai_ext.formats import Features, read_points
from monai_ext.formats.image import read_field, read_mask
from monai_ext.learn import find_regions, read_reviews, split_regions, write_regions
from monai_ext.learn.regions import write_classes
from tests.reviewed import decide, write_run

RADIUS = 8  # px


def cells(centres, classes="a"):
    return Features([shapely.Point(xy).buffer(RADIUS) for xy in centres], classes)


def reviewed(folder, centres, said, mpp=0.25, **options):
    out = write_run(folder, {"a": cells(centres)}, mpp)
    decide(out, {"a": said})
    return read_reviews(out, **options)[0]


def written(folder, review, kind, side=100, target_mpp=0.25):
    regions = find_regions(review, side, target_mpp)
    path = write_regions(folder / "data", {"training": regions}, kind, target_mpp)
    items = load_datalist(path.parent, ["training"], check=None, optional_path_keys=["known", "lookalikes"])
    return regions, items["training"]


def disk(shape, centre, radius):
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return (cols + 0.5 - centre[0]) ** 2 + (rows + 0.5 - centre[1]) ** 2 <= radius**2


def test_each_object_is_in_one_region(tmp_path):
    review = reviewed(tmp_path, [(50, 50), (99, 50), (101, 50), (250, 292)], [(k, "accept") for k in range(4)])
    regions = find_regions(review, 100, 0.25)
    assert {region.name: region.members.tolist() for region in regions} == {
        "a/0_0": [0, 1],
        "a/0_100": [2],
        "a/200_200": [3],
    }


def test_an_object_on_the_far_edge_is_in_the_last_region(tmp_path):
    out = write_run(tmp_path, {"a": Features([shapely.Point(300, 299.5)], "Mitosis")})
    decide(out, {"a": [(0, "reject")]})
    [review] = read_reviews(out, points=True)
    [region], [item] = written(tmp_path, review, "points")
    assert region.name == "a/200_200"
    assert read_mask(item["known"])[-1, -1] == 1


def test_an_outline_and_its_rim_are_known_and_others_are_not(tmp_path):
    # reviewed at 50, unseen beside it at 70; another region's at 140
    review = reviewed(tmp_path, [(50, 50), (70, 50), (140, 50)], [(0, "accept"), (2, "reject")])
    _, items = written(tmp_path, review, "outlines")
    known, label = read_mask(items[0]["known"]) > 0, read_mask(items[0]["label"])
    assert known.shape == read_field(items[0]["image"]).image.shape[1:] == (164, 164)
    around, beside = 2 / 0.25, 1 / 0.25
    expected = disk(known.shape, (50, 50), RADIUS + around) & ~disk(known.shape, (70, 50), RADIUS + beside)
    expected |= disk(known.shape, (50, 50), RADIUS)
    assert (known != expected).sum() < 0.03 * expected.sum()  # buffers are polygons
    assert ((label > 0) != disk(known.shape, (50, 50), RADIUS)).sum() < 0.03 * (label > 0).sum()
    assert not known[50, 70]
    assert known[50, 57]
    rejected, label = read_mask(items[1]["known"]), read_mask(items[1]["label"])
    assert rejected[50, 140 - 36]  # 100 px less the margin of 64
    assert not label.any()


@pytest.mark.parametrize("mpp", [0.25, 0.125])
def test_points_come_to_the_networks_grid(tmp_path, mpp):
    scale = round(0.25 / mpp)
    review = reviewed(tmp_path, [(61, 41), (81, 121)], [(0, "accept"), (1, "reject")], mpp, points=True)
    [region], [item] = written(tmp_path, review, "points", side=200 // scale)
    assert region.size == (200, 200)
    assert read_points(item["label"]).tolist() == [[41 / scale - 0.5, 61 / scale - 0.5]]
    assert read_points(item["lookalikes"]).tolist() == [[121 / scale - 0.5, 81 / scale - 0.5]]
    known = read_mask(item["known"])
    assert item["mpp"] == pytest.approx(0.25)
    places = [np.array(xy) / scale for xy in ((61, 41), (81, 121))]
    expected = np.logical_or(*(disk(known.shape, place, 10 / 0.25) for place in places))
    assert ((known > 0) != expected).sum() < 0.02 * expected.sum()


def test_a_neighbour_that_nobody_has_seen_hides_no_point(tmp_path):
    review = reviewed(tmp_path, [(150, 150), (160, 150)], [(0, "accept")], points=True)
    _, [item] = written(tmp_path, review, "points", side=300)
    known = read_mask(item["known"])
    assert known[150, 150]
    assert not known[150, 165]


def test_the_split_is_by_region_seeded_and_each_part_has_objects(tmp_path):
    centres = [(x, y) for x in (50, 150, 250) for y in (50, 150, 250)]
    said = [(k, "accept" if k < 2 else "reject") for k in range(9)]
    regions = find_regions(reviewed(tmp_path, centres, said), 100, 0.25)
    splits = [split_regions(regions, seed) for seed in range(6)]
    for parts in splits:
        names = [region.name for part in parts.values() for region in part]
        assert sorted(names) == sorted({region.name for region in regions})
        assert all(sum(len(region.kept) for region in part) == 1 for part in parts.values())
        assert 2 <= len(parts["test"]) <= 4
    assert [r.name for r in split_regions(regions, 3)["test"]] == [r.name for r in splits[3]["test"]]
    assert len({tuple(region.name for region in parts["test"]) for parts in splits}) > 1


def test_classes_of_reviewed_nuclei_alone(tmp_path):
    said = [(0, "class", "b"), (1, "accept"), (2, "reject"), (4, "class", "c")]
    review = reviewed(tmp_path, [(50, 50), (50, 100), (100, 50), (100, 100), (150, 50)], said)
    path = write_classes(tmp_path / "data", {"training": find_regions(review, 200, 0.25)}, ["a", "b"], 32, 0.25)
    content = json.loads(path.read_text())
    assert content["class_names"] == ["a", "b"]
    table = read_nuclei(path.parent / content["training"][0]["label"])
    assert table["ea"].tolist() == ["b", "a"]
    assert table[["row", "col"]].round(1).to_numpy().tolist() == [[49.5, 49.5], [99.5, 49.5]]


def test_what_was_drawn_is_known_and_is_an_object(tmp_path):
    out = write_run(tmp_path, {"a": cells([(30, 30)])})
    decide(out, {"a": [(shapely.box(50, 60, 70, 72), "draw", "a")]})
    [review] = read_reviews(out)
    [region], [item] = written(tmp_path, review, "outlines")
    assert (region.location, region.kept.tolist()) == ((0, 0), [1])
    label, known = (read_mask(item[key]) for key in ("label", "known"))
    expected = np.zeros(label.shape, bool)
    expected[60:72, 50:70] = True
    np.testing.assert_array_equal(label > 0, expected)
    assert known[expected].all()
    assert not known[:45, :45].any()  # nobody has seen that one


def test_drawn_points_are_points_to_learn_from(tmp_path):
    out = write_run(tmp_path, {"a": Features.from_points([[20, 30]], classes="Mitosis")})
    said = [(shapely.Point(60.5, 70.5), "draw", "Mitosis"), (shapely.Point(10.5, 90.5), "draw", "Look-alike")]
    decide(out, {"a": said})
    [review] = read_reviews(out, points=True)
    _, [item] = written(tmp_path, review, "points")
    assert read_points(item["label"]).tolist() == [[70, 60]]
    assert read_points(item["lookalikes"]).tolist() == [[90, 10]]
    known = read_mask(item["known"])
    assert known[70, 60]
    assert known[90, 10]
    assert not known[20, 30]
