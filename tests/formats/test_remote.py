"""Slides that stay in a storage: a server on loopback that gives parts of files, and counts what it gives."""

import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.data import Cohort
from monai_ext.formats import SlideReader, open_levels, read_field
from monai_ext.formats.remote import address_in
from monai_ext.formats.suffixes import without_suffix

pytest.importorskip("aiohttp")
SIDE, TILE = 4096, 256


class Handler(BaseHTTPRequestHandler):
    """Gives files of a folder; of ``whole/`` only as a whole, and without saying how long they are."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def answer(self, with_body):
        path = self.server.folder / self.path.rsplit("/", 1)[-1]
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data, whole = path.read_bytes(), self.path.startswith("/whole/")
        wanted = None if whole else re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        part = data
        if wanted:
            first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            part = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        else:
            self.send_response(200)
        if whole:
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if with_body:
            self.server.given += len(part)
            with suppress(OSError):  # who needs no more hangs up
                self.wfile.write(part)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("storage")
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)  # which no compression shortens
    look = {"photometric": "rgb", "tile": (TILE, TILE), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(folder / "a.tif", bigtiff=True) as tiff:
        for every in (1, 4):
            tiff.write(pixels[::every, ::every], resolution=(40_000 / every,) * 2, subfiletype=every > 1, **look)
    (folder / "none.tif").write_bytes(b"<html>no slide</html>")
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.folder, served.given = folder, 0
    thread = threading.Thread(target=served.serve_forever, daemon=True)
    thread.start()
    yield served
    served.shutdown()
    thread.join(10)


def link(folder, server, name, below=""):
    path = folder / f"{name}.url"
    path.write_text(f"http://127.0.0.1:{server.server_port}/{below}{name}\n")
    return path


def test_a_region_is_that_of_the_file_and_little_else_is_fetched(server, tmp_path):
    local, before = open_levels(server.folder / "a.tif")[0], server.given
    levels, is_slide = open_levels(link(tmp_path, server, "a.tif"))
    assert is_slide
    assert levels.shapes == local.shapes
    assert levels.resolution == local.resolution
    for level, row, col, height, width in [
        (0, 3000, 100, 300, 200),
        (1, 600, 700, 400, 90),
        (0, SIDE - 7, SIDE - 9, 7, 9),
    ]:
        pixels, valid = levels.read(level, row, col, height, width)
        expected, _ = local.read(level, row, col, height, width)
        np.testing.assert_array_equal(pixels, expected)
        assert valid is None
    size = (server.folder / "a.tif").stat().st_size
    assert 0 < server.given - before < size / 4


def test_threads_share_a_remote_slide(server, tmp_path):
    reader, local = SlideReader(link(tmp_path, server, "a.tif"), 0.25), SlideReader(server.folder / "a.tif", 0.25)
    wrong = []

    def look(row):
        for col in range(0, 2048, 512):
            if not np.array_equal(reader.read(row, col, 256, 256), local.read(row, col, 256, 256)):
                wrong.append((row, col))

    threads = [threading.Thread(target=look, args=(row,)) for row in (0, 1000, 2000, 3000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_links_are_listed_named_and_read_as_the_slides_that_they_stand_for(server, tmp_path):
    path = link(tmp_path, server, "a.tif")
    (tmp_path / "home.url").write_text("https://example.org")  # no slide by its name
    cohort = Cohort(str(tmp_path), str(tmp_path / "out"))
    assert [item["image"] for item in cohort.items] == [str(path)]
    cohort._end()
    assert without_suffix(path).name == "a"
    field = read_field(path, target_mpp=1.0)
    np.testing.assert_array_equal(field.image, read_field(server.folder / "a.tif", target_mpp=1.0).image)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://slides/a.svs\n", "s3://slides/a.svs"),
        ("\ufeff[InternetShortcut]\r\nURL=https://host/a.svs?x=%20y\r\n", "https://host/a.svs?x=%20y"),
    ],
)
def test_addresses(tmp_path, text, expected):
    path = tmp_path / "a.svs.url"
    path.write_text(text, encoding="utf-8", newline="")
    assert address_in(path) == expected


@pytest.mark.parametrize(
    "text", ["", "a.svs", "https://a\nhttps://b", "[InternetShortcut]\nICON=1", "a" * 70_000], ids=range(5)
)
def test_a_link_without_an_address_is_one_line(tmp_path, text):
    path = tmp_path / "a.svs.url"
    path.write_text(text)
    with pytest.raises(InputError, match="one line with an address") as caught:
        open_levels(path)
    assert "\n" not in str(caught.value)


def test_what_a_storage_cannot_give_is_one_line(server, tmp_path, monkeypatch):
    refusals = {
        "missing": link(tmp_path, server, "missing.tif"),
        "no TIFF": link(tmp_path, server, "none.tif"),
        "no parts": link(tmp_path, server, "a.tif", "whole/"),
    }
    gone = tmp_path / "gone.tif.url"
    gone.write_text("http://127.0.0.1:9/a.tif")
    strange = tmp_path / "strange.tif.url"
    strange.write_text("nowhere://bucket/a.tif")
    for name, path in {**refusals, "gone": gone, "strange": strange}.items():
        with pytest.raises(InputError) as caught:
            open_levels(path)
        assert "\n" not in str(caught.value), name
        assert str(path) in str(caught.value), name
    with pytest.raises(InputError, match="range requests"):
        open_levels(refusals["no parts"])
