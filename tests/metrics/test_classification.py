"""Scores of several classes against counting one by one, as scikit-learn defines them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monai_ext.base.errors import InputError
from monai_ext.metrics import ClassificationF1, bootstrap_scores, class_scores, class_scores_ci
from monai_ext.metrics.classification import confusion_counts, weighted_f1

TOLERANCE = 1e-12
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40)


def slow(labels, predicted, classes):
    """scikit-learn's precision_recall_fscore_support(average="weighted", zero_division=0), item by item."""
    own = {"f1": [], "precision": [], "recall": []}
    weights, present = [], []
    for k in range(classes):
        tp = sum(a == k and b == k for a, b in zip(labels, predicted, strict=True))
        fp = sum(a != k and b == k for a, b in zip(labels, predicted, strict=True))
        fn = sum(a == k and b != k for a, b in zip(labels, predicted, strict=True))
        precision = tp / (tp + fp) if tp + fp else 0.0
        recall = tp / (tp + fn) if tp + fn else 0.0
        own["precision"].append(precision)
        own["recall"].append(recall)
        own["f1"].append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        weights.append(tp + fn)
        present.append(tp + fp + fn > 0)
    result = {
        name: sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights) for name, values in own.items()
    }
    result["accuracy"] = sum(a == b for a, b in zip(labels, predicted, strict=True)) / len(labels)
    result["macro_f1"] = sum(v for v, p in zip(own["f1"], present, strict=True) if p) / sum(present)
    result["balanced_accuracy"] = sum(own["recall"]) / sum(w > 0 for w in weights)
    return result | {f"class_{name}": values for name, values in own.items()}


@given(PAIRS)
def test_scores_are_those_counted_one_by_one(pairs):
    labels, predicted = zip(*pairs, strict=True)
    found = class_scores(confusion_counts(labels, predicted, 4))
    for name, value in slow(labels, predicted, 4).items():
        assert found[name] == pytest.approx(value, abs=TOLERANCE), name
    assert found["recall"] == pytest.approx(found["accuracy"], abs=TOLERANCE)


def test_a_known_example():
    """scikit-learn's own: y_true = [0, 1, 2, 0, 1, 2], y_pred = [0, 2, 1, 0, 0, 1]."""
    found = class_scores(confusion_counts([0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1], 3))
    assert found["macro_f1"] == pytest.approx(0.2666, abs=1e-4)
    assert found["f1"] == pytest.approx(0.2666, abs=1e-4)
    assert found["class_f1"] == pytest.approx([0.8, 0, 0])


def test_metric_gathers_batches_and_lists():
    rng = np.random.RandomState(0)
    logits, labels = torch.tensor(rng.randn(20, 3)), torch.tensor(rng.randint(0, 3, 20))
    metric = ClassificationF1(3)
    metric(logits[:12], labels[:12, None])
    metric(list(logits[12:]), list(labels[12:]))
    expected = slow(labels.tolist(), logits.argmax(1).tolist(), 3)
    assert metric.aggregate().item() == pytest.approx(expected["f1"], abs=TOLERANCE)
    assert metric.scores()["accuracy"] == pytest.approx(expected["accuracy"], abs=TOLERANCE)
    metric.reset()
    metric(logits[:1], logits[:1].argmax(1))
    assert metric.aggregate().item() == 1
    with pytest.raises(InputError, match="score"):
        ClassificationF1(3, "auc")


def test_intervals_are_those_of_resampled_groups():
    rng = np.random.RandomState(1)
    labels, groups = rng.randint(0, 3, 300), np.array([f"slide {k}" for k in rng.randint(0, 12, 300)])
    predicted = np.where(rng.rand(300) < 0.7, labels, rng.randint(0, 3, 300))
    found = class_scores_ci(labels, predicted, ["a", "b", "c"], groups)
    expected = slow(labels, predicted, 3)
    assert found["f1"].value == pytest.approx(expected["f1"], abs=TOLERANCE)
    assert found["f1"].groups == 12
    assert found["f1"].low < found["f1"].value < found["f1"].high
    assert [own["f1"].value for own in found["classes"].values()] == pytest.approx(expected["class_f1"])
    assert [own["count"] for own in found["classes"].values()] == np.bincount(labels).tolist()
    again = bootstrap_scores([{"score": predicted, "label": labels, "group": groups}], weighted_f1)
    assert (again.value, again.low, again.high) == pytest.approx((found["f1"].value, found["f1"].low, found["f1"].high))


@pytest.mark.parametrize("ids", [[0, 3], [-1, 0]])
def test_classes_outside(ids):
    with pytest.raises(InputError, match="classes 0 to 2"):
        confusion_counts(ids, [0, 0], 3)
