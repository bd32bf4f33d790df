"""A region whose file has oblong pixels gives what the same region gives with square ones; results lie on the file."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import torch
from monai.data import MetaTensor
from scipy.spatial import cKDTree

from monai_ext.data.vessels import SlideVessels
from monai_ext.formats import Features, read_geojson, write_geojson
from monai_ext.formats.image import read_field
from monai_ext.inferers import CellFinder
from monai_ext.label import found_features, in_region, load_region
from monai_ext.networks import InputConvention
from monai_ext.networks.nets import HematoxylinMap
from monai_ext.prepare.qupath import prepare_qupath
from monai_ext.reports.slide_evaluation import _lesions
from monai_ext.slides import OutputSettings, SlideCells, SlideInferer
from monai_ext.transforms import (
    FindCellsd,
    LoadFieldd,
    LoadVesseld,
    NucleusInstances,
    SaveCellsd,
    SaveDetectionsd,
    SaveEvidenced,
)
from tests.slides.conftest import DarkPredictor

MPP = 0.5
AREA_TOL = 0.05  # relative; of small discs that were sampled twice as coarsely along one side
PLACE_TOL = 0.6  # px of .5 um
GREY_TOL = 8  # grey values between two kinds of bicubic interpolation
STRETCHED = {"square": (1, 1), "oblong": (1, 2)}


def region(height=700, width=900, seed=0):
    """Discs of nuclear colour on pink tissue on glass, and their centres."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 243, np.uint8)
    image[60:-60, 60:-60] = (215, 140, 190)
    rows, cols = np.mgrid[100 : height - 100 : 40, 100 : width - 100 : 44]
    centres = np.stack([rows.ravel(), cols.ravel()], 1) + rng.integers(-6, 7, (rows.size, 2))
    for row, col in centres.tolist():
        cv2.circle(image, (col, row), int(rng.integers(8, 13)), (80, 50, 130), -1, cv2.LINE_AA)
    return image, centres


IMAGE, CENTRES = region()


