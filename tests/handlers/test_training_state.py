import json
import random

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import IgniteMetricHandler, LrScheduleHandler, ValidationHandler, from_engine
from monai.metrics import MSEMetric
from monai.transforms import Compose, MapTransform, RandGaussianNoised, Randomizable
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.handlers.progress import EpochProgress
from monai_ext.handlers.training_state import EpochSeed, TrainingState, plain_number
from monai_ext.handlers.weight_average import WeightAverage
from monai_ext.networks import CAFFE, read_convention
from tests.killed import KillableRun, Killed, assert_equal

EPOCHS = 6


class Draw(Randomizable, MapTransform):
    def __call__(self, data):
        return {**data, "image": data["image"] + float(self.R.normal()) / 10}


class Scripted(MSEMetric):
    """A metric whose value at each epoch is given."""

    values = ()

    def aggregate(self):
        super().aggregate()
        return torch.tensor(self.values[self.epoch() - 1])


class Run(KillableRun):
    """A training of two weights, with everything that draws random numbers or has a state."""

    def __init__(
        self,
        folder,
        resume=False,
        epochs=EPOCHS,
        values=None,
        interval=1,
        workers=0,
        amp=False,
        stop=None,
        every=1,
        keep="best",
    ):
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))
        rng = np.random.default_rng(0)
        data = [
            {"image": torch.as_tensor(rng.normal(size=3), dtype=torch.float32), "label": torch.ones(2)}
            for _ in range(8)
        ]
        transform = Compose([Draw("image"), RandGaussianNoised("image", prob=0.5)])
        loader = DataLoader(Dataset(data, transform), batch_size=2, shuffle=True, num_workers=workers)
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))
        average = WeightAverage(self.network, momentum=0.2, handle_buffers="update")
        metric = MSEMetric()
        if values is not None:
            metric = Scripted()
            metric.values, metric.epoch = values, lambda: self.trainer.state.epoch
        self.evaluator = SupervisedEvaluator(
            "cpu",
            DataLoader(Dataset(data), batch_size=3),
            average.ema_model,
            key_val_metric={"score": IgniteMetricHandler(metric, output_transform=from_engine(["pred", "label"]))},
        )
        objects = {
            "network": self.network,
            "average": average.ema_model,
            "optimizer": optimizer,
            "scheduler": scheduler,
        }
        self.state = TrainingState(
            folder, objects, self.evaluator, resume, weights="average", interval=every, keep=keep
        )
        self.trainer = SupervisedTrainer(
            "cpu",
            epochs,
            loader,
            self.network,
            optimizer,
            nn.MSELoss(),
            amp=amp,
            train_handlers=[
                EpochSeed(3),
                average,
                LrScheduleHandler(scheduler, print_lr=False),
                ValidationHandler(interval, self.evaluator),
                self.state,
                EpochProgress(self.state.history),
            ],
        )
        if stop is not None:
            self.kill_after(stop)


def left(folder):
    """The files of a run, as what they mean."""
    state = torch.load(folder / "training_state.pt", weights_only=True)
    return torch.load(folder / "model.pt", weights_only=True), json.loads((folder / "history.json").read_text()), state


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop", [1, 4, 9, 12, 23])  # iterations; four make an epoch
def test_killed_and_resumed_equals_undisturbed(stop, workers, tmp_path):
    Run(tmp_path / "whole", workers=workers)()
    with pytest.raises(Killed):
        Run(tmp_path / "killed", workers=workers, stop=stop)()
    random.seed(stop)  # another process has other generators
    np.random.seed(stop)  # noqa: NPY002  the one that others use
    resumed = Run(tmp_path / "killed", resume=True, workers=workers)()
    assert resumed.trainer.state.epoch == EPOCHS
    assert_equal(left(tmp_path / "killed"), left(tmp_path / "whole"))


@pytest.mark.parametrize("stop", [3, 9, 21])
def test_states_written_seldom(stop, tmp_path):
    Run(tmp_path / "whole")()
    with pytest.raises(Killed):
        Run(tmp_path / "killed", stop=stop, every=4)()
    assert (tmp_path / "killed" / "training_state.pt").exists() == (stop > 16)
    Run(tmp_path / "killed", resume="true", every=4)()
    assert_equal(left(tmp_path / "killed"), left(tmp_path / "whole"))


def test_a_different_seed_or_a_lost_state_is_noticed(tmp_path):
    Run(tmp_path / "a")()
    run = Run(tmp_path / "b")
    run.trainer.add_event_handler(Events.EPOCH_STARTED(once=3), lambda: torch.manual_seed(1))
    run()
    with pytest.raises(AssertionError):
        assert_equal(left(tmp_path / "a"), left(tmp_path / "b"))


