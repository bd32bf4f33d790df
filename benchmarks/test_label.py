"""An annotator's wait: a region of 2048 x 2048 px by MONAI Label's server on loopback, and the same work from Python.

Python reads the region and runs the bundle's own steps up to the outlines; the server adds the request, its answer
and what it logs. Both compute on one thread. Needs MONAI Label's environment (``make .venv-label/.ready``).
"""

from __future__ import annotations

import shutil

import cv2
import pytest
import tifffile
import torch
from monai.bundle import ConfigParser

from monai_ext.label import as_annotation, found_features, in_region, load_region
from monai_ext.phantom import METHODS, phantom_field, phantom_slide
from tests.bundles.conftest import ROOT
from tests.label.conftest import PYTHON, start

SIDE = 2048
MPP = 0.25
BUNDLES = ["pathology_cell_semantic_segmentation", "pathology_nuclei_instance_segmentation"]
LEAST_NUCLEI = 1000
ROUNDS = 2

pytestmark = pytest.mark.skipif(not PYTHON.is_file(), reason=f"no MONAI Label at {PYTHON}")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before[0])
    cv2.setNumThreads(before[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = tmp_path_factory.mktemp("desk")
    field = phantom_field((SIDE, SIDE), slide=phantom_slide(1, tissue=METHODS["cells"].tissue, mpp=MPP))
    assert len(field.centroids) >= LEAST_NUCLEI
    (base / "studies").mkdir()
    tifffile.imwrite(
        base / "studies/field.tif", field.image, tile=(512, 512), compression="deflate", photometric="rgb",
        resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER",
    )  # fmt: skip
    shutil.copytree(ROOT / "monailabel_app", base / "monailabel_app")
    shutil.copytree(ROOT / "bundles", base / "bundles", ignore=shutil.ignore_patterns("eval", "runs"))
    client = start(base / "monailabel_app", base / "studies", base / "server.log", ",".join(BUNDLES))
    yield client
    client.process.terminate()
    client.process.wait(30)


class FromPython:
    """A bundle's steps without a server, its network loaded once, as the server loads it."""

    def __init__(self, bundle: str) -> None:
        parser = ConfigParser()
        parser.read_config(str(ROOT / "bundles" / bundle / "configs/inference.json"))
        parser["bundle_root"] = str(ROOT / "bundles" / bundle)
        self.target_mpp = parser.get_parsed_content("target_mpp")
        self.before = parser.get_parsed_content("preprocessing").transforms[1:]  # the first one loads whole images
        self.network = parser.get_parsed_content("loaded_network").eval()
        self.inferer = parser.get_parsed_content("inferer")
        self.after = parser.get_parsed_content("postprocessing").transforms

    def __call__(self, path) -> dict:
        item = {"image": load_region(path, (0, 0), (SIDE, SIDE), self.target_mpp)}
        for step in self.before:
            item = step(item)
        with torch.no_grad():
            pred = self.inferer(item["image"][None], self.network)
        item["pred"] = {key: value[0] for key, value in pred.items()} if isinstance(pred, dict) else pred[0]
        for step in self.after:
            item = step(item)
        return as_annotation(in_region(found_features(item), item["source"]), (0, 0), (SIDE, SIDE))


@pytest.mark.parametrize("bundle", BUNDLES)
@pytest.mark.parametrize("by", ["Python", "MONAI Label"])
def test_region(benchmark, server, bundle, by):
    benchmark.group = f"{bundle}, {SIDE} x {SIDE} px"
    if by == "Python":
        run = FromPython(bundle)
        annotation = benchmark.pedantic(run, (server.studies / "field.tif",), rounds=ROUNDS, warmup_rounds=1)
        objects = sum(len(element["contours"]) for element in annotation["elements"])
    else:
        request = (bundle, "field", (0, 0), (SIDE, SIDE))
        answer = benchmark.pedantic(server.region, request, rounds=ROUNDS, warmup_rounds=1)
        assert answer.status == 200, answer.body
        objects = answer.body.count(b"<Coordinates>")
    assert objects
    benchmark.extra_info["outlines"] = objects