def write(path, image, row_mpp=MPP, col_mpp=MPP, tiles=True):
    layout = {"tile": (256, 256)} if tiles else {}
    density = {"resolution": (1e4 / col_mpp, 1e4 / row_mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, image, photometric="rgb", compression="zlib", metadata=None, **density, **layout)
    return path


@pytest.fixture(scope="module", params=["slides", "fields"])
def both(request, tmp_path_factory):
    """The region with square pixels, and with pixels twice as wide as high."""
    folder = tmp_path_factory.mktemp(request.param)
    half = cv2.resize(IMAGE, (IMAGE.shape[1] // 2, IMAGE.shape[0]), interpolation=cv2.INTER_AREA)
    for name, image, col_mpp in (("square", IMAGE, MPP), ("oblong", half, 2 * MPP)):
        write(folder / f"{name}.tif", image, MPP, col_mpp, tiles=request.param == "slides")
    return folder


def same_places(square, oblong):
    """Places ``row, col`` of the files that are the same on the glass."""
    square, oblong = (np.asarray(points, float).reshape(-1, 2) for points in (square, oblong))
    assert len(square) == len(oblong) > 0
    distance, partner = cKDTree(square).query((oblong + 0.5) * (1, 2) - 0.5)
    assert len(set(partner.tolist())) == len(square)
    assert distance.max() < PLACE_TOL


def same_outlines(folder, ending=".geojson"):
    """Objects of the GeoJSON files, on the files' own pixels."""
    square, oblong = (read_geojson(folder / f"{name}{ending}") for name in STRETCHED)
    kinds = [shapely.area(features.geometry) > 0 for features in (square, oblong)]
    for one, other in (kinds, [~kind for kind in kinds]):  # outlines, then points
        if one.any():
            same_places(square[one].points(), oblong[other].points())
    left, top, right, bottom = shapely.total_bounds(oblong.geometry)
    assert min(left, top) >= 0
    assert right <= IMAGE.shape[1] / 2
    assert bottom <= IMAGE.shape[0]
    area = [shapely.area(features.geometry).sum() for features in (square, oblong)]
    assert 2 * area[1] == pytest.approx(area[0], rel=AREA_TOL)
    return square, oblong


def summaries(folder):
    table = pd.read_csv(folder / "summary.csv").set_index("image")
    return (table.loc[f"{name}.tif"] for name in STRETCHED)


def test_maps(both, tmp_path):
    settings = OutputSettings(0.45, "region", hotspot_mm2=0.02)
    infer = SlideInferer(DarkPredictor(2), tmp_path, MPP, tile_px=500, outputs=settings)
    square, oblong = (infer(both / f"{name}.tif").summary for name in STRETCHED)
    for name in ("detections", "regions", "hotspot_count"):
        assert square[name] == oblong[name] > 0
    for name in ("tissue_mm2", "positive_mm2", "density_per_mm2", "hotspot_density_per_mm2", "mean"):
        assert oblong[name] == pytest.approx(square[name], rel=AREA_TOL)
    assert square["detections"] == len(CENTRES)
    tables = [pd.read_csv(tmp_path / f"{name}_detections.csv") for name in STRETCHED]
    same_places(*(table[["row", "col"]] for table in tables))
    np.testing.assert_allclose(tables[1]["x"], tables[1]["col"] + 0.5)
    np.testing.assert_allclose(tables[1]["area_um2"].mean(), tables[0]["area_um2"].mean(), rtol=AREA_TOL)
    same_outlines(tmp_path)
    assert oblong["hotspot_radius"] == square["hotspot_radius"]
    assert oblong["hotspot_col"] < IMAGE.shape[1] / 2
    plan = json.loads((tmp_path / "oblong_plan.json").read_text())
    assert (plan["stretch"], plan["resolution_source"], plan["conflict"]) == ([1.0, 2.0], "TIFF tags", "")


def test_cells_of_slides(both, tmp_path):
    network = HematoxylinMap(InputConvention((0, 0, 0), (255, 255, 255)), darkest=1.4)
    infer = SlideCells(CellFinder(network, NucleusInstances()), tmp_path, MPP, tile_px=400)
    square, oblong = (infer(both / f"{name}.tif").summary for name in STRETCHED)
    assert square["cells"] == oblong["cells"] == len(CENTRES)
    for name in ("tissue_mm2", "cells_per_mm2", "mean_area_um2"):
        assert oblong[name] == pytest.approx(square[name], rel=AREA_TOL)
    features = same_outlines(tmp_path)
    tables = [pd.read_csv(tmp_path / f"{name}_cells.csv") for name in STRETCHED]
    same_places(*(table[["row", "col"]] for table in tables))
    for table, each in zip(tables, features, strict=True):  # in one order
        np.testing.assert_allclose(table[["row", "col"]], each.points(), atol=1)
        np.testing.assert_array_equal(table["area_um2"], each.measurements["area_um2"])


def instances_of(image):
    dark = (image.numpy().astype(int).mean(0) < 140).astype(np.uint8)
    return cv2.connectedComponents(dark)[1]


@pytest.mark.slow
def test_fields(both, tmp_path):
    load = LoadFieldd(["image"], target_mpp=MPP)
    savers = [
        (SaveCellsd, {"image_key": "image", "keys": "cells"}),
        (SaveDetectionsd, {"labels_key": "blobs"}),
        (SaveEvidenced, {"image_key": "image"}),
    ]
    for save, options in savers:
        out = tmp_path / save.__name__
        saver = save(output_dir=out, data_root_dir=both, **options)
        for name in STRETCHED:
            item = load({"image": str(both / f"{name}.tif")})
            labels = instances_of(item["image"])
            item["instances"], item["blobs"] = torch.from_numpy(labels)[None], labels
            centres = FindCellsd("instances", image_key="image", probability_key=None, mpp=1.0)(item)["cells"]
            item["cells"], item["score"] = centres, torch.tensor([1.0])
            item["evidence"] = torch.from_numpy((labels > 0).astype(np.float32))[None]
            square_places = [np.argwhere(labels == k + 1) for k in range(labels.max())]
            item["points"] = torch.tensor([[*each.mean(0), len(each), 0.9] for each in square_places])
            saver(item)
        same_outlines(out)
        square, oblong = summaries(out)
        for name in ("cells", "count"):
            if name in square:
                assert square[name] == oblong[name] == len(CENTRES)
        for name in ("cells_per_mm2", "density_per_mm2", "evidence_um2", "evidence_share", "area_mm2"):
            if name in square:
                assert oblong[name] == pytest.approx(square[name], rel=AREA_TOL)
        if "hotspot_col" in square:
            same_places(square[["hotspot_row", "hotspot_col"]], oblong[["hotspot_row", "hotspot_col"]])


def test_annotations_of_fields(both, tmp_path):
    label = (cv2.connectedComponents((IMAGE.mean(-1) < 140).astype(np.uint8))[1]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "square.tif", label)
    tifffile.imwrite(tmp_path / "oblong.tif", label[:, ::2])
    load = LoadFieldd("image", points_keys=["points"], mask_keys=["mask"], target_mpp=MPP)
    square, oblong = (
        load(
            {
                "image": str(both / f"{name}.tif"),
                "points": ((CENTRES + 0.5) / side - 0.5).tolist(),
                "mask": str(tmp_path / f"{name}.tif"),
            }
        )
        for name, side in STRETCHED.items()
    )
    assert square["image"].shape == oblong["image"].shape
    np.testing.assert_allclose(oblong["points"], square["points"], atol=1e-3)
    assert (oblong["mask"] == square["mask"]).float().mean() > 0.98
    centre = [oblong["mask"][0][tuple(point)] for point in CENTRES.tolist()]
    assert len(set(map(int, centre))) == len(CENTRES)


def test_vessels(both, tmp_path):
    """Outlines and masks in px of the file, and what comes back."""
    lumens = [shapely.box(200, 150, 500, 420), shapely.box(520, 300, 800, 600)]
    crops = {}
    for name, (down, across) in STRETCHED.items():
        outlines = [shapely.transform(each, lambda xy, s=(across, down): xy / s) for each in lumens]
        write_geojson(tmp_path / f"{name}.geojson", Features(outlines, names=["a", "b"]))
        vessels = SlideVessels(both / f"{name}.tif", tmp_path / f"{name}.geojson", MPP)
        crops[name] = [vessels[number] for number in range(2)]
        mask = np.zeros(read_field(both / f"{name}.tif").file_shape, np.uint8)
        mask[150:420, 200 // across : 500 // across] = 1
        tifffile.imwrite(tmp_path / f"{name}.tif", mask)
        (of_mask,) = SlideVessels(both / f"{name}.tif", tmp_path / f"{name}.tif", MPP)
        np.testing.assert_array_equal(of_mask.image, crops[name][0].image)
        item = {"image": str(both / f"{name}.tif"), "mask": str(tmp_path / f"{name}.tif")}
        loaded = LoadVesseld(target_mpp=MPP)(item)["image"].numpy()[:, 151:419, 201:499].astype(int)
        assert np.abs(loaded - of_mask.image[:, 1:-1, 1:-1]).max() <= GREY_TOL
    for square, oblong in zip(crops["square"], crops["oblong"], strict=True):
        assert square.image.shape == oblong.image.shape
        assert (square.lumen == oblong.lumen).all()
        assert np.abs(square.image.astype(int) - oblong.image).mean() < 3
        assert oblong.offset == (square.offset[0], square.offset[1] / 2)
        assert oblong.scale == (1.0, 0.5)


def test_the_annotation_server(both):
    """A region is asked for in px of the file, and its objects come back in them."""
    found = {}
    for name, (_, across) in STRETCHED.items():
        region = load_region(both / f"{name}.tif", (200 // across, 100), (400 // across, 300), target_mpp=MPP)
        labels = instances_of(region.as_tensor())
        item = {"source": region, "instances": torch.from_numpy(labels)[None]}
        found[name] = in_region(found_features(FindCellsd(probability_key=None)(item)), region)
    same_places(*(features.points() for features in found.values()))
    assert isinstance(region, MetaTensor)


def test_qupath(both, tmp_path):
    """Objects in px of the file, drawn into squares of its tissue."""
    maps = {}
    for name, (down, across) in STRETCHED.items():
        src = tmp_path / name
        (src / "wsa").mkdir(parents=True)
        (src / "a.tif").symlink_to(both / f"{name}.tif")
        nuclei = Features(shapely.buffer(Features.from_points(CENTRES).geometry, 9), "Tumor", object_types="detection")
        write_geojson(src / "wsa" / "a.geojson", nuclei.on_file((down, across)))
        prepare_qupath(src, tmp_path / f"{name}_out", tile=256, resolutions=(1,))
        paths = sorted((tmp_path / f"{name}_out").rglob("*.tif"))
        maps[name] = [tifffile.imread(path) for path in paths if path.parent.name != "images"]
    assert len(maps["square"]) == len(maps["oblong"]) > 0
    count = [sum(len(np.unique(each)) - 1 for each in maps[name]) for name in STRETCHED]
    assert count[0] == pytest.approx(count[1], rel=0.02)
    area = [sum((each > 0).sum() for each in maps[name]) for name in STRETCHED]
    assert area[1] == pytest.approx(area[0], rel=AREA_TOL)


def test_lesions_are_found_where_they_are_annotated(tmp_path):
    """Detections and annotation in px of the file."""
    plan = {"base_mpp": MPP, "level0_shape": [2000, 4000], "stretch": [1.0, 2.0]}
    (tmp_path / "a_plan.json").write_text(json.dumps(plan))
    lesion = Features([shapely.box(1000, 500, 1800, 1400)], classes="Tumor").on_file((1, 2))
    write_geojson(tmp_path / "a.geojson", lesion)
    places = pd.DataFrame({"row": [900, 900], "col": [700, 1400], "score": [0.9, 0.8]})
    places.to_csv(tmp_path / "a_detections.csv", index=False)
    entry = {"label": 1, "annotation": "a.geojson"}
    found = _lesions(tmp_path, tmp_path, entry, pd.Series({"image": "a.tif"}), (8.0, 75.0, 200.0), None)
    assert found.found.tolist() == pytest.approx([0.9])
    assert found.false.tolist() == pytest.approx([0.8])