@pytest.mark.parametrize(
    ("values", "best"),
    [
        pytest.param([0.1, 0.5, 0.9, 0.3, 0.8, 0.2], 3, id="in the middle"),
        pytest.param([0.9, 0.5, 0.9, 0.3, 0.8, 0.2], 1, id="the first of equals"),
        pytest.param([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6, id="the last"),
        pytest.param([-5.0, -4.0, -9.0, -9.0, -9.0, -9.0], 2, id="below zero"),
    ],
)
@pytest.mark.parametrize("stop", [None, 17], ids=["undisturbed", "resumed in epoch 5"])
def test_best_model_is_kept(values, best, stop, tmp_path):
    weights = {}
    for resume in (False, True) if stop else (False,):
        run = Run(tmp_path, values=values, resume=resume, stop=None if resume else stop)
        run.trainer.add_event_handler(
            Events.EPOCH_COMPLETED,
            lambda engine, run=run: weights.setdefault(
                engine.state.epoch, {k: v.clone() for k, v in run.state.objects["average"].state_dict().items()}
            ),
        )
        if stop and not resume:
            with pytest.raises(Killed):
                run()
        else:
            run()
    model, history, state = left(tmp_path)
    assert_equal(model, weights[best])
    assert [entry["epoch"] for entry in history] == list(range(1, EPOCHS + 1))
    assert [entry["score"] for entry in history] == pytest.approx(values)
    assert state["best_metric_epoch"] == best


def test_the_last_model_is_kept_where_it_is_wanted(tmp_path):
    Run(tmp_path, values=[0.0, 0.9, 0.0, 0.0, 0.0, 0.2], keep="last")()
    model, _, state = left(tmp_path)
    assert state["best_metric_epoch"] == 2
    assert_equal(model, state["objects"]["average"])
    with pytest.raises(InputError, match="keep: expected 'best' or 'last', found 'first'"):
        Run(tmp_path, keep="first")


def test_epochs_without_validation(tmp_path):
    Run(tmp_path, values=[0.0, 0.0, 0.7, 0.0, 0.0, 0.2], interval=3)()
    model, history, state = left(tmp_path)
    assert [entry.get("score") for entry in history] == [None, None, pytest.approx(0.7), None, None, pytest.approx(0.2)]
    assert state["best_metric_epoch"] == 3
    assert not torch.equal(model["0.weight"], state["objects"]["average"]["0.weight"])
    assert history[1]["lr"] == pytest.approx(0.05 / 3)  # after the epoch's step


def test_a_run_too_short_for_validation_leaves_its_last_model(tmp_path):
    (tmp_path / "model.pt").write_bytes(b"of an earlier run")
    Run(tmp_path, interval=5, epochs=2)()
    model, _, state = left(tmp_path)
    assert_equal(model, state["objects"]["average"])


def test_weights_are_written_with_their_convention(tmp_path):
    run = Run(tmp_path, epochs=1)
    run.state.convention = CAFFE
    run.trainer.run()
    assert read_convention(tmp_path / "model.pt") == CAFFE
    Run(tmp_path, epochs=1).trainer.run()  # whose input nobody stated
    assert read_convention(tmp_path / "model.pt") is None


def test_without_resume_a_run_starts_afresh(tmp_path):
    Run(tmp_path, epochs=2)()
    first = left(tmp_path)
    Run(tmp_path, epochs=2)()
    assert_equal(left(tmp_path), first)
    assert len(first[1]) == 2


def test_a_finished_run_stays_as_it_is(tmp_path):
    Run(tmp_path)()
    before = left(tmp_path)
    Run(tmp_path, resume=True)()
    assert_equal(left(tmp_path), before)
    Run(tmp_path, resume=True, epochs=EPOCHS + 1)()
    assert len(left(tmp_path)[1]) == EPOCHS + 1


def test_resume_with_nothing_there(tmp_path):
    Run(tmp_path / "new", resume=True, epochs=1)()
    assert len(left(tmp_path / "new")[1]) == 1


def test_a_kill_while_writing_leaves_whole_files(tmp_path, monkeypatch):
    Run(tmp_path, epochs=2)()
    before = left(tmp_path)
    save = torch.save
    monkeypatch.setattr(
        torch, "save", lambda _state, path: (path.write_bytes(b"half"), (_ for _ in ()).throw(Killed))[0]
    )
    with pytest.raises(Killed):
        Run(tmp_path, resume=True, epochs=3, values=[0, 0, 9.0])()
    assert_equal(left(tmp_path), before)
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "history.json", "training_state.pt"}
    monkeypatch.setattr(torch, "save", save)
    Run(tmp_path, resume=True, epochs=3)()
    assert len(left(tmp_path)[1]) == 3


def test_without_an_evaluator_the_last_model_counts(tmp_path):
    network, loader = nn.Linear(1, 1), [{"image": torch.ones(2, 1), "label": torch.ones(2, 1)}]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    state = TrainingState(tmp_path, {"network": network, "optimizer": optimizer})
    SupervisedTrainer("cpu", 2, loader, network, optimizer, nn.MSELoss(), train_handlers=[state]).run()
    assert_equal(torch.load(tmp_path / "model.pt", weights_only=True), dict(network.state_dict()))
    assert [entry["epoch"] for entry in state.history] == [1, 2]


def test_epochs_are_seeded_each_on_its_own():
    class State:
        epoch, rank = 1, 0

    class Engine:
        state, data_loader = State(), None

    def drawn(epoch, rank=0, seed=0):
        State.epoch, State.rank = epoch, rank
        EpochSeed(seed)(Engine)
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002

    assert drawn(1) == drawn(1)
    others = [drawn(1), drawn(2), drawn(1, rank=1), drawn(1, seed=1), drawn(2, rank=1)]
    for values in zip(*others, strict=True):
        assert len(set(values)) == len(others)


def test_progress_tells_what_is_left(tmp_path, capsys):
    Run(tmp_path, values=[0.25, 0.5], epochs=2)()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    assert lines[0].startswith("epoch 1/2  loss ")
    assert "score 0.5" in lines[1]
    assert lines[1].endswith("0:00:00 left")


@pytest.mark.parametrize(
    ("value", "expected"), [(1.5, 1.5), (np.float32(2), 2.0), (float("nan"), None), (np.inf, None)]
)
def test_plain_number(value, expected):
    assert plain_number(value) == expected
