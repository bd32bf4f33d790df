import dataclasses
import json
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import shapely
import tifffile
import torch
from scipy import ndimage

from monai_ext.base.errors import InputError
from monai_ext.data import Cohort, read_geojson
from monai_ext.formats.geojson import to_xy
from monai_ext.formats.hotspot import hot_spot
from monai_ext.slides import OutputSettings, SlideInferer, check_slide, iterative_nms
from monai_ext.slides import outputs as outputs_module
from tests.slides.conftest import ConvPredictor, DarkPredictor, files, paint, write_tiff

SCORE_TOL = 1e-6
STATED_TOL = 1e-4  # relative: TIFF states a resolution as a ratio
OUTPUTS = ["_detections.csv", "_heatmap.ome.tif", "_overlay.png", "_plan.json", ".geojson"]


def inferer(output, predictor=None, target=0.5, **options):
    found = {field.name for field in dataclasses.fields(OutputSettings)}
    settings = OutputSettings(**{"nms_radius_um": 40, **{k: v for k, v in options.items() if k in found}})
    options = {"tile_px": 160, **{k: v for k, v in options.items() if k not in found}}
    return SlideInferer(predictor or ConvPredictor(), output, target, outputs=settings, **options)


def heat_map(path):
    return np.atleast_2d(tifffile.imread(path))


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    (folder / "ward").mkdir()
    write_tiff(folder / "a.tif", paint(620, 930), 0.5, levels=2)
    write_tiff(folder / "ward" / "b.tif", paint(500, 400, seed=1), 0.5)
    cv2.imwrite(str(folder / "ward" / "b.png"), paint(300, 300, seed=2)[..., ::-1])
    return folder


@pytest.mark.parametrize(
    ("base", "target"), [(0.5, 0.5), (0.499, 1.0), (0.499, 0.25), (0.25, 1.0), (0.3, 0.8), (0.5, 2.0)]
)
@pytest.mark.parametrize("margin", [0, 13])
def test_what_lies_on_the_slide_is_found_there(base, target, margin, tmp_path):
    """A dark square on tissue: region, detection and heat map must lie on it, in pixels of level 0."""
    image = np.full((2000, 2400, 3), (225, 180, 205), np.uint8)
    square = (slice(1100, 1500), slice(1700, 2200))
    image[square] = (80, 30, 70)
    path = write_tiff(tmp_path / "a.tif", image, base, levels=3)
    result = inferer(
        tmp_path, DarkPredictor(8, margin), target, nms_radius_um=1e4, detection_threshold=0.7, tile_px=300
    )(path)
    plan = json.loads((tmp_path / "a_plan.json").read_text())
    cell = plan["step"] * plan["scale"]
    assert plan["mpp"] == pytest.approx(target, 0.1)
    assert cell * base == pytest.approx(plan["cell_um"], STATED_TOL)
    features = read_geojson(tmp_path / "a.geojson")
    (region,) = features.geometry[shapely.get_type_id(features.geometry) == 3]
    left, top, right, bottom = region.bounds
    assert abs(left - 1700) <= cell
    assert abs(right - 2200) <= cell
    assert abs(top - 1100) <= cell
    assert abs(bottom - 1500) <= cell
    assert region.area == pytest.approx(400 * 500, rel=2 * cell * 1800 / (400 * 500))
    area = features.measurements["area_um2"][0]
    assert area == pytest.approx(region.area * base**2, STATED_TOL)
    assert result.summary["positive_mm2"] == pytest.approx(area * 1e-6)
    assert features.measurements["max_score"][0] == pytest.approx(1 - 60 / 255, abs=0.01)

    (point,) = pd.read_csv(tmp_path / "a_detections.csv").itertuples()
    assert 1100 <= point.row <= 1500
    assert 1700 <= point.col <= 2200
    np.testing.assert_allclose(to_xy([[point.row, point.col]])[0], [point.x, point.y], atol=1e-5)
    drawn = features.geometry[-1]
    assert (drawn.x, drawn.y) == pytest.approx((point.x, point.y), abs=1e-5)

    heat = heat_map(tmp_path / "a_heatmap.ome.tif")
    assert heat.shape == tuple(plan["shape"])
    hot = np.argwhere(heat > 0.7)
    np.testing.assert_allclose((hot.min(axis=0)) * cell, [1100, 1700], atol=cell)
    np.testing.assert_allclose((hot.max(axis=0) + 1) * cell, [1500, 2200], atol=cell)


