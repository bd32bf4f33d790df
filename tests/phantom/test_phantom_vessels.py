"""Synthetic vessels: labels, lumens, cells, templates, and that they are no easy prey."""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.data import load_datalist, read_field, read_geojson, read_mask, read_points
from monai_ext.data.templates import read_templates
from monai_ext.data.vessels import check_vessel_item
from monai_ext.formats.outlines import polygons_to_mask
from monai_ext.phantom import Blood, CellClass, phantom_field, phantom_slide, write_vessel_slide, write_vessels
from monai_ext.phantom.blood import blood_cells
from monai_ext.phantom.places import FORM_NAMES, Cells
from monai_ext.phantom.tissue import Tissue, structures_in
from monai_ext.phantom.vessels import _is_free

PARTS = ("training", "validation", "test")
SMALL = {"slides": 3, "vessels": 4, "radius": (60, 90), "invaded": 0.5, "seed": 5}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_vessels(tmp_path_factory.mktemp("vessels") / "set", **SMALL).parent


def items_of(folder):
    lists = load_datalist(folder, PARTS, check_vessel_item, ("image",), ("mask", "centroids"))
    return [item for part in PARTS for item in lists[part]]


@pytest.mark.slow
def test_labels_lumens_and_centroids_agree(dataset):
    items = items_of(dataset)  # checked: sizes, groups, labels
    assert len(items) == 12
    assert sum(item["label"] for item in items) == 6
    for item in items:
        lumen = read_mask(item["mask"]) > 0
        points = np.rint(read_points(item["centroids"])).astype(int)
        assert bool(len(points)) == bool(item["label"])
        assert lumen[tuple(points.T)].all()
        assert 0.3 < lumen.mean() < 0.95
        assert not lumen[[0, -1]].any()
        assert not lumen[:, [0, -1]].any()


@pytest.mark.parametrize(
    ("share", "free"),
    [(0.2, [4, 9]), (0.5, [1, 3, 5, 7, 9]), (0.0, []), (1.0, list(range(10))), (0.3, [3, 6, 9])],
)
def test_a_share_of_slides_is_free_of_invaded_vessels(share, free):
    assert [number for number in range(10) if _is_free(number, share)] == free


@pytest.mark.slow
def test_slides_free_of_invaded_vessels(tmp_path):
    """A share of each list; before, every slide had an invaded one."""
    few = {"slides": 6, "vessels": 1, "radius": (60, 61), "invaded": 1.0}
    content = json.loads(write_vessels(tmp_path / "set", free=0.5, **few).read_text())
    labels = {part: [item["label"] for item in content[part]] for part in PARTS}
    assert labels == {"training": [1, 0, 1, 0], "validation": [1], "test": [1]}
    assert write_vessels.__kwdefaults__["free"] > 0


def test_templates_are_tight_crops_of_cells(dataset):
    templates = read_templates(dataset / "templates")
    sides = [side for template in templates.values() for side in template.shape[1:]]
    assert len(templates) >= 3
    assert min(sides) >= 5  # across the nuclei of endothelium
    assert max(sides) <= 50


@pytest.mark.slow
def test_label_noise_is_of_the_training_list_only_and_stated(tmp_path):
    content = json.loads(write_vessels(tmp_path / "set", **{**SMALL, "label_noise": 1.0}).read_text())
    assert all(item["label"] == 1 - item["true_label"] for item in content["training"])
    assert not any("centroids" in item for item in content["training"])
    assert not any("true_label" in item for part in PARTS[1:] for item in content[part])
    assert len(items_of(tmp_path / "set")) == 12


@pytest.mark.slow
def test_the_same_seed_gives_the_same_files(dataset, tmp_path):
    again = write_vessels(tmp_path / "set", **SMALL).parent
    files = sorted(path.relative_to(dataset) for path in dataset.rglob("*") if path.is_file())
    assert len(files) > 36
    assert all((dataset / file).read_bytes() == (again / file).read_bytes() for file in files)


# ---- what lies in vessels


