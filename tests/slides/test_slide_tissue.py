"""A slide's share of tissue that is unlike the training data."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from monai_ext.data import Cohort
from monai_ext.networks import InputConvention, TissueCheck, TissueDistribution
from monai_ext.slides import SlideInferer
from tests.slides.conftest import ConvPredictor, files, paint, write_tiff

LAYERS, TILE = ["0"], 32
CONVENTION = InputConvention(mean=(128, 128, 128), std=(128, 128, 128))


class Killed(RuntimeError):
    pass


class Stopping(ConvPredictor):
    """Stops before a call."""

    calls, last = 0, 10**9

    def __call__(self, tiles):
        self.calls += 1
        if self.calls > self.last:
            raise Killed
        return super().__call__(tiles)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    write_tiff(tmp_path / "in" / "a.tif", paint(620, 930), 0.5)
    write_tiff(tmp_path / "in" / "b.tif", paint(620, 930, seed=1)[..., ::-1] // 2, 0.5)
    return tmp_path


@pytest.fixture
def check(folder):
    """Of the predictor's network, fitted on the first slide."""
    network, passes = ConvPredictor().network, []
    check = TissueCheck(folder / "tissue.npz", network, LAYERS, TILE, CONVENTION, quiet=True)
    features = check.listen(network, lambda *each: passes.append(each))
    with torch.no_grad():
        network(torch.from_numpy(paint(620, 930)).movedim(-1, 0)[None] / 128.0 - 1)
    features.remove()
    tiles, weights = passes[0]
    seen = TissueDistribution.fit(tiles[weights > 0], tiles[weights > 0], 0.05)
    check.save(folder / "tissue.npz", seen, 0.5, {"outside": 0.05})
    return TissueCheck(folder / "tissue.npz", network, LAYERS, TILE, CONVENTION)


def run(folder, name, predictor=None, check=None, **options):
    cohort = Cohort(folder / "in", folder / name, resume=True)
    inferer = SlideInferer(predictor or ConvPredictor(), folder / name, 0.5, tile_px=160, check=check, **options)
    results = inferer.run(cohort)
    cohort.close()
    return {result.path.name: result.summary for result in results}


def test_one_slide_is_foreign_and_nothing_else_changes(folder, check, capsys):
    plain = run(folder, "plain")
    told = run(folder, "told", check=check)
    assert "foreign_share" not in plain["a.tif"]
    assert told["a.tif"]["foreign_share"] < 0.3
    assert told["b.tif"]["foreign_share"] > 0.9
    assert "warnings" not in told["a.tif"]
    assert "unlike the training data: do not trust these results" in told["b.tif"]["warnings"]
    assert f"{folder / 'in' / 'b.tif'}: " in capsys.readouterr().err
    for name, summary in plain.items():
        assert summary == {key: told[name][key] for key in summary}
    written = files(folder / "plain"), files(folder / "told")
    same = [name for name in written[0] if name.endswith((".tif", ".geojson", "detections.csv", ".png", "plan.json"))]
    assert len(same) == 10
    assert all(written[0][name] == written[1][name] for name in same)
    table = pd.read_csv(folder / "told" / "summary.csv")
    assert table["foreign_share"].tolist() == [told[name]["foreign_share"] for name in ("a.tif", "b.tif")]
    page = (folder / "told" / "report.html").read_text()
    assert "more than 50% in 1 of 2 slides: do not trust" in page
    assert "unlike the training data" not in (folder / "plain" / "report.html").read_text()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.slow
def test_a_stopped_run_comes_to_the_same_share(folder, check, batch_size):
    whole = run(folder, "whole", check=check, batch_size=batch_size)["a.tif"]
    stopping = Stopping()
    stripes = json.loads((folder / "whole" / "a_plan.json").read_text())["stripes"]
    stopping.last = len(stripes[0]) + 1  # at the latest the first is done then
    slides = SlideInferer(stopping, folder / "parts", 0.5, tile_px=160, check=check, batch_size=batch_size)
    with pytest.raises(Killed):
        slides(folder / "in" / "a.tif")
    progress = json.loads((folder / "parts" / "a.partial" / "progress.json").read_text())
    assert 0 < progress["stripes"] < progress["of"]
    assert progress["seen"][0] > 0
    stopping.last = 10**9
    again = slides(folder / "in" / "a.tif").summary
    assert again["foreign_share"] == whole["foreign_share"]


def test_a_slide_of_glass_has_no_share(folder, check):
    write_tiff(folder / "glass.tif", np.full((620, 930, 3), 244, np.uint8), 0.5)
    summary = SlideInferer(ConvPredictor(), folder / "out", 0.5, tile_px=160, check=check, tissue=False)(
        folder / "glass.tif"
    ).summary
    assert summary["foreign_share"] is None
    assert "warnings" not in summary
