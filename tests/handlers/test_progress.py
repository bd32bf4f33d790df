"""A long epoch shows its steps and says what it waited for; a short one prints its line and nothing else."""

import time

import pytest
from ignite.engine import Engine

from monai_ext.handlers import EpochProgress, progress


def run(batch_s=0.0, step_s=0.0, epochs=2):
    def slow():
        while True:
            time.sleep(batch_s)
            yield 0

    engine = Engine(lambda *_: time.sleep(step_s))
    engine.state.rank = 0
    EpochProgress([{"epoch": 1, "loss": 0.5}]).attach(engine)
    engine.run(slow(), max_epochs=epochs, epoch_length=4)


def test_a_short_epoch_prints_its_line_alone(capsys):
    run()
    out, err = capsys.readouterr()
    assert [line.split("  ")[:2] for line in out.splitlines()] == [["epoch 1/2", "loss 0.5"], ["epoch 2/2", "loss 0.5"]]
    assert err == ""


def test_the_steps_of_a_long_epoch_are_shown(capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE_S", 0.05)
    run(step_s=0.15, epochs=1)
    err = capsys.readouterr().err
    assert "epoch 1/1: " in err
    assert "/4 [" in err


@pytest.mark.parametrize(("batch_s", "step_s", "told"), [(0.04, 0.0, True), (0.0, 0.04, False)])
def test_waiting_for_data_is_told_once(capsys, monkeypatch, batch_s, step_s, told):
    monkeypatch.setattr(progress, "_LONG_S", 0.05)
    run(batch_s, step_s)
    said = [line for line in capsys.readouterr().out.splitlines() if "--num_workers" in line]
    assert len(said) == int(told)
    if told:
        share = int(said[0].split("%")[0])
        assert 50 < share <= 100
