import numpy as np
import pytest

from monai_ext.instances.seams import GrowingWindow, first_of_each_group


def windows(box, cut, shape=(1000, 2000), side=1280, reach=50):
    """What windows are looked at; ``cut`` gives the box of what a window cuts."""
    looked = []

    def look(window):
        looked.append(window)
        return len(looked), cut(window)

    result = GrowingWindow(shape, 16, 80, reach, side).follow(np.array(box, float), look)
    return result, looked


def test_the_first_window_is_the_smallest_on_the_grid():
    assert windows([(33, 47), (48.1, 90)], lambda _: None) == (1, [(32, 32, 64, 96)])


def test_a_window_grows_where_it_cuts():
    def cut(window):
        return np.array([(40, 50), (window[2] + 64, 90)]) if window[2] < 400 else None

    result, looked = windows([(33, 47), (48, 90)], cut)
    assert result == len(looked) > 1
    assert {window[:2] + window[3:] for window in looked} == {(32, 32, 96)}  # downwards only
    assert np.diff([window[2] for window in looked]).min() >= 16


@pytest.mark.parametrize("reach", [-5, 0, 50, 1000])
@pytest.mark.parametrize("shape", [(1000, 2000), (100, 100), (90, 3000)])
def test_it_ends_whatever_is_cut(reach, shape):
    """Also where the outline of what is cut does not show on which side."""
    result, looked = windows([(33, 47), (48, 90)], lambda _: np.array([(35, 50), (45, 60)]), shape, reach=reach)
    assert result is None
    assert len(looked) < 30
    assert len(set(looked)) == len(looked)
    for top, left, bottom, right in looked:
        assert 0 <= top < bottom < shape[0] + 16
        assert 0 <= left < right < shape[1] + 16
        assert (bottom - top + 160) * (right - left + 160) <= 1280**2


def test_a_window_that_is_too_large_is_not_looked_at():
    assert windows([(0, 0), (90, 90)], lambda _: None, side=256) == (1, [(0, 0, 96, 96)])
    assert windows([(0, 0), (97, 90)], lambda _: None, side=256) == (None, [])


def test_groups():
    pairs = np.array([(0, 3), (3, 5), (1, 1), (2, 4)]).T
    assert first_of_each_group(pairs, 7).tolist() == [0, 1, 2, 6]
