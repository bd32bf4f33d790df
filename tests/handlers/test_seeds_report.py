import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_ext.handlers import SeedsReport
from monai_ext.transforms import LoadFieldd

SIDE, HEADING = 260, 22  # px of a picture with its gap


@pytest.fixture
def items(tmp_path):
    """Three images; the last one is not outlined."""
    made = []
    for number in range(3):
        image, label = tmp_path / f"{number}.png", tmp_path / f"{number}.tif"
        cv2.imwrite(str(image), np.full((40, 50, 3), 200, np.uint8))
        nuclei = np.zeros((40, 50), np.uint16)
        nuclei[5:15, 5:15], nuclei[5:15, 15:25], nuclei[30:38, 30:38] = 1, 2, 3
        tifffile.imwrite(label, nuclei)
        made.append({"image": str(image), **({"label": str(label)} if number < 2 else {})})
    return made


def seeds_of(number):
    seeds = torch.zeros(1, 40, 50, dtype=torch.int32)
    if number == 0:
        seeds[0, 5:15, 5:25], seeds[0, 20:25, 40:50] = 1, 2  # two in one, and nothing
    if number == 1:
        seeds[0, 5:15, 5:15] = 1
    return seeds


def run(report, items):
    load = LoadFieldd(["source"])

    def step(engine, number):
        engine.state.batch = [load({"source": items[number]["image"], **items[number]})]
        return [{"seeds": seeds_of(int(Path(items[number]["image"]).stem))}]

    engine = Engine(step)
    report.attach(engine)
    engine.run(list(range(len(items))))


def test_counts_and_shares_where_nuclei_are_outlined(items, tmp_path, capsys):
    run(SeedsReport(tmp_path / "out"), items)
    content = json.loads((tmp_path / "out/seeds.json").read_text())
    assert (content["images"], content["seeds"], content["outlined"]) == (3, 3, 2)
    assert content["counts"] == {"seeds": 3, "right": 1, "merged": 1, "empty": 1, "nuclei": 6, "missed": 3}
    assert content["shares"] == pytest.approx({"right": 1 / 3, "merged": 1 / 3, "empty": 1 / 3, "missed": 0.5})
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        f"{tmp_path / 'out/seeds.json'}: 3 seeds in 3 images; of those in 2 outlined images 33% have an IoU above .5 "
        "with a nucleus, 33% hold two or more, 33% none; 50% of the nuclei are in none"
    )


def test_nothing_waits_for_other_ranks(items, tmp_path, monkeypatch):
    """The first rank writes the seeds alone: whatever gathers would wait for the others for ever."""
    monkeypatch.setattr("monai_ext.metrics.detection.UnevenCumulative._sync", lambda _: pytest.fail("it gathers"))
    run(SeedsReport(tmp_path / "out"), items)
    assert json.loads((tmp_path / "out/seeds.json").read_text())["outlined"] == 2


def test_the_picture_shows_images_with_seeds(items, tmp_path):
    run(SeedsReport(tmp_path / "out", pictures=2), items)
    picture = cv2.imread(str(tmp_path / "out/seeds.png"))
    assert picture.shape == (2 * SIDE + HEADING, 3 * SIDE, 3)  # image, seeds, labels
    for row, number in enumerate((0, 1)):
        top = HEADING + row * SIDE
        cell = picture[top : top + 40, SIDE : SIDE + 50]
        assert ((cell != 200).any(axis=2) == (seeds_of(number)[0].numpy() > 0)).all()


def test_without_outlines_there_are_counts_and_a_picture(items, tmp_path, capsys):
    for item in items:
        item.pop("label", None)
    run(SeedsReport(tmp_path / "out"), items)
    assert json.loads((tmp_path / "out/seeds.json").read_text()) == {"images": 3, "seeds": 3, "outlined": 0}
    assert cv2.imread(str(tmp_path / "out/seeds.png")).shape[1] == 2 * SIDE
    assert capsys.readouterr().out.endswith(": 3 seeds in 3 images\n")


def test_no_seed_at_all_draws_nothing(items, tmp_path):
    run(SeedsReport(tmp_path / "out"), items[2:])
    assert not (tmp_path / "out/seeds.png").exists()
    assert json.loads((tmp_path / "out/seeds.json").read_text())["seeds"] == 0


def test_seeds_are_on_the_grid_of_the_file(items, tmp_path):
    """Scaled down for the network, they are compared with labels of the file's size."""
    source = MetaTensor(torch.zeros(3, 20, 25), meta={"scale": 2.0, "file_shape": (40, 50)})
    source.meta["filename_or_obj"] = items[1]["image"]
    report = SeedsReport(tmp_path / "out")
    seeds = torch.nn.functional.max_pool2d(seeds_of(1).float(), 2).int()
    batch = [{"source": source, "label": items[1]["label"]}]
    report._collect(SimpleNamespace(state=SimpleNamespace(batch=batch, output=[{"seeds": seeds}])))
    report._write(None)
    assert json.loads((tmp_path / "out/seeds.json").read_text())["counts"]["nuclei"] == 3


def test_the_steps_of_the_seeds_that_are_shown(items, tmp_path):
    def steps(relevance, image):
        assert image.meta["filename_or_obj"]
        return {"relevance": relevance[0].numpy(), "above theta": relevance[0].numpy() > 0.5}

    load = LoadFieldd(["source"])

    def step(engine, number):
        engine.state.batch = [load({"source": items[number]["image"], **items[number]})]
        relevance = torch.zeros(1, 40, 50)
        relevance[0, 5:15, 5:25], relevance[0, 20:30, 5:25] = 1.0, 0.25
        return [{"seeds": seeds_of(number), "pred": relevance}]

    engine = Engine(step)
    SeedsReport(tmp_path / "out", steps=steps).attach(engine)
    engine.run(list(range(3)))
    picture = cv2.imread(str(tmp_path / "out/seed_steps.png"))
    assert picture.shape == (2 * SIDE + HEADING, 3 * SIDE, 3)  # of images with seeds: image, relevance, above theta
    changed = (picture[HEADING : HEADING + 40] != 200).any(axis=-1)
    assert not changed[:, :50].any()
    assert changed[5:15, SIDE + 5 : SIDE + 25].all()
    assert changed[20:30, SIDE + 5 : SIDE + 25].all()
    assert changed[5:15, 2 * SIDE + 5 : 2 * SIDE + 25].all()
    assert not changed[20:30, 2 * SIDE : 2 * SIDE + 50].any()


def test_no_steps_unless_asked(items, tmp_path):
    run(SeedsReport(tmp_path / "out"), items)
    assert not (tmp_path / "out/seed_steps.png").exists()
