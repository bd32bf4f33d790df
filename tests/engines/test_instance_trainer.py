import json

import pytest
import torch
from ignite.engine import Events
from torch import nn

from monai_ext.data import collate_targets
from monai_ext.engines import InstanceTrainer
from monai_ext.handlers import TrainingState
from monai_ext.instances.targets import instances_to_target
from monai_ext.losses import SelfTrainingLoss
from monai_ext.networks.nets import NucleiMaskRCNN
from tests.discs import disc_image

ALPHA = 0.75
SAME = 1e-6
FALLS = 0.8  # of the loss of the first epoch


class FakeBackEnd(nn.Module):
    """Losses in proportion to one weight: the area of the masks, and how many there are."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen = []

    def forward(self, images, *sets):
        self.seen.append((images, *sets))
        losses = [self.losses(targets) for targets in sets]
        return losses if len(losses) > 1 else losses[0]

    def losses(self, targets):
        area = sum(target["masks"].sum() for target in targets)
        return {"area": self.weight * area, "count": self.weight * sum(len(target["masks"]) for target in targets)}


def squares(*sides):
    """A target of squares beside each other."""
    ids = torch.zeros(1, 8, 32, dtype=torch.int64)
    for number, side in enumerate(sides):
        ids[0, :side, 8 * number : 8 * number + side] = number + 1
    return instances_to_target(ids)


def batch(*label, found=None):
    item = {"image": torch.rand(3, 8, 32), "label": squares(*label)}
    return collate_targets([item if found is None else item | {"found": squares(*found)}])


def trained(batches, network=None, epochs=1, rate=0.01, **options):
    network = network or FakeBackEnd()
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    trainer = InstanceTrainer("cpu", epochs, batches, network, optimizer, **options)
    trainer.run()
    return trainer, network


def test_without_masks_found_the_loss_is_that_of_the_masks():
    trainer, network = trained([batch(2, 3)])
    assert trainer.state.output["loss"].item() == pytest.approx(4 + 9 + 2, rel=SAME)
    assert len(network.seen) == 1
    images, targets = network.seen[0]
    assert torch.equal(images, trainer.state.batch["image"])
    assert targets is trainer.state.batch["label"]


def test_masks_found_count_the_rest_of_alpha():
    given = batch(2, 3, found=(5,))
    trainer, network = trained([given], loss_function=SelfTrainingLoss(ALPHA))
    expected = ALPHA * (4 + 9 + 2) + (1 - ALPHA) * (25 + 1)
    assert trainer.state.output["loss"].item() == pytest.approx(expected, rel=SAME)
    ((images, old, new),) = network.seen  # both at once
    assert torch.equal(images, given["image"])
    assert old is given["label"]
    assert new is given["found"]
    assert network.weight.item() == pytest.approx(1 - 0.01 * expected, rel=SAME)  # both have a gradient


def test_the_usual_weights_are_those_of_the_paper():
    trainer, _ = trained([batch(2, found=(3,))])
    assert trainer.state.output["loss"].item() == pytest.approx(0.66 * 5 + 0.34 * 10, rel=SAME)


def test_the_output_has_the_parts_of_the_masks():
    trainer, _ = trained([batch(2, 3, found=(5,))])
    output = trainer.state.output
    assert (output["area"].item(), output["count"].item()) == (13, 2)
    assert not output["area"].requires_grad


@pytest.mark.parametrize(("clip", "step"), [(None, 15), (2.0, 2), (100.0, 15)])
def test_long_gradients_are_cut(clip, step):
    _, network = trained([batch(2, 3)], rate=1.0, clip=clip)
    assert 1 - network.weight.item() == pytest.approx(step, rel=1e-4)


def test_the_history_has_the_mean_loss(tmp_path):
    network = FakeBackEnd()
    state = TrainingState(tmp_path, {"network": network})
    trained([batch(2), batch(3)], network, rate=0.0, train_handlers=[state])
    history = json.loads((tmp_path / "history.json").read_text())
    assert [entry["loss"] for entry in history] == pytest.approx([(5 + 10) / 2], rel=SAME)
    assert torch.load(tmp_path / "model.pt", weights_only=True)["weight"].item() == 1


@pytest.mark.slow
def test_a_network_learns_discs():
    torch.manual_seed(0)
    network = NucleiMaskRCNN("resnet18", channels=16, box_channels=16, proposals=(200, 100))
    items = []
    for seed in range(4):
        image, ids = disc_image(seed, 3, 64)
        target = instances_to_target(ids)
        items.append({"image": image, "label": target, "found": target})
    losses = []
    batches = [collate_targets(items[:2]), collate_targets(items[2:])]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    trainer = InstanceTrainer("cpu", 8, batches, network, optimizer, clip=5.0)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(engine.state.output["loss"].item())
    )
    trainer.run()
    assert sum(losses[-2:]) < FALLS * sum(losses[:2])
    assert {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"} < set(
        trainer.state.output
    )
