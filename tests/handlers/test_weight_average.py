import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader
from torch import nn

from monai_ext.handlers import TrainingState, WeightAverage

STEP = 1e-3


def run(folder, momentum=0.02, resume=False, epochs=1, loaded=None):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    average = WeightAverage(network, momentum=momentum, handle_buffers="update")
    optimizer = torch.optim.SGD(network.parameters(), lr=STEP)
    objects = {"network": network, "average": average.ema_model, "optimizer": optimizer}
    state = TrainingState(folder, objects, resume=resume, weights="average")
    data = [{"image": torch.randn(3), "label": torch.ones(2)} for _ in range(4)]
    handlers = [average, state]
    if loaded is not None:  # as MONAI Label inserts it
        handlers.insert(0, CheckpointLoader(str(loaded), {"model": network}))
    SupervisedTrainer(
        "cpu",
        epochs,
        DataLoader(Dataset(data), batch_size=4),
        network,
        optimizer,
        nn.MSELoss(),
        train_handlers=handlers,
    ).run()
    return network, average.ema_model


def distance(one, other):
    return max((a - b).abs().max().item() for a, b in zip(one.values(), other.values(), strict=True))


def test_fine_tuning_begins_from_the_loaded_weights(tmp_path):
    torch.manual_seed(1)
    source = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).state_dict()
    torch.save(source, tmp_path / "source.pt")
    network, _ = run(tmp_path / "out", loaded=tmp_path / "source.pt")
    kept = torch.load(tmp_path / "out/model.pt", weights_only=True)
    weights = [name for name in source if name.endswith(("weight", "bias"))]
    # one step moves the network a little, and its average by a fiftieth of that
    assert 0 < distance({n: kept[n] for n in weights}, {n: source[n] for n in weights}) < STEP
    for name in weights:
        expected = 0.98 * source[name] + 0.02 * network.state_dict()[name]
        torch.testing.assert_close(kept[name], expected)


def test_a_resumed_run_keeps_its_average(tmp_path):
    whole = run(tmp_path / "whole", epochs=3)
    run(tmp_path / "parts", epochs=1)
    # seeds of epochs are another handler's business: one batch holds all data
    parts = run(tmp_path / "parts", epochs=3, resume=True)
    assert parts[1].state_dict()["1.num_batches_tracked"] == whole[1].state_dict()["1.num_batches_tracked"]
    assert distance(parts[1].state_dict(), parts[0].state_dict()) > 0
    assert distance(parts[1].state_dict(), whole[1].state_dict()) == 0
