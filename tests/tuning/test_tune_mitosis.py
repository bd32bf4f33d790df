import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.base.errors import DataListError, InputError
from monai_ext.metrics.detection import sweep_detection_thresholds
from monai_ext.tuning import DEFAULT_THRESHOLDS, read_thresholds, tune_mitosis
from monai_ext.tuning.common import grid
from monai_ext.tuning.mitosis import _centre_of_plateau, expected_scores

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_mitosis_segmentation"
MANY = 10_000  # figures: the standard error of an F1 of .8 is then .004
PURPLE, PINK = (84, 47, 109), (230, 190, 214)  # RGB of a nucleus and of stroma


# -- the file ----------------------------------------------------------------------------------------------------------


def test_file_is_read_back(tmp_path):
    content = {"threshold": 0.4, "min_area": 321.0, "min_score": 0.6, "radius_px": 30}
    (tmp_path / "thresholds.json").write_text(json.dumps(content))
    assert read_thresholds(tmp_path / "thresholds.json") == content


def test_no_file_means_the_defaults_with_a_message(tmp_path, capsys):
    thresholds = read_thresholds(tmp_path / "thresholds.json")
    assert thresholds == DEFAULT_THRESHOLDS
    assert thresholds is not DEFAULT_THRESHOLDS
    assert "thresholds.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", "[1]", '{"min_area": 3, "min_score": 0.5}', "{"], ids=["empty", "list", "one missing", "cut"]
)
def test_unusable_file(text, tmp_path):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(InputError, match=r"t\.json: expected an object with threshold, min_area, min_score"):
        read_thresholds(tmp_path / "t.json")


# -- the choice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "first", "last", "count"),
    [((301, 996, 5), 301, 996, 140), ((0.3, 0.89, 0.01), 0.3, 0.89, 60), ((5, 5, 1), 5, 5, 1)],
)
def test_grid_is_that_of_the_paper(limits, first, last, count):
    values = grid(limits)
    assert (len(values), values[0], values[-1]) == (count, first, pytest.approx(last))


@pytest.mark.parametrize("limits", [0.3, (0.3, 0.9), (0.3, 0.9, 0), (0.9, 0.3, 0.1), ("a", 1, 1), "abc"])
def test_grid_needs_three_numbers(limits):
    with pytest.raises(InputError, match="areas: expected first, last and a step above 0"):
        grid(limits, "areas")


def table(f1, threshold="otsu"):
    """A sweep of areas (rows) and scores (columns) from a map of F1."""
    f1 = np.array(f1, dtype=float)
    rows, cols = np.indices(f1.shape)
    return pd.DataFrame({"area": 300 + 10 * rows.ravel(), "score": 0.3 + 0.1 * cols.ravel(), "f1": f1.ravel()}).assign(
        threshold=threshold
    )


@pytest.mark.parametrize(
    ("f1", "chosen"),
    [
        pytest.param([[0.5, 0.5, 0.5], [0.5, 0.9, 0.5], [0.5, 0.5, 0.5]], (310, 0.4), id="a peak"),
        pytest.param([[0.8, 0.8, 0.8], [0.8, 0.8, 0.8], [0.8, 0.8, 0.8]], (310, 0.4), id="level"),
        pytest.param([[0.8, 0.8, 0.8, 0.8, 0.803]], (300, 0.5), id="a lucky edge of a plateau"),
        pytest.param([[0.2, 0.7, 0.7, 0.7, 0.1]], (300, 0.5), id="one row"),
        pytest.param([[0.2], [0.7], [0.7], [0.7], [0.75]], (340, 0.3), id="better is better"),
        pytest.param([[0.0]], (300, 0.3), id="nothing to choose"),
    ],
)
def test_middle_of_the_plateau(f1, chosen):
    got = _centre_of_plateau(table(f1), MANY)
    assert (got["area"], got["score"]) == pytest.approx(chosen)


