"""A finished run over one small slide, and a viewer of it in a thread."""

from __future__ import annotations

import csv
import json
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import shapely
import tifffile
import uvicorn

from monai_ext.formats import Features, HeatMap, write_geojson, write_ome_tiff
from monai_ext.view import find_cases
from monai_ext.view.cases import find_beside
from monai_ext.view.command import listen
from monai_ext.view.opened import Settings, Shelf
from monai_ext.view.server import application
from monai_ext.view.training import Training
from tests import reviewed

NAME = 'it\'s <b>"a"'  # a file's name that is also HTML
EVIL = '<img src=x onerror="document.title=1">'
SHAPE = (600, 900)
CELL = 32  # px
# says what learn says, and does what a test asks for with --seed: 0 ends well, 1 badly, 2 goes on for ever
CHILD = """
import json, pathlib, sys, time
words = sys.argv[1:]
options = dict(zip([word[2:] for word in words[1::2]], words[2::2]))
folder = pathlib.Path(words[0]) / "learn/round_1"
folder.mkdir(parents=True, exist_ok=True)
(folder / "words.json").write_text(json.dumps(words))
def say(text, end="\\n", file=sys.stdout):
    print(text, end=end, flush=True, file=file)
say("training: 2 fields with 9 right and 1 rejected objects")
say("points, before: starting, x/metrics.json")
say("points, training: starting, x/model.pt")
say("epoch 1/4  loss 0.5  2.0 s/epoch, 0:01:30 left")
say("epoch 2/4:  50%|#####     | 3/6 [00:03<00:04,  1.52step/s]", end="\\r", file=sys.stderr)
if options["seed"] == "1":
    say("Traceback ...")
    sys.exit(say("InputError: out: expected at least 10 reviewed objects, found 1", file=sys.stderr) or 1)
while options["seed"] == "2":
    time.sleep(0.1)
rows = {"before": {"runs": 1, "F1": 0.5, "F1 low": 0.4, "F1 high": 0.6, "Hausdorff": None},
        "after": {"F1": 0.75, "F1 less before": 0.25, "F1 less before low": -0.1, "F1 less before high": 0.6}}
content = {"scores": {"points": {"comparison": rows}}, "command": "cd bundle && python", "notes": ["2 fields"]}
(folder / "learn.json").write_text(json.dumps(content))
say(folder / "points/report.html")
say(folder / "learn.json")
say("To use the new weights:\\ncd bundle && python")
"""


def write_run(folder: Path) -> Path:
    """A slide below ``in``, and below ``out`` what a run would have written of it."""
    rng = np.random.default_rng(0)
    (folder / "in").mkdir(parents=True)
    slide = folder / "in" / f"{NAME}.tif"
    with tifffile.TiffWriter(slide) as tiff:
        pixels = np.repeat(np.repeat(rng.integers(0, 255, (75, 113, 3), np.uint8), 8, 0), 8, 1)[: SHAPE[0], : SHAPE[1]]
        look = {"photometric": "rgb", "tile": (128, 128), "resolutionunit": "CENTIMETER"}
        tiff.write(pixels, resolution=(40000, 40000), **look)
        tiff.write(pixels[::2, ::2], resolution=(20000, 20000), subfiletype=1, **look)
    out = folder / "out"
    centres = rng.uniform([20, 20], [880, 580], (200, 2))
    outlines = [shapely.Point(*xy).buffer(radius) for xy, radius in zip(centres, rng.uniform(3, 12, 200), strict=True)]
    classes = np.array(["Tumor", EVIL, None], dtype=object)[np.arange(200) % 3]
    cells = Features(outlines, classes, {"confidence": rng.uniform(0.4, 1, 200).round(4)}, "detection")
    write_geojson(out / f"{NAME}.geojson", cells)
    shape = (1, -(-SHAPE[0] // CELL), -(-SHAPE[1] // CELL))
    with HeatMap(folder / "heat.npy", shape=shape) as heat:
        heat.write(0, 2, 3, np.full((4, 5), 0.8, np.float32))
        write_ome_tiff(out / f"{NAME}_heatmap.ome.tif", [heat], 8.0, "heat", ["Tumor"])
    plan = {"stretch": [1.0, 1.0], "resolution_source": "TIFF", "level0_shape": list(SHAPE), "base_mpp": 0.25}
    (out / f"{NAME}_plan.json").write_text(json.dumps(plan | {"scale": 4.0, "step": CELL // 4}))
    (out / "state.json").write_text(json.dumps({str(slide): {"status": "done", "name": f"{NAME}.tif"}}))
    with (out / "summary.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "cells", "score"], [f"{NAME}.tif", 200, 0.5]])
    return out


@dataclass
class Viewer:
    """A viewer that runs.

    Attributes:
        url: of its page.
        shelf: what it shows.
        end: ends it.
    """

    url: str
    shelf: Shelf
    end: Callable[[], None]

    def ask(self, path: str = "", content: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer; ``content`` is sent as JSON."""
        data = None if content is None else json.dumps(content).encode()
        kind = {} if data is None else {"Content-Type": "application/json"}
        request = Request(self.url + path, data, {**kind, **{k.replace("_", "-"): v for k, v in headers.items()}})
        try:
            with urlopen(request, timeout=20) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def json(self, path: str, content: Any = None) -> Any:
        """What an address answers."""
        status, _, body = self.ask(path, content)
        assert status == 200, body
        return json.loads(body)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Viewer]]:
    """Starts viewers, which end with the tests of a file."""
    ends = []

    def begin(src: Path, token: str = "", beside: Path | None = None, learn: Any = None, **settings: Any) -> Viewer:
        cases = find_cases(src)
        settings = Settings(**{"reviewer": "ada", **settings})
        shelf = Shelf(cases, settings, None if beside is None else find_beside(cases, beside))
        listening = listen("127.0.0.1", 0)
        training = Training(src, cases, **learn) if learn else None
        config = uvicorn.Config(application(shelf, token, training), log_level="warning")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()

        def end() -> None:
            server.should_exit = True
            thread.join(20)

        ends.append(end)
        host = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        return Viewer(f"{host}{token}/" if token else host, shelf, end)

    yield begin
    for end in ends:
        end()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


@pytest.fixture(scope="module")
def viewer(start: Callable[..., Viewer], tmp_path_factory: pytest.TempPathFactory) -> Viewer:
    """Of a run that tests only look at."""
    return start(write_run(tmp_path_factory.mktemp("run")))


@pytest.fixture
def taught(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run with a correction, a bundle, and how to learn of them."""
    out = reviewed.write_run(tmp_path, {"a": Features([shapely.box(x, 40, x + 20, 60) for x in (20, 80)])})
    reviewed.decide(out, {"a": [(0, "accept")]})
    (tmp_path / "bundle/configs").mkdir(parents=True)
    (tmp_path / "bundle/configs/train.json").write_text("{}")
    (tmp_path / "child.py").write_text(CHILD)
    return out, {"bundle": tmp_path / "bundle", "command": [sys.executable, str(tmp_path / "child.py")]}
