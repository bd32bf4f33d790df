"""What the viewer answers, to whom, and what it never gives."""

import base64
import csv
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from PIL import Image

from monai_ext.base.files import write_png
from monai_ext.base.overlay import overlay
from monai_ext.formats import Features, SlideReader, read_dicom_annotations, read_geojson, write_geojson
from monai_ext.formats.geojson import join_features
from monai_ext.formats.tissue import tissue_mask
from monai_ext.slides.thumbnail import slide_thumbnail
from monai_ext.view import find_cases
from monai_ext.view.opened import Opened, Settings
from monai_ext.view.server import POLICY
from tests.reviewed import write_run
from tests.view.conftest import CELL, EVIL, NAME, SHAPE

PAGE = Path(__file__).parents[2] / "monai_ext/view/page"


def pixels(body):
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_tiles_together_are_the_slide_as_the_reader_gives_it(viewer):
    slide = viewer.json("api/slides/0")["slide"]
    path = viewer.shelf.cases.cases[0].image
    assert slide["shape"] == list(SHAPE)
    assert slide["mpp"] == 0.25
    assert [level["scale"] for level in slide["levels"]] == [1.0, 2.0, 4.0]
    for number, level in enumerate(slide["levels"]):
        rows, cols = level["shape"]
        whole = np.zeros((rows, cols, 3), np.uint8)
        for top in range(0, rows, slide["tile"]):
            for left in range(0, cols, slide["tile"]):
                name = f"api/slides/0/tiles/{number}/{left // slide['tile']}_{top // slide['tile']}.png"
                tile = pixels(viewer.ask(name)[2])
                whole[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        expected = SlideReader(path, 0.25 * 2**number).read(0, 0, rows, cols)
        assert (whole == np.moveaxis(expected, 0, -1)).all()


def test_jpeg_tiles_are_near_the_pixels(viewer):
    _, headers, body = viewer.ask("api/slides/0/tiles/1/0_0.jpg")
    exact = pixels(viewer.ask("api/slides/0/tiles/1/0_0.png")[2])
    assert headers["content-type"] == "image/jpeg"
    assert np.abs(pixels(body).astype(int) - exact).mean() < 6


def test_the_heat_map_has_the_colours_of_the_overlays_and_lies_on_the_slide(viewer):
    heat = viewer.json("api/slides/0")["heat"]
    assert heat["cell"] == CELL
    tile = cv2.imdecode(np.frombuffer(viewer.ask("api/slides/0/heat/0/0_0.png")[2], np.uint8), cv2.IMREAD_UNCHANGED)
    assert list(tile.shape[:2]) == heat["shape"]
    assert np.argwhere(tile[..., 3]).min(0).tolist() == [2, 3]
    assert np.argwhere(tile[..., 3]).max(0).tolist() == [5, 7]
    opaque = overlay(np.zeros((1, 1, 3), np.uint8), heat=np.full((1, 1), 0.8, np.float32), heat_alpha=1.25)
    assert np.abs(tile[3, 4, [2, 1, 0]].astype(int) - opaque[0, 0]).max() <= 1
    assert tile[3, 4, 3] == 204


def test_the_table_is_that_of_the_run(viewer):
    table = viewer.json("api/slides")
    assert table["columns"] == ["image", "cells", "score"]
    assert table["rows"] == [[f"{NAME}.tif", "200", "0.5"]]
    assert table["of"] == [0]
    assert table["there"] == [True]


def test_objects_have_their_class_measurements_and_order(viewer):
    features = read_geojson(viewer.shelf.cases.cases[0].objects)
    names = [each["name"] for each in viewer.json("api/slides/0")["classes"]]
    assert names == sorted(["Tumor", EVIL])
    drawn = viewer.json("api/slides/0/objects?box=0,0,900,600&px=0.5")
    assert drawn["shown"] == 200
    for part in ("rings", "dots"):
        for number, kind in zip(drawn[part]["ids"], drawn[part]["classes"], strict=True):
            assert features.classes[number] == (names[kind] if kind >= 0 else None)
    order = viewer.json("api/slides/0/order?by=doubt")
    assert order["objects"] == np.argsort(features.measurements["confidence"]).tolist()
    assert order["certainty"] == sorted(features.measurements["confidence"].tolist())
    first = order["objects"][0]
    about = viewer.json(f"api/slides/0/objects/{first}")
    assert about["measurements"] == {"confidence": order["certainty"][0]}
    assert viewer.json("api/slides/0/at?place={},{},0".format(*about["centre"]))["object"] == first
    assert viewer.json("api/slides/0/at?place=-50,-50,1") is None


def test_the_most_different_come_first_from_wherever_they_are(start, tmp_path):
    """Of three stains: one of each after another, however sure the network is of the rarer ones."""
    pixels = np.full((300, 600, 3), (240, 230, 240), np.uint8)
    pixels[:, 400:500], pixels[:, 500:] = (90, 40, 120), (200, 60, 60)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in/a.png")
    centres = np.array([[450.0, 50], [550, 50], *([x, 200] for x in range(40, 360, 40))])
    cells = Features(shapely.buffer(shapely.points(centres), 8), None, {"score": np.r_[0.99, 0.98, np.full(8, 0.5)]})
    out = tmp_path / "out"
    write_geojson(out / "a.geojson", cells)
    (out / "summary.csv").write_text("image\na.png\n")
    (out / "state.json").write_text(json.dumps({str(tmp_path / "in/a.png"): {"status": "done", "name": "a.png"}}))
    viewer = start(out)
    order = viewer.json("api/slides/0/order?by=diverse")["objects"]
    assert order[0] == 2
    assert sorted(order[1:3]) == [0, 1]
    assert sorted(order) == list(range(10))
    shuffled = viewer.json("api/slides/0/order?by=random")["objects"]
    assert sorted(shuffled) == list(range(10))
    assert shuffled != sorted(shuffled)


@pytest.mark.parametrize("moved", [False, True])
def test_the_resolution_that_a_run_was_told_is_known(tmp_path, moved):
    """Of each image its own, where two are called the same."""
    state, out = {}, tmp_path / "out"
    for folder, mpp in (("x", 0.2), ("y", None), ("z", 0.4)):
        image = tmp_path / "in" / folder / "a.png"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (30, 20)).save(image)
        write_geojson(out / folder / "a.geojson", Features(shapely.points([[5.0, 5.0]])))
        state[str(image)] = {"status": "done"} | ({"mpp": mpp} if mpp else {})
    (out / "summary.csv").write_text("image\nx/a.png\ny/a.png\nz/a.png\n")
    (out / "state.json").write_text(json.dumps(state))
    if moved:
        (tmp_path / "in").rename(tmp_path / "there")
    cases = find_cases(out, tmp_path / "there" if moved else None).cases
    assert [case.mpp for case in cases] == [0.2, None, 0.4]
    assert [Opened(case, Settings("ada")).facts()["slide"]["mpp"] for case in cases] == [0.2, None, 0.4]