def test_outputs_agree_with_one_another(slides, tmp_path):
    result = inferer(tmp_path, threshold=0.06, detection_threshold=0.08)(slides / "a.tif")
    assert sorted(files(tmp_path)) == sorted(f"a{suffix}" for suffix in OUTPUTS)
    heat = heat_map(tmp_path / "a_heatmap.ome.tif")
    plan = json.loads((tmp_path / "a_plan.json").read_text())
    table = pd.read_csv(tmp_path / "a_detections.csv")
    features = read_geojson(tmp_path / "a.geojson")
    is_point = shapely.get_type_id(features.geometry) == 0

    points, scores = iterative_nms(heat, round(40 / 4), 0.08)
    assert 0 < len(points) == len(table) == is_point.sum() == result.summary["detections"]
    np.testing.assert_allclose(table["score"], scores, atol=SCORE_TOL)
    np.testing.assert_allclose(table[["row", "col"]], (points + 0.5) * 8 - 0.5)
    np.testing.assert_allclose(features.measurements["score"][is_point], scores, atol=SCORE_TOL)
    np.testing.assert_allclose(shapely.get_coordinates(features.geometry[is_point]), table[["x", "y"]])
    assert (np.diff(table["score"]) <= 0).all()

    regions = features.geometry[~is_point]
    assert len(regions) == result.summary["regions"]
    assert shapely.is_valid(regions).all()
    covered = heat > 0.06
    assert shapely.area(regions).sum() == pytest.approx(covered.sum() * 64, rel=0.02)  # cut off at the slide's edge
    assert (features.measurements["max_score"][~is_point] > 0.06).all()
    assert (features.measurements["mean_score"] <= features.measurements["max_score"])[~is_point].all()
    assert max(features.measurements["max_score"][~is_point]) == pytest.approx(heat.max())
    assert set(features.classes) == {"Tumor"}
    bounds = shapely.total_bounds(features.geometry)
    assert (bounds >= 0).all()
    assert (bounds[2:] <= [930, 620]).all()

    assert result.summary["score"] == pytest.approx(float(heat.max()))
    assert result.summary["mean"] == pytest.approx(heat.sum() / plan["tissue_cells"])
    assert result.summary["positive_mm2"] == pytest.approx(covered.sum() * 16e-6)
    assert result.summary["tissue_mm2"] == pytest.approx(np.pi * 930 * 0.38 * 620 * 0.36 * 0.25e-6, rel=0.06)
    assert (heat > 0).sum() == plan["tissue_cells"]
    picture = cv2.imread(str(tmp_path / "a_overlay.png"))
    assert max(picture.shape) <= 4096
    assert picture.std() > 5
    assert result.tiles == plan["tiles"]
    assert result.seconds_per_mm2 == pytest.approx(result.seconds / result.summary["tissue_mm2"])


def test_map_does_not_depend_on_the_tiles(slides, tmp_path):
    inferer(tmp_path / "small")(slides / "a.tif")
    inferer(tmp_path / "large", tile_px=2000)(slides / "a.tif")
    small, large = (heat_map(tmp_path / name / "a_heatmap.ome.tif") for name in ("small", "large"))
    np.testing.assert_allclose(small, large, atol=1e-5)
    assert (small > 0).any()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_selective_predictors_are_told_where_tissue_is(slides, batch_size, tmp_path):
    class Selective(ConvPredictor):
        selective, count = True, 0

        def __call__(self, tiles, wanted):
            values = super().__call__(tiles)
            assert wanted.shape == values[:, 0].shape
            self.count += int(wanted.sum())
            return torch.where(wanted[:, None], values, 0.5)

    predictor = Selective()
    inferer(tmp_path / "some", predictor, batch_size=batch_size)(slides / "a.tif")
    inferer(tmp_path / "all", batch_size=batch_size)(slides / "a.tif")
    some, everything = (heat_map(tmp_path / name / "a_heatmap.ome.tif") for name in ("some", "all"))
    np.testing.assert_array_equal(some, everything)
    assert predictor.count == json.loads((tmp_path / "some/a_plan.json").read_text())["tissue_cells"]


def test_all_of_the_slide(slides, tmp_path):
    inferer(tmp_path, tissue=False)(slides / "a.tif")
    assert (heat_map(tmp_path / "a_heatmap.ome.tif") > 0).all()


