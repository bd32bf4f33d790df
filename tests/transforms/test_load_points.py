"""LoadPoints(d) and LoadGeoJSON(d)."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import shapely
import torch
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.formats.point_files import write_points
from monai_ext.transforms.geojson import LoadGeoJSON, LoadGeoJSONd
from monai_ext.transforms.points import LoadPoints, LoadPointsd

POINTS = [[3.0, 40.0], [75.0, 7.5]]


@pytest.mark.parametrize("as_path", [str, lambda path: path], ids=["str", "path"])
def test_path(tmp_path, as_path):
    points = LoadPoints()(as_path(write_points(tmp_path / "a.csv", POINTS)))
    assert isinstance(points, np.ndarray)
    assert points.dtype == np.float32
    assert points.tolist() == POINTS


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        pytest.param(POINTS, np.ndarray, id="list"),
        pytest.param(np.array(POINTS), np.ndarray, id="array"),
        pytest.param(torch.tensor(POINTS, dtype=torch.float64), torch.Tensor, id="tensor"),
        pytest.param(torch.tensor(POINTS, dtype=torch.bfloat16), torch.Tensor, id="bfloat16"),
    ],
)
def test_points_in_memory_pass_through(given, kind):
    points = LoadPoints()(given)
    assert isinstance(points, kind)
    assert points.dtype in (np.float32, torch.float32)
    assert points.tolist() == POINTS


def test_meta_is_kept():
    points = LoadPoints()(MetaTensor(torch.tensor(POINTS), meta={"filename_or_obj": "a.csv"}))
    assert isinstance(points, MetaTensor)
    assert points.meta["filename_or_obj"] == "a.csv"


@pytest.mark.parametrize(
    "empty", [[], np.zeros((0, 2)), torch.zeros(0, 2), torch.zeros(0)], ids=lambda e: type(e).__name__
)
def test_no_points(empty):
    assert tuple(LoadPoints()(empty).shape) == (0, 2)


@pytest.mark.parametrize("bad", [[1, 2], torch.zeros(3, 3), None, torch.tensor([[1.0, torch.nan]])], ids=repr)
def test_bad_points(bad):
    with pytest.raises(InputError):
        LoadPoints()(bad)


def test_dictionary(tmp_path):
    items = [{"image": 1, "label": str(write_points(tmp_path / "a.csv", POINTS))}, {"image": 2, "label": []}]
    load = LoadPointsd("label")
    data = Dataset(items, pickle.loads(pickle.dumps(Compose([load]))))
    assert data[0]["label"].tolist() == POINTS
    assert data[0]["image"] == 1
    assert data[1]["label"].shape == (0, 2)
    assert isinstance(items[0]["label"], str), "the input is left as it was"
    with pytest.raises(KeyError):
        load({"image": 1})
    assert LoadPointsd("label", allow_missing_keys=True)({"image": 1}) == {"image": 1}


def test_geojson(tmp_path):
    path = write_geojson(tmp_path / "a.geojson", Features([shapely.box(1, 2, 4, 6), shapely.Point(1, 1)], ["a", "b"]))
    assert len(LoadGeoJSON()(path)) == 2
    expected = np.zeros((2, 8, 9), dtype=np.uint8)
    expected[0, 2:6, 1:4] = 1
    masks = LoadGeoJSON(classes=["a", "b"])(path, (8, 9))
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, expected)

    item = {"image": torch.zeros(3, 4, 5), "label": str(path)}
    assert LoadGeoJSONd("label", classes=["a"], scale=2)(item)["label"].shape == (1, 4, 5)
    assert isinstance(LoadGeoJSONd("label", shape_key=None)(item)["label"], Features)
    assert "label" not in LoadGeoJSONd("label", allow_missing_keys=True)({"image": item["image"]})