def test_corrections_are_saved_at_once_shown_again_and_exported(run, start):
    result = run / f"{NAME}.geojson"
    before = result.read_bytes()
    viewer = start(run, classes=["Mitosis"])
    viewer.json("api/slides/0/review", {"object": 7, "action": "reject"})
    viewer.json("api/slides/0/review", {"object": 8, "action": "class", "class": "Mitosis"})
    viewer.json("api/slides/0/review", {"object": 9, "action": "reject"})
    undone = viewer.json("api/slides/0/review", {"action": "undo"})
    assert undone["object"] == 9
    assert sorted(undone["decisions"]) == ["7", "8"]
    again = start(run, classes=["Mitosis"])  # another process would see the same files
    assert again.json("api/slides/0/review") == undone["decisions"]
    assert again.json("api/slides/0/export", {}) == {"files": [f"{NAME}_reviewed.geojson"]}
    features, read = read_geojson(result), read_geojson(run / f"{NAME}_reviewed.geojson")
    kept = [number for number in range(200) if number != 7]
    assert [shape.wkt for shape in read.geometry] == [features.geometry[number].wkt for number in kept]
    assert read.classes.tolist() == ["Mitosis" if number == 8 else features.classes[number] for number in kept]
    status, headers, body = again.ask("api/slides/0/review.geojson")
    assert status == 200
    assert "attachment" in headers["content-disposition"]
    (run / "asked.geojson").write_bytes(body)
    assert read_geojson(run / "asked.geojson").classes.tolist() == read.classes.tolist()
    assert result.read_bytes() == before


