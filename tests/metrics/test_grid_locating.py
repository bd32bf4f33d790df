"""Precision, recall and Dice of patches, vessel by vessel."""

import datetime as dt

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.handlers import IgniteMetricHandler, from_engine

from monai_ext.base.errors import InputError
from monai_ext.metrics import GridLocating, bootstrap_ci, grid_locating_scores, marked_grids

ABS = 1e-12
NAMES = ("precision", "recall", "dice")


def slow(pred, truth):
    """The scores of one vessel, by sets of places."""
    found = {(i, j) for i, row in enumerate(pred[0].tolist()) for j, c in enumerate(row) if c == 2}
    there = {(i, j) for i, row in enumerate(truth[0].tolist()) for j, c in enumerate(row) if c == 2}
    if not found and not there:
        return 1.0, 1.0, 1.0
    both = len(found & there)
    return (
        both / len(found) if found else 0.0,
        both / len(there) if there else 0.0,
        2 * both / (len(found) + len(there)),
    )


def vessels(seed=0, count=6):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 7, (count, 2))
    return [[torch.as_tensor(rng.integers(0, 3, (1, *size))) for size in sizes] for _ in range(2)]


@pytest.mark.parametrize("seed", range(3))
def test_equals_sets_of_places(seed):
    pred, truth = vessels(seed)
    metric = GridLocating()
    metric(pred[:2], truth[:2])
    metric(pred[2:], truth[2:])
    expected = np.array([slow(*pair) for pair in zip(pred, truth, strict=True)])
    scores = grid_locating_scores(metric.get_buffer())
    for column, name in enumerate(NAMES):
        np.testing.assert_allclose(scores[name], expected[:, column], rtol=0, atol=ABS)
        assert metric.aggregate()[name].item() == pytest.approx(expected[:, column].mean(), abs=ABS)


@pytest.mark.parametrize(
    ("pred", "truth", "scores"),
    [
        pytest.param([0, 1, 1], [0, 1, 1], (1, 1, 1), id="nothing there, nothing found"),
        pytest.param([2, 1, 0], [1, 1, 0], (0, 0, 0), id="nothing there"),
        pytest.param([0, 1, 1], [2, 1, 1], (0, 0, 0), id="nothing found, as without the loop (Table 4)"),
        pytest.param([2, 2, 2], [2, 1, 0], (1 / 3, 1, 0.5), id="everything found"),
        pytest.param([2, 1, 0], [2, 2, 2], (1, 1 / 3, 0.5), id="one of three found"),
    ],
)
def test_by_hand(pred, truth, scores):
    metric = GridLocating()
    metric(torch.tensor(pred).view(1, 1, 1, 3), torch.tensor(truth).view(1, 1, 1, 3))
    assert [metric.aggregate()[name].item() for name in NAMES] == pytest.approx(list(scores), abs=ABS)


def test_masks_classes_and_numpy_are_alike():
    pred, truth = vessels(1)
    rows = GridLocating()(pred, truth)
    assert torch.equal(GridLocating()([p == 2 for p in pred], [t.numpy() == 2 for t in truth]), rows)
    assert torch.equal(GridLocating()([p.float() for p in pred], truth), rows)
    assert torch.equal(GridLocating(positive=1)([p - 1 for p in pred], [t - 1 for t in truth]), rows)


def test_interval_over_vessels():
    pred, truth = vessels(2, count=20)
    metric = GridLocating()
    metric(pred, truth)
    scores = grid_locating_scores(metric.get_buffer())["dice"]
    interval = bootstrap_ci(scores)
    assert interval.low <= metric.aggregate()["dice"].item() <= interval.high


def test_reset_and_nothing():
    metric = GridLocating()
    assert metric([], []).shape == (0, 3)
    assert all(value.isnan() for value in metric.aggregate().values())
    metric(*vessels())
    metric.reset()
    assert metric.get_buffer().shape == (0, 3)


@pytest.mark.parametrize(
    ("pred", "truth", "found"),
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(1, 1, 3, 3), "found 2 and 1"),
        (torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 4), r"a prediction \(1, 3, 3\) and a label \(1, 3, 4\)"),
        (torch.zeros(1, 3, 3, 3), torch.zeros(1, 3, 3, 3), r"expected grids \(1, h, w\)"),
    ],
)
def test_bad_grids(pred, truth, found):
    with pytest.raises(InputError, match=found):
        GridLocating()(pred, truth)


def test_in_an_engine():
    pred, truth = vessels(3)
    engine = Engine(lambda _, batch: [{"pred": p, "label": t} for p, t in batch])
    IgniteMetricHandler(GridLocating(), output_transform=from_engine(["pred", "label"])).attach(engine, "locating")
    pairs = list(zip(pred, truth, strict=True))
    metrics = engine.run([pairs[:4], pairs[4:]]).metrics
    expected = np.mean([slow(*pair) for pair in pairs], axis=0)
    assert [float(metrics[name]) for name in NAMES] == pytest.approx(expected.tolist(), abs=ABS)


def test_one_score_as_handlers_expect_it():
    pred, truth = vessels(3)
    every, one = GridLocating(), GridLocating(score="recall")
    every(pred, truth), one(pred, truth)
    assert torch.equal(one.aggregate(), every.aggregate()["recall"])
    with pytest.raises(InputError, match="'precision', 'recall' or 'dice', found 'f1'"):
        GridLocating(score="f1")


def test_only_marked_invaded_vessels_are_judged():
    def out(label, *truth, uncut=0):
        grids = {"truth": truth, "located": (2, 1, 2), "places": (-1, 5, 7)}  # nothing is found at a blank place
        grids = {name: torch.tensor([[values]]) for name, values in grids.items()}
        return {"label": torch.tensor([label]), "uncut": torch.tensor(uncut), **grids}

    outputs = [
        out(1.0, 0, 1, 2),
        out(0.0, 0, 1, 1),
        out(1.0, 0, -100, -100, uncut=-1),
        out(1.0, 0, 1, 1),
        out(1.0, 0, 0, 0, uncut=-1),  # unmarked, and without cells
    ]
    located, truth = marked_grids(outputs)
    assert [grid.flatten().tolist() for grid in located] == [[0, 1, 2]] * 2
    assert [grid.flatten().tolist() for grid in truth] == [[0, 1, 2], [0, 1, 1]]
    assert marked_grids([]) == ([], [])


def _rank(rank, folder):
    minutes = dt.timedelta(minutes=2)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", minutes, world_size=2, rank=rank)
    pred, truth = vessels(4)
    metric = GridLocating()
    if rank == 0:  # the other has nothing
        metric(pred, truth)
    torch.save(metric.get_buffer(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    alone = GridLocating()(*vessels(4))
    assert all(torch.equal(torch.load(tmp_path / f"{rank}.pt"), alone) for rank in (0, 1))
