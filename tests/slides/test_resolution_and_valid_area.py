"""No resolution: no um2. Two resolutions: both named. Never scanned: no tissue, no area, no stain."""

import json

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from monai_ext.data import Cohort
from monai_ext.formats import read_geojson
from monai_ext.inferers import CellFinder
from monai_ext.networks import InputConvention
from monai_ext.networks.nets import HematoxylinMap
from monai_ext.slides import OutputSettings, SlideCells, SlideInferer
from monai_ext.transforms import (
    FindCellsd,
    LoadFieldd,
    MacenkoNormalize,
    MacenkoNormalized,
    NucleusInstances,
    SaveCellsd,
    SaveDetectionsd,
    SaveEvidenced,
)
from tests.slides.conftest import DarkPredictor
from tests.slides.test_oblong_pixels import CENTRES, IMAGE, MPP, instances_of, write

UM = ("tissue_mm2", "positive_mm2", "density_per_mm2", "hotspot_density_per_mm2", "cells_per_mm2", "mean_area_um2")
CELLS_TOL = 0.02  # relative
GREY_TOL = 2  # grey values; stains are estimated from other pixels of the same tissue


def maps(output, **options):
    settings = OutputSettings(0.45, "region", hotspot_mm2=0.02)
    return SlideInferer(DarkPredictor(2), output, MPP, tile_px=500, outputs=settings, **options)


def cells(output, **options):
    network = HematoxylinMap(InputConvention((0, 0, 0), (255, 255, 255)), darkest=1.4)
    return SlideCells(CellFinder(network, NucleusInstances()), output, MPP, tile_px=400, **options)