@pytest.mark.parametrize("colour", [255, 0, 238])
def test_slide_without_tissue_is_ordinary(colour, tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.full((700, 900, 3), colour, np.uint8), 0.5)
    result = inferer(tmp_path)(path)
    assert result.summary == {
        "score": 0, "mean": 0, "positive_mm2": 0, "tissue_mm2": 0, "regions": 0, "detections": 0,
        "density_per_mm2": None,
    }  # fmt: skip
    assert (result.tiles, result.seconds_per_mm2) == (0, None)
    assert len(read_geojson(tmp_path / "a.geojson")) == 0
    assert pd.read_csv(tmp_path / "a_detections.csv").columns.tolist() == ["row", "col", "x", "y", "score"]
    heat = heat_map(tmp_path / "a_heatmap.ome.tif")
    assert heat.shape == (88, 113)
    assert not heat.any()
    assert (tmp_path / "a_overlay.png").is_file()


def test_several_channels(slides, tmp_path):
    predictor = ConvPredictor(channels=3)
    results = [inferer(tmp_path / str(k), predictor, channel=k)(slides / "a.tif") for k in range(3)]
    heat = tifffile.imread(tmp_path / "0" / "a_heatmap.ome.tif")
    assert heat.shape == (3, 78, 117)
    for k, result in enumerate(results):
        assert result.summary["score"] == pytest.approx(float(heat[k].max()))


def test_tiny_image(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((3, 5, 3), (205, 130, 180), np.uint8))
    assert inferer(tmp_path, tissue=False)(tmp_path / "a.png").summary["score"] > 0
    assert heat_map(tmp_path / "a_heatmap.ome.tif").shape == (1, 1)


def test_large_maps_are_searched_in_a_reduced_level(slides, tmp_path, monkeypatch):
    inferer(tmp_path / "all", ConvPredictor(step=1), threshold=0.1)(slides / "a.tif")
    monkeypatch.setattr(outputs_module, "_MOST_CELLS", 620 * 930 // 10)
    inferer(tmp_path / "less", ConvPredictor(step=1), threshold=0.1)(slides / "a.tif")
    exact, coarse = (pd.read_csv(tmp_path / name / "a_detections.csv") for name in ("all", "less"))
    assert len(coarse) > 3
    assert exact["score"][0] == coarse["score"][0]
    assert np.hypot(exact["row"][0] - coarse["row"][0], exact["col"][0] - coarse["col"][0]) <= 4
    a, b = (files(tmp_path / name)["a_heatmap.ome.tif"] for name in ("all", "less"))
    assert a == b


def test_regions_as_detections(slides, tmp_path, monkeypatch):
    """Blobs of a certain size and mean, each a point in its middle; exact however large the map."""
    monkeypatch.setattr(outputs_module, "_SMALLEST", 32)
    monkeypatch.setattr(outputs_module, "_MOST_CELLS", 64 * 64)
    options = {"objects": "region", "threshold": 0.06, "min_area_um2": 100, "min_score": 0.062, "hotspot_mm2": 0.01}
    result = inferer(tmp_path, classification="Mitosis", **options)(slides / "a.tif")
    heat = heat_map(tmp_path / "a_heatmap.ome.tif")
    labels, count = ndimage.label(heat > 0.06, np.ones((3, 3)))
    numbers = range(1, count + 1)
    areas, means = ndimage.sum(heat > 0.06, labels, numbers) * 16, ndimage.mean(heat, labels, numbers)
    kept = (areas > 100) & (means > 0.062)
    assert 1 < kept.sum() < count
    table = pd.read_csv(tmp_path / "a_detections.csv")
    assert list(table) == ["row", "col", "x", "y", "score", "area_um2"]
    np.testing.assert_allclose(table["score"], np.sort(means[kept])[::-1], atol=SCORE_TOL)
    np.testing.assert_allclose(np.sort(table["area_um2"]), np.sort(areas[kept]))
    best = np.flatnonzero(kept)[np.argmax(means[kept])] + 1
    centre = ndimage.center_of_mass(heat, labels, best)
    np.testing.assert_allclose(table.loc[0, ["row", "col"]].astype(float), np.add(centre, 0.5) * 8 - 0.5, atol=1e-5)

    features = read_geojson(tmp_path / "a.geojson")
    points = shapely.get_type_id(features.geometry) == 0
    assert points.sum() == (~points).sum() == result.summary["detections"] == kept.sum()
    assert set(features.classes) == {"Mitosis"}
    kinds = [f["properties"]["objectType"] for f in json.loads((tmp_path / "a.geojson").read_text())["features"]]
    assert sorted(set(kinds)) == ["annotation", "detection"]
    assert result.summary["density_per_mm2"] == pytest.approx(kept.sum() / result.summary["tissue_mm2"])
    spot = hot_spot(table[["row", "col"]].to_numpy(), (620, 930), 0.5, 0.01)
    assert 0 < spot.count <= kept.sum()
    assert result.summary["hotspot_count"] == spot.count
    assert result.summary["hotspot_row"] == pytest.approx(spot.row, abs=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"objects": "cells"},
        {"threshold": 1.5},
        {"min_score": "high"},
        {"nms_radius_um": -1},
        {"nms_radius_um": None},
        {"min_area_um2": "large"},
        {"hotspot_mm2": 0},
        {"hotspot_mm2": float("nan")},
    ],
)
def test_wrong_output_settings(wrong):
    with pytest.raises(InputError, match=f"OutputSettings {next(iter(wrong))}: expected"):
        OutputSettings(**wrong)


