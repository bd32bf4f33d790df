"""Objects longer than the halo: whole in the results, whatever the tiles, stops and the method."""

import json
import multiprocessing
import os
import signal

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from scipy import ndimage
from torch import nn

from monai_ext.data import Cohort, read_geojson
from monai_ext.formats.reader import SlideReader
from monai_ext.inferers import CellFinder, InstanceFinder
from monai_ext.instances.sparse import SparseInstances
from monai_ext.slides import SlideCells, check_slide
from monai_ext.slides.plan import plan_slide
from monai_ext.slides.seams import CellWindow
from monai_ext.transforms import NucleusInstances
from tests.slides.conftest import write_tiff

MPP = 0.5
OUTPUTS = (".geojson", "_cells.csv", "_overlay.png")
HALO = 64


class Dark(nn.Module):
    """Logits of nucleus by a threshold: what is dark."""

    def forward(self, x):
        return 40 * (0.4 - x[:, 1:2])


class DarkObjects(nn.Module):
    """The dark objects of a window, exactly; a larger one is surer."""

    fails_at = None  # windows; of the class, for what an instance holds is a setting

    def __init__(self):
        super().__init__()
        self.looked_at = 0

    def find(self, windows):
        if self.looked_at == self.fails_at:
            raise OSError("no space left on device")
        self.looked_at += len(windows)
        return [self._find(torch.from_numpy(ndimage.label(window[1].numpy() < 0.4)[0])) for window in windows]

    def _find(self, ids):
        objects = SparseInstances.from_map(ids)
        return SparseInstances(objects.owner, objects.pixel, 1 - 1 / objects.area, objects.shape)


def by_map(**options):
    instances = NucleusInstances(min_area_um2=2, sigma_um=2, depth_um=0.5)
    return CellFinder(Dark(), instances, **{"halo": HALO, "margin": 80, "tolerance": 0, **options})


def by_network(network=None, **options):
    return InstanceFinder(network or DarkObjects(), **{"halo": HALO, "tolerance": 0, **options})


def inferer(output, tile_px, finder, **options):
    return SlideCells(finder, output, tile_px=tile_px, **{"tissue": False, **options})


def draw(path, ellipses, shape=(700, 900)):
    """A slide of dark ellipses ``row, col, long, short, degrees`` (whole axes, px)."""
    image = np.full((*shape, 3), (225, 180, 205), np.uint8)
    for row, col, *axes, angle in ellipses:
        cv2.ellipse(image, ((col, row), tuple(axes), angle), (60, 30, 120), -1)
    return write_tiff(path, image, MPP)


def scattered(seed, shape=(700, 900), count=60):
    """Ellipses of all sizes and directions that do not touch, the longest more than twice the halo."""
    rng = np.random.default_rng(seed)
    taken, ellipses = np.zeros(shape, np.uint8), []
    for _ in range(count):
        long, angle = rng.uniform(8, 200), rng.uniform(0, 180)
        row, col = (rng.uniform(long / 2 + 4, side - long / 2 - 4) for side in shape)
        each = ((col, row), (long * rng.uniform(0.25, 1), long), angle)
        mask = cv2.ellipse(np.zeros(shape, np.uint8), each, 1, -1)
        if not (taken & cv2.dilate(mask, np.ones((9, 9)))).any():
            taken |= mask
            ellipses.append((row, col, *each[1], angle))
    return ellipses


def results(folder, name="a"):
    return {suffix: (folder / f"{name}{suffix}").read_bytes() for suffix in OUTPUTS}


@pytest.mark.parametrize("finder", [by_map, by_network])
@pytest.mark.parametrize("angle", [0, 30, 90])
def test_an_ellipse_of_85_um(finder, angle, tmp_path):
    """Cut by two tiles' windows it would be counted twice, 579 and 407 um2 in place of 689."""
    path = draw(tmp_path / "a.tif", [(350, 288, 20, 170, angle)])
    summaries = {tile_px: inferer(tmp_path / str(tile_px), tile_px, finder())(path).summary for tile_px in (400, 2000)}
    assert results(tmp_path / "400") == results(tmp_path / "2000")
    (row,) = pd.read_csv(tmp_path / "400" / "a_cells.csv").to_dict("records")
    assert row["area_um2"] == pytest.approx(np.pi / 4 * 21 * 171 * MPP**2, rel=0.03)  # drawn with its rim
    assert summaries[400] == summaries[2000]
    assert (summaries[400]["cells"], summaries[400]["cut"]) == (1, 0)


