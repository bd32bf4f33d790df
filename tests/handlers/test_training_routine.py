"""The routine does what its handlers do when each is listed, and in the same order."""

import json

import pytest
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from monai.metrics import LossMetric
from torch import nn

from monai_ext.handlers import EpochProgress, EpochSeed, LossOf, MetricOf, TrainingRoutine, TrainingState, WeightAverage
from monai_ext.metrics import ClassificationF1


def train(folder, as_one, epochs=3, interval=2, validated=True, averaged=True):
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    items = [{"image": torch.rand(4), "label": torch.rand(1)} for _ in range(6)]
    loader = torch.utils.data.DataLoader(items, batch_size=2, shuffle=True)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    average = WeightAverage(network, 0.3) if averaged else None
    evaluator = None
    if validated:
        used = average.ema_model if averaged else network
        metric = {"val_loss": LossOf(nn.MSELoss(reduction="none"))}
        evaluator = SupervisedEvaluator(torch.device("cpu"), loader, used, key_val_metric=metric)
    state = TrainingState(folder, {"network": network, "optimizer": optimizer}, evaluator)
    if as_one:
        handlers = [TrainingRoutine(state, 7, scheduler, average, interval)]
    else:
        handlers = [EpochSeed(7), average, LrScheduleHandler(scheduler, print_lr=False)]
        if validated:
            handlers.append(ValidationHandler(min(interval, epochs), evaluator))
        handlers = [each for each in (*handlers, state, EpochProgress(state.history)) if each is not None]
    SupervisedTrainer(
        torch.device("cpu"), epochs, loader, network, optimizer, nn.MSELoss(), train_handlers=handlers
    ).run()
    return json.loads((folder / "history.json").read_text()), torch.load(folder / "model.pt", weights_only=True)


@pytest.mark.parametrize(
    ("options", "validated"),
    [({}, [2]), ({"interval": 5}, [3]), ({"validated": False}, []), ({"averaged": False}, [2])],
    ids=["all", "shorter than the interval", "not validated", "not averaged"],
)
def test_equals_its_handlers_one_by_one(tmp_path, options, validated):
    history, weights = train(tmp_path / "one", as_one=True, **options)
    expected, expected_weights = train(tmp_path / "each", as_one=False, **options)
    assert history == expected
    assert {name: value.tolist() for name, value in weights.items()} == {
        name: value.tolist() for name, value in expected_weights.items()
    }
    assert [entry["epoch"] for entry in history if "val_loss" in entry] == validated
    assert [entry["lr"] for entry in history] == [0.05, 0.025, 0.0125]


def test_no_schedule_leaves_the_rate(tmp_path):
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    state = TrainingState(tmp_path, {"network": network})
    loader = [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}]
    trainer = SupervisedTrainer(
        torch.device("cpu"), 2, loader, network, optimizer, nn.MSELoss(), train_handlers=[TrainingRoutine(state)]
    )
    trainer.run()
    assert [entry["lr"] for entry in state.history] == [0.1, 0.1]


def test_metrics_take_the_named_entries():
    metric = MetricOf(ClassificationF1(num_classes=2, score="accuracy"), keys=("a", "b"))
    assert metric.save_details is False
    one, two = metric._output_transform(
        [{"a": torch.tensor([1.0, 0.0]), "b": 0}, {"a": torch.tensor([0.0, 1.0]), "b": 0}]
    )
    assert [entry.tolist() for entry in one] == [[1.0, 0.0], [0.0, 1.0]]
    assert two == [0, 0]
    loss = LossOf(nn.MSELoss(reduction="none"))
    assert isinstance(loss.metric_fn, LossMetric)
    pred, label = loss._output_transform([{"pred": torch.ones(1), "label": torch.zeros(1)}])
    assert (pred[0].item(), label[0].item()) == (1.0, 0.0)
