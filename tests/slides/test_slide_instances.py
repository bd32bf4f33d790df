"""Nuclei of slides by a network for instances: each planted disc once, whatever the tiles, stops and processes."""

import json
import multiprocessing
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import torch
import torch.distributed as dist
from scipy import ndimage
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.data import Cohort, read_geojson
from monai_ext.inferers import InstanceFinder, InstanceInferer
from monai_ext.instances.sparse import SparseInstances
from monai_ext.networks import InputConvention, with_runtime
from monai_ext.networks.nets import NucleiMaskRCNN
from monai_ext.slides import SlideCells, check_slide
from monai_ext.slides.cell_spool import CellSpool, drop_second_versions
from monai_ext.slides.seams import CellWindow
from tests.slides.conftest import files, write_tiff

MPP = 0.25
SHAPE = (500, 620)
LATTICE = np.array([(27, 5), (-7, 27)])  # px; askew, so that some disc is on any seam
OUTPUTS = (".geojson", "_cells.csv", "_overlay.png")
DISAGREEING_IOU = 0.6  # of what sees nuclei a px off, and the truth
TIMEOUT = 60


def moved(ids):
    """Ids a px further to the lower right."""
    return np.pad(ids, ((1, 0), (1, 0)))[:-1, :-1]


class Discs(nn.Module):
    """Finds what is dark, exactly, a larger one being surer; and each once more, a px off and less sure.

    One that ``disagrees`` sees the nuclei in the left and upper half of its window a px further to the lower right.
    """

    fails_at = None  # windows; of the class, for what an instance holds is a setting

    def __init__(self, disagrees=False):
        super().__init__()
        self.disagrees, self.looked_at = disagrees, 0

    def find(self, windows):
        if self.looked_at == self.fails_at:
            raise OSError("no space left on device")
        self.looked_at += len(windows)
        return [self._find(ndimage.label(window[1].numpy() < 0.4)[0]) for window in windows]

    def _find(self, ids):
        if self.disagrees:
            numbers = np.arange(1, ids.max() + 1)
            places = np.array(ndimage.center_of_mass(ids > 0, ids, numbers)).reshape(-1, 2)
            early = np.isin(ids, numbers[(places < np.array(ids.shape) / 2).any(1)])
            ids = np.maximum(moved(ids * early), ids * ~early)
        found, again = (SparseInstances.from_map(torch.from_numpy(each)) for each in (ids, moved(ids)))
        return SparseInstances.cat([replace(found, scores=1 - 1 / found.area), replace(again, scores=again.scores / 3)])


def slide_inferer(output, tile_px=224, network=None, halo=32, **options):
    finder = InstanceFinder(network or Discs(), halo=halo, tolerance=0)
    return SlideCells(finder, output, tile_px=tile_px, tissue=False, **options)


def plant(path, seed=0):
    """A slide of discs that do not touch; their ids."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(SHAPE, np.int32)
    places = (np.indices((30, 30)).reshape(2, -1).T - 5) @ LATTICE + rng.integers(-4, 5, (900, 2))
    places = places[((places >= 9) & (places < np.array(SHAPE) - 9)).all(1)]
    for number, (row, col) in enumerate(places.tolist(), start=1):
        cv2.circle(ids, (col, row), int(rng.integers(5, 9)), number, -1)
    image = np.where(ids[..., None] > 0, (60, 30, 120), (225, 180, 205)).astype(np.uint8)
    write_tiff(path, image, MPP)
    return ids


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for seed, name in enumerate("abc"):
        plant(folder / f"{name}.tif", seed)
    return folder


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Area and place of the discs of slide a, in the order of the files: the least sure first."""
    ids = plant(tmp_path_factory.mktemp("truth") / "a.tif")
    numbers, area = np.unique(ids[ids > 0], return_counts=True)
    places = ndimage.center_of_mass(ids > 0, ids, numbers)
    table = pd.DataFrame(places, columns=["row", "col"]).round(4).assign(area_um2=area * MPP**2)
    return table.sort_values(["area_um2", "row", "col"], ignore_index=True)


@pytest.fixture(scope="module")
def one_window(slides, tmp_path_factory):
    output = tmp_path_factory.mktemp("one")
    for name in "abc":
        assert slide_inferer(output, 1000)(slides / f"{name}.tif").tiles == 1
    return output


def results(folder, name="a"):
    return {suffix: (folder / f"{name}{suffix}").read_bytes() for suffix in OUTPUTS}


def seams(folder):
    """Rows and columns at which tiles meet, px."""
    stripes = json.loads((folder / "a_plan.json").read_text())["stripes"]
    rows = [min(row for row, *_ in stripe) for stripe in stripes[1:]]
    return rows, [col for stripe in stripes for _, col, *_ in stripe[1:]]


