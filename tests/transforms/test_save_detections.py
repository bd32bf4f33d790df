from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import MetaTensor
from shapely.geometry import shape

from monai_ext.base.errors import InputError
from monai_ext.transforms.blobs import BlobDetectionsd
from monai_ext.transforms.save_detections import SaveDetectionsd

PX_TOL = 1e-3


def sample(path, *spots, side=64, **meta):
    prob = np.zeros((side, side), np.float32)
    for row, col, radius in spots:
        cv2.circle(prob, (col, row), radius, 0.8, -1)
    image = MetaTensor(torch.full((3, side, side), 200.0), meta={"filename_or_obj": str(path), **meta})
    detect = BlobDetectionsd(threshold=0.5, smooth=False, channel=0)
    return detect({"image": image, "pred": torch.from_numpy(prob)[None]})


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


@pytest.fixture
def save(tmp_path):
    return SaveDetectionsd(output_dir=tmp_path / "out", data_root_dir=tmp_path / "in")


def test_geojson_is_in_qupath_coordinates(tmp_path, save):
    data = sample(tmp_path / "in/a.png", (20, 30, 4), (50, 10, 7), mpp=0.5, scale=2.0)
    save(data)
    features = json.loads((tmp_path / "out/a.geojson").read_text())["features"]
    points, outlines = features[:2], features[2:]
    assert [f["geometry"]["type"] for f in features] == ["Point", "Point", "Polygon", "Polygon"]
    at = {tuple(f["geometry"]["coordinates"]): f["properties"]["measurements"] for f in points}
    assert set(at) == {(61.0, 41.0), (21.0, 101.0)}  # x = (col + .5) * 2, y = (row + .5) * 2
    for feature in outlines:
        polygon, measured = shape(feature["geometry"]), feature["properties"]["measurements"]
        assert polygon.area / 4 == measured["area_px"]
        assert measured["area_um2"] == measured["area_px"] * 0.25
        assert measured["score"] == pytest.approx(0.8)
        centre = min(at, key=lambda xy: np.hypot(xy[0] - polygon.centroid.x, xy[1] - polygon.centroid.y))
        assert centre == pytest.approx((polygon.centroid.x, polygon.centroid.y), abs=PX_TOL)
        assert at[centre] == measured
    assert {f["properties"]["classification"]["name"] for f in features} == {"Mitosis"}
    assert features[0]["properties"]["classification"]["color"] == [0, 200, 60]
    assert [f["properties"]["objectType"] for f in features] == ["annotation"] * 2 + ["detection"] * 2


def test_data_pass_through_and_files_appear(tmp_path, save):
    data = sample(tmp_path / "in/deep/a.b.png", (20, 30, 4))
    out = save(data)
    assert out.keys() == data.keys()
    assert out["image"] is data["image"]
    assert files(tmp_path / "out") == ["deep/a.b.geojson", "deep/a.b_overlay.png", "summary.csv"]
    picture = cv2.imread(str(tmp_path / "out/deep/a.b_overlay.png"))
    assert picture.shape == (64, 64, 3)
    assert (picture[45:, 50:] == 200).all()
    assert (picture == (60, 200, 0)).all(-1).any()  # BGR


def test_equal_names_do_not_meet(tmp_path, save):
    for name in ("one/x.png", "two/x.png", "one/x.tif"):
        save(sample(tmp_path / "in" / name, (20, 30, 4)))
    save(sample(tmp_path / "elsewhere/x.png"))
    produced = [name for name in files(tmp_path / "out") if name.endswith("geojson")]
    elsewhere = (tmp_path / "elsewhere/x.geojson").relative_to("/").as_posix()
    assert produced == sorted(["one/x.geojson", "one/x.tif.geojson", "two/x.geojson", elsewhere])
    assert len(pd.read_csv(tmp_path / "out/summary.csv")) == 4


def test_nothing_is_written_outside_the_output_folder(tmp_path, save):
    save(sample(tmp_path / "in/../../escape.png", (20, 30, 4)))
    assert not list(tmp_path.glob("escape*"))
    assert not list(tmp_path.parent.glob("escape*"))


