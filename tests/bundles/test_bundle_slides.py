"""The slide engine behind every bundle that has a ``slides.json``, through the commands that its user types."""

import json
import shutil
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile

from monai_ext.data import read_geojson
from monai_ext.phantom import write_slide
from monai_ext.slides import SlideCells, SlideInferer
from tests.bundles.conftest import BUNDLES, Workplace, typed

SLIDES = "['configs/inference.json','configs/slides.json']"
RANKS = SLIDES.replace("]", ",'configs/overlays/multi_gpu/multi_gpu_slides.json']")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
SIDE = 1024  # px of .25 um
CSV_TOLERANCE = 1e-6


@pytest.fixture(scope="session")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(3):
        write_slide(folder / f"s{seed}.tif", SIDE, seed=seed)
        (folder / f"s{seed}.geojson").unlink()
    return folder


@pytest.fixture(scope="session", params=typed([path for path in BUNDLES if (path / "configs/slides.json").is_file()]))
def desk(request, slides, tmp_path_factory):
    """A copy of a bundle beside the slides, and what a run over them in one process gave."""
    folder = tmp_path_factory.mktemp(request.param.name) / request.param.name
    shutil.copytree(request.param, folder, ignore=shutil.ignore_patterns("eval", "runs"))
    place = Workplace(request.param, folder, slides)
    run(place, SLIDES, slides, "eval/one")
    return place


def run(place, files, source, output, **options):
    arguments = ["--config_file", files, "--dataset_dir", str(source), "--output_dir", output]
    return place.bundle("run", *arguments, **options)


def results(folder):
    """The files that depend on the slides alone: neither times nor the date."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in ("state.json", "report.html")}


@pytest.mark.slow
def test_every_slide_has_its_files_and_they_agree(desk, slides):
    folder = desk.folder / "eval/one"
    names = [f"s{seed}" for seed in range(3)]
    of_cells = "SlideCells" in (desk.folder / "configs/slides.json").read_text()
    suffixes, agree = (SlideCells.suffixes, cells_agree) if of_cells else (SlideInferer.suffixes, map_agrees)
    assert set(results(folder)) == {f"{name}{suffix}" for name in names for suffix in suffixes} | {"summary.csv"}
    assert {entry["status"] for entry in json.loads((folder / "state.json").read_text()).values()} == {"done"}
    assert "<html" in (folder / "report.html").read_text()
    summary = pd.read_csv(folder / "summary.csv").set_index("image")
    assert summary["tissue_mm2"].sum() > 0
    for name in names:
        plan = json.loads((folder / f"{name}_plan.json").read_text())
        assert plan["level0_shape"] == [SIDE, SIDE]
        agree(folder, name, plan, summary.loc[f"{name}.tif"], read_geojson(folder / f"{name}.geojson"))


def map_agrees(folder, name, plan, row, features):
    table = pd.read_csv(folder / f"{name}_detections.csv")
    points = shapely.get_coordinates(features.geometry[shapely.get_type_id(features.geometry) == 0])
    assert len(table) == len(points) == row["detections"]
    np.testing.assert_allclose(points, table[["x", "y"]].to_numpy(float), atol=CSV_TOLERANCE)
    assert ((points >= 0) & (points <= SIDE)).all()
    if row["tissue_mm2"]:
        assert row["density_per_mm2"] == pytest.approx(row["detections"] / row["tissue_mm2"])
    with tifffile.TiffFile(folder / f"{name}_heatmap.ome.tif") as tiff:
        assert tiff.is_ome
        assert tiff.series[0].levels[0].shape == tuple(plan["shape"])
        heat = tiff.asarray()
    assert 0 <= heat.min() <= heat.max() <= 1
    assert heat.max() == pytest.approx(row["score"])


def cells_agree(folder, name, plan, row, features):
    table = pd.read_csv(folder / f"{name}_cells.csv")
    assert len(table) == len(features) == row["cells"]
    assert (len(table) > 0) == (row["tissue_mm2"] > 0)
    if not len(table):
        return
    assert table["class"].fillna("").tolist() == [name or "" for name in features.classes]
    assert table["confidence"].is_monotonic_increasing
    np.testing.assert_allclose(features.measurements["confidence"], table["confidence"], atol=CSV_TOLERANCE)
    bounds = shapely.bounds(features.geometry)
    assert bounds.min() >= 0
    assert bounds.max() <= SIDE


@pytest.mark.slow
@pytest.mark.dear
def test_two_processes_write_the_same_files(desk, slides):
    run(desk, RANKS, slides, "eval/two", launcher=TORCHRUN)
    assert results(desk.folder / "eval/two") == results(desk.folder / "eval/one")


def test_slide_without_a_resolution_ends_with_one_line(desk, tmp_path):
    pixels = np.full((600, 600, 3), (205, 130, 180), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(256, 256), photometric="rgb", metadata=None)
    done = run(desk, SLIDES, tmp_path, "eval/unknown", check=False)
    last = [line for line in done.stderr.splitlines() if line.strip()][-1]
    assert done.returncode == 1
    assert last.startswith("InputError: ")
    assert "a.tif: expected a slide that states its resolution (um/px), or --mpp, found no resolution" in last
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_slides_of_hospitals_and_biobanks_give_what_the_plain_ones_give(desk, slides, tmp_path):
    """A folder of DICOM that OpenSlide reads, a folder that wsidicom reads, and OME-Zarr, in one run."""
    uid = pytest.importorskip("pydicom.uid", reason="pydicom is not installed (the extra [dicom])")
    if "cell" not in desk.source.name:
        pytest.skip("one bundle stands for all: they share the reader")
    dicom, zarr = (import_module(f"tests.formats.{name}_slides") for name in ("dicom", "zarr"))
    pixels = [tifffile.imread(slides / f"s{seed}.tif", key=0) for seed in range(3)]
    # and an annotation beside one, which is no slide
    level = dicom.write_slide(tmp_path / "1.2.840.0", pixels[0], syntax=uid.JPEG2000Lossless, tile_px=256)
    dicom.write_annotations(tmp_path / "1.2.840.0/ann.dcm", level, [dicom.group(1, "POINT", [np.ones((1, 2), "<f4")])])
    dicom.write_slide(tmp_path / "1.2.840.1", pixels[1], syntax=dicom.JPEG_XL, tile_px=256, sparse=True)
    zarr.write_zarr(tmp_path / "s2.zarr", pixels[2], chunk=256)
    run(desk, SLIDES, tmp_path, "eval/others")
    names, found = ("1.2.840.0", "1.2.840.1", "s2"), desk.folder / "eval/others"
    for seed, name in enumerate(names):
        for ending in (".geojson", "_cells.csv"):
            assert (found / f"{name}{ending}").read_bytes() == (desk.folder / f"eval/one/s{seed}{ending}").read_bytes()
    backends = [json.loads((found / f"{name}_plan.json").read_text())["backend"] for name in names]
    assert backends == ["openslide", "wsidicom", "zarr"]
    assert len(pd.read_csv(found / "summary.csv")) == len(names)
