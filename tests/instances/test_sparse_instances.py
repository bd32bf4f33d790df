import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from monai_ext.instances.sparse import SparseInstances
from tests.discs import dense_ious, disc_image, grid_ids

TOLERANCE = 1e-5
ROUND_TRIP_IOU = 0.9  # of a disc that is cut out at 28 x 28 and pasted again
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def random_masks(seed=0, count=12, side=24):
    """Rectangles that overlap, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, side, side, dtype=torch.bool)
    for mask in masks:
        row, col = torch.randint(0, side, (2,), generator=generator).tolist()
        height, width = torch.randint(0, side // 2, (2,), generator=generator).tolist()
        mask[row : row + height, col : col + width] = True
    return masks


def literal_paste(masks, boxes, shape, threshold):
    """Pixel by pixel: the value of the mask at the pixel's centre."""
    side = masks.shape[-1]
    pasted = torch.zeros(len(masks), *shape, dtype=torch.bool)
    for n, (mask, (x0, y0, x1, y1)) in enumerate(zip(masks, boxes.tolist(), strict=True)):
        for row in range(shape[0]):
            for col in range(shape[1]):
                x, y = col + 0.5, row + 0.5
                if not (x0 <= x < x1 and y0 <= y < y1):
                    continue
                u = min(max((x - x0) / (x1 - x0) * side - 0.5, 0), side - 1)
                v = min(max((y - y0) / (y1 - y0) * side - 0.5, 0), side - 1)
                i, j = min(math.floor(v), max(side - 2, 0)), min(math.floor(u), max(side - 2, 0))
                k, m = min(i + 1, side - 1), min(j + 1, side - 1)
                top = mask[i, j] * (1 - u + j) + mask[i, m] * (u - j)
                low = mask[k, j] * (1 - u + j) + mask[k, m] * (u - j)
                pasted[n, row, col] = top * (1 - v + i) + low * (v - i) >= threshold
    return pasted


@pytest.mark.parametrize("side", [1, 2, 28])
def test_paste_is_the_interpolated_mask(side):
    torch.manual_seed(side)
    masks = F.avg_pool2d(torch.rand(9, side + 2, side + 2), 3, stride=1)  # smooth
    corner = torch.rand(9, 2) * 24 - 4  # in part, or wholly, outside of the image
    boxes = torch.cat([corner, corner + torch.rand(9, 2) * 15 + 0.1], dim=1)
    found = SparseInstances.paste(masks, boxes, torch.rand(9), (20, 22), threshold=0.48)
    expected = literal_paste(masks, boxes, (20, 22), 0.48)
    present = expected.flatten(1).any(1)
    assert present.sum() > 1
    assert torch.equal(found.masks(), expected[present])


def test_large_boxes_are_pasted_in_parts(monkeypatch):
    masks, boxes = torch.rand(7, 5, 5), torch.tensor([[0.0, 0, 30, 30]]).repeat(7, 1)
    whole = SparseInstances.paste(masks, boxes, torch.rand(7), (30, 30))
    monkeypatch.setattr("monai_ext.instances.sparse._PASTED_AT_ONCE", 1000)
    assert torch.equal(SparseInstances.paste(masks, boxes, torch.rand(7), (30, 30)).masks(), whole.masks())


def test_a_mask_survives_cutting_out_and_pasting():
    for seed in range(3):
        true = SparseInstances.from_map(disc_image(seed, radii=(4, 12))[1][0])
        rois = torch.cat([torch.arange(len(true))[:, None], true.boxes], dim=1)
        small = roi_align(true.masks()[:, None].float(), rois, 28, aligned=True)[:, 0]
        pasted = SparseInstances.paste(small, true.boxes, true.scores, true.shape)
        assert dense_ious(true.masks(), pasted.masks()).diagonal().min() > ROUND_TRIP_IOU


@pytest.mark.parametrize("device", DEVICES)
def test_dense_masks_and_back(device):
    masks, scores = random_masks().to(device), torch.rand(12, device=device)
    present = masks.flatten(1).any(1)
    assert not present.all()
    found = SparseInstances.from_masks(masks, scores)
    assert torch.equal(found.masks(), masks[present])
    assert torch.equal(found.scores, scores[present])
    assert torch.equal(found.area, masks[present].sum((1, 2)))
    for mask, box, centre in zip(masks[present], found.boxes, found.centroids, strict=True):
        rows, cols = mask.nonzero(as_tuple=True)
        assert box.tolist() == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        assert centre.tolist() == pytest.approx([rows.double().mean().item(), cols.double().mean().item()])