@pytest.mark.parametrize("finder", [by_map, by_network])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_as_the_whole_slide_at_once(finder, seed, tmp_path):
    path = draw(tmp_path / "a.tif", ellipses := scattered(seed))
    whole = inferer(tmp_path / "whole", 2000, finder())(path)
    assert whole.tiles == 1
    assert whole.summary["cells"] == len(ellipses) > 15
    for tile_px, options in ((240, {}), (300, {}), (400, {"batch_size": 2, "processors": 2}), (560, {})):
        result = inferer(tmp_path / str(tile_px), tile_px, finder(), **options)(path)
        assert result.tiles > 1
        assert results(tmp_path / str(tile_px)) == results(tmp_path / "whole")
        assert result.summary == whole.summary


@pytest.mark.parametrize("finder", [by_map, by_network])
def test_with_hardly_a_halo(finder, tmp_path):
    """Nearly every object on a seam is longer than it."""
    path = draw(tmp_path / "a.tif", scattered(5, (400, 500)), (400, 500))
    inferer(tmp_path / "whole", 2000, finder())(path)
    for halo in (0, 32):
        tiles = inferer(tmp_path / str(halo), 224, finder(halo=halo, **({"margin": 48} if finder is by_map else {})))
        assert tiles(path).tiles > 4
        assert results(tmp_path / str(halo)) == results(tmp_path / "whole")


@pytest.mark.parametrize("finder", [by_map, by_network])
def test_on_a_coarser_grid_and_at_the_slides_edges(finder, tmp_path):
    """Lengths in px of level 0 and of the grid differ; what ends with the slide is whole."""
    ellipses = [(350, 500, 60, 420, 20), (0, 1100, 40, 500, 90), (760, 830, 400, 50, 90), (690, 300, 30, 300, 70)]
    path = draw(tmp_path / "a.tif", ellipses, (791, 1203))
    for tile_px in (2000, 320):
        cells = inferer(tmp_path / str(tile_px), tile_px, finder(), target_mpp=1.0)(path)
        assert (cells.summary["cells"], cells.summary["cut"]) == (4, 0)
    assert cells.tiles > 4
    one, many = (pd.read_csv(tmp_path / str(tile_px) / "a_cells.csv") for tile_px in (2000, 320))
    np.testing.assert_allclose(many.drop(columns="class"), one.drop(columns="class"), rtol=1e-3)
    outlines = [read_geojson(tmp_path / str(tile_px) / "a.geojson").geometry for tile_px in (2000, 320)]
    assert (shapely.area(shapely.symmetric_difference(*outlines)) <= 4).all()


@pytest.mark.slow
def test_objects_that_touch(tmp_path):
    """Parted by the watershed where they have a waist, the same in their windows as in the whole."""
    rng = np.random.default_rng(0)
    ellipses = [
        (*rng.uniform((80, 80), (620, 820)), *rng.uniform((16, 60), (40, 180)), rng.uniform(0, 180)) for _ in range(40)
    ]
    path = draw(tmp_path / "a.tif", ellipses)
    outlines = []
    for tile_px in (2000, 240, 400):
        summary = inferer(tmp_path / str(tile_px), tile_px, by_map())(path).summary
        assert summary["cut"] == 0
        outlines.append(read_geojson(tmp_path / str(tile_px) / "a.geojson").geometry)
    for tiled in outlines[1:]:
        mine, theirs = shapely.STRtree(outlines[0]).query(tiled, predicate="intersects")
        one, other = tiled[mine], outlines[0][theirs]
        iou = shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))
        assert len(tiled) == len(outlines[0]) > 30
        assert (iou > 0.98).sum() >= 0.9 * len(tiled)
        assert shapely.area(shapely.union_all(tiled)) == pytest.approx(shapely.area(tiled).sum(), rel=1e-3)


@pytest.mark.parametrize("finder", [by_map, by_network])
def test_what_is_too_large_is_counted(finder, tmp_path, capsys):
    """A piece of each stays; the summary counts them, and the line of the slide does."""
    folder = tmp_path / "slides"
    folder.mkdir()
    draw(folder / "a.tif", [(150, 288, 20, 170, 0), (400, 450, 800, 60, 0), (600, 450, 20, 20, 0)])
    output = tmp_path / "out"
    cohort = Cohort(folder, output, None, None, check=check_slide)
    inferer(output, 400, finder(), seam_px=0).run(cohort)
    cohort.close()
    (row,) = pd.read_csv(output / "summary.csv").to_dict("records")
    assert (row["cells"], row["cut"]) == (3, 1)
    assert "3 cells, 1 of them pieces of larger ones" in capsys.readouterr().out
    areas = sorted(pd.read_csv(output / "a_cells.csv")["area_um2"])
    assert areas[1] == pytest.approx(np.pi / 4 * 21 * 171 * MPP**2, rel=0.03)  # whole
    assert areas[2] < 0.9 * np.pi / 4 * 61 * 801 * MPP**2
    result = inferer(output, 400, finder())(folder / "a.tif")
    assert (result.summary["cells"], result.summary["cut"]) == (3, 0)


