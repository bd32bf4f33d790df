"""Cells of slides: tiled as in one pass, killed and resumed, counted once."""

import json
import multiprocessing
import os
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.data import Cohort, read_geojson
from monai_ext.inferers import CellFinder, PatchClassifier
from monai_ext.networks import InputConvention
from monai_ext.networks.nets import HematoxylinMap, TransposedUNet
from monai_ext.phantom import write_slide
from monai_ext.slides import SlideCells, check_slide
from monai_ext.slides.cell_spool import CellSpool, drop_second_versions
from monai_ext.transforms import NucleusInstances
from tests.slides.conftest import files, write_tiff

SAME_IOU = 0.99
SHARE_OF_SAME = 0.995  # of instances that must be those of one pass
MPP = 0.5
NAMES = ("red", "green", "blue")
OUTPUTS = {".geojson", "_cells.csv", "_overlay.png", "_plan.json"}
TIMEOUT = 120


class Means(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


class Smooth(HematoxylinMap):
    """Hematoxylin, averaged over a neighbourhood as a trained network would."""

    pause = 0.0

    def __init__(self):
        super().__init__(InputConvention((0, 0, 0), (255, 255, 255)), darkest=1.4)

    def forward(self, x):
        time.sleep(self.pause)
        logits = super().forward(x)
        return nn.functional.avg_pool2d(logits.clamp(-6, 6), 5, 1, 2, count_include_pad=False)


def inferer(output, tile_px=400, network=None, **options):
    classifier = PatchClassifier(Means(), InputConvention((128,) * 3, (40,) * 3), device="cpu")
    own = {name: options.pop(name) for name in ("halo", "margin") if name in options}
    finder = CellFinder(network or Smooth(), NucleusInstances(), classifier, NAMES, **{"margin": 80, **own})
    return SlideCells(finder, output, MPP, tile_px=tile_px, **options)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "a.tif", (1000, 1300), 3, mpp=MPP)
    return folder


@pytest.fixture(scope="module")
def one_pass(slides, tmp_path_factory):
    output = tmp_path_factory.mktemp("one")
    result = inferer(output, 4000)(slides / "a.tif")
    assert result.tiles == 1
    return output


@pytest.mark.parametrize(("tile_px", "options"), [(330, {}), (400, {"batch_size": 2, "processors": 2}), (900, {})])
@pytest.mark.slow
def test_as_in_one_pass(tile_px, options, slides, one_pass, tmp_path):
    result = inferer(tmp_path, tile_px, **options)(slides / "a.tif")
    assert result.tiles > 1
    whole, tiled = (read_geojson(folder / "a.geojson") for folder in (one_pass, tmp_path))
    tree = shapely.STRtree(whole.geometry)
    mine, theirs = tree.query(tiled.geometry, predicate="intersects")
    one, other = tiled.geometry[mine], whole.geometry[theirs]
    iou = shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))
    same = iou > SAME_IOU
    assert len(set(mine[same])) == len(set(theirs[same])) == same.sum()  # none twice
    assert same.sum() >= SHARE_OF_SAME * max(len(whole), len(tiled))
    assert len(whole) == len(tiled) == result.summary["cells"] > 300
    assert (tmp_path / "a_cells.csv").read_bytes() == (one_pass / "a_cells.csv").read_bytes()


