"""The page in a browser: Debian's Chromium, driven by Playwright."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import shapely

from monai_ext.formats import Features, read_geojson
from tests.reviewed import write_run as write_result
from tests.view.conftest import EVIL, NAME
from tests.view.test_view_comparison import LOOK, other_of

CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium")]


@pytest.fixture
def page():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 760})
        page.said = []
        page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        yield page
        browser.close()


def shows(page, name, text):
    page.wait_for_function("([id, text]) => document.getElementById(id).textContent.includes(text)", arg=[name, text])


def lines(run):
    return [json.loads(line) for line in Path(run / f"{NAME}_review.jsonl").read_text().splitlines()]


def test_open_go_on_reject_change_undo_and_open_again(run, start, page):
    viewer = start(run)
    order = viewer.json("api/slides/0/order?by=doubt")["objects"]
    page.goto(viewer.url)
    shows(page, "status", "200 objects")
    assert page.inner_text("#name") == f"{NAME}.tif"
    assert EVIL in page.inner_text("#classes")
    assert page.title() == "out"
    page.keyboard.press("j")
    shows(page, "about", f"number{order[0]}")
    page.keyboard.press("x")
    shows(page, "progress", "1 of 200 reviewed")
    shows(page, "about", f"number{order[1]}")  # the next one comes by itself
    page.keyboard.press("2")
    shows(page, "progress", "2 of 200 reviewed")
    shows(page, "about", f"number{order[2]}")
    page.keyboard.press("k")
    shows(page, "about", f"number{order[1]}")
    page.keyboard.press("u")
    shows(page, "progress", "1 of 200 reviewed")
    assert [(line["action"], line.get("object")) for line in lines(run)] == [
        ("reject", order[0]),
        ("class", order[1]),
        ("undo", None),
    ]
    page.wait_for_function("() => location.hash.includes('object')")
    page.wait_for_timeout(600)
    address = page.url
    page.reload()
    shows(page, "progress", "1 of 200 reviewed")
    shows(page, "about", f"number{order[1]}")
    assert page.url.split("&object")[0] == address.split("&object")[0]  # the same place
    page.select_option("#order", "diverse")
    others = viewer.json("api/slides/0/order?by=diverse")["objects"]
    page.wait_for_function("(first) => order.objects[0] === first", arg=others[0])
    page.keyboard.press("j")
    shows(page, "about", f"number{others[others.index(order[1]) + 1]}")
    page.keyboard.press("k")
    shows(page, "about", f"number{order[1]}")
    page.keyboard.press("e")
    shows(page, "status", "Written")
    assert (run / f"{NAME}_reviewed.geojson").is_file()
    box = page.locator("#viewer").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)  # the chosen one is in the middle
    shows(page, "about", f"number{order[1]}")
    inked = """() => { const c = document.querySelector("canvas.marks");
        return c.getContext("2d").getImageData(0, 0, c.width, c.height).data.some((value) => value > 0); }"""
    assert page.evaluate(inked)
    assert page.said == []


class Screen:
    """Where places of the slide are on the page, by the address that the page keeps."""

    def __init__(self, page):
        page.wait_for_timeout(700)  # until it stands still
        view = dict(pair.split("=") for pair in page.url.split("#")[1].split("&"))
        box = page.locator("#viewer").bounding_box()
        self.middle = np.array([box["x"] + box["width"] / 2, box["y"] + box["height"] / 2])
        self.centre, self.zoom = np.array([float(view["x"]), float(view["y"])]), float(view["zoom"])

    def __call__(self, x, y):
        return (self.middle + (np.array([x, y]) - self.centre) * self.zoom).tolist()


def test_draw_a_polygon_a_point_and_by_hand_undo_reload_and_export(run, start, page):
    viewer = start(run)
    page.goto(viewer.url)
    shows(page, "status", "200 objects")
    for _ in range(2):
        page.keyboard.press("+")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    screen = Screen(page)
    left, top = screen.centre - 100
    corners = [(left, top), (left + 120, top + 10), (left + 90, top + 80), (left + 20, top + 110)]

    page.keyboard.press("p")
    page.mouse.click(*screen(left, top))
    shows(page, "status", "Choose the class first: 1 to 9")
    page.keyboard.press("2")
    shows(page, "drawing", "Click corners; Enter closes: Tumor")
    for corner in corners[:3]:
        page.mouse.click(*screen(*corner), delay=20)
        page.wait_for_timeout(350)  # two clicks in a short while are a double one
    page.keyboard.press("Escape")  # all of it again
    for corner in (*corners[:3], (left, top + 50), corners[3]):
        page.mouse.click(*screen(*corner), delay=20)
        page.wait_for_timeout(350)
        if corner == (left, top + 50):
            page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    shows(page, "status", "Saved: 200 drawn, Tumor")
    shows(page, "about", "number200")

    page.keyboard.press(".")
    page.mouse.click(*screen(left + 150, top + 40))
    shows(page, "status", "Saved: 201 drawn, Tumor")
    page.wait_for_timeout(350)
    page.mouse.click(*screen(left + 160, top + 120))
    shows(page, "status", "Saved: 202 drawn, Tumor")
    page.keyboard.press("u")
    shows(page, "status", "Undone: 202")

    page.keyboard.press("b")
    centre, angles = np.array([left + 60, top + 180]), np.linspace(0, 2 * np.pi, 40)
    page.mouse.move(*screen(centre[0] + 30, centre[1]))
    page.mouse.down()
    for angle in angles:
        page.mouse.move(*screen(*(centre + 30 * np.array([np.cos(angle), np.sin(angle)]))))
    page.mouse.up()
    shows(page, "status", "Saved: 203 drawn, Tumor")
    assert [line["action"] for line in lines(run)] == ["draw", "draw", "draw", "undo", "draw"]

    page.reload()
    shows(page, "status", "203 objects")
    shows(page, "progress", "3 of 203 reviewed")
    shows(page, "about", "number203")
    now = Screen(page)
    np.testing.assert_allclose([*now.centre, now.zoom], [*screen.centre, screen.zoom], rtol=1e-3)
    page.keyboard.press("e")
    shows(page, "status", "Written")
    polygon, point, drawn = read_geojson(run / f"{NAME}_reviewed.geojson")[200:].geometry
    assert shapely.hausdorff_distance(polygon, shapely.Polygon(corners)) < 1.5
    assert shapely.hausdorff_distance(point, shapely.Point(left + 150, top + 40)) < 1.5
    assert shapely.hausdorff_distance(drawn, shapely.Point(centre).buffer(30)) < 2.5
    page.mouse.click(*now(left + 150, top + 41))  # without a tool a click chooses
    shows(page, "about", "number201")
    page.keyboard.press("x")
    shows(page, "status", "Saved: 201 rejected")
    assert page.said == []


def test_what_cannot_be_drawn_is_told_and_another_page_shows_what_was(run, start, page):
    viewer = start(run)
    page.goto(viewer.url)
    shows(page, "status", "200 objects")
    screen = Screen(page)
    page.keyboard.press("p")
    page.keyboard.press("2")
    for x in (300, 400, 500):  # in a row
        page.mouse.click(*screen(x, 300), delay=20)
        page.wait_for_timeout(350)
    page.keyboard.press("Enter")
    shows(page, "status", "expected an outline around at least 1 square px")
    page.keyboard.press("Enter")  # what was refused is still there
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    page.keyboard.press("Backspace")
    for x, y in ((300, 300), (400, 300)):
        page.mouse.click(*screen(x, y), delay=20)
        page.wait_for_timeout(350)
    page.mouse.dblclick(*screen(400, 400))
    shows(page, "status", "Saved: 200 drawn, Tumor")
    [triangle] = viewer.shelf[0].log.drawn().geometry
    assert shapely.hausdorff_distance(triangle, shapely.Polygon([(300, 300), (400, 300), (400, 400)])) < 2
    viewer.json("api/slides/0/review", {"action": "draw", "type": "point", "points": [[300, 300]], "class": "Tumor"})
    page.evaluate("window.dispatchEvent(new Event('focus'))")
    shows(page, "progress", "2 of 202 reviewed")


def inks(page, colour):
    """Px of the marks that have a colour, about."""
    return page.evaluate(
        """(wanted) => { const c = document.querySelector("canvas.marks");
        const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let count = 0;
        for (let n = 0; n < data.length; n += 4)
            count += data[n + 3] > 200 && wanted.every((value, k) => Math.abs(data[n + k] - value) < 12);
        return count; }""",
        colour,
    )


def test_a_second_result_beside_the_first(tmp_path, start, page):
    boxes = [shapely.box(x, 40, x + 20, 60) for x in (20, 80, 140, 200)]
    out = write_result(tmp_path / "one", {"a": Features(boxes, **LOOK)})
    other = write_result(tmp_path / "two", {"a": other_of(boxes)})
    viewer = start(out, beside=other)
    page.goto(viewer.url)
    shows(page, "scores", "F1 0.500, precision 50.0 %, recall 50.0 %; IoU above .5")
    shows(page, "status", "4 objects")
    texts = page.locator("#kinds li").all_inner_texts()
    assert ["".join(text.split("\n")) for text in texts] == [
        "found by both1",
        "by both, another class1",
        "only in out2",
        "missed: only in two/out2",
    ]
    only, missed = [216, 70, 0], [20, 90, 230]
    page.wait_for_timeout(500)
    assert inks(page, only) > 50
    assert inks(page, missed) > 50
    page.get_by_label("show missed: only in two/out").uncheck()
    assert inks(page, missed) == 0
    page.get_by_label("show missed: only in two/out").check()
    page.select_option("#order", "differences")
    shows(page, "progress", "0 of 5 reviewed")
    seen = []
    for _ in range(5):
        page.keyboard.press("j")
        page.wait_for_timeout(250)
        seen.append(page.evaluate("chosen.object"))
    assert seen == [-2, -1, 2, 3, 1]  # what was missed, what is only here, what has another class
    page.keyboard.press("j")
    shows(page, "status", "This is the last one")
    for _ in range(3):
        page.keyboard.press("k")
        page.wait_for_timeout(250)
    page.keyboard.press("x")
    shows(page, "status", "It is in two/out alone: there is nothing to reject here")
    page.keyboard.press("a")
    shows(page, "status", "Saved: 4, as two/out has it, Stroma")
    shows(page, "progress", "1 of 5 reviewed")
    page.wait_for_timeout(250)
    page.keyboard.press("x")
    shows(page, "progress", "2 of 5 reviewed")
    page.wait_for_timeout(600)
    page.screenshot(path=tmp_path / "beside.png")
    page.reload()
    shows(page, "progress", "2 of 5 reviewed")  # the differences again
    shows(page, "about", "number3")
    page.uncheck("#differ")
    shows(page, "progress", "2 of 5 reviewed")
    page.wait_for_timeout(300)
    assert inks(page, only) == inks(page, missed) == 0
    assert page.said == []


def test_the_page_teaches_the_network_after_a_first_correction(taught, start, page):
    out, learn = taught
    (out / "a_review.jsonl").unlink()
    viewer = start(out, learn=learn)
    page.goto(viewer.url)
    shows(page, "status", "2 objects")
    page.keyboard.press("l")
    shows(page, "learn_about", "Nothing has been reviewed yet")
    assert page.is_disabled("#learn_start")
    page.keyboard.press("j")
    shows(page, "about", "number0")
    page.keyboard.press("x")
    shows(page, "learn_about", "Goes on from the weights")
    page.fill("#epochs", "0")
    page.click("#learn_start")  # the browser says what is wrong with it
    assert viewer.json("api/learn")["state"] == "none"
    page.fill("#epochs", "4")  # and no digit chose a class
    page.fill("#seed", "2")
    page.press("#seed", "Enter")
    shows(page, "learn_state", "points, training, epoch 2 of 4, step 3 of 6, ")
    page.reload()
    shows(page, "status", "2 objects")
    page.click("#teach")
    shows(page, "learn_state", "points, training, epoch 2 of 4, step 3 of 6, ")
    page.click("#learn_cancel")
    shows(page, "learn_state", "Cancelled")
    page.fill("#seed", "0")
    page.click("#learn_start")
    shows(page, "learn_state", "Done.")
    assert page.locator("#learn_table tbody td").all_inner_texts() == [
        "F1, points",
        "0.500",
        "0.750",
        "0.250 [-0.100, 0.600]",
    ]
    assert str(out / "learn/round_1") in page.inner_text("#learn_weights")
    page.fill("#seed", "1")
    page.select_option("#round", "1")
    page.click("#learn_start")
    shows(page, "learn_state", "out: expected at least 10 reviewed objects, found 1")
    assert page.said == []


def test_a_part_of_a_chart_picks_objects(tmp_path, start, page):
    sides, scores = [8, 10, 12, 20, 30], [0.9, 0.5, 0.8, 0.6, 0.95]
    boxes = [shapely.box(50 * k + 20, 100, 50 * k + 20 + side, 100 + side) for k, side in enumerate(sides)]
    out = write_result(tmp_path, {"a": Features(boxes, measurements={"score": scores})})  # areas 4, 6.25, 9, 25, 56.25
    page.goto(start(out).url)
    shows(page, "status", "5 objects")
    page.keyboard.press("m")
    shows(page, "picked", "5 objects")
    assert page.locator("#along option").all_inner_texts() == ["score", "area (um2)", "doubt"]
    page.select_option("#along", label="area (um2)")
    page.fill("#along_from", "5")
    page.fill("#along_to", "30")
    page.press("#along_to", "Tab")
    shows(page, "picked", "3 of 5 objects picked")
    shows(page, "progress", "0 of 3 reviewed")
    assert "Histogram of area (um2)" in page.get_attribute("#chart", "aria-label")
    page.locator("#chart").focus()
    page.keyboard.press("Escape")
    shows(page, "progress", "0 of 5 reviewed")
    page.wait_for_timeout(500)
    plain = inks(page, [255, 255, 255])
    page.keyboard.press("ArrowRight")  # a first quarter, 4 to 17
    shows(page, "picked", "3 of 5 objects picked")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
    shows(page, "picked", "4 of 5 objects picked")  # to 26
    assert inks(page, [255, 255, 255]) > plain + 50  # they stand out

    page.select_option("#up", label="score")
    shows(page, "picked", "5 objects")
    box = page.locator("#chart").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 3)  # from the upper left: small and sure
    page.mouse.down()
    page.mouse.move(box["x"] + 56 + 280 / 2, box["y"] + 8 + 168 / 2, steps=4)
    page.mouse.up()
    shows(page, "picked", "2 of 5 objects picked")  # areas to 30, scores from .725
    page.locator("#chart").blur()
    seen = []
    for _ in range(2):
        page.keyboard.press("j")
        page.wait_for_timeout(250)
        seen.append(page.evaluate("chosen.object"))
    assert seen == [2, 0]
    page.keyboard.press("j")
    shows(page, "status", "This is the last one")
    page.keyboard.press("x")
    shows(page, "progress", "1 of 2 reviewed")
    page.click("#unpick")
    shows(page, "progress", "1 of 5 reviewed")
    assert page.said == []


def test_galleries_tissue_and_hot_spot(run, start, page):
    quoted = NAME.replace('"', '""')
    columns = "image,cells,hotspot_row,hotspot_col,hotspot_radius"
    (run / "summary.csv").write_text(f'{columns}\n"{quoted}.tif",200,300,450,150\n')
    viewer = start(run)
    order = viewer.json("api/slides/0/order?by=doubt")["objects"]
    page.goto(viewer.url)
    shows(page, "status", "200 objects")
    page.keyboard.press("g")
    page.wait_for_function("() => [...document.querySelectorAll('.cell img')].some((each) => each.naturalWidth === 96)")
    page.locator(".cell").nth(1).click()
    shows(page, "about", f"number{order[1]}")
    page.keyboard.press("x")
    shows(page, "progress", "1 of 200 reviewed")
    shows(page, "about", f"number{order[2]}")
    assert page.locator(".cell.reject").count() == 1
    page.evaluate("() => { document.getElementById('list').scrollTop = 1e6; }")
    page.wait_for_function("() => parseFloat(document.querySelector('.cell').style.top) > 4000")
    page.keyboard.press("g")
    page.wait_for_selector(".row")
    assert page.locator(".cell").count() == 0
    page.locator("#pictures").check()
    page.wait_for_function("() => document.querySelector('#images img').naturalWidth > 100")
    assert page.get_attribute("#images figure", "aria-current") == "true"
    page.locator("#pictures").uncheck()
    assert page.locator("#table tbody tr").count() == 1
    colour = """() => {
        const { data } = marks.getContext("2d").getImageData(0, 0, marks.width, marks.height);
        return data.filter((value, k) => k % 4 === 0 && value === 20).length;
    }"""
    with_spot = page.evaluate(colour)
    page.locator("#spot").uncheck()
    assert page.evaluate(colour) < with_spot
    page.locator("#tissue").check()
    page.wait_for_function("() => tissue && tissue.getFullyLoaded()")
    page.locator("#tissue").uncheck()
    assert page.evaluate("() => tissue.getOpacity()") == 0
    assert page.said == []
