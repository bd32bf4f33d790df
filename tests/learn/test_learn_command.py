"""From corrections to new weights."""

import hashlib
import json
import shlex
from pathlib import Path

import monai.bundle
import numpy as np
import pytest
import shapely
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism

from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.formats import Features, read_geojson, read_points
from monai_ext.formats.image import read_mask
from monai_ext.formats.outlines import polygons_to_mask
from monai_ext.learn import find_regions, learn, read_reviews, split_regions, write_regions
from monai_ext.learn.command import _lessons
from monai_ext.options import check_options
from monai_ext.phantom import write_dataset
from tests.configs import config_files
from tests.reviewed import decide, write_run

ROOT = Path(__file__).parents[2] / "bundles"
MITOSIS, CELLS, NUCLEI, METASTASIS = (
    ROOT / f"pathology_{name}"
    for name in (
        "mitosis_segmentation",
        "cell_semantic_segmentation",
        "nuclei_instance_segmentation",
        "metastasis_evidence_localization",
    )
)
NAMES = ["tumor_any", "nonTIL_stromal", "sTIL", "other_nucleus"]
GRID = [(x, y) for x in (40, 90, 140, 190, 240) for y in (40, 140, 240)]


def refusal(*args, **options):
    with pytest.raises(InputError) as caught:
        learn(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run_of_cells(folder, said):
    out = write_run(folder, {"a": Features([shapely.Point(xy).buffer(8) for xy in GRID], "tumor_any")})
    decide(out, {"a": said})
    return out


# -- what cannot be learnt from ----------------------------------------------------------------------------------------


def test_what_is_no_bundle_or_learns_from_no_objects(tmp_path):
    out = run_of_cells(tmp_path, [(0, "accept")])
    assert "--bundle: expected the folder of a bundle, with configs/train.json, found" in refusal(out, tmp_path)
    said = refusal(out, METASTASIS)
    assert "of images and vessels correct the labels in dataset.json, and run training with configs/train.json" in said
    assert said.endswith("found pathology_metastasis_evidence_localization")


def test_weights_that_are_not_there_and_entries_that_there_are_none_of(tmp_path):
    out = run_of_cells(tmp_path, [(0, "accept")])
    assert "--ckpt_dir: expected the folder of model.pt" in refusal(out, CELLS, ckpt_dir=tmp_path)
    assert "learn: expected entries of the bundle's training, found --epohcs" in refusal(out, CELLS, epohcs=3)


def test_no_corrections_and_too_few(tmp_path):
    out = run_of_cells(tmp_path, [])
    assert "expected corrections of its objects, made with monai-ext view, found none" in refusal(out, CELLS)
    expected = "expected at least 10 reviewed objects, and right ones among them in 2 fields or more"
    decide(out, {"a": [(k, "accept") for k in range(9)]})
    assert f"{expected}, found 9, and right ones in 1" in refusal(out, CELLS)
    decide(out, {"a": [(k, "reject") for k in range(15)]})
    assert f"{expected}, found 15, and right ones in 0" in refusal(out, CELLS)
    assert not (out / "learn").exists()


def test_right_outlines_without_a_class_teach_nothing(tmp_path):
    cells = Features([shapely.Point(xy).buffer(8) for xy in GRID])
    out = write_run(tmp_path, {"a": cells, "b": cells})
    decide(out, {name: [(k, "accept") for k in range(15)] for name in "ab"})
    said = refusal(out, CELLS)
    assert "rejected or drawn outlines or, for a classifier, objects with a class" in said
    assert "outlines are not learnt, as none was rejected or drawn in the fields to learn from" in said


def test_drawn_outlines_teach_outlines(tmp_path):
    cells = Features([shapely.Point(xy).buffer(8) for xy in GRID])
    out = write_run(tmp_path, {"a": cells, "b": cells})
    decide(out, {name: [*((k, "accept") for k in range(15)), (shapely.box(5, 5, 9, 9), "draw")] for name in "ab"})
    regions = [each for review in read_reviews(out) for each in find_regions(review, 256, 0.25)]
    lessons, notes = _lessons(out, "outlines", split_regions(regions), [])
    assert ([lesson.name for lesson in lessons], notes) == (["outlines"], [])


# -- what is not known takes no part -----------------------------------------------------------------------------------


def training(bundle, data, **settings):
    parser = ConfigParser()
    parser.read_config(config_files(bundle, "train", "reviewed"))
    parser.update({"bundle_root": str(bundle), "dataset_dir": str(data), "device": torch.device("cpu"), **settings})
    return parser


def patch_and_loss(parser):
    set_determinism(0)
    dataset = parser.get_parsed_content("train#dataset")
    dataset.transform.set_random_state(0)
    [patch, *_] = dataset[0]
    label = patch["label"][None]
    logits = torch.randn(1, 2 if label.dtype == torch.uint8 else 1, *label.shape[2:], requires_grad=True)
    loss = parser.get_parsed_content("loss")(logits, label)
    loss.backward()
    set_determinism(None)
    return label, logits, loss


def test_void_area_of_outlines_has_no_part_in_the_loss(tmp_path):
    out = run_of_cells(tmp_path, [(k, "accept") for k in range(0, 15, 2)])
    [review] = read_reviews(out)
    losses = []
    for name in ("as reviewed", "void changed"):
        path = write_regions(tmp_path / name, {"training": find_regions(review, 256, 0.25)}, "outlines", 0.25)
        item = json.loads(path.read_text())["training"][0]
        label, known = (read_mask(path.parent / item[key]) for key in ("label", "known"))
        assert 0.02 < (known > 0).mean() < 0.3
        if name == "void changed":  # everything else is full of nuclei
            numbers = np.arange(label.size).reshape(label.shape) // 50 + 100
            write_png(path.parent / item["label"], np.where(known > 0, label, numbers).astype(np.uint16))
        patch, logits, loss = patch_and_loss(training(CELLS, path.parent, gap=0))
        assert {0, 1, 255} == set(patch.unique().tolist())
        assert not logits.grad[patch == 255].any()
        assert logits.grad[patch != 255].any()
        losses.append(loss.item())
    assert losses[0] == losses[1] > 0


def test_void_area_of_points_has_no_part_in_the_loss(tmp_path):
    out = write_run(tmp_path, {"a": Features.from_points(np.array(GRID)[:, ::-1], classes="Mitosis")})
    decide(out, {"a": [(0, "accept"), (1, "reject")]})
    [review] = read_reviews(out, points=True)
    path = write_regions(tmp_path / "data", {"training": find_regions(review, 256, 0.25)}, "points", 0.25)
    known = read_mask(path.parent / json.loads(path.read_text())["training"][0]["known"])
    still = {"patches#rotations": [1, 1], "patches#mirrors": [1, 1], "patches#shift": 0, "patches#zoom": [1, 1]}
    parser = training(MITOSIS, path.parent, **still, **{"patches#jitter": False})
    label, logits, _ = patch_and_loss(parser)
    void = torch.from_numpy(known[:256, :256] == 0)
    assert (label[0, 0][void] == 255).all()
    assert {0, 1, 255} == set(label.unique().tolist())
    assert not logits.grad[:, :, void].any()
    assert logits.grad[:, :, ~void].any()
    # tiles in which nothing was reviewed are not drawn
    corners = parser.get_parsed_content("train#dataset").corner
    assert all(known[row : row + 256, col : col + 256].any() for row, col in corners)


# -- the loop ----------------------------------------------------------------------------------------------------------


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mitoses_said(features, truth):
    """A reviewer who knows the figures."""
    figures = read_points(truth)
    for number, row_col in enumerate(features.points()):
        if shapely.get_type_id(features.geometry[number]) == 0:
            near = len(figures) and np.linalg.norm(figures - row_col, axis=1).min() < 30
            yield number, "accept" if near else "reject"


def nuclei_said(features, truth, classed):
    """A reviewer who knows the nuclei, and gives every second one a class."""
    instances = read_mask(truth) > 0
    for number, outline in enumerate(features.geometry):
        right = instances[polygons_to_mask(np.array([outline]), instances.shape)].mean() > 0.5
        if not right or number % 5 == 0:
            yield number, "reject"
        elif classed and number % 2:
            yield number, "class", NAMES[number % len(NAMES)]
        else:
            yield number, "accept"


@pytest.mark.slow
@pytest.mark.dear("mitosis")
@pytest.mark.parametrize(
    ("bundle", "method", "settings", "options", "score"),
    [
        (MITOSIS, "mitosis", {"detect#min_area": 50, "detect#min_score": 0.1}, {"patches_per_epoch": 4}, "radius_30px"),
        (CELLS, "cells", {}, {}, None),
        (NUCLEI, "nuclei", {}, {}, None),
    ],
    ids=["mitosis", "cell_semantic", "nuclei"],
)
def test_the_loop(bundle, method, settings, options, score, tmp_path, capfd):
    data, out = tmp_path / "data", tmp_path / "out"
    write_dataset(method, data, slides=6 if method == "mitosis" else 3, fields=1, size=256)
    where = {"bundle_root": str(bundle), "dataset_dir": str(data / "images"), "output_dir": str(out)}
    monai.bundle.run(config_file=str(bundle / "configs/inference.json"), **where, **settings)
    said = {}
    for path in sorted(out.glob("*.geojson")):
        features = read_geojson(path)
        if method == "mitosis":
            said[path.stem] = list(mitoses_said(features, data / f"labels/{path.stem}.csv"))
        else:
            [truth] = (data / "labels").glob(f"{path.stem}.*")
            said[path.stem] = list(nuclei_said(features, truth, classed=method == "cells"))
    decide(out, said)
    old = {path: digest(path) for path in bundle.rglob("models/**/model.pt")}
    results = {path: digest(path) for path in out.glob("*.geojson")}

    answer = learn(out, bundle, epochs=1, **options)

    assert {path: digest(path) for path in old} == old
    assert {path: digest(path) for path in results} == results
    folder = out / "learn/round_1"
    content = json.loads((folder / "learn.json").read_text())
    lessons = {"mitosis": ["points"], "cells": ["outlines", "classes"], "nuclei": ["outlines"]}[method]
    assert list(content["scores"]) == lessons
    for name in lessons:
        below = "classifier" if name == "classes" else ""
        new, begun = (torch.load(f / below / "model.pt", weights_only=True) for f in (folder, bundle / "models"))
        assert new.keys() == begun.keys()
        assert any(not torch.equal(new[key], begun[key]) for key in new)
        assert (folder / below / "model.json").is_file()
        assert (folder / name / "report.html").is_file()
        both = content["scores"][name]
        for when in ("before", "after"):
            figures = both[when][score] if score else both[when]
            value = figures["f1"]
            assert 0 <= value["value"] <= 1, (when, value)
        assert any("less before" in column for column in both["comparison"]["after"])
    for part in ("training", "test"):
        assert json.loads((folder / "data/dataset.json").read_text())[part]
    command = answer.splitlines()[-1]
    assert command == content["command"]
    words = shlex.split(command.partition("python -m monai.bundle ")[2])
    words[2] = str(bundle / words[2])
    check_options(words)
    assert str(folder) in words
    assert "fields with" in capfd.readouterr().out