def test_corrected_objects_in_other_formats(run, start):
    pytest.importorskip("highdicom")
    viewer = start(run, formats=["csv", "dicom-ann"])
    viewer.json("api/slides/0/review", {"object": 7, "action": "reject"})
    viewer.json("api/slides/0/review", {"object": 8, "action": "class", "class": "Tumor"})
    files = viewer.json("api/slides/0/export", {})["files"]
    endings = ("reviewed.geojson", "reviewed_objects.csv", "reviewed_annotations.dcm")
    assert files == [f"{NAME}_{ending}" for ending in endings]
    with (run / files[1]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 199
    assert rows[7]["class"] == "Tumor"
    assert len(read_dicom_annotations(run / files[2])) == 199
    assert find_cases(run).cases[0].objects == run / f"{NAME}.geojson"


def test_a_detection_is_gone_through_once_and_rejected_with_its_outline(tmp_path, start):
    points = Features([shapely.Point(20, 20), shapely.Point(60, 20)], "Mitosis", {"score": [0.9, 0.6]})
    blobs = Features(shapely.buffer(points.geometry, 8), "Mitosis", {"score": [0.9, 0.6]}, "detection")
    run = write_run(tmp_path, {"a": join_features(points, blobs)})
    viewer = start(run)
    assert viewer.json("api/slides/0/order?by=doubt")["objects"] == [1, 0]
    assert viewer.json("api/slides/0/at?place=60,26,1")["object"] == 1  # in the blob, away from the point
    said = viewer.json("api/slides/0/review", {"object": 1, "action": "reject"})["decisions"]
    assert {number: each["action"] for number, each in said.items()} == {"1": "reject", "3": "reject"}
    viewer.json("api/slides/0/export", {})
    assert [shape.geom_type for shape in read_geojson(run / "a_reviewed.geojson").geometry] == ["Point", "Polygon"]
    viewer.json("api/slides/0/review", {"object": 3, "action": "accept"})  # as earlier versions wrote it
    assert viewer.json("api/slides/0/review")["1"]["action"] == "accept"
    viewer.json("api/slides/0/review", {"action": "undo"})
    assert viewer.json("api/slides/0/review")["1"]["action"] == "reject"


def draw(points, kind="polygon", name="Tumor"):
    return {"action": "draw", "type": kind, "points": points, "class": name}


def test_drawn_objects_are_shown_exported_and_there_after_a_new_start(run, start):
    pytest.importorskip("highdicom")
    viewer = start(run, formats=["csv", "dicom-ann"])
    square, bow = [[10, 20], [50, 20], [50, 60.5], [10, 60.5]], [[100, 100], [120, 120], [120, 100], [100, 120]]
    for number, content in enumerate([draw(square), draw([[70.25, 80]], "point"), draw(bow), draw([[9, 9]], "point")]):
        assert viewer.json("api/slides/0/review", content)["object"] == 200 + number
    assert viewer.json("api/slides/0/review", {"action": "undo"})["object"] == 203
    assert viewer.json("api/slides/0/objects/201")["centre"] == [70.25, 80]
    assert viewer.ask("api/slides/0/objects/203")[0] == 404
    assert viewer.json("api/slides/0/at?place=70,81,3")["object"] == 201
    for each in (viewer, start(run)):  # another process would see the same files
        for by in ("doubt", "sure", "file", "random", "diverse"):
            assert each.json(f"api/slides/0/order?by={by}")["objects"][-3:] == [200, 201, 202]
        shown = each.json("api/slides/0/objects?box=0,0,900,600&px=0.5")
        assert {200, 202} <= {*shown["rings"]["ids"]}
        assert 201 in shown["dots"]["ids"]
        names = [every["name"] for every in each.json("api/slides/0")["classes"]]
        assert names[shown["rings"]["classes"][shown["rings"]["ids"].index(200)]] == "Tumor"
    files = viewer.json("api/slides/0/export", {})["files"]
    features, read = read_geojson(run / f"{NAME}.geojson"), read_geojson(run / f"{NAME}_reviewed.geojson")
    assert [shape.wkt for shape in read.geometry[:200]] == [shape.wkt for shape in features.geometry]
    assert read.geometry[200].equals(shapely.box(10, 20, 50, 60.5))
    assert read.geometry[201].equals(shapely.Point(70.25, 80))
    halves = (shapely.Polygon([(x, 100), (110, 110), (x, 120)]) for x in (100, 120))
    assert read.geometry[202].equals(shapely.MultiPolygon(list(halves)))
    assert read.classes.tolist()[200:] == ["Tumor"] * 3
    assert read.object_types.tolist()[200:] == ["detection"] * 3
    with (run / files[1]).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows[200:]] == ["Tumor"] * 3
    drawn = read_dicom_annotations(run / files[2])
    assert shapely.dwithin(drawn.geometry, shapely.Point(70.25, 80), 0.01).any()
    assert any(shapely.hausdorff_distance(shape, shapely.box(10, 20, 50, 60.5)) < 0.01 for shape in drawn.geometry)


