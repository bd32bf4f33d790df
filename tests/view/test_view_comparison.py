"""A second result, or the truth, beside the first: which images, which objects, which figures."""

import json

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.formats import Features, write_geojson
from monai_ext.metrics import DetectionF1
from monai_ext.reports.agreement import compare_cells
from monai_ext.view import find_cases
from monai_ext.view.cases import find_beside
from monai_ext.view.comparison import compare_objects
from tests.reviewed import decide, write_run
from tests.view.conftest import NAME

BOXES = [shapely.box(x, 40, x + 20, 60) for x in (20, 80, 140, 200)]
LOOK = {"classes": ["Tumor", "Tumor", "Stroma", "Stroma"], "measurements": {"score": np.array([0.9, 0.5, 0.8, 0.7])}}


def moved(shapes, by):
    return [shapely.affinity.translate(shape, by, 0) for shape in shapes]


def other_of(boxes):
    """Of four boxes the first as it is, the second of another class, the fourth elsewhere."""
    shapes = [boxes[0], boxes[1], *moved(boxes[3:], 15), shapely.box(20, 200, 40, 220)]
    return Features(shapes, ["Tumor", "Stroma", "Stroma", "Unheard of"], {"score": np.array([0.9, 0.8, 0.3, 0.6])})


@pytest.fixture
def two(tmp_path):
    """Two runs over one image."""
    out = write_run(tmp_path / "one", {"a": Features(BOXES, **LOOK)})
    other = write_run(tmp_path / "two", {"a": other_of(BOXES)})
    return out, other


# -- which objects match -----------------------------------------------------------------------------------------------


def test_outlines_are_matched_as_by_the_report_of_cells(tmp_path):
    rng = np.random.default_rng(3)
    centres = rng.uniform(20, 280, (60, 2))
    one = [shapely.Point(*xy).buffer(9) for xy in centres]
    two = [shapely.Point(*xy).buffer(8) for xy in centres[:45] + rng.normal(0, 2.5, (45, 2))]
    for name, shapes in (("one", one), ("two", two)):
        write_geojson(tmp_path / name / "a.geojson", Features(shapes, object_types="detection"))
    compare_cells(str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "out"))
    row = pd.read_csv(tmp_path / "out/scores.csv").iloc[0]
    compared = compare_objects(Features(one, object_types="detection"), Features(two, object_types="detection"), 0.25)
    both, other_class, only, missed = compared.counts
    assert [both + other_class, only, missed] == [row["iou_tp"], row["iou_fp"], row["iou_fn"]]
    assert 5 < both < 45
    assert compared.how == "IoU above .5"


def test_points_are_matched_as_by_the_evaluation_of_mitoses():
    rng = np.random.default_rng(4)
    one, two = rng.uniform(0, 900, (80, 2)), rng.uniform(0, 900, (70, 2))
    two[:30] = one[:30] + rng.normal(0, 18, (30, 2))
    metric = DetectionF1(radius=30)
    [[tp, fp, fn]] = metric([one], [two]).tolist()
    compared = compare_objects(*(Features.from_points(side) for side in (one, two)), mpp=0.25)
    assert compared.counts.tolist() == [tp, 0, fp, fn]
    assert compared.scores()["f1"] == pytest.approx(metric.aggregate().item())
    assert compared.how == "centres within 7.5 um"
    near = compare_objects(*(Features.from_points(side) for side in (one, two)), mpp=0.25, radius_um=2.5)
    assert near.counts[0] == DetectionF1(radius=10)([one], [two])[0, 0] < tp


def test_without_a_resolution_points_match_within_30_px():
    sides = [Features.from_points([[50, x]]) for x in (50, 80)]
    assert compare_objects(*sides).counts.tolist() == [1, 0, 0, 0]
    assert compare_objects(sides[0], Features.from_points([[50, 81]])).counts.tolist() == [0, 0, 1, 1]
    assert compare_objects(*sides).how == "centres within 30 px"


