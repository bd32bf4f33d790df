"""What challenges are handed in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import DataListError, InputError
from monai_ext.commands import main
from monai_ext.reports import hand_in
from monai_ext.transforms import SaveDetectionsd


@pytest.fixture
def results(tmp_path):
    """Detections of two images, of which one has none, as inference writes them."""
    save = SaveDetectionsd(output_dir=tmp_path / "eval", data_root_dir=tmp_path / "images")
    for name, points in {"05/01": [[14.4, 34.0, 9, 0.9], [50.0, 3.0, 9, 0.75]], "06/01": []}.items():
        meta = {"filename_or_obj": str(tmp_path / "images" / f"{name}.tif"), "mpp": 0.25}
        blobs = torch.zeros(64, 64, dtype=torch.int32)
        for number, (row, col, *_) in enumerate(points, start=1):
            blobs[int(row) - 1 : int(row) + 2, int(col) - 1 : int(col) + 2] = number
        item = {"image": MetaTensor(torch.zeros(3, 64, 64, dtype=torch.uint8), meta=meta), "blobs": blobs}
        save(item | {"points": torch.tensor(points, dtype=torch.float32).reshape(-1, 4)})
    return tmp_path / "eval"


def test_row_and_column_of_each_image(results, tmp_path):
    folder = hand_in(results, tmp_path / "handed")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.csv")) == ["05/01.csv", "06/01.csv"]
    assert (folder / "05" / "01.csv").read_text() == "14,34\n50,3\n", "points, not their outlines as well"
    assert (folder / "06" / "01.csv").read_text() == ""


def test_a_review_beside_a_result_is_not_handed_in(results, tmp_path):
    (results / "05" / "01_reviewed.geojson").write_bytes((results / "05" / "01.geojson").read_bytes())
    folder = hand_in(results, tmp_path / "handed")
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*.csv")) == ["05/01.csv", "06/01.csv"]


def test_as_mitos_atypia_asks(results, tmp_path, capsys):
    main(["hand_in", "--results", str(results), "--dst", str(tmp_path / "handed"), "--columns", "x,y,score"])
    assert np.loadtxt(tmp_path / "handed" / "05" / "01.csv", delimiter=",").tolist() == [[34, 14, 0.9], [3, 50, 0.75]]


def test_what_cannot_be_handed_in(results, tmp_path):
    with pytest.raises(InputError, match="columns: expected some of row, col, x, y, score, found 'row,area'"):
        hand_in(results, tmp_path / "handed", "row,area")
    with pytest.raises(InputError, match="expected the output folder of an inference"):
        hand_in(tmp_path / "images", tmp_path / "handed")
    state = {
        "05/01.tif": {"status": "done"},
        "06/01.tif": {"status": "failed", "reason": "x"},
        "7.tif": {"status": "pending"},
    }
    (results / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataListError) as error:
        hand_in(results, tmp_path / "handed")
    assert error.value.problems == [
        "06/01.tif: expected its detections, found failed",
        "7.tif: expected its detections, found pending",
    ]
    assert not (tmp_path / "handed").exists()
