"""The page in a browser: Debian's Chromium, driven by Playwright."""

import json
import shutil
from pathlib import Path

import pytest

from tests.view.conftest import EVIL, NAME

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