@pytest.mark.slow
def test_a_network_with_context(slides, tmp_path):
    """An untrained U-Net beside the hematoxylin: maps differ in their last bits from tile to tile."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.stain, self.network = Smooth(), TransposedUNet(filters=4)

        def forward(self, x):
            return self.stain(x)[:, 1:] + self.network(x)

    torch.manual_seed(0)
    network = Both()
    counts = []
    for name, tile_px in (("one", 4000), ("many", 500)):
        inferer(tmp_path / name, tile_px, network, halo=64, margin=176)(slides / "a.tif")
        counts.append(pd.read_csv(tmp_path / name / "a_cells.csv"))
    one, many = (set(map(tuple, table[["row", "col", "area_um2"]].round(0).to_numpy())) for table in counts)
    assert len(counts[0]) > 50
    assert len(one & many) >= SHARE_OF_SAME * max(len(one), len(many))


def test_a_small_halo_loses_no_cell_and_gives_none_twice(slides, tmp_path):
    """Even where both sides of a seam see different things."""
    inferer(tmp_path, 300, halo=8, margin=16)(slides / "a.tif")
    table = pd.read_csv(tmp_path / "a_cells.csv")
    pairs = shapely.STRtree(shapely.points(table[["col", "row"]])).query(
        shapely.points(table[["col", "row"]]), predicate="dwithin", distance=2.0
    )
    assert pairs.shape[1] == len(table)  # each is near itself alone


def test_files_agree_with_one_another(slides, one_pass):
    assert set(files(one_pass)) == {f"a{suffix}" for suffix in OUTPUTS}
    table, features = pd.read_csv(one_pass / "a_cells.csv"), read_geojson(one_pass / "a.geojson")
    assert (np.diff(table["confidence"]) >= 0).all()
    assert [*features.classes] == [*table["class"]]
    for name in table.columns[3:]:
        np.testing.assert_array_equal(features.measurements[name], table[name])
    assert shapely.is_valid(features.geometry).all()
    bounds = shapely.total_bounds(features.geometry)
    assert (bounds >= 0).all()
    assert (bounds <= [1300, 1000, 1300, 1000]).all()
    area = shapely.area(features.geometry) * MPP**2
    np.testing.assert_allclose(area, table["area_um2"], rtol=0.35)  # simplified
    assert np.median(area / table["area_um2"]) == pytest.approx(1, abs=0.03)
    assert max(cv2.imread(str(one_pass / "a_overlay.png")).shape) <= 4096


def test_places_are_those_of_level_0(tmp_path):
    """Two dark discs on tissue, found on a coarser grid."""
    image = np.full((1200, 1600, 3), (225, 180, 205), np.uint8)
    for row, col in ((300, 401), (790, 1203)):
        cv2.circle(image, (col, row), 24, (60, 30, 120), -1)
    path = write_tiff(tmp_path / "a.tif", image, 0.25, levels=3)
    result = inferer(tmp_path, 400)(path)
    table = pd.read_csv(tmp_path / "a_cells.csv").sort_values("row")
    np.testing.assert_allclose(table[["row", "col"]], [(300, 401), (790, 1203)], atol=1)
    np.testing.assert_allclose(table["area_um2"], np.pi * 36, rtol=0.25)  # blurred
    assert result.summary["cells"] == 2
    assert result.summary["tissue_mm2"] == pytest.approx(1200 * 1600 * 0.0625e-6, rel=0.02)
    outlines = read_geojson(tmp_path / "a.geojson").geometry
    assert sorted(shapely.get_y(shapely.centroid(outlines)).round()) == pytest.approx([300, 790], abs=1)


class WhiteOrDark(nn.Module):
    """Takes what is white for nucleus too, as networks do with what they never saw."""

    def forward(self, x):
        brightest = x.amax(1, keepdim=True)
        return torch.where((brightest < 0.5) | (brightest > 0.98), 6.0, -6.0)


@pytest.mark.parametrize("tile_px", [260, 800])
def test_no_outline_reaches_where_nothing_was_scanned(tile_px, tmp_path):
    """Neither into a hole of a slide's nor over its edge, in tiles and in the windows of what they cut."""
    image = np.full((400, 500, 4), (225, 180, 205, 255), np.uint8)
    image[100:300, 150:190, :3] = image[200:212, 480:, :3] = (60, 30, 120)
    image[100:300, 190:260] = 0
    cv2.imwrite(str(tmp_path / "a.png"), image[..., [2, 1, 0, 3]])
    inferer(tmp_path, tile_px, WhiteOrDark(), margin=80, halo=64)(tmp_path / "a.png", mpp=MPP)
    outlines = read_geojson(tmp_path / "a.geojson").geometry
    boxes = sorted(tuple(np.round(outline.bounds).tolist()) for outline in outlines)
    assert boxes == [(150, 100, 190, 300), (480, 200, 500, 212)]
    assert sorted(shapely.area(outlines)) == pytest.approx([12 * 20, 200 * 40], rel=0.02)


