import numpy as np
import pytest
import torch
from skimage.measure import label as connected

from monai_ext.instances import SparseInstances, whole_instances

SHAPE = (60, 80)


def scattered(seed):
    """Ids in many pieces, some of which touch at a corner only."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.integers(0, 9, (15, 20)), np.ones((4, 4), int))
    return np.where(rng.random(SHAPE) < 0.9, blocks, 0)


def largest_piece(mask):
    parts = connected(mask, connectivity=1)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return parts == sizes.argmax()


@pytest.mark.parametrize("least", [0, 10, 40])
@pytest.mark.parametrize("seed", range(3))
def test_one_piece_each_as_instance_by_instance(seed, least):
    ids = scattered(seed)
    whole, cut = whole_instances(ids, least)
    expected = np.zeros(SHAPE, int)
    for number in range(1, 9):
        piece = largest_piece(ids == number)
        if piece.sum() >= max(least, 1):
            expected[piece] = expected.max() + 1
    np.testing.assert_array_equal(whole, expected)
    assert cut.shape == (expected.max() + 1,)
    assert not cut.any()


def test_pieces_at_a_corner_are_two():
    assert whole_instances(np.array([[1, 1, 0], [0, 0, 1]]))[0].tolist() == [[1, 1, 0], [0, 0, 0]]


def test_of_equal_pieces_the_first_stays():
    assert whole_instances(np.array([[7, 0, 7]]))[0].tolist() == [[1, 0, 0]]


def test_what_a_window_cuts_comes_apart_and_is_not_judged():
    ids = np.zeros((20, 30), int)
    ids[5:10, 0:2] = 1  # at the edge, small
    ids[5:10, 4:14] = 1  # apart from it
    ids[15, 10] = 1  # a speck that no edge cuts
    ids[15, 20:22] = 2  # whole, too small
    ids[12:18, 24:28] = 3
    edge = np.zeros(ids.shape, bool)
    edge[:, :1] = True
    whole, cut = whole_instances(ids, 20, edge)
    assert [np.unique(whole[place]).tolist() for place in (np.s_[5:10, 0:2], np.s_[5:10, 4:14])] == [[1], [2]]
    assert np.unique(whole[12:18, 24:28]).tolist() == [3]
    assert whole.max() == 3
    assert (whole > 0).sum() == 10 + 50 + 24
    assert cut.tolist() == [False, True, True, False]


def test_nothing():
    whole, cut = whole_instances(np.zeros((4, 5), int), 3)
    assert not whole.any()
    assert cut.tolist() == [False]


@pytest.mark.parametrize("seed", range(3))
def test_lists_of_pixels_as_masks(seed):
    rng = np.random.default_rng(seed)
    masks = torch.from_numpy(rng.random((6, *SHAPE)) < 0.5)  # they overlap
    found = SparseInstances.from_masks(masks, torch.rand(6))
    largest = found.largest_pieces()
    expected = np.stack([largest_piece(mask) for mask in masks.numpy()])
    np.testing.assert_array_equal(largest.masks().numpy(), expected)
    assert torch.equal(largest.scores, found.scores)


def test_lists_of_pixels_keep_what_may_go_on():
    masks = torch.zeros(2, 20, 30, dtype=torch.bool)
    masks[0, 5:9, 0:2] = masks[0, 5:9, 10:20] = True
    masks[1, 12:16, 5:9] = masks[1, 12:16, 15:25] = True
    found = SparseInstances.from_masks(masks)
    assert found.largest_pieces(rim=1).area.tolist() == [48, 40]
    assert found.largest_pieces().area.tolist() == [40, 40]
    assert len(found[found.area < 0].largest_pieces()) == 0
