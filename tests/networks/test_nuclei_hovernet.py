import pytest
import torch
import torch.nn.functional as F
from monai.apps.pathology.losses import HoVerNetLoss
from monai.networks.nets import HoVerNet

from monai_ext.instances.hover import hover_maps
from monai_ext.instances.targets import instances_to_target
from monai_ext.networks.nets import NucleiHoVerNet
from tests.discs import disc_image

TOLERANCE = 1e-5
BRANCHES = (HoVerNet.Branch.NP.value, HoVerNet.Branch.HV.value)


def gradients(targets, unlabelled="background", side=64):
    """Of the loss for each pixel's four outputs, ``(B, 4, H, W)``."""
    torch.manual_seed(0)
    network = NucleiHoVerNet("resnet18", unlabelled=unlabelled)
    outputs = {name: torch.randn(len(targets), 2, side, side, requires_grad=True) for name in BRANCHES}
    network.compute_maps = lambda images: outputs
    loss = network.losses(torch.zeros(len(targets), 3, side, side), targets)["loss_hover"]
    loss.backward()
    return loss, torch.cat([x.grad for x in outputs.values()], dim=1), outputs


@pytest.fixture
def ids():
    return disc_image(0, 3, 64)[1]


def test_the_loss_is_monais(ids):
    found, gradient, outputs = gradients([instances_to_target(ids)])
    nucleus = torch.cat([ids == 0, ids > 0])[None].float()
    wanted = dict(zip(BRANCHES, (nucleus, hover_maps(ids[0])[None]), strict=True))
    again = {name: x.detach().clone().requires_grad_() for name, x in outputs.items()}
    expected = HoVerNetLoss()(again, wanted)
    expected.backward()
    torch.testing.assert_close(found, expected.as_subclass(torch.Tensor), rtol=TOLERANCE, atol=TOLERANCE)
    theirs = torch.cat([x.grad for x in again.values()], dim=1)
    torch.testing.assert_close(gradient, theirs.as_subclass(torch.Tensor), rtol=TOLERANCE, atol=TOLERANCE)
    assert type(found) is torch.Tensor


def test_gradients_are_weighted(ids):
    full = gradients([instances_to_target(ids)])[1]
    part = gradients([instances_to_target(ids, [1.0, 0.25, 1.0])])[1]
    second = (ids == 2).expand_as(full[0])[None]
    torch.testing.assert_close(part, torch.where(second, full / 4, full), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("unlabelled", ["background", "ignore"])
def test_an_instance_of_weight_zero_has_no_gradient(ids, unlabelled):
    gradient = gradients([instances_to_target(ids, [1.0, 0.0, 1.0])], unlabelled)[1].abs().sum(1)[0]
    assert not gradient[ids[0] == 2].any()
    assert gradient[ids[0] != 2].all()


def test_unknown_area_has_no_gradient(ids):
    known = torch.arange(64).expand(64, 64) < 20
    target = instances_to_target(ids, known=known)
    gradient = gradients([target], "ignore")[1].abs().sum(1)[0]
    rim = F.max_pool2d((ids > 0).float(), 5, stride=1, padding=2)[0] > 0  # beside a nucleus that is known there is none
    learnt = known | rim
    assert not learnt.all()
    assert (rim & ~known & (ids[0] == 0)).any()
    assert not gradient[~learnt].any()
    assert gradient[learnt].all()
    assert gradients([target])[1].abs().sum(1)[0].all()


def test_the_rim_of_a_nucleus_spares_what_has_no_weight(ids):
    """A seed that the teacher missed, beside a nucleus that it found."""
    ids = torch.zeros(1, 64, 64, dtype=torch.int64)
    ids[0, 20:30, 20:30], ids[0, 20:30, 30:40] = 1, 2
    target = instances_to_target(ids, [1.0, 0.0], known=torch.zeros(64, 64))
    gradient = gradients([target], "ignore")[1].abs().sum(1)[0] > 0
    expected = torch.zeros(64, 64, dtype=torch.bool)
    expected[18:32, 18:32] = True
    assert torch.equal(gradient, expected & (ids[0] != 2))


def test_what_is_unknown_does_not_matter(ids):
    """The loss is the same whatever is predicted there."""
    rim = F.max_pool2d((ids > 0).float(), 5, stride=1, padding=2)[0] > 0
    target = instances_to_target(ids, known=ids[0] > 0)
    torch.manual_seed(0)
    network = NucleiHoVerNet("resnet18", unlabelled="ignore")
    losses = []
    for wild in (0.0, 50.0):
        outputs = torch.where(rim, 1.0, wild).expand(1, 2, 64, 64)
        network.compute_maps = lambda _, outputs=outputs: dict.fromkeys(BRANCHES, outputs)
        losses.append(network.losses(torch.zeros(1, 3, 64, 64), [target])["loss_hover"].item())
    assert losses[0] == losses[1]


@pytest.mark.parametrize("size", [(32, 32), (33, 70)])
def test_maps_have_the_images_size(size):
    torch.manual_seed(0)
    maps = NucleiHoVerNet("resnet18").eval().compute_maps(torch.rand(1, 3, *size))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "nucleus_prediction": (1, 2, *size),
        "horizontal_vertical": (1, 2, *size),
    }


def test_decoders_are_monais():
    whole, ours = HoVerNet(decoder_padding=True), NucleiHoVerNet("resnet18")
    for one, other in ((whole.nucleus_prediction, ours.nuclei), (whole.horizontal_vertical, ours.distances)):
        assert [tuple(p.shape) for p in one.parameters()] == [tuple(p.shape) for p in other.parameters()]