def test_a_blob_is_the_detection_of_its_point_and_what_is_around_counts_for_nothing():
    bent = shapely.union(shapely.box(100, 100, 160, 110), shapely.box(100, 100, 110, 160))  # its point is beside it
    shapes = [shapely.Point(40, 40), shapely.Point(130, 130), shapely.box(30, 30, 50, 50), bent]
    kinds = ["annotation", "annotation", "detection", "detection"]
    truth = Features([shapely.Point(42, 40), shapely.Point(250, 250)])
    compared = compare_objects(Features(shapes, object_types=kinds), truth, 0.25)
    assert compared.counts.tolist() == [1, 0, 1, 1]
    assert compared.kinds.tolist() == [0, 2, 0, 2]  # a blob is what its point is
    field = Features([shapely.box(0, 0, 100, 100), *BOXES[:1]], object_types=["annotation", "detection"])
    here = compare_objects(Features(BOXES, object_types="detection"), field)
    assert here.kinds.tolist() == [0, 2, -1, -1]  # beyond the truth's region nobody looked
    assert here.counts.tolist() == [1, 0, 1, 0]


def test_classes_differ_only_where_both_sides_speak_of_the_same():
    one, two = Features(BOXES, **LOOK), other_of(BOXES)
    assert compare_objects(one, two).kinds.tolist() == [0, 1, 2, 2]
    assert compare_objects(one, Features(BOXES, "Nucleus")).kinds.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("one", "two", "f1"), [(0, 0, 1), (0, 4, 0), (4, 0, 0), (4, 4, 1)])
def test_sides_without_objects(one, two, f1):
    compared = compare_objects(Features(BOXES[:one]), Features(BOXES[:two]))
    assert compared.scores()["f1"] == f1
    assert len(compared.kinds) == one


# -- which images belong together --------------------------------------------------------------------------------------


def beside(out, other):
    found = find_beside(find_cases(out), other)
    return {find_cases(out).cases[number].name: path for number, path in found.objects.items()}


def test_images_of_runs_data_sets_and_files_by_their_names(tmp_path):
    objects = Features(BOXES)
    out = write_run(tmp_path / "one", {"p/a": objects, "q/a": objects, "b": objects})
    again = write_run(tmp_path / "two", {"p/a": objects, "q/a": objects, "c": objects})
    assert beside(out, again) == {f"{name}.tif": again / f"{name}.geojson" for name in ("p/a", "q/a")}
    decide(again, {"c": [(0, "reject")]})
    truth = tmp_path / "truth"
    for name in ("q/a", "deep/b", "b_reviewed"):
        write_geojson(truth / f"{name}.geojson", objects)
    write_geojson(truth / "deep/b_reviewed.geojson", objects)
    assert beside(out, truth) == {"q/a.tif": truth / "q/a.geojson", "b.tif": truth / "deep/b.geojson"}
    (truth / "labels").mkdir()
    tifffile.imwrite(truth / "labels/b.tif", np.zeros((300, 300), np.uint16))
    (truth / "points.csv").write_text("row,col\n50,30\n")
    source = tmp_path / "one/in"
    items = [
        {"image": str(source / "p/a.tif"), "label": "points.csv"},
        {"image": "elsewhere/b.tif", "label": "labels/b.tif"},
        {"image": str(source / "q/a.tif"), "label": 1},
    ]
    (truth / "dataset.json").write_text(json.dumps({"test": items}))
    assert beside(out, truth) == {"p/a.tif": truth / "points.csv", "b.tif": truth / "labels/b.tif"}


def test_a_file_is_of_the_one_image_and_of_several_by_its_name(tmp_path):
    objects = Features(BOXES)
    path = write_geojson(tmp_path / "b.geojson", objects)
    assert beside(write_run(tmp_path / "one", {"a": objects}), path) == {"a.tif": path}
    assert beside(write_run(tmp_path / "two", {"a": objects, "b": objects}), path) == {"b.tif": path}


