import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from monai.data import MetaTensor

from monai_ext.formats.geojson import read_geojson
from monai_ext.transforms import FindCellsd, SaveCellsd
from tests.data.test_cells import NAMES, compact, painted, reddest
from tests.formats.test_measurements import blobs

SIDE_TOL = 1e-6


def item(folder, name="a/b.png", seed=0, mpp=0.5, scale=2.0):
    labels = compact(blobs(seed))
    image = MetaTensor(
        torch.from_numpy(np.moveaxis(painted(labels)[0], -1, 0).copy()),
        meta={"filename_or_obj": str(folder / name), "mpp": mpp, "scale": scale},
    )
    probability = torch.from_numpy(np.where(labels > 0, 0.9, 0.2))[None]
    return {"source": image, "instances": torch.from_numpy(labels)[None], "probability": probability}


def saved(tmp_path, d, **options):
    find = FindCellsd(classifier=reddest, class_names=NAMES)
    save = SaveCellsd(output_dir=tmp_path / "out", data_root_dir=tmp_path, **options)
    return save(find(d))["cells"]


def test_files_agree_with_one_another(tmp_path):
    d = item(tmp_path)
    cells = saved(tmp_path, d, colours={"muscle": (9, 8, 7)})
    features = read_geojson(tmp_path / "out" / "a" / "b.geojson")
    table = pd.read_csv(tmp_path / "out" / "a" / "b_cells.csv")
    assert len(features) == len(table) == len(cells) == d["instances"].max() > 10
    assert (np.diff(table["confidence"]) >= 0).all()
    for name in ("confidence", "area_um2", "probability_muscle", "nucleus_probability"):
        np.testing.assert_array_equal(features.measurements[name], table[name])
    assert [*features.classes] == [*table["class"]]
    assert features.colors["muscle"] == (9, 8, 7)
    # a centroid is inside its outline's box, both in px of the file
    left, top, right, bottom = shapely.bounds(features.geometry).T
    assert ((table["col"] + 0.5 > left) & (table["col"] + 0.5 < right)).all()
    assert ((table["row"] + 0.5 > top) & (table["row"] + 0.5 < bottom)).all()
    assert right.max() > 200  # twice as large as the map

    (row,) = pd.read_csv(tmp_path / "out" / "summary.csv").to_dict("records")
    mm2 = 150 * 170 * 0.25e-6
    assert row["image"] == "a/b.png"
    assert row["cells"] == len(cells) == sum(row[name] for name in NAMES)
    assert row["area_mm2"] == pytest.approx(mm2, abs=SIDE_TOL)
    assert row["immune_per_mm2"] == pytest.approx(row["immune"] / mm2, abs=1e-2)

    picture = cv2.imread(str(tmp_path / "out" / "a" / "b_overlay.png"))[..., ::-1]
    assert picture.shape == (150, 170, 3)
    assert (picture == (9, 8, 7)).all(-1).any() == (row["muscle"] > 0)


def test_without_classes(tmp_path):
    d = FindCellsd()(item(tmp_path))
    SaveCellsd(output_dir=tmp_path / "out", data_root_dir=tmp_path)(d)
    features = read_geojson(tmp_path / "out" / "a" / "b.geojson")
    assert set(features.classes) == {None}
    np.testing.assert_allclose(features.measurements["confidence"], 0.9)
    assert set(pd.read_csv(tmp_path / "out" / "summary.csv")) == {"image", "area_mm2", "cells", "cells_per_mm2"}


def test_no_cell(tmp_path):
    d = item(tmp_path)
    d["instances"].zero_()
    saved(tmp_path, d)
    assert len(read_geojson(tmp_path / "out" / "a" / "b.geojson")) == 0
    assert len(pd.read_csv(tmp_path / "out" / "a" / "b_cells.csv")) == 0
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["cells"].tolist() == [0]


def test_without_a_resolution_cells_are_counted_and_nothing_is_given_in_um(tmp_path, capsys):
    save = SaveCellsd(output_dir=tmp_path / "out", data_root_dir=tmp_path)
    for name in ("a/b.png", "a/c.png"):
        cells = save(FindCellsd()(item(tmp_path, name, mpp=0)))["cells"]
    assert len(cells) == len(FindCellsd()(item(tmp_path))["cells"]) > 10
    features = read_geojson(tmp_path / "out" / "a" / "b.geojson")
    assert not {"area_um2", "perimeter_um"} & set(features.measurements)
    assert "eccentricity" in features.measurements
    table = pd.read_csv(tmp_path / "out" / "a" / "b_cells.csv")
    assert table[["area_um2", "perimeter_um"]].isna().all(axis=None)
    rows = pd.read_csv(tmp_path / "out" / "summary.csv")
    assert rows["cells"].tolist() == [len(cells)] * 2
    assert rows[["area_mm2", "cells_per_mm2"]].isna().all(axis=None)
    assert capsys.readouterr().err.count("--mpp") == 1  # for both images together


def test_a_resolution_given_here_counts(tmp_path):
    given, stated = FindCellsd(mpp=0.5)(item(tmp_path, mpp=0))["cells"], FindCellsd()(item(tmp_path))["cells"]
    np.testing.assert_array_equal(given.measurements["area_um2"], stated.measurements["area_um2"])


def test_what_was_never_scanned_is_no_area(tmp_path):
    d = FindCellsd()(item(tmp_path))
    d["source"].meta["scanned"] = 0.25
    SaveCellsd(output_dir=tmp_path / "out", data_root_dir=tmp_path)(d)
    (row,) = pd.read_csv(tmp_path / "out" / "summary.csv").to_dict("records")
    assert row["area_mm2"] == pytest.approx(150 * 170 * 0.25e-6 / 4, abs=SIDE_TOL)
    assert row["cells_per_mm2"] == pytest.approx(4 * row["cells"] / (150 * 170 * 0.25e-6), rel=1e-3)


def test_pieces_are_counted(tmp_path, capsys):
    """Where the inferer says how many there are."""
    save = SaveCellsd(output_dir=tmp_path / "out", data_root_dir=tmp_path)
    for name, cut in (("a.png", 0), ("b.png", 2)):
        save({**FindCellsd()(item(tmp_path, name)), "cut": torch.tensor(cut)})
    assert pd.read_csv(tmp_path / "out" / "summary.csv")["cut"].tolist() == [0, 2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("b.png: 2 of ")
