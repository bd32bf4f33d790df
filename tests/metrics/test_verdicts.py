"""Verdicts on slides, and the threshold that keeps slides without invaded vessels free of false ones."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from monai_ext.base.errors import InputError
from monai_ext.metrics.verdicts import slide_scores, slide_threshold, verdict_scores


def vessels(slides=400, each=50, seed=0):
    """Half of the slides have one invaded vessel; a healthy one is above .5 in 5.6 % (a specificity of .944)."""
    rng = np.random.default_rng(seed)
    label = np.zeros((slides, each), int)
    label[: slides // 2, 0] = 1
    high = rng.uniform(size=label.shape) < np.where(label, 0.9, 0.056)
    score = rng.uniform(size=label.shape) / 2 + 0.5 * high
    score[: slides // 2, 0] = np.where(high[: slides // 2, 0], 0.999, 0.1)
    return {"group": np.repeat(np.arange(slides), each), "label": label.ravel(), "score": score.ravel()}


def test_many_vessels_make_nearly_every_slide_positive():
    """1 - .944 to the power of 50."""
    table = vessels()
    assert verdict_scores(table)["specificity"].value == pytest.approx(0.056, abs=0.04)
    threshold = slide_threshold(table, 0.95)
    scores = verdict_scores(table, threshold)
    assert scores["specificity"].value == pytest.approx(0.95, abs=0.005)
    assert scores["specificity"].low < 0.95 < scores["specificity"].high
    assert scores["sensitivity"].value > 0.85
    slides = slide_scores(table)
    invaded, free = (slides["score"][slides["label"] == kind] for kind in (1, 0))
    auc = mannwhitneyu(invaded, free).statistic / (len(invaded) * len(free))
    assert scores["auc"].value == pytest.approx(auc)
    assert (scores["with_invaded"], scores["free"], scores["threshold"]) == (200, 200, threshold)


@pytest.mark.parametrize("wanted", [0.01, 0.5, 0.8, 0.85, 0.95, 1.0])
def test_the_threshold_is_just_high_enough(wanted):
    rng = np.random.default_rng(1)
    table = {"group": np.arange(20), "label": [0] * 20, "score": rng.permutation(20) / 20}
    shares = {score: np.mean(np.array(table["score"]) <= score) for score in table["score"]}
    least = min(score for score, share in shares.items() if share >= wanted - 1e-12)
    assert slide_threshold(table, wanted) == pytest.approx(least + 0.025)  # the next score is .05 away


def test_where_there_is_nothing_to_choose_from():
    with pytest.raises(InputError, match="slides free of invaded vessels"):
        slide_threshold({"group": ["a"], "label": [1], "score": [0.4]}, 0.9)
    with pytest.raises(InputError, match="specificity"):
        slide_threshold({"group": ["a"], "label": [0], "score": [0.4]}, 1.5)
    only = verdict_scores({"group": ["a", "b"], "label": [1, 1], "score": [0.4, 0.6]})
    assert only["sensitivity"].value == 0.5
    assert only["specificity"].value is None
    assert only["auc"].value is None
