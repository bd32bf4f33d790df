"""Free-response ROC of lesions found on slides, with its interval (Camelyon16)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from monai.apps.pathology.utils import compute_isolated_tumor_cells, compute_multi_instance_mask
from monai.metrics import compute_fp_tp_probs_nd

from monai_ext.metrics.bootstrap import Interval, percentile_interval

__all__ = ["FALSE_ALARMS", "SlideLesions", "bootstrap_froc", "froc_curve", "match_lesions"]

#: False alarms per slide at which Camelyon16 reads the sensitivity; the score is their mean.
FALSE_ALARMS = (0.25, 0.5, 1, 2, 4, 8)


@dataclass(frozen=True)
class SlideLesions:
    """What the detections of one slide came to.

    Attributes:
        false: scores of detections outside all lesions, (F,).
        found: of each lesion that counts, the highest score inside it, 0 for a missed one, (L,).
        ignored: lesions that do not count: isolated tumour cells.

    Examples:
        >>> from monai_ext.metrics.froc import SlideLesions
        >>> slide = SlideLesions(false=np.array([0.3]), found=np.array([0.9, 0.0]), ignored=1)
        >>> float((slide.found > 0.5).mean())  # sensitivity at a threshold of .5
        0.5
    """

    false: np.ndarray
    found: np.ndarray
    ignored: int


def match_lesions(
    scores: np.ndarray,
    places: np.ndarray,
    tumour: np.ndarray,
    mpp: float,
    grow_um: float = 75,
    itc_um: float = 200,
) -> SlideLesions:
    """Tell hits from false alarms by Camelyon16's rules, as MONAI's ``LesionFROC`` has them.

    Annotated regions closer than ``grow_um`` are one lesion. A lesion whose longer axis stays below ``itc_um +
    grow_um`` is isolated tumour cells: neither finding nor missing it counts.

    Args:
        scores: of the detections, (N,).
        places: their row and column in pixels of ``tumour``, (N, 2).
        tumour: bool ``(H, W)``.
        mpp: um per px of ``tumour``.
        grow_um: distance that makes two regions one, um.
        itc_um: size of isolated tumour cells, um.

    Examples:
        >>> from monai_ext.metrics import match_lesions
        >>> tumour = np.zeros((200, 200), bool)
        >>> tumour[20:80, 20:80] = True
        >>> slide = match_lesions(np.array([0.75, 0.5]), np.array([[50, 50], [150, 150]]), tumour, mpp=10)
        >>> slide.found.tolist(), slide.false.tolist()
        ([0.75], [0.5])
    """
    if not tumour.any():
        return SlideLesions(np.asarray(scores, float), np.zeros(0), 0)
    lesions = compute_multi_instance_mask(tumour.astype(np.int32), grow_um / (2 * mpp))
    isolated = compute_isolated_tumor_cells(lesions, (itc_um + grow_um) / mpp)
    inside = np.clip(np.rint(places).astype(int), 0, np.array(tumour.shape) - 1)
    false, lesion_scores, _ = compute_fp_tp_probs_nd(np.asarray(scores, float), inside, lesions, isolated)
    kept = np.setdiff1d(np.arange(lesions.max()), np.asarray(isolated, int) - 1)
    return SlideLesions(false, lesion_scores[kept], len(isolated))


def froc_curve(slides: Sequence[SlideLesions], weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """False alarms per slide and sensitivity at every threshold, from the lowest to the highest.

    Args:
        slides: at least one.
        weights: how often each slide counts, (S,); once by default.

    Returns:
        both (T,), as ``monai.metrics.compute_froc_curve_data`` gives them; the sensitivity is NaN without lesions.

    Examples:
        >>> from monai_ext.metrics import froc_curve
        >>> from monai_ext.metrics.froc import SlideLesions
        >>> first = SlideLesions(false=np.array([0.2, 0.7]), found=np.array([0.9]), ignored=0)
        >>> second = SlideLesions(false=np.array([]), found=np.array([0.6, 0.0]), ignored=0)
        >>> alarms, sensitivity = froc_curve([first, second])
        >>> alarms.tolist(), sensitivity.round(3).tolist()
        ([1.0, 0.5, 0.5, 0.0, 0.0], [0.667, 0.667, 0.333, 0.333, 0.0])
    """
    weights = np.ones(len(slides)) if weights is None else np.asarray(weights, float)
    false, lesion_scores = (np.concatenate([getattr(slide, kind) for slide in slides]) for kind in ("false", "found"))
    false_weight, lesion_weight = (
        np.repeat(weights, [len(getattr(slide, kind)) for slide in slides]) for kind in ("false", "found")
    )
    drawn = np.concatenate([false[false_weight > 0], lesion_scores[lesion_weight > 0]])
    thresholds = np.unique(drawn)[1:]  # the lowest is left out, as in the challenge's code
    alarms, hits = (_at_least(false, false_weight, thresholds), _at_least(lesion_scores, lesion_weight, thresholds))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.append(alarms, 0) / weights.sum(), np.append(hits, 0) / lesion_weight.sum()


def _at_least(scores: np.ndarray, weights: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Weight of the scores at or above each threshold."""
    order = np.argsort(scores, kind="stable")
    above = np.append(np.cumsum(weights[order][::-1])[::-1], 0)
    return above[np.searchsorted(scores[order], thresholds, side="left")]


def _score(slides: Sequence[SlideLesions], weights: np.ndarray) -> float:
    alarms, sensitivity = froc_curve(slides, weights)
    return float(np.mean(np.interp(FALSE_ALARMS, alarms[::-1], sensitivity[::-1])))


def bootstrap_froc(slides: Sequence[SlideLesions], resamples: int = 1000, seed: int = 0) -> Interval:
    """Camelyon16's FROC score, the mean sensitivity at :data:`FALSE_ALARMS`, with its 95 % interval over slides.

    Args:
        slides: every slide, with and without tumour.
        resamples: number of resamples.
        seed: equal seeds give equal intervals.

    Examples:
        >>> from monai_ext.metrics import bootstrap_froc
        >>> from monai_ext.metrics.froc import SlideLesions
        >>> first = SlideLesions(false=np.array([0.2]), found=np.array([0.9]), ignored=0)
        >>> second = SlideLesions(false=np.array([]), found=np.array([0.8]), ignored=0)
        >>> interval = bootstrap_froc([first, second])
        >>> interval.value, interval.groups
        (1.0, 2)
    """
    return percentile_interval(
        len(slides),
        lambda draws: np.array([_score(slides, draw) for draw in draws]),
        resamples=resamples,
        seed=seed,
    )