def test_drawings_on_a_file_with_oblong_px_lie_where_they_were_drawn(run, start, monkeypatch):
    viewer = start(run)
    monkeypatch.setattr(viewer.shelf[0].tiles.reader, "stretch", (2.0, 1.0))  # twice as high as wide
    number = viewer.json("api/slides/0/review", draw([[10, 20], [50, 20], [50, 60]]))["object"]
    assert viewer.shelf[0].log.drawn().geometry[0].equals(shapely.Polygon([(10, 10), (50, 10), (50, 30)]))
    assert viewer.json(f"api/slides/0/objects/{number}")["bounds"] == [10, 20, 50, 60]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (draw([[0, 0], [9, 9]]), "3 to 4000 pairs of numbers, found 2 of them"),
        (draw([[0, 0]] * 4001), "found 4001 of them"),
        (draw([[0, 0], [9, 9], [18, 18]]), "an outline around at least 1 square px, found 0"),
        (draw([[0, 0], [0.5, 0], [0.5, 0.5]]), "found 0.12"),
        (draw([[0, 0], [901, 0], [9, 9]]), "within the image (900 x 600 px), found x 901, y 0"),
        (draw([[0, 0], [90, -0.01], [9, 9]]), "found x 90, y -0.01"),
        (draw([[0, 0], [9, "9"], [9, 0]]), "found 3 of them"),
        (draw([[0, 0], [9], [9, 0]]), "3 to 4000 pairs of numbers"),
        (draw([[0, 0, 0], [9, 9, 9], [9, 0, 0]]), "pairs of numbers"),
        (draw([[0, 0], [float("inf"), 9], [9, 0]]), "request: expected JSON"),
        (draw([[True, False], [True, True], [False, True]]), "pairs of numbers"),
        (draw({"x": 1}), "found others"),
        (draw(None), "found others"),
        (draw([]), "found others"),
        (draw([[1, 1], [2, 2]], "point"), "one pair of numbers, found 2 of them"),
        (draw([[1, 1]], "circle"), "a point or a polygon, found 'circle'"),
        (draw([[1, 1]], ["point"]), "a point or a polygon"),
        (draw([[1, 1]], "point", "Cat"), "found 'Cat'"),
        (draw([[1, 1]], "point", None), "found None"),
        (draw([[1, 1]], "point", ["Tumor"]), "found ['Tumor']"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line_and_not_saved(viewer, content, expected):
    status, _, body = viewer.ask("api/slides/0/review", content)
    assert status == 422
    assert expected in json.loads(body)["error"]
    assert "\n" not in json.loads(body)["error"]
    assert not viewer.shelf.cases.cases[0].log.exists()


def test_an_outline_by_hand_of_the_most_corners_is_taken_and_its_slip_is_left_out(run, start):
    angle = np.linspace(0, 2 * np.pi, 3990)
    circle = (np.stack([450 + 123.45 * np.cos(angle), 300 + 123.45 * np.sin(angle)], 1)).round(2).tolist()
    slip = [[573, 301.0], [575, 303], [576, 298]]  # beyond where it began
    viewer = start(run)
    viewer.json("api/slides/0/review", draw(circle + slip))
    [shape] = viewer.shelf[0].log.drawn().geometry
    assert shape.geom_type == "Polygon"
    assert shape.area == pytest.approx(np.pi * 123.45**2, rel=1e-3)


def test_on_a_result_without_objects_or_classes_the_first_is_drawn(run, start):
    write_geojson(run / f"{NAME}.geojson", Features([]))
    viewer = start(run)
    assert viewer.json("api/slides/0/order?by=file")["objects"] == []
    assert viewer.json("api/slides/0/review", draw([[5, 5]], "point", None))["object"] == 0
    assert viewer.json("api/slides/0/objects?box=0,0,90,60&px=1")["dots"] == {"ids": [0], "xy": [5, 5], "classes": [-1]}
    assert viewer.ask("api/slides/0/review", draw([[5, 5]], "point", "Cat"))[0] == 422


def test_a_class_that_was_given_by_an_earlier_viewer_is_still_one(run, start):
    start(run, classes=["Mitosis"]).json("api/slides/0/review", draw([[5, 5]], "point", "Mitosis"))
    viewer = start(run)
    names = [each["name"] for each in viewer.json("api/slides/0")["classes"]]
    assert names == [*sorted(["Tumor", EVIL]), "Mitosis"]
    assert viewer.json("api/slides/0/order?by=doubt")["classes"][-1] == 2


def test_nothing_is_drawn_into_what_is_no_result(run, start):
    status, _, body = start(run.parent / "in").ask("api/slides/0/review", draw([[5, 5]], "point"))
    assert status == 422
    assert "nothing to review" in json.loads(body)["error"]


def test_a_result_that_changed_takes_no_old_corrections(run, start):
    start(run).json("api/slides/0/review", {"object": 7, "action": "reject"})
    result = run / f"{NAME}.geojson"
    result.write_bytes(result.read_bytes() + b"\n")
    facts = start(run).json("api/slides/0")
    assert facts["notes"] == ["1 corrections are of another result and not applied"]


@pytest.mark.parametrize(
    ("path", "content", "status", "expected"),
    [
        ("api/slides/0/review", {"object": 1, "action": "class", "class": "Cat"}, 422, "found 'Cat'"),
        ("api/slides/0/review", {"object": 200, "action": "reject"}, 422, "0 to 199, found 200"),
        ("api/slides/0/review", [1], 422, "expected a JSON object"),
        ("api/slides/0/review", "x" * 200_000, 422, "at most 150000 bytes"),
        ("api/slides/1", None, 404, "no such slide"),
        ("api/slides/0/tiles/9/0_0.jpg", None, 404, "no such slide, tile"),
        ("api/slides/0/tiles/0/4_0.jpg", None, 404, "no such slide, tile"),
        ("api/slides/0/tiles/0/0_0.tif", None, 404, "no such slide, tile"),
        ("api/slides/0/other/0/0_0.jpg", None, 404, "no such slide, tile"),
        ("api/slides/0/objects/200", None, 404, "object"),
        ("api/slides/0/objects?box=0,0,1&px=1", None, 422, "4 number(s), found '0,0,1'"),
        ("api/slides/0/objects?box=0,0,nan,1&px=1", None, 422, "4 number(s)"),
        ("api/slides/0/objects?box=0,0,1,1", None, 422, "px: expected 1 number(s)"),
        ("api/slides/0/order?by=size", None, 422, "doubt or sure or file or random"),
    ],
)
def test_wrong_questions_are_answered_in_one_line(viewer, path, content, status, expected):
    actual, _, body = viewer.ask(path, content)
    assert actual == status
    assert expected in json.loads(body)["error"]
    assert "\n" not in json.loads(body)["error"]


@pytest.mark.parametrize(
    "path",
    [
        "../../../../harmless.txt",
        "..%2f..%2fharmless.txt",
        "%2e%2e/server.py",
        "page/view.js",
        "server.py",
        "openseadragon.txt/../../server.py",
        "api/slides/../../harmless.txt",
        "api/slides/0/tiles/0/..%2f..%2fharmless.txt",
        "api/slides/-1",
        "api/slides/harmless",
        "//etc/hostname",
        "%00",
    ],
)
def test_no_other_file_can_be_asked_for(viewer, path):
    (viewer.shelf.cases.cases[0].stem.parent / "harmless.txt").write_text("harmless")
    status, _, body = viewer.ask(path)
    assert status == 404
    assert body != b"harmless"
    assert b"import" not in body


def test_a_link_out_of_the_folder_is_no_address(run, start, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("harmless")
    (run / "link.txt").symlink_to(tmp_path / "elsewhere.txt")
    assert start(run).ask("link.txt")[0] == 404


@pytest.mark.parametrize(
    "path", ["", "view.js", "api/slides", "api/slides/0/tiles/0/0_0.jpg", "nothing", "api/slides/9"]
)
def test_every_answer_forbids_scripts_that_are_not_of_the_package(viewer, path):
    headers = {name.lower(): value for name, value in viewer.ask(path)[1].items()}
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert headers["content-security-policy"] == POLICY
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert "unsafe" not in POLICY
    assert headers["x-content-type-options"] == "nosniff"


def test_the_policy_knows_the_one_style_that_openseadragon_adds():
    source = (PAGE / "openseadragon.min.js").read_text(encoding="utf-8")
    style = re.search(r'textContent="(@media \(hover: none\).*?)";', source)
    text = style[1] if style else ""
    assert f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}" in POLICY


def test_the_page_has_no_script_style_or_address_of_its_own():
    html, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("index.html", "view.js"))
    assert not re.search(r"<script(?! src=)|<style|\sstyle=|\son\w+=|https?:", html)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|https?:", script)
    stated = (PAGE / "openseadragon.txt").read_text()
    assert hashlib.sha256((PAGE / "openseadragon.min.js").read_bytes()).hexdigest() in stated
    assert "Redistribution and use" in (PAGE / "openseadragon_license.txt").read_text()


