"""What a segmentation network is trained on, against pixel-by-pixel loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor

from monai_ext.transforms import InstancesToMask, InstancesToMaskd


def slow_mask(ids, gap):
    """Foreground pixels without another instance in the disk around them."""
    result = np.zeros(ids.shape, np.float32)
    for row, col in np.argwhere(ids):
        alone = True
        for r in range(max(0, row - gap), min(ids.shape[0], row + gap + 1)):
            for c in range(max(0, col - gap), min(ids.shape[1], col + gap + 1)):
                inside = (r - row) ** 2 + (c - col) ** 2 <= gap**2
                alone &= not (inside and ids[r, c] not in (0, ids[row, col]))
        result[row, col] = alone
    return result


@settings(max_examples=50, deadline=None)
@given(arrays(np.int32, (9, 11), elements=st.sampled_from([0, 0, 1, 2, 70_000])), st.sampled_from([0, 1]))
def test_equals_the_slow_reference(ids, gap):
    assert np.array_equal(InstancesToMask(gap)(ids[None])[0], slow_mask(ids, gap))


def test_touching_instances_are_separated_and_others_keep_their_pixels():
    ids = np.zeros((1, 20, 40), np.int32)
    ids[0, 5:15, 5:15], ids[0, 5:15, 15:25], ids[0, 5:15, 30:38] = 1, 2, 3
    mask = InstancesToMask(gap=1)(ids)[0]
    assert mask[5:15, 30:38].all()
    assert not mask[5:15, 14:16].any()
    assert mask.sum() == 280 - 20


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda a: MetaTensor(torch.from_numpy(a))])
def test_kinds_and_dtypes(kind):
    ids = kind(np.eye(4, dtype=np.int32)[None])
    mask = InstancesToMaskd("label")({"label": ids})["label"]
    assert type(mask) is type(ids)
    assert str(mask.dtype).endswith("float32")
    assert mask.shape == (1, 4, 4)


def test_an_empty_map_stays_empty():
    assert not InstancesToMask(gap=2)(np.zeros((1, 5, 5), np.int32)).any()
