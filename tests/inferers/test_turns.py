import torch
from torch import nn

from monai_ext.inferers import AutocastInferer, TurnsInferer


def test_the_mean_does_not_depend_on_the_position():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    images = torch.rand(2, 3, 8, 8)
    network(images)
    wanted = TurnsInferer()(images, network)
    assert wanted.shape == (2, 2)
    for moved in (images.rot90(1, (2, 3)), images.rot90(3, (2, 3)), images.flip(2), images.transpose(2, 3)):
        torch.testing.assert_close(TurnsInferer()(moved, network), wanted)
        assert not torch.allclose(network(moved), network(images))


def test_it_is_the_mean_of_eight_and_an_image_that_is_not_square_is_scored_too():
    seen = []

    def network(images, offset):
        seen.append(images)
        return images[:, :, 0, 0] + offset

    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    # each of the four corners comes first twice
    assert TurnsInferer(AutocastInferer(False))(image, network, offset=1).item() == 1 + (0 + 2 + 3 + 5) / 4
    assert len({tuple(view.flatten().tolist()) + tuple(view.shape) for view in seen}) == 8
