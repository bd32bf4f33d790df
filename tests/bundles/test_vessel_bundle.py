"""What only the bundle of vessels has: outlines on slides, attributions, overlays that change the training."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import shapely
import shapely.affinity
import tifffile
import torch
from monai.bundle import ConfigParser

from monai_ext.data import Features, read_geojson, write_geojson
from monai_ext.formats.image import read_field, read_mask
from monai_ext.formats.outlines import label_map_to_polygons
from tests.bundles.conftest import BUNDLES, LIMIT_S, Workplace, environment
from tests.configs import config_files, configurations
from tests.forked import run_python

SOURCE = next(path for path in BUNDLES if path.name == "pathology_mvi_vessel_classification")
OTHERS = {
    "hematoxylin",
    *("train", "inference", "evaluate", "attributions", "multi_gpu_train", "multi_gpu_evaluate"),
    *("fl", "onnx_export", "inference_onnx", "hematoxylin"),
}
TRAININGS = sorted({path.stem for path in configurations(SOURCE)} - OTHERS)
SIDE = 1024  # px of a slide
CORNERS = [(40, 60), (560, 520)]  # row, column of a healthy and of an invaded vessel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    base = tmp_path_factory.mktemp("vessels")
    folder = base / SOURCE.name
    shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns("eval", "runs"))
    options = {"slides": 6, "vessels": 2, "invaded": 0.5, "radius": "(60,75)"}
    words = ["-m", "monai_ext", "phantom", "vessels", "--dst", base / "data"]
    words += [part for name, value in options.items() for part in (f"--{name}", value)]
    run_python(words, base, environment(), LIMIT_S).check_returncode()
    return Workplace(SOURCE, folder, base / "data")


@pytest.fixture(scope="module")
def slide(place, tmp_path_factory):
    """Pixels with one vessel of each kind, and their outlines."""
    items = json.loads((place.data / "dataset.json").read_text())["training"]
    pixels, shapes, names = np.full((SIDE, SIDE, 3), 200, np.uint8), [], []
    for label, (top, left) in enumerate(CORNERS):
        item = next(item for item in items if item["label"] == label)
        image = np.moveaxis(read_field(place.data / item["image"]).image, 0, -1)
        pixels[top : top + image.shape[0], left : left + image.shape[1]] = image
        _, lumens = label_map_to_polygons((read_mask(place.data / item["mask"]) > 0).astype(np.uint8))
        shapes.append(shapely.affinity.translate(max(shapely.get_parts(lumens), key=shapely.area), left, top))
        names.append(("healthy one", "invaded one")[label])
    file = tmp_path_factory.mktemp("slide") / "v.geojson"
    return pixels, write_geojson(file, Features(shapes, "Vessel", names=names))


@pytest.mark.parametrize("stated", [True, False], ids=["of a slide", "of an image without resolution"])
def test_vessels_outlined_on_a_slide(place, slide, tmp_path, stated):
    pixels, given = slide
    density = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"} if stated else {}
    slide = tmp_path / "slide.tif"
    tifffile.imwrite(slide, pixels, photometric="rgb", tile=(256, 256), **density)
    more = () if stated else ("--mpp", "0.5")
    options = ("--dataset_dir", str(slide), "--outlines", str(given), "--output_dir", str(tmp_path / "out"), *more)
    place.bundle("run", "--config_file", "configs/inference.json", *options)
    outlines = read_geojson(given)
    table = pd.read_csv(tmp_path / "out/summary.csv").set_index("vessel")
    assert set(table.index) == {"healthy_one", "invaded_one"}
    assert table["probability"].is_monotonic_decreasing
    found = read_geojson(tmp_path / f"out/{slide.stem}.geojson")
    vessels = found[[name in ("Invaded vessel", "Healthy vessel") for name in found.classes]]
    for name, shape in zip(vessels.names, vessels.geometry, strict=True):
        (outline,) = outlines.geometry[outlines.names == name.replace("_", " ")]
        assert shape.equals_exact(outline, 0.01)
    slides = pd.read_csv(tmp_path / "out/slides.csv")
    assert slides.loc[0, ["vessels", "invaded"]].tolist() == [len(outlines), int(table["invaded"].sum())]
    assert slides.loc[0, "suspicious_cells"] == table.loc[table["invaded"], "suspicious_cells"].sum()


@pytest.mark.parametrize("name", TRAININGS)
def test_every_overlay_makes_a_trainer(place, name):
    below = ["pretrained"] if name == "frozen" else []
    parser = ConfigParser()
    parser.read_config(config_files(place.folder, "train", *below, name))
    options = {"dataset_dir": str(place.data), "device": "cpu", "classifier": str(place.source / "models/model.pt")}
    parser.update({"bundle_root": str(place.folder), **options})
    trainer = parser.get_parsed_content("train#trainer")
    assert trainer.stage1_epochs <= trainer.state.max_epochs == parser.get_parsed_content("epochs")


def test_a_trained_classifier_goes_on_with_stage_2(place, tmp_path):
    """Normalising layers count the batches that they have seen."""
    weights = place.source / "models/model.pt"
    configs = "['configs/train.json','configs/overlays/training/from_classifier.json']"
    options = {"dataset_dir": place.data, "ckpt_dir": tmp_path, "classifier": weights, "stage2_epochs": 1}
    arguments = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    place.bundle("run", "training", "--config_file", configs, *arguments)
    (epoch,) = json.loads((tmp_path / "history.json").read_text())
    assert epoch["loss_loop"] > 0
    before, after = (
        int(torch.load(path, weights_only=True)["backbone.bn1.num_batches_tracked"])
        for path in (weights, tmp_path / "model.pt")
    )
    assert after == before + 1


def test_attributions_are_judged_beside_the_locating_branch(place, tmp_path):
    configs = "['configs/train.json','configs/evaluate.json','configs/overlays/evaluation/attributions.json']"
    options = {"dataset_dir": place.data, "output_dir": tmp_path, "attribution_limit": 1, "split": "training"}
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    place.bundle("run", "--config_file", configs, *arguments)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"LoopNet", "cam", "ss_cam", "deeplift", "lrp"} <= set(metrics)
    assert metrics["vessels"] == 1
