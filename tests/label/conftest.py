"""A real MONAI Label server on loopback, with phantom fields and a slide in its datastore."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile

from monai_ext.formats.image import read_field, read_mask
from tests.bundles.conftest import BUNDLES, ROOT, environment

PYTHON = Path(os.environ.get("MONAI_LABEL_PYTHON", ROOT / ".venv-label/bin/python"))
FIELD = 256  # px
IMAGE = "slide_002_00"  # with nuclei that lie well apart
SLIDE = 8704  # px; above what the app takes in one piece
CORNERS = {"nuclei": (1700, 900), "mitosis": (4200, 5100)}  # x, y of phantom fields on the slide
START_S, TRAIN_S, ANSWER_S = 180, 600, 300
SLIDE_MPP = 0.25


@dataclass
class Answer:
    status: int
    body: bytes
    kind: str

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Client:
    """Sends what clients send."""

    port: int
    studies: Path
    app: Path
    process: subprocess.Popen
    log: Path

    def send(self, method: str, path: str, body: object = None, files: dict | None = None, timeout=ANSWER_S) -> Answer:
        headers, data = {}, None
        if files is not None:
            boundary = uuid.uuid4().hex
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
            parts = [
                f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
                for k, v in (body or {}).items()
            ]
            for name, file in files.items():
                head = f'Content-Disposition: form-data; name="{name}"; filename="{Path(file).name}"'
                kind = "Content-Type: application/octet-stream"
                parts.append(f"--{boundary}\r\n{head}\r\n{kind}\r\n\r\n".encode() + Path(file).read_bytes() + b"\r\n")
            data = b"".join(parts) + f"--{boundary}--\r\n".encode()
        elif body is not None:
            headers["Content-Type"], data = "application/json", json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.read(), answer.headers.get_content_type())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), error.headers.get_content_type())

    def region(self, model: str, image: str, location=(0, 0), size=(0, 0), output="asap", **more) -> Answer:
        """What the QuPath extension sends for a rectangle of an image that the server has.

        Of its version 0.3.1.alpha: ``RequestInfer`` of ``plugins/qupath``, ``MonaiLabelClient.java`` at commit 38c19d3
        of Project-MONAI/MONAILabel, which asks ``wsi_v2`` in place of ``wsi`` where it sends the image along.
        """
        query = urllib.parse.urlencode({"output": output, "image": image})
        clicks = {"foreground": [], "background": [], "max_workers": 1}
        body = {"level": 0, "location": list(location), "size": list(size), "tile_size": [1024, 1024]}
        return self.send("POST", f"/infer/wsi/{model}?{query}", {**body, "min_poly_area": 30, "params": clicks, **more})

    def train(self, model: str, **settings) -> dict:
        """Train and wait for the end."""
        answer = self.send("POST", f"/train/{model}", settings)
        assert answer.status == 200, answer.body
        deadline = time.monotonic() + TRAIN_S
        while (task := self.send("GET", "/train/").json)["status"] in ("SUBMITTED", "RUNNING"):
            assert time.monotonic() < deadline, task
            time.sleep(1)
        assert task["status"] == "DONE", "\n".join(task["details"])
        return task

    def save_label(self, image: str, file: Path) -> Answer:
        """As that extension and the module of 3D Slicer (``MONAILabelLib/client.py`` at commit 0836407) do."""
        return self.send("PUT", f"/datastore/label?image={image}&tag=final", {"params": "{}"}, {"label": file})


def phantom(method: str, folder: Path, *options: object) -> dict:
    command = [sys.executable, "-m", "monai_ext", "phantom", method, "--dst", str(folder), *map(str, options)]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    return json.loads((folder / "dataset.json").read_text()) if folder.is_dir() else {}


def make_studies(folder: Path, base: Path) -> None:
    """Fields with outlines, one without nuclei, and a slide: two fields on glass."""
    (folder / "labels/final").mkdir(parents=True)
    fields = phantom("nuclei", base / "nuclei", "--slides", 6, "--fields", 1, "--size", FIELD)
    items = [item for part in ("training", "validation", "test") for item in fields[part]]
    for item in items:
        image, label = base / "nuclei" / item["image"], base / "nuclei" / item["label"]
        shutil.copy(image, folder)
        if item not in fields["test"]:  # these are yet to be annotated
            shutil.copy(label, folder / "labels/final" / f"{image.stem}{label.suffix}")
    mitoses = phantom("mitosis", base / "mitosis", "--slides", 6, "--fields", 1, "--size", FIELD)
    shown = {
        "nuclei": next(item for item in items if Path(item["image"]).stem == IMAGE),
        "mitosis": mitoses["training"][0],
    }
    slide = np.full((SLIDE, SLIDE, 3), 255, np.uint8)
    truth = np.zeros((SLIDE, SLIDE), np.uint16)
    for name, (x, y) in CORNERS.items():
        pixels = read_field(base / name / shown[name]["image"]).image
        place = (slice(y, y + pixels.shape[1]), slice(x, x + pixels.shape[2]))
        slide[place] = np.moveaxis(pixels, 0, -1)
        if name == "nuclei":
            truth[place] = read_mask(base / name / shown[name]["label"])
    per_cm = 10_000 / SLIDE_MPP
    tifffile.imwrite(
        folder / "slide.tif", slide, tile=(512, 512), compression="deflate", photometric="rgb",
        resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
    )  # fmt: skip
    np.save(base / "truth.npy", truth)
    shutil.copy(base / "mitosis" / shown["mitosis"]["label"], base / "mitoses.csv")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def start(app: Path, studies: Path, log: Path, models: str, **conf: str) -> Client:
    port = free_port()
    arguments = ["--app", app, "--studies", studies, "--host", "127.0.0.1", "--port", port]
    settings = {"models": models, "zoo_source": "local", "sam2": "false", **conf}
    arguments += [a for name, value in settings.items() for a in ("--conf", name, value)]
    patterns = '["*.png", "*.tif"]'
    process = subprocess.Popen(
        [str(a) for a in (PYTHON, "-m", "monailabel.main", "start_server", *arguments)],
        env={**environment(), "MONAI_LABEL_DATASTORE_FILE_EXT": patterns, "MPLBACKEND": "agg"},
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    client = Client(port, studies, app, process, log)
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if client.send("GET", "/info/").status == 200:
                return client
        except OSError:
            time.sleep(0.5)
    process.kill()
    pytest.fail(f"no server after {START_S} s: {log.read_text()[-5000:]}")


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    if not PYTHON.is_file():
        pytest.skip(f"no MONAI Label at {PYTHON}: make test-label makes its environment")
    folder = tmp_path_factory.mktemp("label")
    make_studies(folder / "studies", folder)
    return folder


@pytest.fixture(scope="session")
def server(base) -> Client:
    """The project's app with all bundles that have weights."""
    app = base / "monailabel_app"
    shutil.copytree(ROOT / "monailabel_app", app, ignore=shutil.ignore_patterns("model", "logs", "__pycache__"))
    shutil.copytree(ROOT / "bundles", base / "bundles", ignore=shutil.ignore_patterns("eval", "runs"))
    studies = base / "served"  # annotations are written there
    shutil.copytree(base / "studies", studies)
    models = [path.name for path in BUNDLES if (path / "models/model.pt").is_file()]
    client = start(app, studies, base / "server.log", ",".join(models), runtime="auto")
    yield client
    client.process.terminate()
    client.process.wait(30)
