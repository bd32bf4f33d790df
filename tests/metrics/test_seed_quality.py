import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_ext.metrics import SeedQuality, seed_shares

MAPS = arrays(np.int32, (1, 6, 7), elements=st.integers(0, 4))
NAMES = ("seeds", "right", "merged", "empty", "nuclei", "missed")


def masks(instances):
    return [instances == k for k in np.unique(instances) if k]


def slow(seeds, nuclei):
    """Mask by mask."""
    seeds, nuclei = masks(seeds), masks(nuclei)
    return [
        len(seeds),
        sum(any((s & n).sum() / (s | n).sum() > 0.5 for n in nuclei) for s in seeds),
        sum(sum((s & n).sum() / n.sum() > 0.5 for n in nuclei) >= 2 for s in seeds),
        sum(not any((s & n).any() for n in nuclei) for s in seeds),
        len(nuclei),
        sum(not any((s & n).any() for s in seeds) for n in nuclei),
    ]


@given(MAPS, MAPS)
def test_as_mask_by_mask(seeds, nuclei):
    assert SeedQuality()(seeds[None], nuclei[None]).tolist() == [slow(seeds, nuclei)]


def test_counts_are_pooled_over_images():
    metric = SeedQuality()
    one = torch.tensor([[[[1, 1, 1, 0, 2, 0]]]])
    metric(one, torch.tensor([[[[1, 0, 2, 0, 0, 3]]]]))  # two in one, nothing; the third is missed
    metric(one, one)
    assert dict(zip(NAMES, metric.aggregate().tolist(), strict=True)) == {
        "seeds": 4, "right": 2, "merged": 1, "empty": 1, "nuclei": 5, "missed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("half", "iou"), [([1, 1, 0, 0], [0, 0]), ([1, 1, 1, 0], [1, 0])], ids=["exactly half", "more than half"]
)
def test_exactly_half_is_not_enough(half, iou):
    """Of a nucleus' pixels, and of the IoU."""
    nuclei = torch.tensor([[[[1, 1, 1, 1]]]])
    right, merged = SeedQuality()(torch.tensor([[[half]]]), nuclei)[0, 1:3].int().tolist()
    assert [right, merged] == iou


def test_shares_of_nothing_are_none():
    assert set(seed_shares(torch.zeros(6)).values()) == {None}
    assert seed_shares(torch.tensor([0, 0, 0, 0, 4, 4])) == {"right": None, "merged": None, "empty": None, "missed": 1}
