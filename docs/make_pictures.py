"""Draw the pictures of ``docs/images`` from phantoms, by the bundles' own commands.

``python docs/make_pictures.py`` draws all but MONAI Label's, ``python docs/make_pictures.py cells nuclei`` some;
``--label_python PYTHON`` names the Python of MONAI Label's environment and draws what a client of its server gets.
The phantoms are the same in every run, so the pictures are, up to rounding of the machine's arithmetic.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import fire
import numpy as np
import pandas as pd

from monai_ext.base.overlay import overlay
from monai_ext.data import read_field, read_mask, read_points

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
MOST_BYTES = 150_000  # of a picture
GAP_PX = 6
SERVER_S = 180  # until it answers


def _python(*command: object, folder: Path = ROOT) -> None:
    """Run a module as the documentation does."""
    subprocess.run([sys.executable, "-m", *map(str, command)], cwd=folder, env=_environment(), check=True)


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **more}


def _phantom(method: str, folder: Path, *options: object) -> list[dict[str, Any]]:
    """Make a data set; the items of its test list."""
    _python("monai_ext", "phantom", method, "--dst", folder, *options)
    return json.loads((folder / "dataset.json").read_text())["test"]


def _bundle(name: str, *command: object) -> None:
    _python("monai.bundle", "run", *command, folder=ROOT / "bundles" / name)


def _infer(name: str, data: Path, out: Path, *options: object) -> None:
    _bundle(name, "--config_file", "configs/inference.json", "--dataset_dir", data, "--output_dir", out, *options)


def _overlay(out: Path, image: str, ending: str = "_overlay.png") -> np.ndarray:
    stem = (out / image).with_suffix("")
    return cv2.imread(str(stem.with_name(stem.name + ending)))[..., ::-1]


def _grid(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Pictures of one size in rows, with white between them."""

    def joined(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
        shape = list(pictures[0].shape)
        shape[axis] = GAP_PX
        gap = np.full(shape, 255, np.uint8)
        return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=axis)

    return joined([joined(row, 1) for row in rows], 0)


def _write(name: str, picture: np.ndarray) -> None:
    """Write a JPEG at the best quality that is small enough."""
    for quality in range(92, 30, -4):
        encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        if len(encoded) <= MOST_BYTES:
            break
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.jpg").write_bytes(encoded.tobytes())
    print(f"{name}.jpg: {picture.shape[1]} x {picture.shape[0]} px, {len(encoded) // 1000} KB, quality {quality}")


def draw_mitosis(work: Path) -> None:
    """The figures of a field, and what the shipped weights find."""
    item = _phantom("mitosis", work / "data", "--slides", 10, "--fields", 1, "--size", 512, "--seed", 1)[0]
    _infer("pathology_mitosis_segmentation", work / "data", work / "out")
    image = read_field(work / "data" / item["image"]).image
    truth = overlay(image, points=read_points(work / "data" / item["label"]), channel_dim=0)
    _write("mitosis", _grid([[truth, _overlay(work / "out", item["image"])]]))


def draw_metastasis(work: Path) -> None:
    """Patches with their evidence, and a slide, both by a network of six epochs on phantom patches."""
    name = "pathology_metastasis_evidence_localization"
    _phantom("metastasis", work / "training", "--slides", 20, "--fields", 12, "--seed", 2)
    _bundle(
        name, "training", "--config_file", "['configs/train.json','configs/quickstart.json']",
        "--dataset_dir", work / "training", "--ckpt_dir", work / "models",
    )  # fmt: skip
    items = _phantom("metastasis", work / "data", "--slides", 12, "--fields", 8, "--seed", 1)
    _infer(name, work / "data", work / "out", "--ckpt_dir", work / "models")
    scores = pd.read_csv(work / "out/summary.csv", index_col="image")["score"]
    ranked = sorted(items, key=lambda item: -scores[item["image"]])
    chosen = [*ranked[:3], *[item for item in ranked if item["label"]][-3:]]
    pictures = [_overlay(work / "out", item["image"])[::2, ::2] for item in chosen]  # magnified by four as they are
    _write("metastasis", _grid([pictures[k : k + 2] for k in range(0, 6, 2)]))

    _python("monai_ext", "phantom", "camelyon16", "--dst", work / "release", "--slides", 4, "--size", 4096)
    slide = next((work / "release").rglob("tumor_*.tif"))
    _bundle(
        name, "--config_file", "['configs/inference.json','configs/slides.json']",
        "--dataset_dir", slide, "--ckpt_dir", work / "models", "--output_dir", work / "slides",
    )  # fmt: skip
    _write("metastasis_slide", _overlay(work / "slides", slide.name))


def draw_cells(work: Path) -> None:
    """The nuclei of a field, and what the shipped weights find."""
    _draw_outlines("cells", "pathology_cell_semantic_segmentation", work, ("--fields", 1, "--size", 384))


def draw_nuclei(work: Path) -> None:
    """Likewise."""
    _draw_outlines("nuclei", "pathology_nuclei_instance_segmentation", work, ("--fields", 1, "--size", 384))


def _draw_outlines(method: str, name: str, work: Path, options: Sequence[object]) -> None:
    item = _phantom(method, work / "data", "--slides", 7, "--seed", 1, *options)[0]
    _infer(name, work / "data", work / "out")
    image = read_field(work / "data" / item["image"]).image
    truth = overlay(image, labels=read_mask(work / "data" / item["label"]), thickness=1, channel_dim=0)
    _write(method, _grid([[truth, _overlay(work / "out", item["image"])]]))