def contents(invaded, blood=None, count=40, seed=3):
    """The forms of the large cells of some vessels."""
    blood = blood or Blood()
    tissue = Tissue(vessels=1, glands=0, invaded=float(invaded), pitch=500, radius=(60, 180), blood=blood)
    shapes = structures_in(seed, tissue, (0, 0, 5000, 5000))[:count]
    for shape in shapes:
        cells = Cells.join(list(blood_cells(seed, blood, shape)))
        assert len(np.unique(cells.uid)) == len(cells)
        assert (shape.outline.depth(cells.y, cells.x) > shape.wall).all()
        yield [FORM_NAMES[form] for form in cells.form[cells.uid >> 59 == 7]]


def cancerous(forms):
    return sum(form.startswith("tumour") for form in forms)


def test_healthy_vessels_hold_large_cells_too():
    healthy, invaded = list(contents(False, Blood(atypical=0))), list(contents(True))
    assert not any(map(cancerous, healthy))
    assert all(cancerous(forms) >= 3 for forms in invaded)
    assert np.median([len(forms) for forms in healthy]) > 10
    shares = [cancerous(forms) / len(forms) for forms in invaded]
    assert min(shares) < 0.35
    assert max(shares) > 0.8


def test_some_healthy_vessels_hold_what_looks_cancerous():
    counts = [cancerous(forms) for forms in contents(False, Blood(atypical=0.5))]
    assert set(counts) == {0, 1, 2, 3}


@pytest.mark.slow
def test_the_size_of_nuclei_does_not_tell_cancerous_cells():
    """Large cells are as large: the best threshold on a nucleus' true area errs often."""
    areas = {False: [], True: []}
    tissue = Tissue(
        tumour=0.001, vessels=1, glands=0, invaded=1.0, pitch=300, radius=(90, 100), blood=Blood(large=(0.5, 0.5))
    )
    for seed in range(5):
        view = phantom_field((700, 700), slide=phantom_slide(seed, mpp=0.5, tissue=tissue))
        size = np.bincount(view.instances.ravel())[1:]
        for area, form, label in zip(size, view.forms, view.labels, strict=True):
            if form in ("plump", "monocyte") or label == CellClass.TUMOUR:
                areas[label == CellClass.TUMOUR].append(area)
    healthy, ill = (np.array(areas[kind]) for kind in (False, True))
    assert min(len(healthy), len(ill)) > 50
    errors = [((healthy > t).mean() + (ill <= t).mean()) / 2 for t in np.unique(healthy)]
    assert 0.05 < min(errors) < 0.4


# ---- slides


@pytest.mark.slow
def test_a_slide_and_the_outlines_of_its_vessels(tmp_path):
    path = write_vessel_slide(tmp_path / "slide.tif", 2048, 2, radius=(50, 60), invaded=0.5)
    features = read_geojson(tmp_path / "slide_vessels.geojson")
    assert len(features) >= 3
    assert set(features.measurements["invaded"]) <= {0, 1}
    with openslide.OpenSlide(path) as slide:
        assert slide.dimensions == (2048, 2048)
    pixels = tifffile.imread(path)
    inside = polygons_to_mask(features.geometry, pixels.shape[:2])
    assert pixels[inside].std() > 10
    # the lumen is filled with plasma, not with collagen: the outlines lie where the vessels are
    ring = polygons_to_mask([g.buffer(-6) for g in features.geometry], inside.shape)
    around = polygons_to_mask([g.buffer(8) for g in features.geometry], inside.shape) & ~inside
    assert np.median(pixels[ring][:, 1]) > np.median(pixels[around][:, 1]) + 10


# ---- bad requests


@pytest.mark.parametrize(
    "change",
    [
        {"slides": 2},
        {"vessels": 0},
        {"invaded": 1.5},
        {"free": -0.1},
        {"radius": (60, 400)},
        {"radius": (9, 60)},
        {"label_noise": -1},
    ],
    ids=str,
)
def test_bad_requests_are_refused(tmp_path, change):
    with pytest.raises(InputError):
        write_vessels(tmp_path / "set", **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_images_are_read_at_their_resolution(dataset):
    item = items_of(dataset)[0]
    assert item["mpp"] == 0.5
    assert read_field(item["image"], item["mpp"], 1.0).image.shape[1] == pytest.approx(
        read_mask(item["mask"]).shape[0] / 2, abs=1
    )