def test_names_reach_the_page_as_text(viewer):
    _, headers, body = viewer.ask("api/slides")
    assert headers["content-type"] == "application/json"
    assert json.loads(body)["rows"][0][0] == f"{NAME}.tif"
    assert NAME.encode() not in viewer.ask("")[2]


def test_without_the_token_nothing_is_answered(run, start):
    viewer = start(run, token="a-token")
    assert viewer.ask("")[0] == 200
    assert viewer.json("api/slides")["title"] == "out"
    assert viewer.ask("", Host="slides.example:80")[0] == 200  # any name leads here
    bare = viewer.url.removesuffix("a-token/")
    for path in ("", "api/slides", "view.js", "a-toke/", "a-tokenx/", "b-token/api/slides", "x/a-token/"):
        viewer.url = bare
        assert viewer.ask(path)[0] == 403


def test_other_sites_cannot_speak_to_a_viewer_of_this_machine(viewer):
    for other in ("evil.example", "127.0.0.1.evil.example:8777", "[", ""):
        assert viewer.ask("api/slides", Host=other)[0] in (400, 403)
    assert viewer.ask("api/slides", Host="localhost:1")[0] == 200
    assert viewer.ask("api/slides/0/review", {"action": "undo"}, Content_Type="text/plain")[0] == 403


