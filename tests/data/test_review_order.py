"""Which object comes next: against the definition, and what a simulated review counts on."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_ext.base.errors import InputError
from monai_ext.data import REVIEW_ORDERS, appearance, farthest_first, next_objects

FEATURES = arrays(np.float64, st.tuples(st.integers(3, 9), st.integers(1, 3)), elements=st.integers(-20, 20))


def radius(features, chosen):
    """The largest distance of any to the nearest one chosen."""
    distances = np.linalg.norm(features[:, None] - features[list(chosen)], axis=2)
    return distances.min(axis=1).max()


@given(FEATURES, st.integers(1, 3))
def test_no_cover_of_as_many_is_twice_as_good(features, count):
    chosen = farthest_first(features, count)
    best = min(radius(features, each) for each in combinations(range(len(features)), count))
    assert radius(features, chosen) <= 2 * best + 1e-9


@given(FEATURES, st.data())
def test_each_is_the_farthest_from_all_before(features, data):
    seen = data.draw(st.lists(st.integers(0, len(features) - 1), unique=True, max_size=3))
    order = farthest_first(features, len(features), seen).tolist()
    assert sorted([*seen, *order]) == list(range(len(features)))
    before = [*seen] or [order.pop(0)]
    for place in order:
        distances = np.linalg.norm(features[:, None] - features[before], axis=2).min(axis=1)
        rest = [k for k in range(len(features)) if k not in before]
        assert distances[place] == pytest.approx(distances[rest].max())
        before.append(place)


@given(st.sampled_from(REVIEW_ORDERS), st.integers(0, 5), st.lists(st.integers(0, 29), unique=True, max_size=12))
def test_orders_leave_out_what_was_seen_and_go_on_where_they_were(by, seed, seen):
    rng = np.random.default_rng(seed)
    certainty, features = rng.uniform(size=30), rng.normal(size=(30, 4))
    order = next_objects(by, 99, certainty, features, seen, seed)
    assert sorted([*order, *seen]) == list(range(30))
    first = next_objects(by, 5, certainty, features, seen, seed)
    then = next_objects(by, 99, certainty, features, [*seen, *first], seed)
    assert [*first, *then] == order.tolist()
    if by == "doubt":
        assert (np.diff(certainty[order]) >= 0).all()


def test_diverse_begins_with_doubt_and_another_order_is_refused():
    assert next_objects("diverse", 1, np.array([0.9, 0.2, 0.5]), np.eye(3))[0] == 1
    with pytest.raises(InputError, match="doubt or diverse or random"):
        next_objects("size", 1, np.zeros(2), np.zeros((2, 1)))


def test_appearance_is_that_of_the_turned_patch_and_tells_colours_apart():
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 255, (12, 16, 16, 3), np.uint8)
    patches[6:] //= 3
    features = appearance(patches)
    assert features.shape == (12, 12)
    np.testing.assert_allclose(features, appearance(np.rot90(patches, 1, (1, 2))), atol=1e-9)
    nearest = [
        min((k for k in range(12) if k != place), key=lambda k: np.linalg.norm(features[k] - features[place]))
        for place in range(12)
    ]
    assert [place // 6 for place in nearest] == [place // 6 for place in range(12)]
