import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_ext.base.errors import InputError
from monai_ext.instances import grow_parts, split_touching
from monai_ext.instances.targets import instances_to_target
from monai_ext.networks.nets import NucleiUNet


def touching(size=40):
    """Two squares that share a side, and one alone."""
    ids = torch.zeros(1, size, size, dtype=torch.int64)
    ids[0, 4:16, 4:14], ids[0, 4:16, 14:24], ids[0, 24:36, 10:24] = 3, 7, 1
    return ids


def perfect(ids, sure=12.0):
    """The logits of a network that knows the answer, by a slow search for seams."""
    logits = torch.full((1, 3, *ids.shape[1:]), -sure)
    padded = F.pad(ids[0], (1, 1, 1, 1))
    for row, col in np.ndindex(*ids.shape[1:]):
        own = int(ids[0, row, col])
        near = set(padded[row : row + 3, col : col + 3].flatten().tolist()) - {0, own}
        logits[0, 0 if not own else 2 if near else 1, row, col] = sure
    return logits


def test_losses_are_lowest_where_seams_and_insides_are():
    network, ids = NucleiUNet("resnet18"), touching()
    target = [instances_to_target(ids)]
    right = sum(network.compute_losses(perfect(ids), target).values())
    joined = sum(network.compute_losses(perfect((ids > 0).long()), target).values())
    assert right < 1e-3
    assert joined > 0.5


def test_nuclei_that_touch_are_found_apart(monkeypatch):
    network, ids = NucleiUNet("resnet18"), touching()
    monkeypatch.setattr(network, "compute_maps", lambda images: perfect(ids))
    (found,) = network.find(torch.zeros(1, 3, 40, 40))
    assert sorted(found.area.tolist()) == [120, 120, 168]
    monkeypatch.setattr(network, "compute_maps", lambda images: perfect((ids > 0).long()))
    assert len(network.find(torch.zeros(1, 3, 40, 40))[0]) == 2


def test_a_piece_without_an_inside_is_a_nucleus_and_small_ones_are_left_out(monkeypatch):
    network = NucleiUNet("resnet18", min_size=20)
    logits = torch.full((1, 3, 40, 40), -9.0)
    logits[:, 0] = 9
    logits[:, :2, 5:11, 5:11], logits[:, 2, 5:11, 5:11] = -9, 9  # nothing but seam
    logits[:, 0, 20:24, 20:24], logits[:, 1, 20:24, 20:24] = -9, 9  # 16 px
    monkeypatch.setattr(network, "compute_maps", lambda images: logits)
    assert network.find(torch.zeros(1, 3, 40, 40))[0].area.tolist() == [36]


def test_parts_grow_down_to_the_seam():
    mask = np.ones((5, 9), bool)
    height = np.tile(np.array([5, 6, 7, 6, 5, 1, 6, 7, 6], float), (5, 1))
    parts = split_touching(np.pad(np.ones((3, 2), bool), ((1, 1), (2, 5))))
    parts[1:4, 7] = 2
    grown = grow_parts(parts, mask, height)
    assert (grown[:, :5] == 1).all()
    assert (grown[:, 6:] == 2).all()


def test_a_weight_below_zero_is_refused():
    with pytest.raises(InputError, match="seam_weight"):
        NucleiUNet("resnet18", seam_weight=-1)