def test_annotations_in_dicom_are_of_the_slide_that_they_name(tmp_path):
    pytest.importorskip("pydicom", reason="pydicom is not installed (the extra [dicom])")
    from tests.formats.dicom_slides import group, on_glass, write_annotations, write_slide

    slide = write_slide(tmp_path / "in/a", np.full((200, 300, 3), 200, np.uint8))
    path = tmp_path / "truth/1.2.3.dcm"
    path.parent.mkdir()
    write_annotations(path, slide, [group(1, "POINT", [on_glass([[20.5, 10.5]])])], "3D")
    assert find_beside(find_cases(tmp_path / "in"), path.parent).objects == {0: path}


def test_a_run_whose_slides_are_gone_can_lie_beside(two):
    out, other = two
    (other.parent / "in").rename(other.parent / "gone")
    assert beside(out, other) == {"a.tif": other / "a.geojson"}


def test_what_cannot_lie_beside_is_told_in_one_line(two, tmp_path):
    out, other = two

    def refusal(path):
        with pytest.raises(InputError) as caught:
            beside(out, path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert f"GeoJSON of the same images, found nothing at {tmp_path / 'none'}" in refusal(tmp_path / "none")
    assert "found another file" in refusal(other.parent / "in/a.tif")
    (tmp_path / "empty").mkdir()
    assert "GeoJSON, points or maps of instances, found none" in refusal(tmp_path / "empty")
    write_geojson(tmp_path / "named/z.geojson", Features(BOXES))
    write_geojson(tmp_path / "named/y.geojson", Features(BOXES))
    assert "images of out, such as a.tif, found others, the first: y" in refusal(tmp_path / "named")


# -- what the page is given --------------------------------------------------------------------------------------------


def test_the_page_is_given_kinds_what_is_missed_and_the_figures(two, start):
    out, other = two
    viewer = start(out, beside=other)
    assert viewer.json("api/slides/0")["beside"] == "two/out"
    about = viewer.json("api/slides/0/beside")
    assert about["counts"] == {"both": 1, "class": 1, "only": 2, "missed": 2}
    assert about["scores"] == {name: pytest.approx(0.5) for name in ("precision", "recall", "f1")}
    window = viewer.json("api/slides/0/objects?box=0,0,300,300&px=1&beside=1")
    assert dict(zip(window["rings"]["ids"], window["rings"]["kinds"], strict=True)) == {0: 0, 1: 1, 2: 2, 3: 2}
    assert window["missed"]["rings"]["ids"] == [-1, -2]
    assert window["missed"]["rings"]["classes"] == [0, -1]  # of a class that the run has not
    assert window["missed"]["rings"]["xy"][:2] in ([235, 40], [235, 60])
    assert "missed" not in viewer.json("api/slides/0/objects?box=0,0,300,300&px=1")
    order = viewer.json("api/slides/0/order?by=differences&beside=1")
    assert order["objects"] == [-2, -1, 2, 3, 1]  # missed, found here alone, of another class; the surest first
    assert order["kinds"] == [3, 3, 2, 2, 1]
    assert order["certainty"] == [0.6, 0.3, 0.8, 0.7, 0.5]
    assert viewer.json("api/slides/0/missed/1")["class"] == "Unheard of"
    assert viewer.json("api/slides/0/missed/1")["object"] == -2
    assert viewer.json("api/slides/0/at?place=30,210,0&beside=1")["object"] == -2
    assert viewer.json("api/slides/0/at?place=30,210,0") is None
    assert viewer.ask("api/slides/0/missed/2")[0] == 404


def test_what_is_drawn_or_rejected_later_changes_no_figure(two, start):
    out, other = two
    viewer = start(out, beside=other)
    before = viewer.json("api/slides/0/beside")
    drawn = {"action": "draw", "type": "polygon", "points": [[20, 200], [40, 200], [40, 220]], "class": "Tumor"}
    assert viewer.json("api/slides/0/review", drawn)["object"] == 4
    viewer.json("api/slides/0/review", {"object": 2, "action": "reject"})
    assert viewer.json("api/slides/0/beside") == before
    window = viewer.json("api/slides/0/objects?box=0,0,300,300&px=1&beside=1")
    assert window["rings"]["kinds"] == [0, 1, 2, 2, -1]
    assert viewer.json("api/slides/0/order?by=differences&beside=1")["objects"] == [-2, -1, 2, 3, 1]


def test_points_of_a_data_set_and_its_maps_of_instances(two, start, tmp_path):
    out, _ = two
    labels = np.zeros((300, 300), np.uint16)
    labels[40:60, 20:40], labels[40:60, 82:102] = 1, 9
    tifffile.imwrite(tmp_path / "a.tif", labels)
    (tmp_path / "a.csv").write_text("row,col\n50,30\n250,250\n")
    for label, counts, how in (
        ("a.tif", [2, 0, 2, 0], "IoU above .5"),
        ("a.csv", [1, 0, 3, 1], "centres within 7.5 um"),
    ):
        (tmp_path / "dataset.json").write_text(json.dumps({"test": [{"image": "x/a.png", "label": label}]}))
        about = start(out, beside=tmp_path).json("api/slides/0/beside")
        assert (list(about["counts"].values()), about["how"]) == (counts, how)


def test_an_image_without_others_and_others_of_another_image(run, start, tmp_path):
    viewer = start(run)
    assert viewer.json("api/slides/0")["beside"] is None
    status, _, body = viewer.ask("api/slides/0/beside")
    assert status == 422
    assert "objects beside it (--beside), found none of this image" in json.loads(body)["error"]
    path = write_geojson(tmp_path / "far.geojson", Features([shapely.box(5000, 0, 5010, 10)]))
    status, _, body = start(run, beside=path).ask("api/slides/0/beside")
    assert status == 422
    assert "those of another slide?" in json.loads(body)["error"]
    assert NAME in json.loads(body)["error"]


# -- what was missed is taken over -------------------------------------------------------------------------------------


def test_what_was_missed_is_taken_over_as_it_is(two, start):
    out, other = two
    viewer = start(out, beside=other)
    say = lambda **said: viewer.json("api/slides/0/review", said)  # noqa: E731
    missed = viewer.shelf[0].compared[0].missed
    assert missed.classes.tolist() == ["Stroma", "Unheard of"]
    assert say(object=-1, action="accept")["object"] == 4
    assert say(object=-1, action="accept")["object"] == 4  # once is enough
    status, _, body = viewer.ask("api/slides/0/review", {"object": -2, "action": "accept"})
    assert status == 422
    assert json.loads(body)["error"] == "class: expected Stroma or Tumor, found None"
    assert say(object=-2, action="class", **{"class": "Tumor"})["object"] == 5
    assert say(object=-2, action="class", **{"class": "Stroma"})["decisions"]["-2"]["name"] == "Stroma"
    assert viewer.ask("api/slides/0/review", {"object": -3, "action": "accept"})[0] == 404
    assert viewer.ask("api/slides/0/review", {"object": -1, "action": "reject"})[0] == 422
    corrected = viewer.shelf[0].corrected()
    assert shapely.equals_exact(corrected.geometry[4:], missed.geometry, 1e-6).all()
    assert corrected.classes[4:].tolist() == ["Stroma", "Stroma"]
    lines = [json.loads(line)["action"] for line in (out / "a_review.jsonl").read_text().splitlines()]
    assert lines == ["draw", "draw", "class"]


def test_places_of_what_is_taken_over_are_those_of_the_file(tmp_path, start):
    """Px that are not square are shown square."""
    runs = []
    for name, shapes in (("one", [shapely.box(5, 5, 15, 15)]), ("two", [shapely.box(40.25, 60, 50, 70)])):
        out = write_run(tmp_path / name, {"a": Features(shapes)})
        pixels = np.zeros((300, 300, 3), np.uint8)
        resolution = (1e4 / 0.25, 1e4 / 0.5)
        tifffile.imwrite(
            tmp_path / name / "in/a.tif", pixels, photometric="rgb", resolution=resolution, resolutionunit="CENTIMETER"
        )
        runs.append(out)
    viewer = start(runs[0], beside=runs[1])
    assert viewer.shelf[0].tiles.reader.stretch != (1, 1)
    viewer.json("api/slides/0/review", {"object": -1, "action": "accept"})
    assert viewer.shelf[0].corrected().geometry[1].bounds == (40.25, 60, 50, 70)
