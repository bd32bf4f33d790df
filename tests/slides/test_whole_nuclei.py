"""What a network marks in specks and pieces: the same whole objects by fields, slides and MONAI Label's way."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from skimage.measure import label as connected
from torch import nn

from monai_ext.data import read_geojson
from monai_ext.inferers import CellFinder, InstanceFinder
from monai_ext.instances.sparse import SparseInstances
from monai_ext.label import as_annotation, found_features, in_region, load_region
from monai_ext.slides import SlideCells
from monai_ext.slides.seams import CellWindow
from monai_ext.transforms import LoadFieldd, NucleusInstances
from tests.configs import config_files
from tests.slides.conftest import write_tiff

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_nuclei_instance_segmentation"
MEAN, STD = (np.array(values)[:, None, None] for values in ((127, 127, 127), (128, 128, 128)))
MPP, LEAST_UM2 = 0.25, 5.5
LEAST = 88  # px
SHAPE = (420, 640)
GLASS = 200  # brightness of all that is no nucleus
COVERED = 5  # ids that this divides are seen as the box around them, on which surer ones lie


class Coded(nn.Module):
    """Sees the number that the colours of a pixel write; pixels of one number are one instance, however they lie."""

    def find(self, windows):
        return [self._find(np.rint(window.numpy() * STD + MEAN).astype(int)) for window in windows]

    def _find(self, rgb):
        ids = torch.from_numpy(np.where(rgb[0] < GLASS, rgb[1] + 256 * rgb[2], 0))
        found = SparseInstances.from_map(ids)
        numbers = ids.unique()[1:] if (ids == 0).any() else ids.unique()
        masks = found.masks()
        for mask in masks[numbers % COVERED == 0]:
            rows, cols = mask.any(1).nonzero(), mask.any(0).nonzero()
            mask[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1] = True
        return SparseInstances.from_masks(masks, 1 / (1 + numbers.float())).surest_first()


def planted():
    """Numbers ``(H, W)`` of all kinds of objects, on a lattice that no seam misses."""
    ids = np.zeros(SHAPE, int)
    kinds = np.random.default_rng(0).permutation(np.arange(77) % 7)
    number = 0
    for kind, (row, col) in zip(kinds, np.ndindex(7, 11), strict=True):
        number += 2 if number % COVERED == COVERED - 1 else 1
        top, left = 8 + 58 * row, 8 + 57 * col
        space = ids[top : top + 50, left : left + 50]
        if kind == 0:  # a nucleus and specks of its mask, one at its corner
            space[10:28, 10:26] = space[28, 26] = space[4:6, 2:4] = number
        elif kind == 1:  # two pieces
            space[10:30, 6:20] = space[10:30, 24:33] = number
        elif kind == 2:  # as large as the bound
            space[8:16, 8:19] = number
        elif kind == 3:  # a px less
            space[8:16, 8:19] = number
            space[8, 8] = 0
        elif kind == 4:  # in crumbs that only together are large
            space[6:30:8, 6:30:8] = space[7:31:8, 6:30:8] = number
            space[10:16, 20:34] = number
        elif kind == 5:  # a ring
            space[4:34, 4:34] = number
            space[12:22, 12:24] = 0
        else:  # one that a surer one cuts in two
            bar, number = number, number + COVERED - number % COVERED
            space[5:25, 6:36] = number
            space[5:25, 24:28] = bar
    ids[-6:-2, 20:600] = 5001  # longer than any halo
    ids[2:5, 40:560] = 5002
    ids[2:5, 300:302] = 0  # in two, the second of which is the longer
    return ids


def true_objects(ids):
    """Centroid and area of the largest piece of each number, px, if that is large enough."""
    found = []
    for number in np.unique(ids[ids > 0]):
        parts = connected(ids == number, connectivity=1)
        sizes = np.bincount(parts.ravel())[1:]
        if sizes.max() >= LEAST:
            rows, cols = np.nonzero(parts == sizes.argmax() + 1)
            found.append((round(rows.mean(), 2), round(cols.mean(), 2), len(rows)))
    return Counter(found)


def objects(table):
    rows = table[["row", "col", "area_um2"]].to_numpy()
    return Counter((round(row, 2), round(col, 2), round(area / MPP**2)) for row, col, area in rows)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    ids = planted()
    coded = np.stack([np.full_like(ids, 90), ids % 256, ids // 256], axis=-1)
    pixels = np.where(ids[..., None] > 0, coded, 235).astype(np.uint8)
    return write_tiff(tmp_path_factory.mktemp("image") / "a.tif", pixels, MPP)


@pytest.fixture(scope="module")
def truth():
    return true_objects(planted())


def configuration(image, output, *names, **entries):
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, "inference", *names))
    parser.update(
        {
            "bundle_root": str(BUNDLE),
            "dataset_dir": str(image.parent),
            "output_dir": str(output),
            "device": torch.device("cpu"),
            "loaded_network": Coded(),
            "min_area_um2": LEAST_UM2,
            "tolerance": 0,
            **entries,
        }
    )
    parser.parse()
    return parser


def check(folder, truth):
    """Files, counts and outlines agree with each other and with what was planted."""
    table = pd.read_csv(folder / "a_cells.csv")
    features = read_geojson(folder / "a.geojson")
    summary = pd.read_csv(folder / "summary.csv").iloc[0]
    assert objects(table) == truth
    assert table["area_um2"].min() >= LEAST_UM2
    assert summary["cells"] == len(table) == len(features)
    area = "tissue_mm2" if "tissue_mm2" in summary else "area_mm2"
    assert summary["cells_per_mm2"] == pytest.approx(len(table) / summary[area], rel=1e-3)
    assert (shapely.get_type_id(features.geometry) == shapely.GeometryType.POLYGON).all()
    assert shapely.is_valid(features.geometry).all()
    np.testing.assert_allclose(shapely.area(features.geometry) * MPP**2, table["area_um2"])
    np.testing.assert_array_equal(features.measurements["area_um2"], table["area_um2"])
    return features


def test_there_is_something_to_go_wrong(truth):
    ids = planted()
    assert len(truth) < len(np.unique(ids)) - 1 - 10  # too small ones
    several = [number for number in np.unique(ids[ids > 0]) if connected(ids == number, connectivity=1).max() > 1]
    assert len(several) > 25
    assert min(area for *_, area in truth) == LEAST


@pytest.mark.parametrize("tile", [128, 512])
def test_fields(tile, image, truth, tmp_path):
    parser = configuration(image, tmp_path, tile=tile)
    for step in ("initialize", "run"):
        parser.get_parsed_content(step)
    features = check(tmp_path, truth)
    assert (shapely.get_num_interior_rings(features.geometry) > 0).sum() == 11  # the rings


@pytest.mark.parametrize("tile_px", [192, 256, 800])
def test_slides(tile_px, image, truth, tmp_path):
    parser = configuration(image, tmp_path, "slides", tile_px=tile_px, **{"slides#tissue": False})
    cohort = parser.get_parsed_content("cohort")
    parser.get_parsed_content("slides").run(cohort)
    cohort.close()
    check(tmp_path, truth)


def test_monai_label(image, truth):
    """As the app does: the region's loader in place of the bundle's, then the bundle's own transforms."""
    parser = configuration(image, image.parent)
    transforms = parser.get_parsed_content("preprocessing").transforms
    load = next(each for each in transforms if isinstance(each, LoadFieldd))
    data = {"image": load_region(image, target_mpp=load.target_mpp)}
    data = Compose([each for each in transforms if each is not load])(data)
    found = parser.get_parsed_content("inferer")(data["image"][None], parser.get_parsed_content("loaded_network"))
    data["pred"] = {name: values[0] for name, values in found.items()}
    data = parser.get_parsed_content("postprocessing")(data)
    features = in_region(found_features(data), data["source"])
    assert Counter(np.rint(shapely.area(features.geometry)).tolist()) == Counter(
        [area for (*_, area), times in truth.items() for _ in range(times)]
    )
    (element,) = as_annotation(features, (0, 0), SHAPE[::-1])["elements"]
    numbers = np.unique(data["pred"])
    assert len(element["contours"]) == numbers.max() == len(numbers) - 1 == sum(truth.values())