def test_objects_of_another_slide_are_told(run, start):
    shutil.copy(run / f"{NAME}.geojson", run / "kept.json")
    text = (run / "kept.json").read_text()
    (run / f"{NAME}.geojson").write_text(re.sub(r"\[(\d+)\.", r"[9\1.", text, count=1))
    status, _, body = start(run).ask("api/slides/0")
    assert status == 422
    assert "those of another slide?" in json.loads(body)["error"]


def test_a_slide_that_vanishes_is_told(run, start):
    viewer = start(run)
    viewer.shelf.cases.cases[0].image.unlink()
    status, _, body = viewer.ask("api/slides/0")
    assert status == 422
    assert "found no such file" in json.loads(body)["error"]


def test_pictures_of_objects_and_images(run, start):
    viewer = start(run)
    about = viewer.json("api/slides/0/objects/7")
    with_around = read_picture(viewer, "objects/7.jpg")
    assert with_around.shape == (96, 96, 3)
    reader = SlideReader(run.parent / f"in/{NAME}.tif")
    row, col = (round(middle - 32) for middle in about["centre"][::-1])  # 16 um are 64 px
    expected = cv2.resize(np.moveaxis(reader.read(row, col, 64, 64), 0, -1), (96, 96), interpolation=cv2.INTER_CUBIC)
    assert np.corrcoef(with_around.ravel(), expected.ravel())[0, 1] > 0.9  # places are rounded on either grid
    assert np.corrcoef(with_around[:, ::-1].ravel(), expected.ravel())[0, 1] < 0.5
    whole = read_picture(viewer, "picture.jpg")
    assert max(whole.shape) <= 256
    assert whole.shape[0] / whole.shape[1] == pytest.approx(600 / 900, abs=0.01)
    write_png(run / f"{NAME}_overlay.png", np.full((300, 600, 3), (200, 30, 40), np.uint8))
    drawn = read_picture(viewer, "picture.jpg")  # as the run drew it
    assert drawn.shape == (128, 256, 3)
    np.testing.assert_allclose(drawn.reshape(-1, 3).mean(0), (200, 30, 40), atol=2)
    (run / f"{NAME}_overlay.png").unlink()
    assert viewer.ask("api/slides/0/objects/200.jpg")[0] == 404


