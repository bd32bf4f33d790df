"""What every back end of Cyclic Learning has to do."""

import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.instances.targets import instances_to_target
from monai_ext.networks.nets import InstanceBackEnd, NucleiHoVerNet, NucleiKGInstance, NucleiMaskRCNN, NucleiUNet
from tests.discs import disc_image, f1, grid_ids

MIN_F1 = 0.8  # on what it has learnt by heart
SMALL = {"channels": 32}
BACK_ENDS = {
    "mask_rcnn": lambda name="resnet18", **options: NucleiMaskRCNN(name, **SMALL, box_channels=64, **options),
    "hovernet": lambda name="resnet18", **options: NucleiHoVerNet(name, **options),
    "unet": lambda name="resnet18", **options: NucleiUNet(name, **options),
    "kg_instance": lambda name="resnet18", **options: NucleiKGInstance(name, **SMALL, **options),
}
STEPS = {"mask_rcnn": 60, "hovernet": 40, "unet": 140, "kg_instance": 80}


@pytest.fixture(params=BACK_ENDS)
def build(request):
    torch.manual_seed(0)
    return BACK_ENDS[request.param]


def batch(count=2, side=64, discs=3):
    images, ids = zip(*(disc_image(seed, discs, side) for seed in range(count)), strict=True)
    return torch.stack(images), [instances_to_target(each) for each in ids]


@pytest.mark.slow
@pytest.mark.parametrize("name", BACK_ENDS)
def test_learns_a_few_images_by_heart(name):
    torch.manual_seed(0)
    network = BACK_ENDS[name]()
    images, targets = batch()
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    for _ in range(STEPS[name]):
        optimiser.zero_grad()
        sum(network(images, targets).values()).backward()
        optimiser.step()
    found = network.predict(images)
    for one, target in zip(found, targets, strict=True):
        assert f1(one["masks"], target["masks"]) > MIN_F1


def test_losses_and_predictions_have_their_form(build):
    network = build()
    assert isinstance(network, InstanceBackEnd)
    images, targets = batch(side=70)  # no multiple of any stride
    losses = network.losses(images, targets)
    assert all(value.ndim == 0 and value.isfinite() and value >= 0 for value in losses.values())
    sum(losses.values()).backward()
    # none is left out, for which DistributedDataParallel would wait
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert any(p.grad.abs().max() > 0 for p in network.backbone.parameters())
    for found in network.predict(images):
        count = len(found["scores"])
        assert found["masks"].shape == (count, 70, 70)
        assert found["masks"].dtype == torch.bool
        assert found["boxes"].shape == (count, 4)
        assert found["scores"].diff().le(0).all()
        assert found["masks"].flatten(1).any(1).all()


def test_predicting_changes_nothing(build):
    network = build()
    images, _ = batch()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    once, again = network.train()(images), network.eval().predict(images)
    assert all(torch.equal(a[key], b[key]) for a, b in zip(once, again, strict=True) for key in a)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    network.train().predict(images)
    assert network.training


def test_the_backbone_is_all_that_crosses(build):
    one, other = build(), build()
    assert not torch.equal(one.backbone.conv1.weight, other.backbone.conv1.weight)
    other.backbone.load_state_dict(one.backbone.state_dict())
    assert torch.equal(one.backbone.layer4[1].conv2.weight, other.backbone.layer4[1].conv2.weight)


def test_images_without_nuclei(build):
    network = build()
    images, _ = batch()
    empty = instances_to_target(torch.zeros(1, 64, 64, dtype=torch.int64))
    loss = sum(network.losses(images, [empty, empty]).values())
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None for p in network.parameters())


def test_more_than_four_hundred_nuclei(build):
    ids = grid_ids(21)
    images = torch.where(ids > 0, -1.0, 1.0).expand(1, 3, -1, -1)
    loss = sum(build().losses(images, [instances_to_target(ids)]).values())
    loss.backward()
    assert loss.isfinite()


def test_unknown_images_and_weights_of_zero_teach_nothing(build):
    """The gradient of the second image is exactly 0, that of the first is not."""
    network = build(unlabelled="ignore").eval()  # in training, batch normalisation joins the images
    images, (first, second) = batch()
    second = {**second, "weights": torch.zeros(3), "known": torch.zeros(64, 64, dtype=torch.bool)}
    images.requires_grad_()
    sum(network.losses(images, [first, second]).values()).backward()
    assert images.grad[0].abs().max() > 0
    assert not images.grad[1].any()


def test_what_is_unknown_is_background_by_default(build):
    network = build().eval()
    images, (first, _) = batch()
    empty = instances_to_target(torch.zeros(1, 64, 64, dtype=torch.int64), known=torch.zeros(64, 64))
    images.requires_grad_()
    sum(network.losses(images, [first, empty]).values()).backward()
    assert images.grad[1].abs().max() > 0


def test_nothing_known_at_all(build):
    network = build(unlabelled="ignore")
    images, _ = batch()
    unknown = instances_to_target(torch.zeros(1, 64, 64, dtype=torch.int64), known=torch.zeros(64, 64))
    loss = sum(network.losses(images, [unknown, unknown]).values())
    loss.backward()
    assert loss.isfinite()


@pytest.mark.slow
def test_statistics_can_be_frozen(build):
    network = build(freeze_norm="true").train()
    images, targets = batch()
    before = network.backbone.bn1.running_mean.clone()
    network.losses(images, targets)
    assert torch.equal(network.backbone.bn1.running_mean, before)
    network = build().train()
    network.losses(images, targets)
    assert not torch.equal(network.backbone.bn1.running_mean, before)


@pytest.mark.slow
def test_swin(build):
    network = build("swin_t")
    images, targets = batch(1)
    sum(network.losses(images, targets).values()).backward()
    assert all(p.grad.abs().max() > 0 for p in network.norms.parameters())
    assert len(network.predict(images)) == 1


def test_bad_arguments(build):
    with pytest.raises(InputError, match="'background' or 'ignore'"):
        build(unlabelled="foreground")
    with pytest.raises(InputError, match="true or false"):
        build(freeze_norm="perhaps")
    with pytest.raises(InputError, match="one for each of 2 images"):
        build().losses(batch()[0], [])


@pytest.mark.parametrize("name", BACK_ENDS)
def test_two_sets_of_targets_share_what_the_images_give(name):
    """Eq. 2: both losses, and the gradient of their sum, from one pass over the images."""
    images, targets = batch()
    found = [instances_to_target(disc_image(seed, 2, images.shape[-2])[1][:, :, : images.shape[-1]]) for seed in (7, 8)]
    network = BACK_ENDS[name]().eval()  # in evaluation the statistics of a pass do not depend on the passes before
    passes, whole = [], network.compute_maps
    network.compute_maps = lambda x: passes.append(1) or whole(x)
    torch.manual_seed(0)
    old, new = network(images, targets, found)
    assert len(passes) == 1
    assert set(old) == set(new)
    torch.manual_seed(0)
    alone = network(images, targets)
    for part, value in alone.items():
        torch.testing.assert_close(old[part], value)