@pytest.mark.parametrize("tile_px", [224, 800])
def test_of_what_is_larger_than_any_window_one_piece_stays(tile_px, image, truth, tmp_path, monkeypatch):
    """Too small a piece does not, and each is a polygon."""
    monkeypatch.setattr(CellWindow, "find", lambda *_: None)
    finder = InstanceFinder(Coded(), halo=32, min_area_um2=LEAST_UM2, tolerance=0)
    finder.convention = replace(finder.convention, mean=tuple(MEAN.ravel()), std=tuple(STD.ravel()))
    SlideCells(finder, tmp_path, tile_px=tile_px, tissue=False)(image)
    features, table = read_geojson(tmp_path / "a.geojson"), pd.read_csv(tmp_path / "a_cells.csv")
    assert (shapely.get_type_id(features.geometry) == shapely.GeometryType.POLYGON).all()
    assert table["area_um2"].min() >= LEAST_UM2
    if tile_px == 800:
        assert objects(table) == truth


def test_maps_of_cells_likewise(tmp_path):
    """A finder by probabilities judges what a tile cuts when it is whole, too."""

    class Dark(nn.Module):
        def forward(self, images):
            return 20 * (0.5 - images[:, :1])

    pixels = np.full((300, 700, 3), 235, np.uint8)
    pixels[100:103, 20:680] = 30  # longer than the halo, thin
    pixels[150:170, 100:120] = pixels[170, 120] = 30  # a speck at its corner
    pixels[200:204, 250:254] = 30  # 16 px
    path = write_tiff(tmp_path / "a.tif", pixels, MPP)
    for number, tile_px in enumerate((160, 256, 900)):
        finder = CellFinder(Dark(), NucleusInstances(depth_um=100), margin=32, halo=32, tolerance=0)
        result = SlideCells(finder, tmp_path / str(number), tile_px=tile_px, tissue=False)(path)
        table = pd.read_csv(tmp_path / str(number) / "a_cells.csv")
        assert sorted(table["area_um2"] / MPP**2) == [400, 1980]
        assert result.summary["cells"] == 2