def read_picture(viewer, path):
    status, headers, body = viewer.ask(f"api/slides/0/{path}")
    assert status == 200
    assert headers["content-type"].startswith("image/")
    return np.asarray(Image.open(io.BytesIO(body)))


def test_tissue_is_what_a_run_over_slides_takes_for_it(run, start):
    assert start(run).json("api/slides/0")["tissue"]
    veil = read_picture(start(run), "tissue.png")
    pixels, valid, scale = slide_thumbnail(SlideReader(run.parent / f"in/{NAME}.tif"))
    assert veil.shape == (*pixels.shape[1:], 4)
    mask = tissue_mask(pixels, scale * 0.25, valid=valid)
    assert mask.any()
    np.testing.assert_array_equal(veil[..., 3] == 0, mask)


def test_no_tissue_and_no_hot_spot_where_no_run_sought_them(tmp_path, start):
    viewer = start(write_run(tmp_path, {"a": Features([shapely.box(5, 5, 9, 9)])}))
    facts = viewer.json("api/slides/0")
    assert (facts["tissue"], facts["hot_spot"]) == (None, None)
    assert viewer.ask("api/slides/0/tissue.png")[0] == 404


@pytest.mark.parametrize(("radius", "expected"), [("50.5", [20.0, 10.0, 50.5]), ("", None), ("nan", None)])
def test_the_hot_spot_is_where_the_run_found_it(tmp_path, start, radius, expected):
    run = write_run(tmp_path, {"a": Features([shapely.Point(5, 5)])})
    (run / "summary.csv").write_text(f"image,hotspot_row,hotspot_col,hotspot_radius\na.tif,10,20,{radius}\n")
    assert start(run).json("api/slides/0")["hot_spot"] == expected
