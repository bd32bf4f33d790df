"""The grid of fine-tunings: its table, its resumption, its processes."""

from pathlib import Path

import pandas as pd
import pytest

from monai_ext.base.errors import InputError
from monai_ext.tuning import tune_expert_count
from monai_ext.tuning.expert_count import PAPER_COUNTS, _table
from tests.nuclei import planted_with_student

BUNDLE = str(Path(__file__).parents[2] / "bundles/pathology_cell_semantic_segmentation")
QUICK = {"bundle": BUNDLE, "patch_size": 16, "epochs": 2, "batch_size": 16, "device": "cpu"}


@pytest.fixture
def place(tmp_path):
    return planted_with_student(tmp_path)


def tune(place, **options):
    grid = {"counts": [4, 5], "learning_rates": [1e-3], "dropouts": [0.0, 0.5]}
    where = {"dataset_dir": str(place / "data"), "student_dir": str(place / "student"), "output": str(place / "out")}
    return Path(tune_expert_count(**{**where, **grid, **QUICK, **options}))


def times(place):
    return {path.name: path.stat().st_mtime_ns for path in (place / "out/cells").glob("*.json")}


def test_table_and_files(place, capsys):
    table = pd.read_csv(tune(place))
    assert table["count"].tolist() == [4, 5]
    columns = {
        "learning_rate",
        "dropout",
        "validation f1",
        "f1 before",
        "f1 after",
        "accuracy before",
        "accuracy after",
    }
    assert columns <= set(table)
    cells = pd.read_csv(place / "out/cells.csv")
    assert len(cells) == 4
    assert len(set(cells["f1 before"])) == 1  # the test list is the same whatever the count
    assert (cells["f1 after"] != cells["f1 before"]).any()
    assert (place / "out/table.png").stat().st_size > 1000
    assert {path.suffix for path in (place / "out/cells").iterdir()} == {".json"}  # no weights of hundreds of runs
    assert "count" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_sweep_goes_on(place):
    tune(place)
    before = times(place)
    (place / "out/cells/n5_lr0.001_dropout0.5_seed0.json").unlink()
    first = pd.read_csv(place / "out/cells.csv")
    tune(place)
    after = times(place)
    assert {name for name in after if after[name] != before[name]} == {"n5_lr0.001_dropout0.5_seed0.json"}
    pd.testing.assert_frame_equal(pd.read_csv(place / "out/cells.csv"), first)  # and gives the same
    tune(place, counts=[4, 5, 6], dropouts=[0.5])  # a larger grid keeps what it has
    assert times(place).items() >= after.items()
    tune(place, epochs=1)
    assert all(times(place)[name] != after[name] for name in after)


def test_remainder_differs_with_the_count(place):
    cells = pd.read_csv(tune(place, expert_split="remainder", dropouts=0.0).with_name("cells.csv"))
    assert cells["test nuclei"].diff().iloc[1] == -3


@pytest.mark.slow
def test_processes_give_the_same(place):
    alone = pd.read_csv(tune(place).with_name("cells.csv"))
    together = pd.read_csv(tune(place, processes=2, output=str(place / "two")).with_name("cells.csv"))
    pd.testing.assert_frame_equal(alone, together)


def test_the_setting_is_chosen_on_validation_alone():
    rows = [
        {"count": 100, "learning_rate": lr, "dropout": 0.0, "seed": seed, "validation f1": val, "f1 after": test}
        for lr, seed, val, test in [(1e-4, 0, 0.9, 0.1), (1e-4, 1, 0.8, 0.3), (1e-3, 0, 0.95, 0.9), (1e-3, 1, 0.7, 0.9)]
    ]
    same = dict.fromkeys(["f1 before", "accuracy before", "accuracy after", "test nuclei"], 0.5)
    table = _table(pd.DataFrame([row | same for row in rows]))
    assert table.loc[0, "learning_rate"] == 1e-4
    assert table.loc[0, "f1 after"] == pytest.approx(0.2)
    assert table.loc[0, "seeds"] == 2


def test_counts_of_the_paper():
    assert PAPER_COUNTS == (100, 250, 400, 550, 750, 850, 1000, 1250, 1500, 1750, 1900)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"counts": [4, 4000]}, "at least 3200 nuclei of each class"),
        ({"student_dir": "nowhere"}, "nowhere/model.pt: expected the student's weights"),
        ({"processes": 0}, "processes: expected"),
        ({"epoch": 3}, "tune expert-count: expected options"),
        ({"bundle": "nowhere"}, "nowhere/configs/overlays/phase/classify.json"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_mistakes_come_before_any_training(place, options, expected):
    with pytest.raises(InputError) as caught:
        tune(place, **options)
    assert expected in str(caught.value)
    assert not (place / "out/cells").exists()
