import cv2
import numpy as np
import pytest
import torch
from monai.data import decollate_batch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.inferers import InstanceInferer
from monai_ext.inferers.instances import instance_maps
from monai_ext.instances.sparse import SparseInstances
from monai_ext.instances.targets import instances_to_target
from monai_ext.networks.nets import NucleiMaskRCNN
from tests.discs import dense_ious, disc_image, grid_ids


class Reader(nn.Module):
    """Sees the ids that an image holds in place of colours; those of two windows differ by a pixel's rim."""

    def __init__(self, uneven=False):
        super().__init__()
        self.sizes, self.uneven = [], uneven

    def find(self, windows):
        self.sizes.append(tuple(windows.shape))
        found = []
        for window in windows:
            ids = window[0].long()
            if self.uneven and len(self.sizes) % 2:
                rim = torch.roll(ids, 1, 0) != ids
                ids = torch.where(rim, 0, ids)
            found.append(SparseInstances.from_map(ids, 1 / (1 + ids.float())))
        return found


def as_image(ids):
    return ids.float().expand(3, -1, -1)[None]


def field(seed=0, side=230, count=60):
    return disc_image(seed, count, side, (4, 9))[1]


@pytest.mark.parametrize("tile", [32, 64, 96, 512])
@pytest.mark.parametrize("uneven", [False, True])
def test_every_instance_once(tile, uneven):
    ids = field()
    found = InstanceInferer(tile, halo=32).find(as_image(ids), Reader(uneven))[0]
    true = instances_to_target(ids)["masks"]
    assert len(found) == len(true)
    table = dense_ious(true, found.masks())
    assert (table.amax(1) > (0.7 if uneven else 0.999)).all()
    assert len(table.argmax(1).unique()) == len(true)
    assert found.scores.diff().le(0).all()


def test_without_a_halo_what_is_cut_is_computed_again(monkeypatch):
    ids = field()
    assert same_map(InstanceInferer(64, halo=0)(as_image(ids), Reader())["instances"], ids)
    monkeypatch.setattr(InstanceInferer, "_again", lambda *_: None)
    maps = InstanceInferer(64, halo=0)(as_image(ids), Reader())
    assert maps["cut"] > 0
    assert not same_map(maps["instances"], ids)


def same_map(one, other):
    """Whether two maps of instances differ by their numbers only."""
    pairs = torch.stack([one.flatten().long(), other.flatten().long()]).unique(dim=1)
    return all(len(side.unique()) == len(side) for side in pairs) and (one.max() > 0)


