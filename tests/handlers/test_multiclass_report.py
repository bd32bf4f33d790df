"""The report on classified nuclei, from an evaluator's batches to files."""

import json

import numpy as np
import pandas as pd
import pytest
from ignite.engine import Engine, Events

from monai_ext.data import NucleusPatches, load_datalist
from monai_ext.handlers import MulticlassReport
from tests.nuclei import NAMES, planted

WRONG = {0: 1, 5: 0}  # nuclei that are called by another class


@pytest.fixture
def written(tmp_path, capsys):
    items = load_datalist(planted(tmp_path / "d", images=(2, 1, 3)), ["test"], check=None)["test"]
    nuclei = NucleusPatches(items, "ssa", NAMES)

    def step(engine, index):
        sample = nuclei[index]
        scores = np.full(3, 0.1)
        scores[WRONG.get(index, sample["label"])] = 0.8
        engine.state.batch = [sample]
        return [{"score": scores}]

    engine = Engine(step)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "rank", 0))
    MulticlassReport(tmp_path / "out", NAMES, notes={"Data": "planted"}).attach(engine)
    engine.run(range(len(nuclei)))
    return nuclei, tmp_path / "out", capsys.readouterr().out


def test_numbers(written):
    nuclei, folder, said = written
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["nuclei"] == len(nuclei) == 69
    assert metrics["accuracy"]["value"] == pytest.approx(67 / 69)
    assert metrics["accuracy"]["groups"] == 3
    assert metrics["confusion"]["other"] == {"other": 23, "immune": 1, "muscle": 0}
    assert metrics["confusion"]["muscle"] == {"other": 1, "immune": 0, "muscle": 20}
    assert metrics["classes"]["immune"]["precision"]["value"] == pytest.approx(24 / 25)
    assert "weighted F1 0.971" in said
    assert "69 nuclei" in said


def test_table_and_page(written):
    _, folder, _ = written
    table = pd.read_csv(folder / "scores.csv")
    columns = ["image", "row", "group", "label", "predicted", "p_other", "p_immune", "p_muscle"]
    assert list(table.columns) == columns
    assert (table["label"] != table["predicted"]).sum() == len(WRONG)
    page = (folder / "report.html").read_text()
    for text in ("Other, surest mistakes", "Muscle, surest mistakes", "Least certain", "other, called immune (0.80)"):
        assert text in page
    assert "Immune, surest mistakes" not in page
    assert "<h2>Classes</h2>" in page or "Classes" in page
