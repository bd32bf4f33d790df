import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.run_state import RunState
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.formats.outlines import label_map_to_polygons
from monai_ext.metrics.instance import AggregatedJaccardIndex, Overlaps, PanopticQuality
from monai_ext.reports import agreement
from monai_ext.reports.agreement import compare_cells, outline_overlaps
from tests.data.test_cells import compact
from tests.formats.test_measurements import blobs

TOL = 1e-12


def outlines(labels, offset=(0, 0)):
    return label_map_to_polygons(labels, offset)[1]


@pytest.mark.parametrize("window", [64, 4096])
def test_overlaps_as_of_label_maps(window, monkeypatch):
    monkeypatch.setattr(agreement, "_WINDOW", window)
    maps = [compact(blobs(seed)) for seed in (0, 1)]
    found, one, other = outline_overlaps(*(outlines(m, (1000, 20)) for m in maps))
    expected = Overlaps.count(*(agreement.torch.from_numpy(m.astype(np.int64)) for m in maps))
    for name in ("pred_area", "true_area", "pred", "true", "area"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    assert (len(one), len(other)) == (maps[0].max(), maps[1].max())
    own = [m[None, None].astype(np.int64) for m in maps]
    assert AggregatedJaccardIndex.score(found).item() == pytest.approx(AggregatedJaccardIndex()(*own).item(), abs=TOL)
    np.testing.assert_allclose(PanopticQuality.score(found), PanopticQuality()(*own)[0, 0], atol=TOL)


def test_an_outline_between_pixel_centres_is_left_out():
    speck, cell = shapely.box(4.6, 4.6, 5.4, 5.4), shapely.box(10, 10, 20, 20)
    overlaps, found, true = outline_overlaps(np.array([speck, cell]), np.array([cell]))
    assert found.tolist() == [1]
    assert true.tolist() == [0]
    assert overlaps.area.tolist() == [100]


def write(folder, name, geometry, classes=None):
    return write_geojson(folder / f"{name}.geojson", Features(np.array(geometry), classes, object_types="detection"))


@pytest.fixture
def cohort(tmp_path):
    """Squares of 10 px: in ``a`` one found as it is, one by half, one missed, one invented; in ``b`` all."""
    squares = [shapely.box(x, 5, x + 10, 15) for x in (0, 100, 200, 3000)]
    write(tmp_path / "qupath", "a", squares[:3], ["immune", "other", "other"])
    half = shapely.box(105, 5, 115, 15)
    write(tmp_path / "ours" / "deep", "a", [squares[0], half, squares[3]], ["other", "other", "other"])
    for folder in ("qupath", "ours"):
        write(tmp_path / folder, "b", squares, ["immune", "other", "other", "other"])
    write(tmp_path / "ours", "not_compared", squares)
    return tmp_path


def test_scores(cohort, capsys):
    path = compare_cells(str(cohort / "ours"), str(cohort / "qupath"), str(cohort / "out"), radius_px=6)
    table = pd.read_csv(cohort / "out" / "scores.csv").set_index("image")
    assert sorted(table.index) == ["a", "b"]
    row = table.loc["a"]
    assert row["iou"] == pytest.approx(150 / 450)
    assert row["dice"] == pytest.approx(300 / 600)
    assert row["aji"] == pytest.approx(150 / (100 + 150 + 100 + 100))
    assert row["pq"] == pytest.approx(1 / (1 + 2))
    assert row[["tp", "fp", "fn"]].tolist() == [2, 1, 1]  # 5 px apart
    assert row[["iou_tp", "iou_fp", "iou_fn"]].tolist() == [1, 2, 2]
    assert (table.loc["b", ["iou", "dice", "aji", "pq", "f1"]] == 1).all()
    metrics = json.loads((cohort / "out" / "metrics.json").read_text())
    ours = metrics["ours"]
    assert ours["iou"]["value"] == pytest.approx(550 / 850)
    assert ours["dice"]["value"] == pytest.approx(1100 / 1400)
    assert ours["f1"]["value"] == pytest.approx(2 * 6 / (2 * 6 + 1 + 1))
    assert ours["iou"]["low"] <= ours["iou"]["value"] <= ours["iou"]["high"]
    assert metrics["classes"]["ours"] == {"immune": {"immune": 1, "other": 1}, "other": {"immune": 0, "other": 3}}
    assert path.endswith("metrics.json")
    assert (cohort / "out" / "agreement.png").stat().st_size > 5000
    assert "Classes of ours" in (cohort / "out" / "report.html").read_text()
    assert "0.647" in capsys.readouterr().out


def test_several_side_by_side_and_single_files(cohort):
    files = {"U-Net": str(cohort / "ours" / "deep" / "a.geojson"), "itself": str(cohort / "qupath")}
    compare_cells(files, str(cohort / "qupath" / "a.geojson"), str(cohort / "out"), radius_px=1)
    table = pd.read_csv(cohort / "out" / "scores.csv").set_index("name")
    assert table["iou"].tolist() == pytest.approx([1 / 3, 1])
    assert table.loc["U-Net", ["tp", "fp", "fn"]].tolist() == [1, 2, 2]


@pytest.mark.parametrize("kind", ["annotations", "segmentation"])
def test_dicom_counts_as_geojson_does(cohort, kind):
    """With the slides beside it, and in one folder with what is no annotation."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from monai_ext.exchange import convert
    from tests.formats.dicom_slides import write_slide

    expected = {}
    for name in ("dicom", "geojson"):
        if name == "dicom":
            for side in ("ours/deep/a", "qupath/a", "ours/b", "qupath/b"):
                source, slide = cohort / f"{side}.geojson", cohort / f"in_{Path(side).name}"
                if not slide.is_dir():
                    write_slide(slide, np.full((20, 3020, 3), 200, np.uint8), levels=(1,), overview=False)
                folder = cohort / "dicom" / side.partition("/")[0]
                convert(source, f"dicom-{kind[:3]}", slide=slide, dst=folder)
                shutil.copyfile(slide / "level_1.dcm", folder / f"{Path(side).name}.dcm")
        folder = cohort / "dicom" if name == "dicom" else cohort
        compare_cells(str(folder / "ours"), str(folder / "qupath"), str(cohort / f"out_{name}"), radius_px=6)
        expected[name] = [
            json.loads((cohort / f"out_{name}/metrics.json").read_text())["ours"],
            pd.read_csv(cohort / f"out_{name}/scores.csv").to_dict("records"),
        ]
    assert expected["dicom"] == expected["geojson"]
    assert expected["dicom"][0]["iou"]["value"] == pytest.approx(550 / 850)


def test_dicom_names_its_slide(cohort):
    """What an archive calls its files says nothing; a run's slides tell which image each is of, and its px."""
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from tests.formats import dicom_slides as made

    squares = [shapely.box(x, 5, x + 10, 15) for x in (0, 100, 200, 3000)]
    for n, name in enumerate("ab"):
        pixels = np.full((20, 3020, 3), 200, np.uint8)
        first = made.write_slide(cohort / f"slides/{name}", pixels, levels=(1, 2), overview=False)
        rings = [np.array(cell.exterior.coords)[:-1] for cell in (squares[:3] if name == "a" else squares)]
        coarse = made.pydicom.dcmread(cohort / f"slides/{name}/level_2.dcm")
        source, kind = (first, "3D") if n else (coarse, "2D")
        places = [made.on_glass(ring) if n else (ring / 2).astype(np.float32) for ring in rings]
        path = cohort / f"archive/1.2.840.{7 - n}.dcm"
        made.write_annotations(path, source, [made.group(1, "POLYGON", places)], kind)
    entries = {str(cohort / f"slides/{name}"): {"fingerprint": name} for name in "ab"}
    RunState(cohort / "ours").begin(entries)
    for reference in ("archive", "qupath"):
        compare_cells(str(cohort / "ours"), str(cohort / reference), str(cohort / reference / "out"), radius_px=6)
    tables = [pd.read_csv(cohort / reference / "out/scores.csv") for reference in ("archive", "qupath")]
    pd.testing.assert_frame_equal(*tables)
    (cohort / "ours/deep/a.geojson").rename(cohort / "ours/a.geojson")
    for ours in ("ours", "ours/a.geojson"):
        compare_cells(str(cohort / ours), str(cohort / "archive/1.2.840.7.dcm"), str(cohort / "out"), radius_px=6)
        pd.testing.assert_frame_equal(
            pd.read_csv(cohort / "out/scores.csv"), tables[0][:1].assign(name=Path(ours).stem)
        )
    other = made.write_slide(cohort / "other", np.full((20, 3020, 3), 200, np.uint8), levels=(1,))
    rings = [np.array(cell.exterior.coords, np.float32)[:-1] for cell in squares[:3]]
    made.write_annotations(cohort / "archive/1.2.840.9.dcm", other, [made.group(1, "POLYGON", rings)])
    for number in (6, 9):  # of another slide of the run, and of none of it
        with pytest.raises(InputError, match=rf"{number}.dcm: expected .*slides/a/level_1.dcm"):
            compare_cells(str(cohort / "ours/a.geojson"), str(cohort / f"archive/1.2.840.{number}.dcm"), str(cohort))


def test_dicom_of_an_image_that_is_none(cohort):
    """The run tells which image it was, of which a segmentation in DICOM can be read."""
    pytest.importorskip("highdicom", reason="highdicom is not installed")
    from monai_ext.exchange import convert

    image = cohort / "slides/b.png"
    image.parent.mkdir()
    Image.fromarray(np.full((20, 3020, 3), 200, np.uint8)).save(image)
    convert(cohort / "qupath/b.geojson", "dicom-seg", slide=image, dst=cohort / "seg", mpp=0.25)
    RunState(cohort / "ours").begin({str(image): {"fingerprint": "b"}})
    compare_cells(str(cohort / "ours"), str(cohort / "seg"), str(cohort / "out"), radius_px=6)
    [row] = pd.read_csv(cohort / "out/scores.csv").to_dict("records")
    assert (row["image"], row["iou"], row["true_cells"]) == ("b", 1, 4)


def test_slides_are_looked_for_where_annotations_are_in_dicom(cohort, monkeypatch):
    """Not in the folder of a GeoJSON file, which may be anything's."""
    monkeypatch.setattr(agreement, "is_dicom_slide", lambda path: pytest.fail(f"{path} was looked at"))
    (cohort / "qupath/slide.dcm").write_bytes(bytes(128) + b"DICM")
    compare_cells(str(cohort / "ours/b.geojson"), str(cohort / "qupath/b.geojson"), str(cohort / "out"))
    assert pd.read_csv(cohort / "out/scores.csv")["image"].tolist() == ["b"]


def test_a_copy_in_dicom_of_what_a_run_wrote_is_not_compared(cohort):
    for folder in ("ours", "qupath"):
        (cohort / folder / "b_annotations.dcm").write_bytes(b"")
    compare_cells(str(cohort / "ours"), str(cohort / "qupath"), str(cohort / "out"), radius_px=6)
    assert sorted(pd.read_csv(cohort / "out/scores.csv")["image"]) == ["a", "b"]


def test_no_cells_found(cohort):
    write(cohort / "none", "a", [])
    compare_cells(str(cohort / "none"), str(cohort / "qupath"), str(cohort / "out"))
    row = pd.read_csv(cohort / "out" / "scores.csv").iloc[0]
    assert (row[["iou", "dice", "aji", "pq", "f1"]] == 0).all()


@pytest.mark.parametrize(
    ("results", "reference", "expected"),
    [
        ("ours", "nowhere", "nothing there"),
        ("ours/deep/a.geojson", "qupath", "no folder"),
        ("empty", "qupath", "files named as those"),
        ("empty", "empty_reference/a.geojson", "readable GeoJSON"),
        ("ours", "empty_reference/a.geojson", "outlines of cells"),
    ],
)
def test_what_cannot_be_compared(results, reference, expected, cohort):
    (cohort / "empty").mkdir()
    write(cohort / "empty_reference", "a", [])
    with pytest.raises(InputError, match=expected):
        compare_cells(str(cohort / results), str(cohort / reference), str(cohort / "out"))


UUIDS = [f"0f8fad5b-d9cb-469f-a165-{number:012d}" for number in range(25)]


def test_files_that_do_not_fit_are_named_all_at_once(tmp_path):
    """Of another slide, in micrometres, a copy under another name, damaged, classes spelled twice: a line each."""
    squares = np.array(SQUARES)
    um = shapely.transform(squares, lambda xy: xy / 4)
    for name, reference, columns in (
        ("apart", shapely.affinity.translate(shapely.MultiPolygon(SQUARES), 9000, 0).geoms, {}),
        ("copied", squares, {"ids": UUIDS}),
        ("own", squares, {"ids": UUIDS}),
        ("spelled", squares, {"classes": "Tumor"}),
        ("um", um, {}),
    ):
        write_geojson(tmp_path / "results" / f"{name}.geojson", Features(squares, "tumor"))
        write_geojson(tmp_path / "reference" / f"{name}.geojson", Features(np.array(list(reference)), **columns))
    write_geojson(tmp_path / "results" / "cut.geojson", Features(squares))
    cut = tmp_path / "reference" / "cut.geojson"
    cut.write_bytes((tmp_path / "results" / "cut.geojson").read_bytes()[:-30])
    with pytest.raises(DataListError) as error:
        compare_cells(str(tmp_path / "results"), str(tmp_path / "reference"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    for line, words in zip(error.value.problems, (
        "results/apart.geojson: expected the image of", "cut.geojson: expected complete GeoJSON",
        "own.geojson: expected objects of its own, found 25 of 25", "those are 0.25 times as large",
        "found 125 of 'tumor' and 25 of 'Tumor'",
    ), strict=True):  # fmt: skip
        assert words in line


SQUARES = [shapely.box(x, y, x + 20, y + 20) for x in range(0, 200, 40) for y in range(0, 200, 40)]


def compared(folder, results, reference, **options):
    paths = [write_geojson(folder / f"{name}.geojson", f) for name, f in (("a", results), ("b", reference))]
    compare_cells(*map(str, paths), str(folder / "out"), radius_px=4, **options)
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    return pd.read_csv(folder / "out" / "scores.csv").iloc[0], metrics["notes"]


def test_regions_are_not_compared(tmp_path):
    around = shapely.box(-10, -10, 400, 400)
    reference = Features([around, *SQUARES], object_types=["annotation", *["detection"] * len(SQUARES)])
    row, _ = compared(tmp_path, Features(SQUARES, object_types="detection"), reference)
    assert (row[["aji", "pq", "f1", "iou"]] == 1).all()
    assert row["true_cells"] == row["found_cells"] == len(SQUARES)
    beyond = [shapely.box(900, y, 920, y + 20) for y in (0, 40, 80)]
    row, notes = compared(tmp_path, Features([*SQUARES, *beyond], object_types="cell"), reference)
    assert row["found_cells"] == len(SQUARES)
    assert notes["Beyond the reference's regions, a"] == "3 left out"
    everywhere = Features([around, *SQUARES, beyond[0]], object_types=["annotation", *["cell"] * (len(SQUARES) + 1)])
    row, notes = compared(tmp_path, Features([*SQUARES, *beyond], object_types="cell"), everywhere)
    assert row["found_cells"] == len(SQUARES) + 3, "the reference was not made in its regions only"


@pytest.mark.parametrize(("outlines", "same"), [("nuclei", "nuclei"), ("cells", "cells")])
def test_nuclei_with_nuclei_cells_with_cells(tmp_path, capsys, outlines, same):
    nuclei = [square.buffer(-6, join_style="mitre") for square in SQUARES]
    cells = Features(SQUARES, object_types="cell", nuclei=nuclei)
    found = Features(nuclei if same == "nuclei" else SQUARES, object_types="detection" if same == "nuclei" else "cell")
    row, notes = compared(tmp_path, found, cells, outlines=outlines)
    assert (row[["aji", "f1", "iou"]] == 1).all()
    assert notes["Outlines"] == outlines
    assert notes["Compared, reference"] == ("25 nuclei of cells" if outlines == "nuclei" else "25 cells")
    assert notes["Compared, results, a"] == ("25 detections" if outlines == "nuclei" else "25 cells")
    printed = capsys.readouterr()
    assert f"Outlines: {outlines}" in printed.out
    assert "whole cells" not in printed.err


def test_unlike_outlines_are_told_of(tmp_path, capsys):
    whole = Features(SQUARES, object_types="cell")
    compared(tmp_path, Features(SQUARES, object_types="detection"), whole)
    assert (
        "outlines of whole cells in the reference are compared with those of other objects" in capsys.readouterr().err
    )
    with pytest.raises(InputError, match="--outlines: expected nuclei or cells, found 'membranes'"):
        compared(tmp_path, whole, whole, outlines="membranes")


def test_parts_and_compressed_files(tmp_path):
    parts = Features([shapely.MultiPolygon(SQUARES)], "a")
    row, _ = compared(tmp_path, Features(SQUARES, "a"), parts)
    assert row["true_cells"] == 1
    row, _ = compared(tmp_path, Features(SQUARES, "a"), parts, split_parts=True)
    assert (row["true_cells"], row["aji"]) == (len(SQUARES), 1)
    for side in ("one", "other"):
        path = write_geojson(tmp_path / side / "x.geojson", Features(SQUARES))
        (tmp_path / side / "y.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    compare_cells(str(tmp_path / "one"), str(tmp_path / "other"), str(tmp_path / "out"))
    assert sorted(pd.read_csv(tmp_path / "out" / "scores.csv")["image"]) == ["x", "y"]