def ellipses(seed, shape=(500, 640), count=40):
    """Ids of ellipses of all sizes and directions that do not touch, the longest of several halos."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, np.int32)
    for _ in range(count):
        long, (row, col) = rng.uniform(6, 260), rng.uniform((0, 0), shape)
        each = ((col, row), (long * rng.uniform(0.2, 1), long), rng.uniform(0, 180))
        mask = cv2.ellipse(np.zeros(shape, np.uint8), each, 1, -1)
        if not ids[cv2.dilate(mask, np.ones((5, 5))) > 0].any():
            ids[mask > 0] = ids.max() + 1
    return torch.from_numpy(ids)[None]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("tile", "halo"), [(64, 32), (96, 64), (160, 32), (256, 64), (128, 0)])
@pytest.mark.slow
def test_as_the_whole_image_at_once(tile, halo, seed):
    """However long an object is: as what one window of the whole image holds."""
    ids = ellipses(seed)
    maps = InstanceInferer(tile, halo)(as_image(ids), Reader())
    assert same_map(maps["instances"], ids)
    assert maps["cut"].tolist() == [0]


def test_what_is_too_large_is_counted():
    """The largest piece of each stays; the images of a batch are told apart."""
    ids = torch.zeros(2, 1, 400, 600, dtype=torch.int32)
    ids[0, 0, 20:380, 100:130] = 1
    ids[0, 0, 50:60, 300:310] = 2
    ids[0, 0, 200:210, 200:590] = 3
    ids[1, 0, 50:60, 300:310] = 1
    images = torch.cat([as_image(each) for each in ids])
    maps = InstanceInferer(64, 32, seam_px=0)(images, Reader())
    assert maps["cut"].tolist() == [2, 0]
    assert maps["instances"].amax((1, 2, 3)).tolist() == [3, 1]
    for number in (1, 3):
        assert 0 < (maps["instances"][0][ids[0] == number] > 0).sum() < (ids[0] == number).sum()
    whole = InstanceInferer(64, 32)(images, Reader())
    assert whole["cut"].tolist() == [0, 0]
    assert all(same_map(one, other) for one, other in zip(whole["instances"], ids, strict=True))


def test_crumbs_of_covered_instances_are_left_out():
    """Half of an instance may be under surer ones, not more, so that what is left is still its shape."""
    ids = torch.zeros(3, 12, 12, dtype=torch.bool)
    ids[0, 2:8, 2:8] = True
    ids[1, 2:8, 5:11] = True  # half under the first
    ids[2, 4:9, 2:8] = True  # four fifths under it
    maps, scores = instance_maps([SparseInstances.from_masks(ids, torch.tensor([0.9, 0.8, 0.7]))])
    assert maps.unique().tolist() == [0, 1, 2]
    assert (maps[0, 0] == 2).sum() == 18
    assert scores.unique().tolist() == pytest.approx([0, 0.8, 0.9])
    none, empty = instance_maps([SparseInstances.from_masks(ids[:0])])
    assert not none.any()
    assert none.shape == empty.shape == (1, 1, 12, 12)


def test_maps():
    images = torch.cat([as_image(field(seed)) for seed in (0, 1)])
    maps = InstanceInferer(96, 32, batch_size=3)(images, Reader())
    assert maps["instances"].shape == maps["scores"].shape == (2, 1, 230, 230)
    assert maps["instances"].dtype == torch.int32
    assert torch.equal(maps["instances"] > 0, images[:, :1] > 0)
    for instances, scores, image in zip(maps["instances"], maps["scores"], images[:, :1], strict=True):
        assert instances.unique().tolist() == list(range(instances.max() + 1))
        expected = torch.where(image > 0, 1 / (1 + image), 0)
        torch.testing.assert_close(scores, expected)
        first = [scores[instances == k][0].item() for k in range(1, instances.max() + 1)]
        assert first == sorted(first, reverse=True)
    assert len(decollate_batch(maps)) == 2


def test_windows_of_equal_size_are_computed_together():
    reader = Reader()
    InstanceInferer(64, 32, batch_size=4).find(as_image(torch.zeros(1, 256, 256)), reader)
    assert sorted(reader.sizes) == sorted([(4, 3, 96, 96), (4, 3, 96, 128), (4, 3, 128, 96), (4, 3, 128, 128)])


@pytest.mark.parametrize("side", [33, 64, 65, 100, 160])
def test_no_tile_is_a_strip(side):
    reader = Reader()
    InstanceInferer(64, 0).find(as_image(torch.zeros(1, side, side)), reader)
    assert min(min(size[2:]) for size in reader.sizes) >= min(side, 32)
    assert max(max(size[2:]) for size in reader.sizes) <= 64 + 16


def test_more_than_four_hundred():
    ids = grid_ids(24, 8, 5)
    maps = InstanceInferer(64, 32)(as_image(ids), Reader())
    assert maps["instances"].max() == 24**2


@pytest.mark.slow
def test_a_network():
    torch.manual_seed(0)
    network = NucleiMaskRCNN("resnet18", channels=16, box_channels=32, score_threshold=0.0)
    images = torch.rand(2, 3, 70, 101)
    maps = InstanceInferer(64, 32)(images, network)
    assert maps["instances"].shape == (2, 1, 70, 101)
    wrapped = nn.DataParallel(network)  # as a DistributedDataParallel holds it
    assert torch.equal(InstanceInferer(64, 32)(images, wrapped)["instances"], maps["instances"])


@pytest.mark.parametrize("options", [{"tile": 100}, {"halo": 20}, {"tile": 0}, {"halo": -32}, {"iou": 0}])
def test_bad_arguments(options):
    with pytest.raises(InputError, match="InstanceInferer"):
        InstanceInferer(**options)
