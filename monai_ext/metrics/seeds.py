"""How good seeds are: masks that are taken for nuclei before anything was outlined (Zhou et al. 2023, Fig. 2)."""

from __future__ import annotations

import torch
from monai.utils import MetricReduction

from monai_ext.metrics.instance import OverlapMetric, Overlaps

__all__ = ["SeedQuality", "seed_shares"]


class SeedQuality(OverlapMetric):
    """What seeds hold, where the nuclei are known.

    A seed *holds* a nucleus if more than half of the nucleus' pixels are in it. It is *right* if its IoU with a nucleus
    is above .5, *merged* if it holds two nuclei or more, and *empty* if no nucleus has a pixel in it. A nucleus is
    *missed* if none of its pixels is in a seed: most are, where only some seeds of an image are kept.

    The buffer holds the counts of each image, (B, 6): seeds, right, merged, empty, nuclei, missed. ``aggregate`` pools
    them over images; :func:`seed_shares` makes shares of them.

    Examples:
        >>> from monai_ext.metrics import SeedQuality, seed_shares
        >>> nuclei = torch.tensor([[[[1, 1, 0, 2, 0, 3, 0, 0]]]])
        >>> seeds = torch.tensor([[[[1, 1, 0, 2, 2, 2, 0, 3]]]])  # the first, two in one, nothing
        >>> metric = SeedQuality()
        >>> _ = metric(seeds, nuclei)
        >>> {name: round(share, 2) for name, share in seed_shares(metric.aggregate()).items()}
        {'right': 0.33, 'merged': 0.33, 'empty': 0.33, 'missed': 0.0}
    """

    def __init__(self) -> None:
        super().__init__((6,), MetricReduction.NONE)

    @staticmethod
    def score(overlaps: Overlaps) -> torch.Tensor:
        """The counts, ``(6,)``."""
        seeds, nuclei = len(overlaps.pred_area), len(overlaps.true_area)
        held = (2 * overlaps.area > overlaps.true_area[overlaps.true]).long()  # in integers: exact at one half
        holds = held.new_zeros(seeds).index_add_(0, overlaps.pred, held)
        counts = [
            seeds,
            overlaps.pred[2 * overlaps.area > overlaps.union].unique().numel(),
            int((holds >= 2).sum()),
            seeds - overlaps.pred.unique().numel(),
            nuclei,
            nuclei - overlaps.true.unique().numel(),
        ]
        return torch.tensor(counts, dtype=torch.float64)

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """The counts, ``(6,)``, summed over the images of all ranks; ``(B, 6)`` with ``"none"``."""
        counts = self.get_buffer()
        return counts if reduction == MetricReduction.NONE else counts.sum(0)


def seed_shares(counts: torch.Tensor) -> dict[str, float | None]:
    """Shares of pooled counts.

    Args:
        counts: ``(6,)`` of :class:`SeedQuality`.

    Returns:
        ``right``, ``merged`` and ``empty`` of the seeds, ``missed`` of the nuclei; ``None`` where there are none.

    Examples:
        >>> from monai_ext.metrics import seed_shares
        >>> seed_shares(torch.tensor([20, 9, 3, 2, 40, 10]))
        {'right': 0.45, 'merged': 0.15, 'empty': 0.1, 'missed': 0.25}
    """
    seeds, right, merged, empty, nuclei, missed = counts.tolist()
    parts = {"right": (right, seeds), "merged": (merged, seeds), "empty": (empty, seeds), "missed": (missed, nuclei)}
    return {name: part / whole if whole else None for name, (part, whole) in parts.items()}