def test_one_window_finds_the_discs_exactly(one_window, truth):
    table = pd.read_csv(one_window / "a_cells.csv")
    found = table.sort_values(["area_um2", "row", "col"], ignore_index=True)
    np.testing.assert_allclose(found[truth.columns], truth, atol=1e-4)
    np.testing.assert_allclose(table["confidence"], 1 - MPP**2 / table["area_um2"], atol=1e-4)
    assert table["class"].isna().all()
    outlines = read_geojson(one_window / "a.geojson").geometry
    np.testing.assert_allclose(shapely.area(outlines) * MPP**2, table["area_um2"])


@pytest.mark.parametrize(
    ("tile_px", "options"), [(160, {}), (224, {}), (224, {"batch_size": 3, "processors": 2}), (400, {"workers": 2})]
)
def test_seams_leave_no_trace(tile_px, options, slides, one_window, truth, tmp_path):
    result = slide_inferer(tmp_path, tile_px, **options)(slides / "a.tif")
    assert result.tiles > 3
    for side, name in zip(seams(tmp_path), ("row", "col"), strict=True):
        assert (np.abs(truth[name].to_numpy()[:, None] - side) < 4).any()  # there is something to go wrong
    assert results(tmp_path) == results(one_window)


def test_without_a_halo_what_is_cut_is_computed_again(slides, one_window, tmp_path, monkeypatch):
    slide_inferer(tmp_path, halo=0)(slides / "a.tif")
    assert results(tmp_path) == results(one_window)
    monkeypatch.setattr(CellWindow, "find", lambda *_: None)
    assert slide_inferer(tmp_path, halo=0)(slides / "a.tif").summary["cut"] > 0
    assert results(tmp_path) != results(one_window)


@pytest.mark.parametrize("tile_px", [160, 224])
def test_two_sides_that_disagree(tile_px, slides, truth, tmp_path):
    """Every disc is there once, and the lists of both sides alone would have had some twice."""
    inferer = slide_inferer(tmp_path, tile_px, Discs(disagrees=True))
    inferer(slides / "a.tif")
    found, true = (
        shapely.buffer(shapely.points(table[["col", "row"]]), np.sqrt(table["area_um2"].to_numpy() / np.pi) / MPP)
        for table in (pd.read_csv(tmp_path / "a_cells.csv"), truth)
    )
    mine, theirs = shapely.STRtree(true).query(found, predicate="intersects")
    one, other = found[mine], true[theirs]
    iou = shapely.area(shapely.intersection(one, other)) / shapely.area(shapely.union(one, other))
    assert (iou > DISAGREEING_IOU).all()
    assert sorted(theirs) == list(range(len(true)))
    assert len(found) == len(true)
    inferer.finder.reach = 0  # px
    inferer(slides / "a.tif")
    assert len(pd.read_csv(tmp_path / "a_cells.csv")) > len(true)


def test_as_images_are_computed(slides, one_window):
    """The same instances as by the inferer of images."""
    image = torch.from_numpy(tifffile.imread(slides / "a.tif")).permute(2, 0, 1).float() / 255
    found = InstanceInferer(128, 32).find(image[None], Discs())[0]
    table = pd.read_csv(one_window / "a_cells.csv")
    assert len(found) == len(table)
    np.testing.assert_allclose(sorted(found.area.numpy() * MPP**2), sorted(table["area_um2"]), atol=1e-4)


@pytest.mark.parametrize("windows", [12, 25])
def test_stopped_and_resumed(windows, slides, one_window, tmp_path, monkeypatch):
    monkeypatch.setattr(Discs, "fails_at", windows)
    with pytest.raises(OSError, match="no space left"):
        slide_inferer(tmp_path, 160)(slides / "a.tif")
    monkeypatch.undo()
    done = json.loads((tmp_path / "a.partial" / "progress.json").read_text())
    assert 0 < done["stripes"] < done["of"]
    assert {path.name for path in (tmp_path / "a.partial").iterdir()} >= set(CellSpool.FILES)
    again = Discs()
    result = slide_inferer(tmp_path, 160, again)(slides / "a.tif")
    assert again.looked_at < result.tiles
    assert results(tmp_path) == results(one_window)
    assert not list(tmp_path.rglob("*.partial"))


def _run(rank, ranks, source, output, store):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    cohort = Cohort(source, output, None, None, check=check_slide, resume=True)
    slide_inferer(output).run(cohort)
    cohort.close()
    dist.destroy_process_group()


