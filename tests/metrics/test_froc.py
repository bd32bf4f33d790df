"""FROC against MONAI's own functions, which follow the challenge's code."""

from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.pathology.utils import compute_isolated_tumor_cells, compute_multi_instance_mask
from monai.metrics import compute_fp_tp_probs, compute_froc_curve_data, compute_froc_score
from skimage.measure import regionprops

from monai_ext.metrics.froc import FALSE_ALARMS, SlideLesions, bootstrap_froc, froc_curve, match_lesions

TOLERANCE = 1e-9
MPP = 8.0


def slide(false, found):
    return SlideLesions(np.array(false, float), np.array(found, float), 0)


scores = st.lists(st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.7, 0.9, 1.0]), max_size=6)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.tuples(scores, scores), min_size=1, max_size=4))
def test_curve_equals_monais(items):
    slides = [slide([v for v in false if v], found) for false, found in items]
    if not sum(len(s.found) for s in slides):
        return
    false, found = (np.concatenate([getattr(s, kind) for s in slides]) for kind in ("false", "found"))
    expected = compute_froc_curve_data(false, found, len(found), len(slides))
    for mine, theirs in zip(froc_curve(slides), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=TOLERANCE)
    score = compute_froc_score(*expected, eval_thresholds=FALSE_ALARMS)
    assert bootstrap_froc(slides, resamples=2).value == pytest.approx(score, abs=TOLERANCE)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(scores, scores, st.integers(0, 3)), min_size=2, max_size=4))
def test_a_weight_is_a_repetition(items):
    slides = [slide(false, found) for false, found, _ in items]
    weights = [weight for *_, weight in items]
    repeated = [s for s, weight in zip(slides, weights, strict=True) for _ in range(weight)]
    if not sum(len(s.found) for s in repeated):
        return
    for mine, theirs in zip(froc_curve(slides, np.array(weights)), froc_curve(repeated), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=TOLERANCE)


@pytest.fixture
def tumour():
    mask = np.zeros((200, 240), bool)
    mask[20:80, 30:100] = True  # a large lesion
    mask[90:92, 40:60] = True  # 80 um below: a lesion of its own, and small
    mask[82:84, 80:90] = True  # 16 um below the large one: part of it
    mask[150:190, 150:220] = True  # another large one
    return mask


def test_lesions_hits_and_false_alarms(tumour):
    places = np.array([[50, 50], [30, 90], [91, 50], [10, 200], [170, 180]])
    values = np.array([0.6, 0.9, 0.8, 0.7, 0.5])
    found = match_lesions(values, places, tumour, MPP)
    assert found.ignored == 1
    np.testing.assert_allclose(np.sort(found.found), [0.5, 0.9], atol=1e-6)
    np.testing.assert_allclose(found.false, [0.7])


def test_matching_equals_monais(tumour):
    rng = np.random.default_rng(0)
    places, values = rng.integers(0, 200, (60, 2)), rng.random(60)
    lesions = compute_multi_instance_mask(tumour.astype(np.int32), 75 / (2 * MPP))
    isolated = compute_isolated_tumor_cells(lesions, (200 + 75) / MPP)
    false, hits, count = compute_fp_tp_probs(values, places[:, 0], places[:, 1], lesions, isolated)
    mine = match_lesions(values, places, tumour, MPP)
    np.testing.assert_allclose(np.sort(mine.false), np.sort(false))
    assert len(mine.found) == count
    np.testing.assert_allclose(np.sort(mine.found), np.sort(np.delete(hits, np.array(isolated) - 1)))


def test_a_slide_without_tumour_has_false_alarms_only():
    found = match_lesions(np.array([0.3]), np.array([[5, 5]]), np.zeros((10, 10), bool), MPP)
    assert (found.false.tolist(), found.found.size, found.ignored) == ([0.3], 0, 0)


def test_interval_is_over_slides():
    slides = [slide([0.4], [0.9]), slide([], [0.8]), slide([0.95, 0.2], [0.0]), slide([0.5], [])] * 5
    interval = bootstrap_froc(slides, resamples=200)
    assert interval.groups == len(slides)
    assert interval.low <= interval.value <= interval.high
    assert interval == bootstrap_froc(slides, resamples=200)


# --------------------------------------------------------------- the challenge's own lengths, at half a micrometre


def test_false_alarms_are_those_of_camelyon16():
    assert FALSE_ALARMS == (1 / 4, 1 / 2, 1, 2, 4, 8)


def lesions_of(tumour):
    """How many lesions a mask holds, isolated tumour cells among them."""
    found = match_lesions(np.zeros(0), np.zeros((0, 2)), tumour, 0.5)
    return len(found.found) + found.ignored


@pytest.mark.parametrize(("gap", "lesions"), [(148, 1), (149, 2)])
def test_regions_75_um_apart_are_two_lesions(gap, lesions):
    tumour = np.zeros((10, 400), bool)
    tumour[:, :50] = tumour[:, 50 + gap :] = True
    assert lesions_of(tumour) == lesions


def test_lesions_below_275_um_are_isolated_cells():
    """The longest one that is left out has an axis just below the limit, the next one is at it or above."""

    def bar(length):
        tumour = np.zeros((170, 800), bool)
        tumour[80:90, 100 : 100 + length] = True
        return tumour

    def axis(length):
        (lesion,) = regionprops(compute_multi_instance_mask(bar(length).astype(np.int32), 75))
        return lesion.axis_major_length

    def counts(length):
        return not match_lesions(np.zeros(0), np.zeros((0, 2)), bar(length), 0.5).ignored

    lengths = range(200, 600)
    longest = lengths[bisect_left(lengths, True, key=counts) - 1]
    assert 548 < axis(longest) < 550 <= axis(longest + 1) < 552


def test_detections_beyond_the_edge_count_at_the_edge():
    tumour = np.zeros((60, 80), bool)
    tumour[-30:, -40:] = True
    found = match_lesions(np.array([0.9, 0.4]), np.array([[60, 80], [-1, -1]]), tumour, 20.0)
    assert (found.found.tolist(), found.false.tolist()) == ([pytest.approx(0.9)], [pytest.approx(0.4)])
