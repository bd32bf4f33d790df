"""The files that a score and its evidence leave behind."""

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.data import read_geojson
from monai_ext.transforms import SaveEvidenced

TOLERANCE = 1e-6


def item(folder, score=0.8, name="a/b.png", mpp=1.0, scale=2.0):
    """An image with one square of evidence, as strong as a window of this score can show."""
    evidence = torch.zeros(1, 64, 96)
    evidence[0, 16:40, 24:64] = 0.9 * score
    meta = {"filename_or_obj": str(folder / name), "mpp": mpp, "scale": scale}
    image = MetaTensor(torch.full((3, 64, 96), 180, dtype=torch.uint8), meta=meta)
    return {"source": image, "evidence": evidence, "score": torch.tensor([score])}


def save(tmp_path, data, **options):
    SaveEvidenced("evidence", output_dir=tmp_path / "out", data_root_dir=tmp_path, **options)(data)
    return pd.read_csv(tmp_path / "out/summary.csv").iloc[-1]


def test_region_area_and_row(tmp_path):
    row = save(tmp_path, item(tmp_path), smooth=0)
    features = read_geojson(tmp_path / "out/a/b.geojson")
    assert len(features) == 1
    # pixels of the file: twice those of the network's grid
    assert features.geometry[0].bounds == pytest.approx((48, 32, 128, 80))
    assert features.measurements["area_px"][0] == 24 * 40
    assert features.measurements["area_um2"][0] == pytest.approx(24 * 40)
    assert features.measurements["mean_evidence"][0] == pytest.approx(0.72, abs=TOLERANCE)
    assert (row["image"], bool(row["positive"]), row["evidence_px"]) == ("a/b.png", True, 960)
    assert row["score"] == pytest.approx(0.8, abs=TOLERANCE)
    assert row["evidence_share"] == pytest.approx(960 / (64 * 96))


@pytest.mark.parametrize(("threshold", "area"), [(0.4, 960 + 16), (0.6, 960)])
def test_threshold_is_a_share_of_the_highest_evidence(threshold, area, tmp_path):
    data = item(tmp_path, score=0.6)
    data["evidence"][0, 50:54, 4:8] = 0.27  # half of the square's
    assert save(tmp_path, data, threshold=threshold, smooth=0)["evidence_px"] == area


def test_a_negative_image_shows_no_region(tmp_path):
    row = save(tmp_path, item(tmp_path, score=0.3))
    assert (bool(row["positive"]), row["evidence_px"]) == (False, 0)
    assert len(read_geojson(tmp_path / "out/a/b.geojson")) == 0


def test_picture_shows_image_and_heat_side_by_side(tmp_path):
    save(tmp_path, item(tmp_path))
    picture = cv2.imread(str(tmp_path / "out/a/b_overlay.png"))
    times = round(384 / 96)
    assert picture.shape == (64 * times, 2 * 96 * times + 4, 3)
    plain, marked = picture[:, : 96 * times], picture[:, 96 * times + 4 :]
    assert np.ptp(plain) == 0
    inside, outside = marked[28 * times, 44 * times].astype(int), marked[4 * times, 4 * times].astype(int)
    assert np.abs(inside - outside).max() > 50


def test_unknown_resolution_leaves_areas_in_um_out(tmp_path):
    row = save(tmp_path, item(tmp_path, mpp=0.0))
    assert np.isnan(row["evidence_um2"])
    assert "area_um2" not in read_geojson(tmp_path / "out/a/b.geojson").measurements


def test_image_must_name_its_file(tmp_path):
    data = item(tmp_path)
    data["source"] = torch.zeros(3, 64, 96)
    with pytest.raises(InputError, match="names its file"):
        save(tmp_path, data)