def test_on_glass_an_object_is_left_out_whole(tmp_path):
    """Its pieces' centroids may be on tissue while its own is not, and the other way round."""
    image = np.full((600, 1400, 3), 244, np.uint8)
    image[:, :500] = image[:, 900:] = (225, 180, 205)
    for row in (150, 450):
        cv2.line(image, (340, row), (1060 if row == 150 else 620, row), (60, 30, 120), 24)
    path = write_tiff(tmp_path / "a.tif", image, MPP)
    for tile_px in (3000, 400):
        cells = inferer(tmp_path / str(tile_px), tile_px, by_map(), tissue=True)(path)
    assert cells.tiles > 2
    assert results(tmp_path / "400") == results(tmp_path / "3000")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slide")
    draw(folder / "a.tif", scattered(0))
    inferer(folder, 200, by_network(halo=32))(folder / "a.tif")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("windows", [10, -1, -4])
def test_stopped_and_resumed(windows, slide, tmp_path, monkeypatch):
    """Between stripes, and while what they cut is computed again."""
    network = DarkObjects()
    tiles = inferer(tmp_path / "other", 200, by_network(network, halo=32))(slide / "a.tif").tiles
    assert network.looked_at > tiles + 4
    monkeypatch.setattr(DarkObjects, "fails_at", windows if windows > 0 else network.looked_at + windows)
    with pytest.raises(OSError, match="no space left"):
        inferer(tmp_path, 200, by_network(halo=32))(slide / "a.tif")
    monkeypatch.undo()
    done = json.loads((tmp_path / "a.partial" / "progress.json").read_text())
    assert (done["stripes"] == done["of"]) == (windows < 0)
    again = DarkObjects()
    inferer(tmp_path, 200, by_network(again, halo=32))(slide / "a.tif")
    assert again.looked_at < network.looked_at
    assert results(tmp_path) == results(slide)


def _killed_at(windows, slide, output):
    DarkObjects.fails_at = None
    find, count = DarkObjects.find, [0]

    def find_or_die(self, images):
        count[0] += len(images)
        if count[0] > windows:
            os.kill(os.getpid(), signal.SIGKILL)
        return find(self, images)

    DarkObjects.find = find_or_die
    inferer(output, 200, by_network(halo=32))(slide / "a.tif")


@pytest.mark.slow
@pytest.mark.parametrize("before_the_end", [1, 3, 20])
def test_killed_and_resumed(before_the_end, slide, tmp_path):
    network = DarkObjects()
    inferer(tmp_path / "other", 200, by_network(network, halo=32))(slide / "a.tif")
    arguments = (network.looked_at - before_the_end, slide, tmp_path)
    process = multiprocessing.get_context("fork").Process(target=_killed_at, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / "a.partial").is_dir()
    inferer(tmp_path, 200, by_network(halo=32))(slide / "a.tif")
    assert results(tmp_path) == results(slide)


def test_windows_grow_to_what_they_hold_and_end(tmp_path):
    """One that grows beyond all windows is given up; one that is nothing when more is seen is none."""
    path = draw(tmp_path / "a.tif", [(350, 450, 800, 60, 0)])
    slides = inferer(tmp_path, 400, by_network())
    windows = []

    class Window(CellWindow):
        def _cells(self, window):
            windows.append(window)
            return super()._cells(window)

    reader = SlideReader(path)
    plan = plan_slide(reader, *slides._lattice[:2], 400, None, slides._lattice[2])
    for side, fits in ((1280, True), (400, False)):
        windows.clear()
        cells = Window(reader, plan, slides.finder, None, side).find(shapely.box(300, 330, 500, 370))
        assert (cells is not None) == fits
        assert len(windows) < 6
    (cell,) = Window(reader, plan, slides.finder, None, 1280).find(shapely.box(300, 330, 500, 370)).outlines
    assert cell.bounds == pytest.approx((50, 320, 851, 381), abs=2)
    assert len(Window(reader, plan, slides.finder, None, 1280).find(shapely.box(300, 30, 500, 70))) == 0
