"""AUC and FROC of a cohort from result files alone."""

import json

import numpy as np
import pandas as pd
import pytest
import shapely

from monai_ext.base.errors import DataListError, InputError
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.slides import evaluate_slides

TOLERANCE = 1e-6
MPP = 0.5
SIDE = 8000  # px of level 0


def square(row, col, side):
    return shapely.box(col, row, col + side, row + side)


@pytest.fixture
def cohort(tmp_path):
    """Two slides with tumour, two without; what is found on them is known."""
    results = tmp_path / "results"
    results.mkdir()
    # name: score, lesions (row, col, side in px of level 0), detections (row, col, score)
    slides = {
        "test_001": (0.9, [(1000, 1000, 1500), (5000, 5000, 1200)], [(1500, 1500, 0.9), (100, 7000, 0.6)]),
        "test_002": (0.7, [(2000, 2000, 1000), (6000, 1000, 60)], [(2500, 2500, 0.7), (6030, 1030, 0.65)]),
        "test_003": (0.8, [], [(4000, 4000, 0.8)]),
        "test_004": (0.2, [], []),
    }
    reference, rows = [], []
    for name, (score, lesions, detections) in slides.items():
        rows.append({"image": f"{name}.tif", "score": score})
        pd.DataFrame(detections, columns=["row", "col", "score"]).to_csv(
            results / f"{name}_detections.csv", index=False
        )
        plan = {"level0_shape": [SIDE, SIDE], "base_mpp": MPP}
        (results / f"{name}_plan.json").write_text(json.dumps(plan))
        annotation = None
        if lesions:
            annotation = f"{name}.geojson"
            write_geojson(tmp_path / annotation, Features(np.array([square(*lesion) for lesion in lesions])))
        entry = {"image": f"slides/{name}.tif", "label": int(bool(lesions)), "annotation": annotation}
        reference.append({**entry, "group": name, "part": "test"})
    pd.DataFrame(rows).to_csv(results / "summary.csv", index=False)
    (tmp_path / "slides.json").write_text(json.dumps(reference))
    return tmp_path


def test_measures_are_the_hand_counted_ones(cohort, capsys):
    path = evaluate_slides(cohort / "results", cohort / "slides.json", cohort / "out")
    metrics = json.loads((cohort / "out/metrics.json").read_text())
    assert path == str(cohort / "out/metrics.json")
    # of the four pairs of a slide with and one without tumour, .7 over .8 is out of order
    assert metrics["auc"]["value"] == pytest.approx(3 / 4, abs=TOLERANCE)
    # 60 px of level 0 are 30 um: isolated tumour cells, and a hit there is no false alarm
    assert (metrics["lesions"], metrics["isolated_tumour_cells"], metrics["with_tumour"]) == (3, 1, 2)
    # thresholds .9, .8, .7, .6 give 0, 1, 1, 2 false alarms on four slides and 1, 1, 2, 2 of three lesions
    assert metrics["sensitivity_at"]["0.25_false_alarms"] == pytest.approx(2 / 3, abs=TOLERANCE)
    assert metrics["froc"]["value"] == pytest.approx(2 / 3, abs=TOLERANCE)
    table = pd.read_csv(cohort / "out/slides.csv").set_index("slide")
    assert table.loc["test_001.tif", ["lesions", "found", "false"]].tolist() == [2, 1, 1]
    assert table.loc["test_002.tif", ["lesions", "found", "false", "isolated"]].tolist() == [1, 1, 0, 1]
    assert "FROC 0.667" in capsys.readouterr().out
    assert "<html" in (cohort / "out/report.html").read_text()


def test_everything_that_is_missing_is_said_at_once(cohort):
    table = pd.read_csv(cohort / "results/summary.csv")
    table[table["image"] != "test_003.tif"].to_csv(cohort / "results/summary.csv", index=False)
    listed = json.loads((cohort / "slides.json").read_text())
    listed[0]["annotation"] = None
    (cohort / "slides.json").write_text(json.dumps(listed))
    with pytest.raises(DataListError) as caught:
        evaluate_slides(cohort / "results", cohort / "slides.json", cohort / "out")
    assert "test_003" in str(caught.value)
    assert "annotation of slides/test_001.tif" in str(caught.value)


@pytest.mark.parametrize(
    ("results", "reference", "part", "expected"),
    [
        ("nowhere", "slides.json", "test", "summary.csv"),
        ("results", "nowhere.json", "test", "nowhere.json"),
        ("results", "slides.json", "validation", "slides of part 'validation'"),
        ("results", "results/summary.csv", "test", "a list of slides"),
    ],
)
def test_wrong_paths_are_named(cohort, results, reference, part, expected):
    with pytest.raises(InputError, match=expected):
        evaluate_slides(cohort / results, cohort / reference, cohort / "out", part=part)


def test_tumour_is_what_was_drawn_not_what_lies_around_or_in_it(cohort):
    lesions = [square(1000, 1000, 1500), square(5000, 5000, 1200)]
    cells = [square(row, 4000, 40) for row in range(100, 7000, 100)]
    around = [square(0, 0, SIDE)]
    kinds = ["annotation"] * 3 + ["detection"] * len(cells)
    classes = [None, "Tumor", "Tumor", *["Immune"] * len(cells)]
    write_geojson(cohort / "test_001.geojson", Features([*around, *lesions, *cells], classes, object_types=kinds))
    evaluate_slides(cohort / "results", cohort / "slides.json", cohort / "out")
    table = pd.read_csv(cohort / "out/slides.csv").set_index("slide")
    assert table.loc["test_001.tif", ["lesions", "found", "false"]].tolist() == [2, 1, 1]
    classes[0] = "Tissue"
    write_geojson(cohort / "test_001.geojson", Features([*around, *lesions, *cells], classes, object_types=kinds))
    with pytest.raises(InputError, match="found Tumor inside Tissue; --classes says which count"):
        evaluate_slides(cohort / "results", cohort / "slides.json", cohort / "out")
    write_geojson(cohort / "test_002.geojson", Features([square(2000, 2000, 1000), square(6000, 1000, 60)], "Tumor"))
    evaluate_slides(cohort / "results", cohort / "slides.json", cohort / "out", classes="Tumor")
    assert pd.read_csv(cohort / "out/slides.csv")["lesions"].tolist() == table["lesions"].tolist()
    with pytest.raises(InputError, match="expected outlines of Necrosis, found none"):
        evaluate_slides(cohort / "results", cohort / "slides.json", cohort / "out", classes=["Necrosis"])
