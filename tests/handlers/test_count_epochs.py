"""Trainings that end with a step."""

import json

import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer

from monai_ext.base.errors import InputError
from monai_ext.handlers import TrainingRoutine, TrainingState, count_epochs

BATCHES = 4  # an epoch


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(3, None, 3), (None, 8, 2), (None, 9, 3), (2, 100, 2), (90, 5, 2), (1, 1, 1)],
)
def test_the_first_limit_decides(epochs, max_steps, expected):
    assert count_epochs(epochs, max_steps, BATCHES) == expected


@pytest.mark.parametrize(
    ("epochs", "max_steps", "message"),
    [
        (None, None, "epochs: expected a number, or max_steps, found neither"),
        (0, None, "epochs: expected a whole number above 0"),
        (None, 2.5, "max_steps: expected a whole number above 0"),
        (3, True, "max_steps: expected a whole number above 0"),
    ],
)
def test_limits_that_are_none(epochs, max_steps, message):
    with pytest.raises(InputError, match=message):
        count_epochs(epochs, max_steps, BATCHES)


def trainer(folder, max_steps, epochs=None, resume=False, seen=None):
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    loader = DataLoader(Dataset([{"image": torch.ones(1), "label": torch.zeros(1)}] * BATCHES), batch_size=1)
    state = TrainingState(folder, {"network": network, "optimizer": optimizer}, resume=resume)
    routine = TrainingRoutine(state, max_steps=max_steps, summary="drawn from four items")
    engine = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=count_epochs(epochs, max_steps, BATCHES),
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.MSELoss(),
        train_handlers=[routine],
    )
    if seen is not None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.iteration))
    return engine


@pytest.mark.parametrize("max_steps", [1, 3, 4, 6, 8, 9])
def test_a_training_takes_as_many_steps(max_steps, tmp_path, capsys):
    seen = []
    trainer(tmp_path, max_steps, seen=seen).run()
    assert seen == list(range(1, max_steps + 1))
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["epoch"] for entry in history] == list(range(1, -(-max_steps // BATCHES) + 1))
    assert (tmp_path / "model.pt").is_file()
    assert capsys.readouterr().out.startswith("drawn from four items\nepoch 1/")


def test_a_resumed_training_ends_with_the_same_step(tmp_path):
    """As one that was stopped after its first epoch."""
    first, seen = [], []
    trainer(tmp_path, 7, epochs=1, seen=first).run()
    trainer(tmp_path, 7, resume=True, seen=seen).run()
    assert first + seen == list(range(1, 8))