def test_glass_and_tissue_without_nuclei(tmp_path):
    for name, colour in (("glass", (244, 244, 244)), ("pink", (225, 180, 205))):
        path = write_tiff(tmp_path / f"{name}.tif", np.full((500, 600, 3), colour, np.uint8), MPP)
        summary = inferer(tmp_path)(path).summary
        assert summary["cells"] == 0
        assert len(read_geojson(tmp_path / f"{name}.geojson")) == 0
        assert list(pd.read_csv(tmp_path / f"{name}_cells.csv").columns[:3]) == ["row", "col", "class"]
    assert summary["cells_per_mm2"] == 0


def _run(source, output, pause):
    Smooth.pause = pause
    torch.set_num_threads(1)
    cohort = Cohort(source, output, None, MPP, check=check_slide, resume=True)
    inferer(output, 330).run(cohort)
    cohort.close()


def _start(*args):
    process = multiprocessing.get_context("fork").Process(target=_run, args=args)
    process.start()
    return process


@pytest.mark.slow
@pytest.mark.parametrize("stripes", [1, 3])
def test_killed_and_resumed(stripes, slides, one_pass, tmp_path):
    process = _start(slides, tmp_path, 0.1)
    progress = tmp_path / "a.partial" / "progress.json"
    began = time.monotonic()
    while not (progress.is_file() and json.loads(progress.read_text())["stripes"] >= stripes):
        assert process.is_alive()
        assert time.monotonic() - began < TIMEOUT
        time.sleep(0.01)
    os.kill(process.pid, 9)
    process.join()
    with (tmp_path / "a.partial" / "features.jsonl").open("ab") as file:
        file.write(b"half a feat")  # as a buffer that was being written leaves it
    done = json.loads(progress.read_text())["stripes"]
    process = _start(slides, tmp_path, 0)
    process.join(TIMEOUT)
    assert process.exitcode == 0
    assert done >= stripes
    for suffix in (".geojson", "_cells.csv", "_overlay.png"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (one_pass / f"a{suffix}").read_bytes()
    assert not list(tmp_path.rglob("*.partial"))
    (row,) = pd.read_csv(tmp_path / "summary.csv").to_dict("records")
    assert row["cells"] == len(pd.read_csv(tmp_path / "a_cells.csv")) == sum(row[name] for name in NAMES)
    assert (tmp_path / "report.html").is_file()


def test_other_settings_begin_anew(slides, tmp_path):
    cohort = Cohort(slides, tmp_path, None, MPP, check=check_slide, resume=True)
    inferer(tmp_path).run(cohort)
    entry = next(iter(Cohort(slides, tmp_path, None, MPP, check=check_slide, resume=True).state.values()))
    assert entry["status"] == "done"
    same, other = inferer(tmp_path), inferer(tmp_path)
    other.finder.instances.threshold = 0.6
    changed = SlideCells(other.finder, tmp_path, MPP, tile_px=400)
    item = cohort.items[0]
    assert same._settings(item) == entry["settings"] != changed._settings(item)


def test_of_two_versions_one_is_kept(tmp_path):
    with CellSpool(tmp_path, NAMES) as spool:
        records = np.zeros(5, spool.dtype)
    records["row"] = [10, 10.5, 10, 40, 40]
    records["tile"] = [0, 1, 1, 0, 0]
    records["seam"] = [True, True, False, True, True]
    assert drop_second_versions(records, 2).tolist() == [
        True,
        False,
        True,
        True,
        True,
    ]  # only across tiles, only on seams
    assert drop_second_versions(records[:0], 2).tolist() == []


def test_a_margin_that_does_not_fit():
    with pytest.raises(InputError, match="halo 100, margin 64"):
        CellFinder(Smooth(), halo=100, margin=64)
    with pytest.raises(InputError, match="multiple of 16"):
        CellFinder(Smooth(), halo=10, margin=50)