def draw_vessels(work: Path) -> None:
    """The most suspicious vessel and the least, by the shipped weights."""
    _phantom("vessels", work / "data", "--slides", 12, "--vessels", 3, "--radius", "(60,110)", "--seed", 1)
    _infer("pathology_mvi_vessel_classification", work / "data", work / "out")
    found = pd.read_csv(work / "out/summary.csv").sort_values("probability")
    pictures = [_overlay(work / "out", found["image"].iloc[place]) for place in (-1, 0)]
    width = max(picture.shape[1] for picture in pictures)
    _write("vessels", _grid([[_widened(picture, width)] for picture in pictures]))


def _widened(picture: np.ndarray, width: int) -> np.ndarray:
    return cv2.copyMakeBorder(picture, 0, 0, 0, width - picture.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3)


def draw_view(work: Path) -> None:
    """The viewer: figures as a gallery, in light; cells with a histogram of a measurement, in dark."""
    _phantom("mitosis", work / "mitosis", "--slides", 40, "--fields", 1, "--size", 512, "--seed", 1)
    _infer("pathology_mitosis_segmentation", work / "mitosis", work / "mitoses", "--detect#min_score", 0.2)
    _phantom("cells", work / "cells", "--slides", 7, "--fields", 2, "--size", 512, "--seed", 1)
    _infer("pathology_cell_semantic_segmentation", work / "cells", work / "cells_found")
    _photograph(work / "mitoses", "light", ["#pictures", "g", "j", "j"])
    _photograph(work / "cells_found", "dark", ["m", "j", "j", "x"])


def _photograph(out: Path, scheme: str, done: Sequence[str]) -> None:
    """A result in the viewer, after boxes (``#id``) were ticked and keys pressed."""
    from playwright.sync_api import sync_playwright

    viewer = subprocess.Popen(
        [sys.executable, "-m", "monai_ext", "view", str(out), "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
    )
    try:
        address = viewer.stdout.readline().strip()
        with sync_playwright() as driver:
            browser = driver.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 760}, color_scheme=scheme)
            page.goto(address)
            page.wait_for_function("() => / objects$/.test(document.getElementById('status').textContent)")
            for each in done:
                if each.startswith("#"):
                    page.locator(each).check()
                else:
                    page.keyboard.press(each)
                page.wait_for_timeout(1500)
            picture = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
            browser.close()
    finally:
        viewer.terminate()
        viewer.wait()
    _write(f"view_{scheme}", picture[..., ::-1])


def draw_label(work: Path, python: str) -> None:
    """A rectangle of a field as a client of MONAI Label gets it: the polygons of the answer over the image."""
    model, (x, y), side = "pathology_nuclei_instance_segmentation", (64, 64), 384
    item = _phantom("nuclei", work / "data", "--slides", 7, "--fields", 1, "--size", 512, "--seed", 1)[0]
    image = work / "data" / item["image"]
    (work / "studies").mkdir()
    shutil.copy(image, work / "studies")
    with _server(work, model, python) as address:
        request = urllib.request.Request(
            f"{address}/infer/wsi/{model}?image={image.stem}&output=json",
            data=json.dumps({"location": [x, y], "size": [side, side], "min_poly_area": 30}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            answer = json.load(reply)
    picture = np.ascontiguousarray(np.moveaxis(read_field(image).image, 0, -1))
    outlines = [
        np.rint(np.array(outline)).astype(np.int32)
        for part in answer["annotations"]
        for element in part["annotation"]["elements"]
        for outline in element["contours"]
    ]
    cv2.polylines(picture, outlines, isClosed=True, color=(0, 200, 60), lineType=cv2.LINE_AA)
    cv2.rectangle(picture, (x, y), (x + side, y + side), (255, 215, 0), 2)
    _write("monai_label", picture)


@contextmanager
def _server(work: Path, model: str, python: str) -> Iterator[str]:
    """A server of the app with one bundle; its address."""
    app = shutil.copytree(ROOT / "monailabel_app", work / "app", ignore=shutil.ignore_patterns("model", "logs"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["start_server", "--app", app, "--studies", work / "studies", "--host", "127.0.0.1", "--port", port]
    settings = {"models": model, "zoo_source": "local", "sam2": "false", "bundles": ROOT / "bundles"}
    command += [word for name, value in settings.items() for word in ("--conf", name, value)]
    server = subprocess.Popen(
        [python, "-m", "monailabel.main", *map(str, command)],
        env=_environment(MPLBACKEND="agg", MONAI_LABEL_DATASTORE_FILE_EXT='["*.png"]'),
    )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_S
        while not _answers(f"{address}/info/"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{python}: expected a server of MONAI Label, found none after {SERVER_S} s")
            time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address) as reply:
            return reply.status == 200
    except OSError:
        return False


def make_pictures(*names: str, label_python: str | None = None) -> None:
    """Draw pictures.

    Args:
        *names: of mitosis, metastasis, cells, nuclei, vessels, and view, which needs Chromium and Playwright; all by
            default, but none with ``label_python`` alone.
        label_python: Python of MONAI Label's environment; also draws what a client gets.
    """
    drawings = {
        "mitosis": draw_mitosis,
        "metastasis": draw_metastasis,
        "cells": draw_cells,
        "nuclei": draw_nuclei,
        "vessels": draw_vessels,
        "view": draw_view,
    }
    if unknown := set(names) - set(drawings):
        raise SystemExit(f"make_pictures: expected some of {', '.join(drawings)}, found {', '.join(unknown)}")
    chosen = {name: drawings[name] for name in names or ([] if label_python else drawings)}
    if label_python:
        chosen["label"] = partial(draw_label, python=label_python)
    for name, draw in chosen.items():
        with tempfile.TemporaryDirectory() as work:
            print(f"{name} ...", flush=True)
            draw(Path(work))


if __name__ == "__main__":
    fire.Fire(make_pictures)