def test_a_map_with_gaps():
    ids = torch.tensor([[7, 7, 0, 0], [0, 2, 0, 900_000], [7, 2, 0, 0]])  # 7 is in two pieces
    found = SparseInstances.from_map(ids)
    assert torch.equal(found.masks(), torch.stack([ids == 2, ids == 7, ids == 900_000]))
    assert found.scores.tolist() == [1, 1, 1]
    painted, which = found.to_map()
    assert painted.dtype == torch.int32
    assert torch.equal(painted, torch.tensor([[[2, 2, 0, 0], [0, 1, 0, 3], [2, 1, 0, 0]]], dtype=torch.int32))
    assert which.tolist() == [0, 1, 2]
    means = SparseInstances.from_map(ids, torch.arange(12.0).view(3, 4)).scores
    assert means.tolist() == pytest.approx([7, 3, 7])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_overlaps_are_those_of_dense_masks(seed):
    one, other = SparseInstances.from_masks(random_masks(seed)), SparseInstances.from_masks(random_masks(seed + 1, 9))
    table = torch.zeros(len(one), len(other))
    first, second, value = one.ious(other)
    table[first, second] = value
    torch.testing.assert_close(table, dense_ious(one.masks(), other.masks()), rtol=TOLERANCE, atol=TOLERANCE)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5]))
def test_suppression_is_greedy(seed, threshold):
    found = SparseInstances.from_masks(random_masks(seed, 20, 12))
    table, kept = dense_ious(found.masks(), found.masks()), []
    for k in range(len(found)):
        if all(table[k, other] <= threshold for other in kept):
            kept.append(k)
    assert torch.equal(found.suppress(threshold).masks(), found.masks()[kept])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_earlier_of_two_is_on_top(seed):
    found = SparseInstances.from_masks(random_masks(seed))
    canvas = torch.full(found.shape, -1)
    for k in reversed(range(len(found))):
        canvas[found.masks()[k]] = k
    painted, which = found.to_map()
    assert which.tolist() == sorted(set(canvas.flatten().tolist()) - {-1})
    assert torch.equal(F.pad(which, (1, 0), value=-1)[painted[0].long()], canvas)


def test_some_of_them_in_another_order():
    found = SparseInstances.from_masks(random_masks())
    for index in (torch.tensor([4, 0, 7]), torch.tensor([], dtype=torch.long)):
        assert torch.equal(found[index].masks(), found.masks()[index])
        assert torch.equal(found[index].scores, found.scores[index])
    large = found.area > 20
    assert torch.equal(found[large].masks(), found.masks()[large])
    surest = SparseInstances.from_masks(random_masks(), torch.arange(12.0)).surest_first()
    assert surest.scores.tolist() == sorted(surest.scores.tolist(), reverse=True)


def test_moved_into_a_larger_image_and_joined():
    found = SparseInstances.from_masks(random_masks())
    moved = found.moved(3, 5, (40, 50))
    assert torch.equal(moved.masks(), F.pad(found.masks(), (5, 21, 3, 13)))
    both = SparseInstances.cat([found, found[torch.tensor([2])]])
    assert torch.equal(both.masks(), torch.cat([found.masks(), found.masks()[2:3]]))
    assert len(both.suppress()) == len(found.suppress())


def test_none_at_all():
    for none in (
        SparseInstances.from_map(torch.zeros(5, 6, dtype=torch.long)),
        SparseInstances.from_masks(torch.zeros(0, 5, 6, dtype=torch.bool)),
        SparseInstances.paste(torch.rand(0, 28, 28), torch.rand(0, 4), torch.rand(0), (5, 6)),
        SparseInstances.paste(torch.zeros(1, 28, 28), torch.tensor([[0.0, 0, 4, 4]]), torch.rand(1), (5, 6)),
    ):
        assert (
            len(none) == len(none.suppress()) == len(none.surest_first()) == len(SparseInstances.cat([none, none])) == 0
        )
        assert none.masks().shape == (0, 5, 6)
        assert none.boxes.shape == (0, 4)
        assert none.centroids.shape == (0, 2)
        assert not none.to_map()[0].any()
        assert [len(part) for part in none.ious(none)] == [0, 0, 0]


def test_more_than_four_hundred():
    ids = grid_ids(21)
    found = SparseInstances.from_map(ids[0])
    assert len(found) == 441
    assert torch.equal(found.to_map()[0].long(), ids)
    assert len(found.suppress()) == 441