@pytest.mark.parametrize("make", [maps, cells])
def test_an_image_without_a_resolution_has_counts_and_nothing_in_um(make, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        Image.fromarray(IMAGE).save(tmp_path / name)
    infer = make(tmp_path / "out")
    cohort = Cohort(tmp_path, tmp_path / "out")
    results = infer.run(cohort)
    cohort.close()
    assert capsys.readouterr().err.count("--mpp") == 1  # for both images together
    write(tmp_path / "stated.tif", IMAGE)
    stated = make(tmp_path / "stated")(tmp_path / "stated.tif").summary
    for result in results:
        assert result.summary.keys() == stated.keys()
        for name in stated:
            if name in UM or name.startswith("hotspot"):
                assert result.summary[name] is None
                assert stated[name] is not None
            else:
                assert result.summary[name] == stated[name]
    assert len(results) == 2
    features = [read_geojson(path) for path in (tmp_path / "out" / "a.geojson", tmp_path / "stated" / "stated.geojson")]
    assert len(features[0]) == len(features[1]) > 100
    in_um = {name for name in features[1].measurements if "_um" in name}
    assert in_um
    assert features[0].measurements.keys() == features[1].measurements.keys() - in_um
    (table,) = (pd.read_csv(path) for path in (tmp_path / "out").glob("a_*.csv"))
    assert table[sorted(in_um)].isna().all(axis=None)
    plan = json.loads((tmp_path / "out" / "a_plan.json").read_text())
    assert (plan["resolution_source"], plan["tissue_mm2"]) == ("assumed", None)
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["tissue_mm2"].isna().all()
    assert (tmp_path / "out" / "report.html").is_file()
    if make is maps:
        with tifffile.TiffFile(tmp_path / "out" / "a_heatmap.ome.tif") as tiff:
            assert "PhysicalSize" not in tiff.ome_metadata
    given = make(tmp_path / "given", mpp=MPP)(tmp_path / "a.png").summary
    assert given == stated


def disagreeing(path, **layout):
    """An OME-TIFF whose tags state another resolution, as after reducing a slide with a tool that copies them."""
    tifffile.imwrite(
        path, IMAGE, photometric="rgb", ome=True, resolution=(1e4, 1e4), resolutionunit="CENTIMETER",
        metadata={"axes": "YXS", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}, **layout,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("make", [maps, cells])
def test_two_resolutions_are_named_in_log_plan_summary_and_report(make, tmp_path, capsys):
    disagreeing(tmp_path / "a.ome.tif", tile=(256, 256))
    write(tmp_path / "b.tif", IMAGE)
    cohort = Cohort(tmp_path, tmp_path / "out", check=lambda *_: None)
    make(tmp_path / "out").run(cohort)
    cohort.close()
    text = "OME-XML states 0.5 um/px, TIFF tags 1 um/px; OME-XML is taken"
    assert capsys.readouterr().err.count(text) == 1
    table = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("image")
    assert table.loc["a.ome.tif", "warnings"] == text
    assert pd.isna(table.loc["b.tif", "warnings"])
    assert table.loc["a.ome.tif", "tissue_mm2"] == table.loc["b.tif", "tissue_mm2"]
    assert text in (tmp_path / "out" / "report.html").read_text()
    plan = json.loads((tmp_path / "out" / "a.ome_plan.json").read_text())
    assert (plan["conflict"], plan["resolution_source"], plan["backend"]) == (text, "OME-XML", "openslide")


def field(load, path):
    """A field with all that the savers take."""
    item = load({"image": str(path)})
    labels = instances_of(item["image"])
    item |= {"instances": labels[None], "blobs": labels, "score": np.ones(1, np.float32)}
    item["evidence"] = (labels > 0).astype(np.float32)[None]
    places = [np.argwhere(labels == number + 1) for number in range(labels.max())]
    item["points"] = np.array([[*each.mean(0), len(each), 0.9] for each in places])
    return FindCellsd("instances", image_key="image", probability_key=None)(item)


SAVERS = {
    SaveCellsd: {"keys": "cells", "image_key": "image"},
    SaveDetectionsd: {},
    SaveEvidenced: {"image_key": "image"},
}


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.slow
def test_fields_whose_sources_disagree(save, tmp_path, capsys):
    """Whichever comes first, the table ends with the same columns."""
    disagreeing(tmp_path / "b.ome.tif")
    for name in ("a", "c"):
        write(tmp_path / f"{name}.tif", IMAGE, tiles=False)
    saver = save(output_dir=tmp_path / "out", data_root_dir=tmp_path, **SAVERS[save])
    for name in ("a.tif", "b.ome.tif", "c.tif"):
        saver(field(LoadFieldd("image", target_mpp=MPP), tmp_path / name))
    table = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("image")
    assert table["warnings"].notna().tolist() == [False, True, False]
    assert "TIFF tags 1 um/px" in table.loc["b.ome.tif", "warnings"]
    assert capsys.readouterr().err.count("TIFF tags 1 um/px") == 1
    rest = table.drop(columns="warnings")
    assert rest.loc["a.tif"].equals(rest.loc["b.ome.tif"])
    plain = save(output_dir=tmp_path / "plain", data_root_dir=tmp_path, **SAVERS[save])
    plain(field(LoadFieldd("image", target_mpp=MPP), tmp_path / "a.tif"))
    assert "warnings" not in pd.read_csv(tmp_path / "plain" / "summary.csv")


@pytest.mark.parametrize("save", [SaveDetectionsd, SaveEvidenced])
def test_fields_without_a_resolution(save, tmp_path, capsys):
    saver = save(output_dir=tmp_path / "out", data_root_dir=tmp_path, **SAVERS[save])
    for name in ("a", "b"):
        Image.fromarray(IMAGE).save(tmp_path / f"{name}.png")
        saver(field(LoadFieldd("image", target_mpp=MPP), tmp_path / f"{name}.png"))
    assert capsys.readouterr().err.count("--mpp") == 1
    table = pd.read_csv(tmp_path / "out" / "summary.csv")
    in_um = [name for name in table if "um2" in name or "mm2" in name]
    assert in_um
    assert table[in_um].isna().all(axis=None)
    features = read_geojson(tmp_path / "out" / "a.geojson")
    assert not [name for name in features.measurements if "um" in name]
    assert features.measurements["area_px"].min() > 100


def with_margin(side=400):
    """The region beside as much that was never scanned."""
    black = np.zeros((IMAGE.shape[0], side, 3), np.uint8)
    return np.concatenate([IMAGE, black], axis=1)


@pytest.mark.parametrize("save", SAVERS)
@pytest.mark.slow
def test_what_was_never_scanned_is_no_area_of_a_field(save, tmp_path):
    saver = save(output_dir=tmp_path / "out", data_root_dir=tmp_path, **SAVERS[save])
    for name, image in (("plain", IMAGE), ("margin", with_margin())):
        write(tmp_path / f"{name}.tif", image, tiles=False)
        saver(field(LoadFieldd("image", target_mpp=MPP), tmp_path / f"{name}.tif"))
    table = pd.read_csv(tmp_path / "out" / "summary.csv").set_index("image")
    for name in {"area_mm2", "cells_per_mm2", "density_per_mm2", "evidence_share", "hotspot_density_per_mm2"} & {
        *table
    }:
        assert table.loc["margin.tif", name] == pytest.approx(table.loc["plain.tif", name], rel=0.02)


@pytest.mark.parametrize("tissue", [True, False])
def test_what_was_never_scanned_is_no_area_of_a_slide(tissue, tmp_path):
    results = []
    for name, image in (("plain", IMAGE), ("margin", with_margin())):
        write(tmp_path / f"{name}.tif", image)
        results.append(maps(tmp_path / "out", tissue=tissue)(tmp_path / f"{name}.tif").summary)
    plain, margin = results
    assert margin["detections"] == plain["detections"] == len(CENTRES)
    assert margin["tissue_mm2"] == pytest.approx(plain["tissue_mm2"], rel=0.02)
    assert margin["positive_mm2"] == pytest.approx(plain["positive_mm2"], rel=0.02)


def test_what_was_never_scanned_is_no_stain(tmp_path):
    """Tissue up to the black margin, so that squares for the stains hold both."""
    counts, fields = [], []
    tissue = IMAGE[60:-60, 60:-60]
    black = np.zeros((tissue.shape[0], 400, 3), np.uint8)
    for name, image in (("plain", tissue), ("margin", np.concatenate([tissue, black], axis=1))):
        write(tmp_path / f"{name}.tif", image)
        counts.append(cells(tmp_path / "slides", stains=MacenkoNormalize())(tmp_path / f"{name}.tif").summary["cells"])
        item = LoadFieldd("image", target_mpp=MPP)({"image": str(tmp_path / f"{name}.tif")})
        fields.append(MacenkoNormalized("image")(item)["image"].numpy()[..., : tissue.shape[1] - 10].astype(int))
    assert counts[0] > 0.9 * len(CENTRES)
    assert counts[1] == pytest.approx(counts[0], rel=CELLS_TOL)
    assert np.abs(fields[1] - fields[0]).max() <= GREY_TOL