def test_no_detection_is_a_result(tmp_path, save):
    save(sample(tmp_path / "in/none.png", mpp=0.25))
    assert json.loads((tmp_path / "out/none.geojson").read_text())["features"] == []
    row = pd.read_csv(tmp_path / "out/summary.csv").iloc[0]
    assert (row["image"], row["count"], row["density_per_mm2"], row["hotspot_count"]) == ("none.png", 0, 0, 0)


def test_summary_of_a_field_larger_than_the_hot_spot(tmp_path, save):
    save(sample(tmp_path / "in/wide.png", (20, 30, 4), (25, 36, 2), (300, 300, 5), mpp=5, side=400))
    row = pd.read_csv(tmp_path / "out/summary.csv").iloc[0]
    assert (row["count"], row["area_mm2"], row["hotspot_count"]) == (3, 4.0, 2)
    assert row["hotspot_radius"] == pytest.approx(159.58, abs=0.01)
    assert not row["hotspot_whole_field"]


def test_summary_places_the_hot_spot_in_pixels_of_the_file(tmp_path, save):
    save(sample(tmp_path / "in/wide.png", (200, 300, 5), mpp=5, scale=4.0, side=400))
    row = pd.read_csv(tmp_path / "out/summary.csv").iloc[0]
    point = json.loads((tmp_path / "out/wide.geojson").read_text())["features"][0]["geometry"]["coordinates"]
    assert point == pytest.approx((row["hotspot_col"] + 0.5, row["hotspot_row"] + 0.5), abs=PX_TOL)
    assert row["hotspot_radius"] == pytest.approx(4 * 159.58, abs=0.05)


def test_mpp_argument_fills_in_and_without_any_there_is_the_count(tmp_path):
    where = {"output_dir": tmp_path / "out", "data_root_dir": tmp_path}
    SaveDetectionsd(**where)(sample(tmp_path / "a.png", (20, 30, 4), mpp=0.0))
    SaveDetectionsd(**where, mpp=10)(sample(tmp_path / "b.png", (20, 30, 4), mpp=0.0))
    SaveDetectionsd(**where, mpp=10)(sample(tmp_path / "c.png", (20, 30, 4), mpp=1.0))
    table = pd.read_csv(tmp_path / "out/summary.csv", index_col="image")
    assert table["count"].tolist() == [1, 1, 1]
    assert table["area_mm2"].isna().tolist() == [True, False, False]
    np.testing.assert_allclose(table["area_mm2"][1:], [64**2 * 1e-4, 64**2 * 1e-6])


def test_rows_of_parallel_writers_are_all_there_and_redone_ones_replaced(tmp_path, save):
    data = [sample(tmp_path / f"in/{i:02d}.png", (20, 30, 4)) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(save, data))
    save(sample(tmp_path / "in/05.png"))
    table = pd.read_csv(tmp_path / "out/summary.csv")
    assert table["image"].tolist() == [f"{i:02d}.png" for i in range(12)]
    assert table["count"].tolist() == [1] * 5 + [0] + [1] * 6


def test_points_alone_and_a_small_overlay(tmp_path):
    save = SaveDetectionsd(output_dir=tmp_path / "out", data_root_dir=tmp_path, labels_key=None, max_side=16)
    data = sample(tmp_path / "a.png", (20, 30, 4))
    del data["blobs"]
    save(data)
    assert len(json.loads((tmp_path / "out/a.geojson").read_text())["features"]) == 1
    assert cv2.imread(str(tmp_path / "out/a_overlay.png")).shape == (16, 16, 3)


def test_an_image_without_a_file_name_is_refused(save):
    with pytest.raises(InputError, match="'image': expected a MetaTensor that names its file, found Tensor"):
        save({"image": torch.zeros(3, 8, 8), "points": torch.zeros(0, 4), "blobs": torch.zeros(8, 8)})