def test_two_processes_share_the_slides(slides, one_window, tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (2, slides, tmp_path / "out", tmp_path / "store")
    processes = [context.Process(target=_run, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    assert [process.exitcode for process in processes] == [0, 0]
    for name in "abc":
        assert results(tmp_path / "out", name) == results(one_window, name)
    summary = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert summary["image"].tolist() == ["a.tif", "b.tif", "c.tif"]
    assert summary["cells"].tolist() == [len(pd.read_csv(one_window / f"{name}_cells.csv")) for name in "abc"]
    assert "report.html" in files(tmp_path / "out")


def test_nothing_to_find(tmp_path):
    path = write_tiff(tmp_path / "pink.tif", np.full((300, 400, 3), (225, 180, 205), np.uint8), MPP)
    assert slide_inferer(tmp_path)(path).summary["cells"] == 0
    assert len(read_geojson(tmp_path / "pink.geojson")) == 0


def network(**options):
    torch.manual_seed(0)
    return NucleiMaskRCNN("resnet18", channels=16, box_channels=32, **options)


@pytest.mark.slow
@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("autocast", [False, True])
def test_a_network(autocast, tmp_path):
    """An untrained one: what it finds lies on the slide, and is none of it the same nucleus twice."""
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    finder = InstanceFinder(
        network(score_threshold=0.0), autocast=autocast, convention=InputConvention((128,) * 3, (60,) * 3)
    )
    SlideCells(finder, tmp_path, tile_px=288, tissue=False)(write_tiff(tmp_path / "a.tif", image, MPP))
    outlines = read_geojson(tmp_path / "a.geojson").geometry
    assert len(outlines) > 10
    assert (shapely.area(outlines) > 0).all()
    bounds = shapely.total_bounds(outlines)
    assert (bounds >= 0).all()
    assert (bounds <= [300, 200, 300, 200]).all()


class Lattice(nn.Module):
    """Sees a square in each 40 px, whatever is there."""

    def find(self, windows):
        ids = torch.zeros(windows.shape[2:], dtype=torch.int64)
        for number, (row, col) in enumerate(np.ndindex(windows.shape[2] // 40, windows.shape[3] // 40), 1):
            ids[40 * row + 10 : 40 * row + 30, 40 * col + 10 : 40 * col + 30] = number
        return [SparseInstances.from_map(ids) for _ in windows]


def test_bare_glass_holds_no_nuclei(tmp_path):
    image = np.full((320, 400, 3), 243, np.uint8)
    image[:160] = (225, 180, 205)  # pale tissue
    finder = InstanceFinder(Lattice(), halo=0, convention=InputConvention((127,) * 3, (128,) * 3))
    SlideCells(finder, tmp_path, tile_px=400, tissue=False)(write_tiff(tmp_path / "a.tif", image, MPP))
    table = pd.read_csv(tmp_path / "a_cells.csv")
    assert len(table) == 40
    assert table["row"].max() < 160


def test_what_is_found_with_other_thresholds_is_told_apart():
    same, again, *others = (
        InstanceFinder(network(**options), **own).fingerprint
        for options, own in (
            ({}, {}),
            ({}, {}),
            ({"score_threshold": 0.4}, {}),
            ({"nms": 0.4}, {}),
            ({"rpn_nms": (0.9, 0.6)}, {}),
            ({"proposals": (2000, 900)}, {}),
            ({}, {"iou": 0.4}),
            ({}, {"halo": 96}),
        )
    )
    assert same == again
    assert same not in others
    assert len(set(others)) == len(others)


@pytest.mark.parametrize("runtime", ["torch", "auto"])
def test_the_fingerprint_stays_while_it_works(runtime, monkeypatch):
    monkeypatch.setattr("monai_ext.networks.runtime._version", lambda _: None)
    finder = InstanceFinder(with_runtime(network(), runtime))
    before = finder.fingerprint
    finder(torch.zeros(1, 3, 192, 224, dtype=torch.uint8))
    assert finder.fingerprint == before
    for options in ({"score_threshold": 0.4}, {"nms": 0.4}):
        assert InstanceFinder(with_runtime(network(**options), runtime)).fingerprint != before


def test_of_versions_that_are_alike_the_surer_stays(tmp_path):
    with CellSpool(tmp_path, ()) as spool:
        records = np.zeros(5, spool.dtype)
    records["row"], records["tile"], records["seam"] = [10, 12, 14, 16, 40], [0, 1, 2, 1, 0], True
    records["confidence"] = [0.5, 0.9, 0.8, 0.8, 0.1]

    def near(one, other):
        return np.abs(one["row"] - other["row"]) < 3

    # 12 is the surest; 14 goes because of it, so that 16 need not go because of 14
    assert drop_second_versions(records, 20, near).tolist() == [False, True, False, True, True]
    assert drop_second_versions(records, 20, lambda one, _: np.zeros(len(one), bool)).all()


@pytest.mark.parametrize(("options", "expected"), [({"iou": 0}, "above 0"), ({"halo": 40}, "multiple of 32")])
def test_bad_arguments(options, expected):
    with pytest.raises(InputError, match=expected):
        InstanceFinder(Discs(), **options)