# -- predictors that fail --------------------------------------------------------------------------------------------


def test_values_that_are_not_finite(slides, tmp_path):
    class Broken(ConvPredictor):
        def __call__(self, tiles):
            return super().__call__(tiles) * torch.nan

    with pytest.raises(InputError, match=r"prediction of a\.tif: expected finite values, found NaN"):
        inferer(tmp_path, Broken())(slides / "a.tif")
    assert files(tmp_path) == {}


# -- stopping and going on -------------------------------------------------------------------------------------------


class Stopping(ConvPredictor):
    """Stops the run after some batches, as Ctrl-C would."""

    def __init__(self, after=10**9, **options):
        super().__init__(**options)
        self.left, self.calls = after, 0

    def __call__(self, tiles):
        if self.calls == self.left:
            raise KeyboardInterrupt
        self.calls += 1
        return super().__call__(tiles)


def batches(folder, size):
    """How many there are in each stripe of a plan: neighbours of one shape, so many at most."""
    plan = json.loads((folder / "a_plan.json").read_text())
    shapes = [[tuple(-(-side // plan["grain"]) for side in tile[2:]) for tile in each] for each in plan["stripes"]]
    return [sum(-(-len(list(alike)) // size) for _, alike in groupby(stripe)) for stripe in shapes]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("stops", [[0], [1], [1, 1], [0, 1, 0, 1]])
def test_a_stopped_slide_goes_on(slides, stops, batch_size, tmp_path):
    """Stopped in the stripe after so many more."""
    whole = Stopping()
    inferer(tmp_path / "whole", whole, batch_size=batch_size)(slides / "a.tif")
    counts = batches(tmp_path / "whole", batch_size)
    assert whole.calls == sum(counts)
    progress = tmp_path / "cut" / "a.partial" / "progress.json"
    done = 0
    for more in stops:
        after = sum(counts[done : done + more]) + 1
        with pytest.raises(KeyboardInterrupt):
            inferer(tmp_path / "cut", Stopping(after), batch_size=batch_size)(slides / "a.tif")
        done += more
        assert (json.loads(progress.read_text())["stripes"] if progress.is_file() else 0) == done
    last = Stopping()
    inferer(tmp_path / "cut", last, batch_size=batch_size)(slides / "a.tif")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert list((tmp_path / "cut").rglob("*.partial")) == []
    assert last.calls == sum(counts[done:])


@pytest.mark.parametrize(
    "last",
    ["slides.outputs.find_regions", "slides.outputs.GeoJSONWriter.write", "slides.partial.PartialSlide.close"],
)
def test_stopped_while_writing(slides, last, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    inferer(tmp_path / "whole", Stopping())(slides / "a.tif")
    with monkeypatch.context() as patch:
        patch.setattr(f"monai_ext.{last}", stop)
        with pytest.raises(KeyboardInterrupt):
            inferer(tmp_path / "cut", Stopping())(slides / "a.tif")
    visible = {name for name in files(tmp_path / "cut") if "partial" not in name}
    assert visible == (set() if "outputs" in last else set(files(tmp_path / "whole")))
    last = Stopping()
    inferer(tmp_path / "cut", last)(slides / "a.tif")
    assert last.calls == 0
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    "other",
    [{"fingerprint": "other weights"}, {"tile_px": 200}, {"tissue": False}, {"resume": False}, {"batch_size": 2}],
)
def test_partial_map_of_other_settings_is_not_gone_on_with(slides, other, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        inferer(tmp_path / "cut", Stopping(12))(slides / "a.tif")
    again = Stopping()
    inferer(tmp_path / "cut", again, **other)(slides / "a.tif")
    assert "a.tif: begun anew, for" in capsys.readouterr().err
    whole = Stopping()
    inferer(tmp_path / "whole", whole, **other)(slides / "a.tif")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert again.calls == whole.calls


@pytest.mark.parametrize("damage", ["map.npy gone", "map.npy short", "progress.json text", "progress.json empty"])
def test_partial_map_that_somebody_was_at(slides, damage, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        inferer(tmp_path / "cut", Stopping(12))(slides / "a.tif")
    name, what = damage.split()
    path = tmp_path / "cut" / "a.partial" / name
    if what == "gone":
        path.unlink()
    else:
        path.write_bytes({"short": path.read_bytes()[:-9], "text": b"no JSON", "empty": b"{}"}[what])
    inferer(tmp_path / "cut", Stopping())(slides / "a.tif")
    assert "begun anew" in capsys.readouterr().err
    inferer(tmp_path / "whole", Stopping())(slides / "a.tif")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_partial_map_of_other_predictor_settings_is_not_gone_on_with(slides, tmp_path, capsys):
    """What a predictor's own fingerprint tells: here the same class and geometry with other weights."""

    class Telling(Stopping):
        fingerprint = "these weights"

    with pytest.raises(KeyboardInterrupt):
        inferer(tmp_path / "cut", Telling(12))(slides / "a.tif")
    other = Telling(seed=1)
    other.fingerprint = "those weights"
    inferer(tmp_path / "cut", other)(slides / "a.tif")
    assert capsys.readouterr().err.count("begun anew") == 1
    inferer(tmp_path / "whole", Telling(seed=1))(slides / "a.tif")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert other.calls == sum(batches(tmp_path / "whole", 1))


def test_killed_while_new_files_replace_old_ones(slides, tmp_path, monkeypatch):
    """Files of two runs side by side would look whole: rather are some missing, and the next run makes them."""
    inferer(tmp_path).run(cohort(slides / "a.tif", tmp_path))
    replaced, replace = [], Path.replace

    def stop(self, target):
        if self.name.startswith("output"):
            replaced.append(target)
            if len(replaced) == 3:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        inferer(tmp_path, threshold=0.1).run(cohort(slides / "a.tif", tmp_path))
    assert {name for name in files(tmp_path) if name.startswith(("a_", "a.geojson"))} == {
        path.name for path in replaced[:2]
    }
    monkeypatch.undo()
    assert len(inferer(tmp_path).run(cohort(slides / "a.tif", tmp_path))) == 1
    inferer(tmp_path / "alone")(slides / "a.tif")
    made = {name: content for name, content in files(tmp_path).items() if name.startswith(("a_", "a.geojson"))}
    assert made == files(tmp_path / "alone")


@pytest.mark.parametrize("text", ["false", "False"])
def test_resume_from_the_command_line(slides, text, tmp_path):
    inferer(tmp_path, resume=text).run(cohort(slides / "a.tif", tmp_path, resume=text))
    again = inferer(tmp_path, resume=text).run(cohort(slides / "a.tif", tmp_path, resume=text))
    assert [result.name for result in again] == ["a"]


@pytest.mark.slow
def test_two_runs_do_not_work_on_one_slide(slides, tmp_path):
    class Nested(ConvPredictor):
        def __call__(self, tiles):
            with pytest.raises(InputError, match=r"a\.partial: expected no other run at work on this slide"):
                inferer(tmp_path)(slides / "a.tif")
            return super().__call__(tiles)

    inferer(tmp_path, Nested())(slides / "a.tif")
    inferer(tmp_path / "alone")(slides / "a.tif")
    got = {name: content for name, content in files(tmp_path).items() if "/" not in name}
    assert got == files(tmp_path / "alone")


# -- cohorts ---------------------------------------------------------------------------------------------------------


def cohort(source, output, **options):
    return Cohort(source, output, None, 0.5, check=check_slide, **{"resume": True, **options})


def test_cohort(slides, tmp_path, capsys):
    slide_cohort = cohort(slides, tmp_path)
    results = inferer(tmp_path, title="Lymph nodes", notes={"weights": "of this test"}).run(slide_cohort)
    slide_cohort.close()
    assert "3 of 3 images done" in capsys.readouterr().out
    assert [result.name for result in results] == ["a", "ward/b.png", "ward/b.tif"]
    assert set(files(tmp_path)) == {
        f"{name}{suffix}" for name in ("a", "ward/b.png", "ward/b.tif") for suffix in OUTPUTS
    } | {"state.json", "summary.csv", "report.html"}
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary["image"].tolist() == ["a.tif", "ward/b.png", "ward/b.tif"]
    assert list(summary) == [
        "image", "score", "mean", "positive_mm2", "tissue_mm2", "regions", "detections",
        "density_per_mm2",
    ]  # fmt: skip
    assert summary["score"].tolist() == pytest.approx([result.summary["score"] for result in results])
    entry = json.loads((tmp_path / "state.json").read_text())[str(slides / "a.tif")]
    assert entry["status"] == "done"
    assert entry["seconds"] >= 0
    assert entry["seconds_per_mm2"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "Lymph nodes" in page
    assert "of this test" in page
    assert page.count("data:image/jpeg") == 3


def test_done_slides_are_left_out(slides, tmp_path):
    first = Stopping()
    inferer(tmp_path, first).run(cohort(slides, tmp_path))
    before = files(tmp_path)
    second = Stopping()
    assert inferer(tmp_path, second).run(cohort(slides, tmp_path)) == []
    assert second.calls == 0
    after = files(tmp_path)
    of_a_run = ("report.html", "state.sqlite")  # which is there until the cohort is closed
    assert {k: v for k, v in before.items() if k not in of_a_run} == {
        k: v for k, v in after.items() if k not in of_a_run
    }
    (tmp_path / "a.geojson").unlink()
    assert [result.name for result in inferer(tmp_path, Stopping()).run(cohort(slides, tmp_path))] == ["a"]
    assert len(inferer(tmp_path, Stopping(), threshold=0.51).run(cohort(slides, tmp_path))) == 3
    assert len(inferer(tmp_path, Stopping(), threshold=0.51, resume=False).run(cohort(slides, tmp_path))) == 3
    assert len(inferer(tmp_path, Stopping(), threshold=0.51).run(cohort(slides, tmp_path, resume=False))) == 3


def test_a_bad_slide_is_noted_and_the_rest_goes_on(slides, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a", "c"):
        write_tiff(source / f"{name}.tif", paint(620, 930), 0.5, compression="jpeg")
    write_tiff(source / "b.tif", paint(620, 930), None)
    with tifffile.TiffFile(source / "a.tif") as tiff:
        middle = len(tiff.pages[0].dataoffsets) // 2
        offset, count = tiff.pages[0].dataoffsets[middle], tiff.pages[0].databytecounts[middle]
    inferer(tmp_path / "out", threshold=0.4).run(cohort(source / "a.tif", tmp_path / "out"))  # when it was whole
    with (source / "a.tif").open("r+b") as file:
        file.seek(offset)
        file.write(b"\x5a" * count)
    slide_cohort = cohort(source, tmp_path / "out")
    inferer(tmp_path / "out").run(slide_cohort)
    with pytest.raises(SystemExit) as caught:
        slide_cohort.close()
    assert caught.value.code == 1
    state = json.loads((tmp_path / "out" / "state.json").read_text())
    reasons = {path.split("/")[-1]: entry.get("reason") for path, entry in state.items()}
    assert reasons["c.tif"] is None
    assert "--mpp" in reasons["b.tif"]
    assert reasons["a.tif"].startswith(f"{source / 'a.tif'}, level 0, row ")
    made = set(files(tmp_path / "out"))
    assert made == {f"c{suffix}" for suffix in OUTPUTS} | {"state.json", "summary.csv", "report.html"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "level 0, row" in page
    assert "failed:" in capsys.readouterr().err


def test_a_bug_in_the_network_fails_its_slide_alone(slides, tmp_path, capsys):
    class Broken(ConvPredictor):
        calls = 0

        def __call__(self, tiles):
            Broken.calls += 1
            if Broken.calls == 2:
                raise RuntimeError("out of memory")
            return super().__call__(tiles)

    inferer(tmp_path, threshold=0.1).run(cohort(slides / "a.tif", tmp_path))  # what it leaves is not this run's
    slide_cohort = cohort(slides, tmp_path)
    assert len(inferer(tmp_path, Broken()).run(slide_cohort)) == 2
    assert "Traceback" in capsys.readouterr().err
    assert slide_cohort.state[str(slides / "a.tif")]["reason"] == "RuntimeError: out of memory"
    assert not [name for name in files(tmp_path) if name.startswith("a")]


def test_what_was_computed_before_a_bug_is_kept(slides, tmp_path):
    class Broken(Stopping):
        def __call__(self, tiles):
            if self.calls == 12:
                raise RuntimeError("out of memory")
            return super().__call__(tiles)

    with pytest.raises(RuntimeError, match="out of memory"):
        inferer(tmp_path / "cut", Broken())(slides / "a.tif")
    kept = [".lock", "map.npy", "plan.json", "progress.json"]
    assert [name.split("/")[-1] for name in files(tmp_path / "cut")] == kept
    again = Broken()
    again.calls = 10**6
    inferer(tmp_path / "cut", again)(slides / "a.tif")
    inferer(tmp_path / "whole")(slides / "a.tif")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert again.calls == 10**6 + sum(batches(tmp_path / "whole", 1)[1:])


def test_processes_that_do_not_know_of_one_another_are_refused(slides, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"torchrun: expected torch\.distributed\.init_process_group"):
        inferer(tmp_path).run(cohort(slides, tmp_path))


def test_results_among_the_slides_are_no_slides(tmp_path):
    write_tiff(tmp_path / "a.tif", paint(300, 400), 0.5)
    for _ in range(2):
        slide_cohort = cohort(tmp_path, tmp_path)
        assert [item["image"] for item in slide_cohort.items] == [str(tmp_path / "a.tif")]
        inferer(tmp_path).run(slide_cohort)


def test_resolution_of_a_data_list(slides, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    write_tiff(source / "b.tif", paint(620, 930), None)
    (source / "dataset.json").write_text(json.dumps({"test": [{"image": "b.tif", "mpp": 0.25}], "training": []}))
    (result,) = inferer(tmp_path / "out").run(cohort(source, tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "b_plan.json").read_text())["scale"] == 2
    assert result.summary["tissue_mm2"] > 0


@pytest.mark.real_data
def test_real_slide(real_data, tmp_path):
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    result = inferer(tmp_path, DarkPredictor(24, 36), 1.0, tile_px=1536, nms_radius_um=75)(path)
    plan = json.loads((tmp_path / "CMU-1-Small-Region_plan.json").read_text())
    assert plan["base_mpp"] == pytest.approx(0.499)
    assert plan["mpp"] == pytest.approx(1.0, abs=1e-3)
    assert 0.6 < result.summary["tissue_mm2"] < 0.68
    with tifffile.TiffFile(tmp_path / "CMU-1-Small-Region_heatmap.ome.tif") as tiff:
        size = np.array(tiff.series[0].shape) * plan["cell_um"]
    np.testing.assert_allclose(size, np.array([2967, 2220]) * 0.499, atol=plan["cell_um"])


def test_linked_slides_keep_the_links_name_and_folder(slides, tmp_path):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "patient 1").symlink_to(slides / "ward")
    (source / "slide.tif").symlink_to(slides / "a.tif")
    cohort = Cohort(source, output, target_mpp=0.5, check=check_slide)
    inferer(output).run(cohort)
    cohort.close()
    assert sorted(pd.read_csv(output / "summary.csv")["image"]) == ["patient 1/b.png", "patient 1/b.tif", "slide.tif"]
    for name in ("patient 1/b.png", "patient 1/b.tif", "slide"):
        assert (output / f"{name}.geojson").is_file()


def test_a_slide_without_its_last_tiles_fails_and_the_others_go_on(slides, tmp_path, capsys):
    source = tmp_path / "in"
    source.mkdir()
    (source / "b.tif").symlink_to(slides / "ward" / "b.tif")
    tifffile.imwrite(source / "a.tif", paint(620, 930), photometric="rgb", tile=(256, 256), metadata=None)
    (source / "a.tif").write_bytes((source / "a.tif").read_bytes()[:-200_000])  # the last tile and a little more
    cohort = Cohort(source, tmp_path / "out", 0.5, 0.5, check=check_slide)
    (result,) = inferer(tmp_path / "out").run(cohort)
    assert result.name == "b"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "a.tif" in line]
    assert line.startswith(f"left out: {source / 'a.tif'}: expected a whole file of")
    with pytest.raises(SystemExit):
        cohort.close()
