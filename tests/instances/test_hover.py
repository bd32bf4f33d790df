import numpy as np
import pytest
import torch
from monai.apps.pathology.transforms.post.array import HoVerNetInstanceMapPostProcessing
from monai.transforms import ComputeHoVerMaps
from scipy.ndimage import gaussian_filter

from monai_ext.instances.hover import hover_instances, hover_maps
from tests.discs import disc_image, grid_ids

TOLERANCE = 1e-6
SAME_PIXELS = 0.998  # of MONAI's: two roundings of a height may settle a tie differently


def touching(seed=0, count=30, side=128):
    """Ids of discs that touch and cut each other."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices((side, side))
    centres = rng.uniform((0, 0, 6), (side, side, 13), (count, 3))
    inside = np.stack([r - np.hypot(rows - y, cols - x) for y, x, r in centres])
    return np.where(inside.max(0) > 0, inside.argmax(0) + 1, 0)


def predicted(ids, seed=0, noise=0.2):
    """What a network might say: logits ``(2, H, W)`` and distances, smooth noise added."""
    rng = np.random.default_rng(seed)
    clean = 4.0 * (np.stack([ids == 0, ids > 0]) - 0.5), hover_maps(torch.from_numpy(ids)).numpy()
    return [
        (maps + gaussian_filter(rng.normal(0, spread, maps.shape), (0, 1, 1))).astype(np.float32)
        for maps, spread in zip(clean, (2, noise), strict=True)
    ]


@pytest.mark.parametrize("ids", [touching(), touching(1) * 3, disc_image()[1][0].numpy(), grid_ids(5)[0].numpy()])
def test_maps_are_monais(ids):
    expected = ComputeHoVerMaps()(ids[None].astype(np.int32))
    torch.testing.assert_close(hover_maps(torch.from_numpy(ids)), torch.as_tensor(expected), rtol=0, atol=TOLERANCE)


def test_maps_of_small_and_absent_instances():
    ids = torch.zeros(6, 7, dtype=torch.long)
    assert not hover_maps(ids).any()
    ids[2, 3] = 4  # a pixel is its own centre
    ids[4, 1:4] = 2
    maps = hover_maps(ids)
    assert maps[:, 2, 3].tolist() == [0, 0]
    assert maps[0, 4, 1:4].tolist() == [-1, 0, 1]
    assert not maps[1].any()


def test_turning_the_image_turns_the_maps():
    ids = torch.from_numpy(touching(2))
    across, down = hover_maps(ids)
    other = hover_maps(ids.T.contiguous())
    assert torch.allclose(other[0].T, down, atol=TOLERANCE)
    assert torch.allclose(other[1].T, across, atol=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_instances_are_monais(seed):
    logits, hover = predicted(touching(seed), seed)
    probability = torch.from_numpy(logits).softmax(0)[1].numpy()
    found = hover_instances(probability, hover)
    expected = np.asarray(HoVerNetInstanceMapPostProcessing()(torch.from_numpy(logits), torch.from_numpy(hover))[1])[0]
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.unique(found), np.arange(found.max() + 1))
    assert found.max() == len(np.unique(expected)) - 1 > 5
    np.testing.assert_array_equal(found > 0, expected > 0)
    table = np.zeros((found.max() + 1, expected.max() + 1), int)
    np.add.at(table, (found.ravel(), expected.ravel()), 1)
    assert table.max(1).sum() / found.size > SAME_PIXELS


def test_true_maps_give_the_nuclei_back():
    ids = touching(4, count=12)
    found = hover_instances((ids > 0).astype(np.float32), hover_maps(torch.from_numpy(ids)).numpy())
    for number in range(1, ids.max() + 1):
        own = ids == number
        if own.sum() < 100:
            continue
        best = np.bincount(found[own]).argmax()
        assert best > 0
        assert (own & (found == best)).sum() / (own | (found == best)).sum() > 0.8


@pytest.mark.parametrize("value", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (64, 64)])
def test_flat_maps(value, shape):
    """MONAI's raises where the maps are flat, as they are on glass."""
    found = hover_instances(np.full(shape, value, np.float32), np.zeros((2, *shape), np.float32))
    assert found.shape == shape
    assert found.max() == (value > 0.5 and min(shape) >= 5)


def test_small_pieces_are_left_out():
    probability = np.zeros((40, 40), np.float32)
    probability[2:5, 2:5] = 1  # 9 px
    probability[10:25, 10:25] = 1
    hover = hover_maps(torch.from_numpy((probability > 0).astype(np.int64))).numpy()
    found = hover_instances(probability, hover)
    assert not found[:6].any()
    np.testing.assert_array_equal(found[10:25, 10:25], 1)
