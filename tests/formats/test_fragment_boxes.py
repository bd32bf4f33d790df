"""Boxes of fragments against merging one pair of boxes after the other."""

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import find_objects, label

from monai_ext.formats.fragments import fragment_boxes


def pixels(box):
    top, left, bottom, right = box
    return {(row, col) for row in range(top, bottom) for col in range(left, right)}


def slow(mask):
    """As long as two boxes share a pixel, they become one."""
    parts = find_objects(label(mask, np.ones((3, 3)))[0])
    boxes = {(rows.start, cols.start, rows.stop, cols.stop) for rows, cols in parts}
    while pair := next(((a, b) for a, b in combinations(sorted(boxes), 2) if pixels(a) & pixels(b)), None):
        both = np.array(pair)
        boxes = boxes - set(pair) | {(*both[:, :2].min(axis=0).tolist(), *both[:, 2:].max(axis=0).tolist())}
    return sorted(boxes)


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_any_mask(mask):
    assert fragment_boxes(mask) == slow(mask)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*(st.integers(0, 28),) * 2, *(st.integers(2, 9),) * 2), max_size=7))
def test_rings_that_lie_in_one_another(rings):
    """Outlines without their inside: the boxes overlap where the parts do not."""
    mask = np.zeros((40, 40), bool)
    for row, col, height, width in rings:
        mask[row : row + height, col : col + width] = True
        mask[row + 1 : row + height - 1, col + 1 : col + width - 1] = False
    assert fragment_boxes(mask) == slow(mask)


def test_side_by_side_is_not_overlapping():
    mask = np.zeros((6, 9), bool)
    mask[0, 0:4] = mask[0:3, 3] = True  # a box of three rows and four columns
    mask[4:6, 0:2] = mask[0:2, 5:9] = True
    assert fragment_boxes(mask) == [(0, 0, 3, 4), (0, 5, 2, 9), (4, 0, 6, 2)]