@pytest.mark.parametrize(("figures", "score"), [(10_000, 0.7), (100, 0.6), (16, 0.5), (0, 0.5)])
def test_few_figures_make_a_wide_plateau(figures, score):
    # standard errors of .8 are .004, .04, .1 and, with nothing found at all, .4
    got = _centre_of_plateau(table([[0.4, 0.71, 0.71, 0.77, 0.8]]), figures)
    assert got["score"] == pytest.approx(score, abs=0.051)


def test_one_way_of_binarising_is_chosen():
    both = pd.concat([table([[0.5, 0.9, 0.9]]), table([[0.95, 0.95, 0.95]], 0.5)], ignore_index=True)
    got = _centre_of_plateau(both, MANY)
    assert (got["threshold"], got["score"]) == (0.5, pytest.approx(0.4))
    equal = pd.concat([table([[0.9]]), table([[0.9]], 0.5)], ignore_index=True)
    assert _centre_of_plateau(equal, MANY)["threshold"] in ("otsu", 0.5)


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Large disks are mitoses, small ones are not; only the validation list can be read."""
    folder = tmp_path / "data"
    folder.mkdir()
    lists = {
        "training": [{"image": "t.png", "label": "t.csv"}],
        "test": [{"image": "x.png", "label": "x.csv"}],
        "validation": [],
    }
    rng = np.random.default_rng(0)
    for index in range(2):
        image = np.full((260, 300, 3), PINK, np.uint8)
        truth = []
        for row in range(35, 250, 62):
            for col in range(35, 290, 62):
                large = bool(rng.integers(2))
                cv2.circle(image, (col, row), 14 if large else 8, PURPLE, -1, cv2.LINE_AA)
                truth += [(row, col)] if large else []
        cv2.imwrite(str(folder / f"v{index}.png"), image[..., ::-1])
        np.savetxt(folder / f"v{index}.csv", truth, delimiter=",", fmt="%d")
        lists["validation"].append({"image": f"v{index}.png", "label": f"v{index}.csv", "group": str(index)})
    for name in ("t.png", "x.png", "x.csv"):
        (folder / name).write_bytes(b"nobody reads this")
    (folder / "dataset.json").write_text(json.dumps(lists))
    return folder


def tune(data, output, **options):
    settings = {
        "areas": (100, 900, 20),
        "scores": (0.05, 0.6, 0.05),
        "configs": ["configs/overlays/network/hematoxylin.json"],
        "device": "cpu",
    }
    return Path(tune_mitosis(str(data), str(BUNDLE), output=str(output), **{**settings, **options}))


def test_validation_list_alone_decides(data, tmp_path, capsys):
    path = tune(data, tmp_path / "found" / "thresholds.json")
    thresholds = read_thresholds(path)
    assert thresholds["threshold"] == "otsu"
    assert 201 < thresholds["min_area"] < 615  # pi 8^2 and pi 14^2
    assert thresholds["validation"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert thresholds["fields"] == 2
    assert thresholds["figures"] == sum(len(np.loadtxt(data / f"v{i}.csv", delimiter=",")) for i in range(2))
    sweep = pd.read_csv(path.with_name("thresholds_sweep.csv"))
    assert len(sweep) == 41 * 12
    assert cv2.imread(str(path.with_name("thresholds_sweep.png"))) is not None
    assert "F1 1.000" in capsys.readouterr().out
    assert len(list(path.parent.iterdir())) == 3  # nothing half written is left


def test_ways_of_binarising(data, tmp_path):
    path = tune(data, tmp_path / "thresholds.json", binarize=("otsu", 0.99))
    assert read_thresholds(path)["threshold"] == "otsu"  # nothing is above .99
    assert set(pd.read_csv(path.with_name("thresholds_sweep.csv"))["threshold"]) == {"otsu", "0.99"}
    path = tune(data, tmp_path / "number.json", binarize=(0.2,))
    assert read_thresholds(path)["threshold"] == 0.2


def test_what_is_missing_is_named(data, tmp_path):
    with pytest.raises(InputError, match=r"nowhere/configs/train\.json: expected a configuration"):
        tune_mitosis(str(data), str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"gone\.json: expected a configuration"):
        tune(data, tmp_path / "t.json", configs=["configs/gone.json"])
    with pytest.raises(InputError) as caught:
        tune_mitosis(str(data), str(BUNDLE), ckpt_dir=str(tmp_path), device="cpu")
    assert str(caught.value) == f"{tmp_path / 'model.pt'}: expected trained weights, found no such file"
    (data / "v0.png").unlink()
    with pytest.raises(DataListError) as caught:
        tune(data, tmp_path / "t.json")
    assert caught.value.problems == [f"{data / 'v0.png'}: expected a file, found none"]


def test_unknown_options_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"tune mitosis: expected .* found raduis"):
        tune(data, tmp_path / "t.json", raduis=20)


def test_a_sweep_is_the_filter_applied_again_and_again():
    found = [np.array([[10, 10, 350, 0.5], [90, 90, 500, 0.9], [50, 50, 320, 0.95]])]
    sweep = sweep_detection_thresholds(found, [np.array([[90, 92]])], 30, [300, 400], [0.4, 0.92])
    assert {(r.area, r.score): (r.tp, r.fp, r.fn) for r in sweep.itertuples()} == {
        (300, 0.4): (1, 2, 0), (400, 0.4): (1, 0, 0), (300, 0.92): (0, 1, 1), (400, 0.92): (0, 0, 1),
    }  # fmt: skip


# -- tissue with few figures -------------------------------------------------------------------------------------------


def test_prevalence_counts_false_alarms_of_a_square_millimetre():
    # 8 of 10 figures and 4 false alarms on .5 mm2: 8 alarms per mm2; at 2 figures per mm2, 1.6 of 9.6 detections
    here = pd.DataFrame({"tp": [8, 0], "fp": [4, 0], "recall": [0.8, 0], "precision": [8 / 12, 0], "f1": [0.7273, 0]})
    got = expected_scores(here, area_mm2=0.5, prevalence=2)
    assert got["false_alarms_per_mm2"].tolist() == [8, 0]
    assert got["precision"].tolist() == pytest.approx([1.6 / 9.6, 0])
    assert got["f1"].tolist() == pytest.approx([2 * 1.6 / (9.6 + 2), 0])
    assert got["f1_here"].tolist() == [0.7273, 0]


@given(st.integers(1, 500), st.integers(0, 500), st.integers(0, 500), st.floats(0.01, 10))
def test_prevalence_of_the_list_itself_changes_nothing(tp, fp, fn, area_mm2):
    here = pd.DataFrame({"tp": [tp], "fp": [fp], "recall": [tp / (tp + fn)], "precision": [tp / (tp + fp)]})
    here["f1"] = 2 * tp / (2 * tp + fp + fn)
    got = expected_scores(here, area_mm2, prevalence=(tp + fn) / area_mm2)
    assert got.loc[0, ["precision", "f1"]].tolist() == pytest.approx(here.loc[0, ["precision", "f1"]].tolist())


def test_few_figures_ask_for_a_stricter_filter(data, tmp_path):
    # what is a figure only by its darkness: at the paper's own prevalence a lenient score is as good
    lenient = read_thresholds(tune(data, tmp_path / "here.json", areas=(100, 100, 1)))
    strict = read_thresholds(tune(data, tmp_path / "there.json", prevalence=1, mpp=0.25))
    assert lenient["validation"]["precision"] < 1
    assert strict["validation"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    assert strict["expected"] == {
        "figures_per_mm2": 1, "f1": 1.0, "precision": 1.0, "recall": 1.0, "false_alarms_per_mm2": 0.0
    }  # fmt: skip


@pytest.mark.parametrize("prevalence", [0, -3])
def test_prevalence_is_positive(prevalence, data, tmp_path):
    with pytest.raises(InputError, match="prevalence: expected figures per mm2, above 0"):
        tune(data, tmp_path / "t.json", prevalence=prevalence)


def test_prevalence_needs_a_resolution(data, tmp_path):
    with pytest.raises(InputError, match=r"prevalence: expected a resolution of the fields \(--mpp\), found none"):
        tune(data, tmp_path / "t.json", prevalence=5)
